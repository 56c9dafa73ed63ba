"""The benchmarks' own checks of a solution, and ours of their verdicts.

A scorer runs the submission, sends the first answer, and returns the second (see the package).
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import multiprocessing
import os
import pickle
import resource
import secrets
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import recorder
from .cleaning import Cleaner, kill_others
from .forgery import suspicion
from .recorder import EVALPLUS_MEMORY, player

PASS, FAIL, TIMEOUT, FORGED = "pass", "fail", "timeout", "forged"

# Limits of bigcodebench.evaluate, in MiB; and the time limit in seconds where the canonical
# solution was not timed. BigCodeBench raises any time limit below 240 s to 240 s.
BIGCODEBENCH_MEMORY = 30 * 1024
BIGCODEBENCH_STACK = 10
BIGCODEBENCH_TIME_LIMIT = 20.0
BIGCODEBENCH_LIMIT = 243.0  # its 240 s and what it adds
# A program of tests has no canonical time: it gets this many times the least limit of one test.
TESTS_FACTOR = 10.0
# HumanEval/32 asks for a zero of a polynomial. EvalPlus 0.3.1 computes the polynomial there, but
# goes on to the next test before it notes that this one passed, so that no solution passes. The
# same comparison is reached by a function whose value should be zero within the problem's atol.
RESIDUAL = """

def find_zero_residual(xs):
    from evalplus.eval._special_oracle import _poly
    return abs(float(_poly(xs, find_zero(xs))))
"""
IN_ITS_NAMESPACE = "its outputs are judged by a function among its own names"
# Read before any solution runs, which may write to this folder where the box is the weaker one.
RECORDER = Path(recorder.__file__).read_text(encoding="utf-8")

Submission = dict[str, Any]
Send = Callable[[dict[str, Any]], None]
Scorer = Callable[[Submission, Send], dict[str, Any]]


def scorer_of(kind: str) -> Scorer:
    if kind == "bigcodebench":
        return bigcodebench_scorer()
    return tests_scorer() if kind == "tests" else evalplus_scorer(kind)


# ------------------------------------------------------------------ EvalPlus


def evalplus_scorer(kind: str) -> Scorer:
    """EvalPlus's check of one solution, and ours of its verdict."""
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import (
        MBPP_OUTPUT_NOT_NONE_TASKS,
        MBPP_OUTPUT_SET_EQ_TASKS,
    )
    from evalplus.gen.util import trusted_exec

    recorded = types.ModuleType("fgit_recorded")
    vars(recorded)["play"] = lambda: player(vars(recorded)["outputs"])
    sys.modules["fgit_recorded"] = recorded

    def score(submission: Submission, send: Send) -> dict[str, Any]:
        problem, solution = submission["problem"], submission["solution"]
        name = problem["entry_point"]
        not_none = kind == "mbpp" and name in MBPP_OUTPUT_NOT_NONE_TASKS
        as_list = kind == "mbpp" and name in MBPP_OUTPUT_SET_EQ_TASKS
        canonical = problem["prompt"] + problem["canonical_solution"]
        expected, times = {}, {}
        try:
            for part in ("base", "plus"):
                expected[part], times[part] = trusted_exec(
                    *(canonical, problem[f"{part}_input"], name),
                    record_time=True,
                    output_not_none=not_none,
                )
        except BaseException as error:
            return {"error": f"the canonical solution raises {type(error).__name__}: {error}"}
        factor, least = submission["gt_time_limit_factor"], submission["min_time_limit"]
        limits = {part: [max(least, factor * t) for t in times[part]] for part in times}
        # As untrusted_check computes it.
        limit = sum(min(60.0, sum(limits[part])) + 2.0 for part in limits)
        seconds = {f"{part}_seconds": sum(times[part]) for part in times}
        send({"expected": True, "limit": limit, **seconds})

        zero = (kind, name) == ("humaneval", "find_zero")
        wanted = {part: [0.0] * len(expected[part]) for part in expected} if zero else expected

        def check(part: str, program: str, least: float) -> str:
            status, _ = untrusted_check(
                kind,
                program + RESIDUAL if zero else program,
                problem[f"{part}_input"],
                "find_zero_residual" if zero else name,
                expected=wanted[part],
                atol=problem["atol"],
                ref_time=times[part],
                fast_check=True,  # ends at the first failing test, as evalplus.evaluate does
                min_time_limit=least,
                gt_time_limit_factor=factor,
            )
            # Nothing of one check may reach the next: neither processes nor files.
            Cleaner().clean()
            return status

        started = time.monotonic()
        statuses = {part: check(part, solution, least) for part in expected}
        result = {**statuses, "seconds": time.monotonic() - started, "limit": limit}
        passed = [part for part in statuses if statuses[part] == PASS and times[part]]
        reason = IN_ITS_NAMESPACE if zero else suspicion(solution)
        if passed and reason:
            result["suspicious"] = reason
            for part in passed:
                outputs = record(
                    solution, name, problem[f"{part}_input"], limits[part], not_none, as_list
                )
                vars(recorded)["outputs"] = outputs
                program = f"import fgit_recorded\n{name} = fgit_recorded.play()\n"
                if not outputs or check(part, program, 10.0) != PASS:
                    result[part] = FORGED
        return result

    checked = False

    def surely(submission: Submission, send: Send) -> dict[str, Any]:
        """Nothing is called forged where an honest program that is looked at would be."""
        nonlocal checked
        result = score(submission, send)
        if not checked and FORGED in (result.get("base"), result.get("plus")):
            looked_at = canary(kind)
            looked_at["solution"] += "f.__doc__\n"
            honest = score(looked_at, lambda message: None)
            if not (honest["base"] == honest["plus"] == PASS and "suspicious" in honest):
                return {"error": f"an honest program's outputs were not confirmed: {honest}"}
            checked = True
        return result

    return surely


def record(
    solution: str,
    entry_point: str,
    inputs: list[Any],
    limits: list[float],
    not_none: bool,
    as_list: bool,
) -> bytes:
    """The solution's outputs, as gzipped pickles of plain data; b"" where there are none.

    A new interpreter runs it, since a fork would have the expected outputs in its memory.
    """
    path = f"{os.environ['TMPDIR']}/recorded"
    # It has passed within the limits already; a busy machine must not make it forged.
    limits = [3 * limit + 1 for limit in limits]
    request = {
        "solution": solution,
        "entry_point": entry_point,
        "inputs": inputs,
        "limits": limits,
        "not_none": not_none,
        "as_list": as_list,
        "path": path,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
        process.communicate(pickle.dumps(request), timeout=min(180.0, sum(limits)) + 20)
    process.kill()
    process.wait()
    kill_others()
    outputs = b""
    regular = os.O_NOFOLLOW | os.O_NONBLOCK  # it may have left a link or a pipe there
    with (
        contextlib.suppress(OSError),
        open(path, "rb", opener=lambda name, flags: os.open(name, flags | regular)) as file,
    ):
        outputs = file.read()
    Cleaner().clean()
    return outputs


# ------------------------------------------------------------------ BigCodeBench, and tests


class Process(multiprocessing.Process):
    """Joined once it has ended, where multiprocessing's waits for what it started as well."""

    def join(self, timeout: float | None = None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while self.exitcode is None and (end is None or time.monotonic() < end):
            time.sleep(0.005)
        super().join(0)


def bigcodebench_scorer() -> Scorer:
    """BigCodeBench's check of one solution, calibrated: the signature stands before it."""
    import bigcodebench.eval
    import matplotlib.pyplot  # noqa: F401  each forked check wants it

    bigcodebench.eval.multiprocessing = types.SimpleNamespace(Process=Process)
    untouched = seal()
    unsafe_execute = bigcodebench.eval.unsafe_execute

    def execute(*arguments: Any) -> None:
        """BigCodeBench's, in the forked process; its verdict counts if nothing was replaced."""
        *others, verdict, details = arguments
        inner = multiprocessing.Value("i", verdict.value)
        unsafe_execute(*others, inner, details)
        if untouched():
            verdict.value = inner.value
        else:
            details["ALL"] = FORGED
            verdict.value = 1

    bigcodebench.eval.unsafe_execute = execute

    def score(submission: Submission, send: Send) -> dict[str, Any]:
        send({"expected": True, "limit": BIGCODEBENCH_LIMIT})
        started = time.monotonic()
        status, details = bigcodebench.eval.untrusted_check(
            submission["problem"]["code_prompt"] + "\n    pass\n" + submission["solution"],
            submission["problem"]["test"],
            submission["problem"]["entry_point"],
            BIGCODEBENCH_MEMORY,
            BIGCODEBENCH_MEMORY,
            BIGCODEBENCH_STACK,
            submission["min_time_limit"],
            BIGCODEBENCH_TIME_LIMIT,
        )
        if status == FAIL and details.get("ALL") == FORGED:
            status = FORGED
        seconds = time.monotonic() - started
        return {"base": status, "plus": None, "seconds": seconds, "limit": BIGCODEBENCH_LIMIT}

    return score


def tests_scorer() -> Scorer:
    """A solution, then a program of tests, in one namespace; it passes if that gets to its end.

    Both see ``__name__`` as ``solution``; the tests, then, as ``__main__``, so that those under
    the usual guard are run. The time limit is TESTS_FACTOR times min_time_limit, for all tests
    together.
    """
    from evalplus.eval.utils import create_tempdir, reliability_guard

    untouched = seal()

    def tests(solution: str, test: str, token: bytes, pipe: int) -> None:
        write, leave = os.write, os._exit
        try:
            with create_tempdir():
                reliability_guard(maximum_memory_bytes=EVALPLUS_MEMORY)
                module = types.ModuleType("solution")
                sys.modules["solution"] = sys.modules["__main__"] = module
                for name, text in (("solution", solution), ("__main__", test)):
                    module.__name__ = name
                    code = compile(text, f"{name}.py", "exec", dont_inherit=True)
                    exec(code, vars(module))
                write(pipe, token if untouched() else FORGED.encode())
        finally:
            leave(0)

    def score(submission: Submission, send: Send) -> dict[str, Any]:
        limit = TESTS_FACTOR * submission["min_time_limit"]
        send({"expected": True, "limit": limit})
        started = time.monotonic()
        token = secrets.token_bytes(16)
        read, write = os.pipe()
        os.set_blocking(read, False)
        process = Process(
            target=tests, args=(submission["solution"], submission["problem"]["test"], token, write)
        )
        process.start()
        os.close(write)
        process.join(limit)
        late = process.is_alive()
        process.kill()
        process.join()
        word = b""
        with contextlib.suppress(BlockingIOError):
            word = os.read(read, 2**16)
        os.close(read)
        status = {token: PASS, FORGED.encode(): FORGED}.get(word, TIMEOUT if late else FAIL)
        seconds = time.monotonic() - started
        return {"base": status, "plus": None, "seconds": seconds, "limit": limit}

    return score


# What programs and tests replace for good reasons, and what cannot decide a verdict.
REPLACEABLE = frozenset({"open", "print", "input", "exit", "quit", "help"})


def seal() -> Callable[[], bool]:
    """Remember the functions by which tests judge; what is returned says if they are unchanged."""
    names = ["unittest"] + [f"unittest.{part}" for part in ("case", "loader", "result", "suite")]
    modules = [builtins, np, *map(importlib.import_module, names)]
    places: list[tuple[Any, str, Any, Any]] = [
        (sys.modules, module.__name__, module, None) for module in modules
    ]
    functions = (types.FunctionType, types.BuiltinFunctionType, type)
    for module in modules:
        for name, value in vars(module).items():
            if name in REPLACEABLE or not isinstance(value, functions):
                continue
            places.append((vars(module), name, value, getattr(value, "__code__", None)))
            if isinstance(value, type) and value.__module__.startswith("unittest"):
                places += [
                    (vars(value), method, function, function.__code__)
                    for method, function in vars(value).items()
                    if isinstance(function, types.FunctionType)
                ]

    def untouched() -> bool:
        # No builtin function is called here: they may be the ones replaced.
        for place, name, value, code in places:
            if place.get(name) is not value:
                return False
            if code is not None and value.__code__ is not code:
                return False
        return True

    return untouched


# ------------------------------------------------------------------ the canary


def canary(kind: str) -> Submission:
    """A right solution, which must pass before anything is scored.

    Where a limit cannot be set, a library is missing or no process can be forked, every solution
    would quietly count as wrong.
    """
    problem: dict[str, Any] = {"task_id": "canary/0", "entry_point": "f"}
    if kind == "bigcodebench":
        problem["code_prompt"] = "def f(x):"
        problem["test"] = (
            "import unittest\nclass TestCases(unittest.TestCase):\n"
            "    def test_it(self):\n        self.assertEqual(f(1), 1)\n"
        )
    elif kind == "tests":
        problem["test"] = "assert f(1) == 1\n"
    else:
        problem["prompt"], problem["canonical_solution"] = "def f(x):\n", "    return x\n"
        problem["base_input"], problem["plus_input"], problem["atol"] = [[1]], [[2]], 0
    return {
        "problem": problem,
        "solution": "def f(x):\n    return x\n",
        "min_time_limit": 30.0,
        "gt_time_limit_factor": 4.0,
    }


def no_canary(result: dict[str, Any]) -> str:
    limits = {
        name: resource.getrlimit(getattr(resource, name))[1]
        for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NPROC", "RLIMIT_NOFILE")
    }
    return (
        f"a right solution did not pass ({result}); probably a limit is too low here: the hard "
        f"limits are {limits}, where -1 is none, and the checks want {EVALPLUS_MEMORY} bytes of "
        "RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK (BigCodeBench "
        f"{BIGCODEBENCH_MEMORY} MiB, of the stack {BIGCODEBENCH_STACK} MiB)"
    )
