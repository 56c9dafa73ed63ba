"""The process that runs untrusted solutions, inside a box; it imports nothing of FGit.

``python worker.py KIND`` (humaneval, mbpp, bigcodebench or tests; Python >= 3.10 with numpy
and the kind's library) is started by :class:`fgit.sandbox.box.Box`. It reads pickled jobs from
standard input, dictionaries of

* ``problem``: the problem as :mod:`fgit.benchmarks.problems` reads it;
* ``solution``: the program;
* ``min_time_limit``, ``gt_time_limit_factor``: of :class:`fgit.config.ScoreSettings`;

and answers in lines of JSON on standard output: ``{"ready": true}`` once, then two for every job:

* ``{"expected": true, "limit": seconds}``: the canonical solution has run, and this is the longest
  that the checks may take by their own limits; for EvalPlus's kinds also ``base_seconds`` and
  ``plus_seconds``, what the canonical solution took;
* ``{"base": status, "plus": status or null, "seconds": what the checks took, "limit": as above}``,
  where a status is ``pass``, ``fail``, ``timeout`` or ``forged``; with ``suspicious``, why a
  passing program was looked at more closely, where it was.

``{"error": text}`` stands in place of the first, if the worker cannot work, and in place of either
of the others (it is then the job's last), if the canonical solution fails. It ends at the end of
its input. When an answer has come, nothing that the solution started or wrote to the box's
temporary folders is left.

**What stands between a solution and its verdict.** The benchmarks run a solution and judge it in
one process, so that a program can set the verdict itself. Against that:

* humaneval, mbpp: a program that passes and that is not plainly harmless (:func:`suspicion`) has
  its outputs recorded by a process that knows nothing of the expected ones; they are reduced to
  plain data, and EvalPlus judges these. If it does not pass them the solution is *forged*. This
  finds objects that equal everything, patched builtins and libraries, and frames that were walked.
* bigcodebench, tests: judged in the solution's process by the nature of the tests. Functions of
  unittest, builtins and numpy that are not the same at the end make it *forged*, and ending the
  process early passes nothing; but a program that sets out to forge its verdict there still can.

Functions that EvalPlus's and BigCodeBench's own guards set to None are so here, too.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import gzip
import importlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import secrets
import signal
import stat
import string
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

PASS, FAIL, TIMEOUT, FORGED = "pass", "fail", "timeout", "forged"

# Limits of bigcodebench.evaluate, in MiB; and the time limit in seconds where the canonical
# solution was not timed. BigCodeBench raises any time limit below 240 s to 240 s.
BIGCODEBENCH_MEMORY = 30 * 1024
BIGCODEBENCH_STACK = 10
BIGCODEBENCH_TIME_LIMIT = 20.0
BIGCODEBENCH_LIMIT = 243.0  # its 240 s and what it adds
EVALPLUS_MEMORY = 4 * 2**30
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

PR_SET_DUMPABLE = 4
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef

Job = dict[str, Any]
Answer = Callable[[dict[str, Any]], None]
Run = Callable[[Job, Answer], dict[str, Any]]


def main(kind: str) -> None:
    hide()
    pipes = [os.dup(0), os.dup(1)]
    jobs = os.fdopen(pipes[0], "rb", closefd=False)
    answers = os.fdopen(pipes[1], "w", encoding="utf-8", closefd=False)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def in_child() -> None:
        while pipes:  # once: in a child's child the numbers may be something else's
            os.close(pipes.pop())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        seed()

    # A fork inherits the benchmark's modules and the expected outputs; nothing here has threads.
    multiprocessing.set_start_method("fork")
    os.register_at_fork(after_in_child=in_child)  # after random's own, which unseeds it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGIO, end)  # whoever started the box is gone (entry.py)
    raise_no_hard_limit()
    try:
        run = {"bigcodebench": bigcodebench_job, "tests": tests_job}.get(
            kind, lambda: evalplus_job(kind)
        )()
        silence()
        box = Cleaner()
        result = run(canary(kind), lambda message: None)
        if result.get("base") != PASS:
            raise RuntimeError(no_canary(result))
        box.clean()
    except BaseException as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        raise
    answer({"ready": True})
    before = conditions()
    with contextlib.suppress(EOFError):
        while conditions() == before:
            job = pickle.load(jobs)
            seed()
            result = run(job, answer)
            box.clean()
            answer(result)


def conditions() -> tuple[Any, ...]:
    """What a process may change of another of its user's, and what its children then have too."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return (
        *(resource.getrlimit(getattr(resource, name)) for name in names),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        os.sched_getaffinity(0),
    )


def end(*_: object) -> None:
    try:
        kill_others()
    finally:
        os._exit(1)


def hide() -> None:
    """Let no other process read the memory or descriptors of this one and of what it forks."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def seed() -> None:
    """Give programs that draw numbers the same ones in every scoring."""
    random.seed(0)
    np.random.seed(0)


def silence() -> None:
    """Cut what solutions print or ask for: descriptors 0 to 2 become the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def raise_no_hard_limit() -> None:
    """Let the guards take a hard limit where it is lower than theirs, instead of failing."""
    really = resource.setrlimit

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            soft_wanted, hard_wanted = (
                hard if value == resource.RLIM_INFINITY else min(value, hard) for value in limits
            )
            limits = (soft_wanted, hard_wanted)
        really(kind, limits)

    resource.setrlimit = setrlimit


# ------------------------------------------------------------------ EvalPlus


def evalplus_job(kind: str) -> Run:
    """EvalPlus's check of one solution, and ours of its verdict."""
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    recorded = types.ModuleType("fgit_recorded")
    vars(recorded)["play"] = lambda: player(vars(recorded)["outputs"])
    sys.modules["fgit_recorded"] = recorded

    def run(job: Job, answer: Answer) -> dict[str, Any]:
        problem, solution, name = job["problem"], job["solution"], job["problem"]["entry_point"]
        not_none = kind == "mbpp" and name in MBPP_OUTPUT_NOT_NONE_TASKS
        expected, times = {}, {}
        try:
            for part in ("base", "plus"):
                expected[part], times[part] = trusted_exec(
                    problem["prompt"] + problem["canonical_solution"],
                    problem[f"{part}_input"],
                    name,
                    record_time=True,
                    output_not_none=not_none,
                )
        except BaseException as error:
            return {"error": f"the canonical solution raises {type(error).__name__}: {error}"}
        factor, least = job["gt_time_limit_factor"], job["min_time_limit"]
        limits = {part: [max(least, factor * t) for t in times[part]] for part in times}
        # As untrusted_check computes it.
        limit = sum(min(60.0, sum(limits[part])) + 2.0 for part in limits)
        seconds = {f"{part}_seconds": sum(times[part]) for part in times}
        answer({"expected": True, "limit": limit, **seconds})

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
                    kind, solution, name, problem[f"{part}_input"], limits[part], not_none
                )
                vars(recorded)["outputs"] = outputs
                program = f"import fgit_recorded\n{name} = fgit_recorded.play()\n"
                if not outputs or check(part, program, 10.0) != PASS:
                    result[part] = FORGED
        return result

    checked = False

    def surely(job: Job, answer: Answer) -> dict[str, Any]:
        """Nothing is called forged where an honest program that is looked at would be."""
        nonlocal checked
        result = run(job, answer)
        if not checked and FORGED in (result.get("base"), result.get("plus")):
            looked_at = canary(kind)
            looked_at["solution"] += "f.__doc__\n"
            honest = run(looked_at, lambda message: None)
            if not (honest["base"] == honest["plus"] == PASS and "suspicious" in honest):
                return {"error": f"an honest program's outputs were not confirmed: {honest}"}
            checked = True
        return result

    return surely


def player(recorded: bytes) -> Callable[..., Any]:
    """A function that returns the recorded outputs, call by call."""
    outputs = gzip.GzipFile(fileobj=io.BytesIO(recorded))
    return lambda *_: PlainUnpickler(outputs).load()


def record(
    kind: str,
    solution: str,
    entry_point: str,
    inputs: list[Any],
    limits: list[float],
    not_none: bool,
) -> bytes:
    """The solution's outputs, as gzipped pickles of plain data; b"" where there are none.

    A new interpreter runs it, since a fork would have the expected outputs in its memory.
    """
    path = f"{os.environ['TMPDIR']}/recorded"
    job = {
        "solution": solution,
        "entry_point": entry_point,
        "inputs": inputs,
        # It has passed within the limits already; a busy machine must not make it forged.
        "limits": (longer := [3 * limit + 1 for limit in limits]),
        "not_none": not_none,
        "as_list": kind == "mbpp" and is_set_task(entry_point),
        "path": path,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SOURCE, "record"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
        process.communicate(pickle.dumps(job), timeout=min(180.0, sum(longer)) + 20)
    process.kill()
    process.wait()
    kill_others()
    outputs = b""
    with contextlib.suppress(OSError), open(path, "rb", opener=no_link) as file:
        outputs = file.read()
    Cleaner().clean()
    return outputs


def no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def is_set_task(entry_point: str) -> bool:
    from evalplus.eval._special_oracle import MBPP_OUTPUT_SET_EQ_TASKS

    return entry_point in MBPP_OUTPUT_SET_EQ_TASKS


def recorder() -> None:
    """Run a solution on the inputs of the job on standard input, as EvalPlus does; write outputs.

    What it writes counts for what EvalPlus makes of it; nothing here need withstand the solution.
    """
    from evalplus.eval.utils import create_tempdir, reliability_guard, swallow_io, time_limit

    hide()
    job = pickle.loads(sys.stdin.buffer.read())
    silence()
    raise_no_hard_limit()
    with gzip.open(job["path"], "wb", compresslevel=1) as out, create_tempdir():
        seed()
        reliability_guard(maximum_memory_bytes=EVALPLUS_MEMORY)
        namespace: dict[str, Any] = {}
        leave = os._exit
        try:
            with swallow_io():
                exec(job["solution"], namespace)
            function = namespace[job["entry_point"]]
            for arguments, limit in zip(job["inputs"], job["limits"], strict=True):
                with time_limit(limit), swallow_io():
                    value = function(*arguments)
                if job["not_none"] and not isinstance(value, bool):
                    value = value is not None
                if job["as_list"]:
                    value = list(value)
                # At once: the next call may change it.
                PlainPickler(out, protocol=4).dump(value)
                del value
            out.close()
        finally:
            leave(0)


class PlainPickler(pickle.Pickler):
    """Writes a value as plain data, whatever a subclass says that it equals."""

    def reducer_override(self, value: Any) -> Any:
        """What to call with what; for anything that is not exactly of a type pickle knows."""
        if isinstance(value, np.generic) or type(value) is complex:
            return NotImplemented
        for scalar in (int, float, complex):
            if isinstance(value, scalar):
                return scalar, (getattr(scalar, "__pos__")(value),)  # noqa: B009
        if isinstance(value, str):
            return str, (str.__str__(value),)
        if isinstance(value, bytes):
            return bytes, (b"".join([value]),)
        for sequence in (list, tuple, set, frozenset):
            if isinstance(value, sequence):
                items = getattr(sequence, "__iter__")(value)  # noqa: B009  mypy knows no common type
                return sequence, (list(items),)
        if isinstance(value, dict):
            return dict, (list(dict.items(value)),)
        if type(value) in (type({}.keys()), type({}.items())):  # they equal sets
            return set, (list(value),)
        return NotImplemented


# What an output may be, besides scalars and containers that pickle writes without a name.
PLAIN = {
    "builtins": (
        *("bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
        *("range", "set", "slice", "str", "tuple"),
    ),
    "collections": ("deque",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
}


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
        return super().find_class(module, name)


# ------------------------------------------------------------------ which programs are looked at

# Names of these modules that read and write nothing but their arguments. Where a module is named
# without a list, all of its public names that are not modules themselves.
HARMLESS: dict[str, tuple[str, ...]] = {
    "__future__": ("annotations",),
    "bisect": (),
    "cmath": (),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "copy": ("copy", "deepcopy"),
    "datetime": ("date", "datetime", "time", "timedelta"),
    "decimal": ("Decimal", "ROUND_DOWN", "ROUND_HALF_EVEN", "ROUND_HALF_UP", "ROUND_UP"),
    "fractions": ("Fraction",),
    "functools": ("cache", "cmp_to_key", "lru_cache", "partial", "reduce"),
    "heapq": (),
    "itertools": (),
    "math": (),
    "operator": (
        *("add", "and_", "eq", "floordiv", "ge", "gt", "itemgetter", "le", "lt", "mod"),
        *("mul", "ne", "neg", "not_", "or_", "pow", "sub", "truediv", "xor"),
    ),
    "random": ("choice", "choices", "randint", "random", "randrange", "sample", "seed", "shuffle"),
    "re": (
        *("A", "ASCII", "DOTALL", "I", "IGNORECASE", "M", "MULTILINE", "S", "VERBOSE", "X"),
        *("compile", "escape", "findall", "finditer", "fullmatch", "match", "search", "split"),
        *("sub", "subn"),
    ),
    "statistics": ("fmean", "mean", "median", "mode", "pstdev", "pvariance", "stdev", "variance"),
    "string": (
        *("ascii_letters", "ascii_lowercase", "ascii_uppercase", "capwords", "digits"),
        *("hexdigits", "octdigits", "printable", "punctuation", "whitespace"),
    ),
    "typing": (
        *("Any", "Callable", "Counter", "Deque", "DefaultDict", "Dict", "FrozenSet", "Generator"),
        *("Iterable", "Iterator", "List", "Literal", "Mapping", "Optional", "Sequence", "Set"),
        *("Tuple", "Type", "TypeVar", "Union"),
    ),
}
HARMLESS_BUILTINS = frozenset(
    (
        *("abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr"),
        *("classmethod", "complex", "dict", "divmod", "enumerate", "filter", "float", "format"),
        *("frozenset", "hasattr", "hash", "hex", "id", "int", "isinstance", "issubclass", "iter"),
        *("len", "list", "map", "max", "min", "next", "object", "oct", "ord", "pow", "print"),
        *("property", "range", "repr", "reversed", "round", "set", "slice", "sorted"),
        *("staticmethod", "str", "sum", "tuple", "zip", "Ellipsis", "NotImplemented", "__name__"),
    )
)
HARMLESS_METHODS = frozenset({"__init__", "__repr__", "__str__", "__lt__"})
# Attributes that lead from a generator, coroutine, exception or function to what surrounds it.
INNER = ("gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_")


def suspicion(program: str) -> str:
    """Why a program could forge a verdict; '' for one that is plainly unable to.

    It is, if all it uses is from lists of what cannot reach another object than its own: builtins
    that neither look up attributes by name nor run text, the pure parts of some modules, classes
    without a base or special methods, no attribute that begins with an underscore or belongs to a
    frame, and no assignment to an attribute. Most honest programs are so; the others take longer.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not parse: {type(error).__name__}"
    nodes = list(ast.walk(tree))
    modules: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in HARMLESS:
                    return f"imports {alias.name}"
                modules[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module not in HARMLESS:
                return f"imports {node.module}"
            for alias in node.names:
                if alias.name not in harmless_names(node.module) and (
                    alias.name != "*" or HARMLESS[node.module]
                ):
                    return f"imports {node.module}.{alias.name}"
    of_attributes = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    kinds = {
        id(node.func)
        for node in nodes
        if isinstance(node, ast.Call)
        and len(node.args) == 1
        and not node.keywords
        and not isinstance(node.args[0], ast.Starred)
    }
    for node in nodes:
        if name := next((name for name in bound(node) if name.startswith("__")), None):
            return f"binds {name}"
        if isinstance(node, ast.Name):
            if node.id in modules:
                if id(node) not in of_attributes:
                    return f"uses the module {node.id} as a value"
            elif node.id == "type":
                if id(node) not in kinds:
                    return "uses type"
            elif (
                (hasattr(builtins, node.id) or node.id.startswith("__"))
                and node.id not in HARMLESS_BUILTINS
                and not is_exception(node.id)
            ):
                return f"uses {node.id}"
        elif isinstance(node, ast.Attribute):
            if reason := attribute_suspicion(node, modules):
                return reason
        elif isinstance(node, ast.Constant):
            text = "__" if isinstance(node.value, str) else b"__"
            if (
                isinstance(node.value, str | bytes)
                and text in node.value  # type: ignore[operator]
                and node.value != "__main__"
            ):
                return "a text with __"
        elif isinstance(node, ast.ClassDef):
            bases = [base.id if isinstance(base, ast.Name) else "" for base in node.bases]
            if node.keywords or not all(
                base == "object" or (is_exception(base) and base) for base in bases
            ):
                return f"class {node.name} has a base"
        elif isinstance(node, FUNCTIONS):
            if node.name.startswith("__") and node.name not in HARMLESS_METHODS:
                return f"defines {node.name}"
        elif isinstance(node, ast.MatchClass):
            return "matches classes"
    return ""


def bound(node: ast.AST) -> Iterator[str]:
    """The names in a node that are no node of their own: of classes, arguments, captures ..."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Constant | FUNCTIONS | ast.ImportFrom):
        return  # looked at by themselves
    for _, value in ast.iter_fields(node):
        yield from (
            name
            for name in (value if isinstance(value, list) else [value])
            if isinstance(name, str)
        )


def attribute_suspicion(node: ast.Attribute, modules: dict[str, str]) -> str:
    name = node.attr
    base = node.value.id if isinstance(node.value, ast.Name) else None
    if not isinstance(node.ctx, ast.Load):
        return f"assigns to .{name}"
    if base in modules:
        module = modules[base]
        return "" if name in harmless_names(module) else f"uses {module}.{name}"
    if name.startswith(INNER) or (
        name.startswith("_") and (base != "self" or name.startswith("__"))
    ):
        return f"uses .{name}"
    if name == "format_map" or (name == "format" and not is_simple_template(node.value)):
        return f"uses .{name}"  # a template may look up attributes
    return ""


def is_simple_template(node: ast.expr) -> bool:
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    try:
        names = [name or "" for _, name, _, _ in string.Formatter().parse(node.value)]
        specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(node.value)]
    except ValueError:
        return False
    return not any("." in name or "[" in name for name in names) and "{" not in "".join(specs)


def is_exception(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, BaseException)


def harmless_names(module: str) -> Iterable[str]:
    if HARMLESS[module]:
        return HARMLESS[module]
    loaded = importlib.import_module(module)
    return [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]


# ------------------------------------------------------------------ BigCodeBench, and tests


class Process(multiprocessing.Process):
    """Joined once it has ended, where multiprocessing's waits for what it started as well."""

    def join(self, timeout: float | None = None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while self.exitcode is None and (end is None or time.monotonic() < end):
            time.sleep(0.005)
        super().join(0)


def bigcodebench_job() -> Run:
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

    def run(job: Job, answer: Answer) -> dict[str, Any]:
        answer({"expected": True, "limit": BIGCODEBENCH_LIMIT})
        started = time.monotonic()
        status, details = bigcodebench.eval.untrusted_check(
            job["problem"]["code_prompt"] + "\n    pass\n" + job["solution"],
            job["problem"]["test"],
            job["problem"]["entry_point"],
            BIGCODEBENCH_MEMORY,
            BIGCODEBENCH_MEMORY,
            BIGCODEBENCH_STACK,
            job["min_time_limit"],
            BIGCODEBENCH_TIME_LIMIT,
        )
        if status == FAIL and details.get("ALL") == FORGED:
            status = FORGED
        seconds = time.monotonic() - started
        return {"base": status, "plus": None, "seconds": seconds, "limit": BIGCODEBENCH_LIMIT}

    return run


def tests_job() -> Run:
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

    def run(job: Job, answer: Answer) -> dict[str, Any]:
        limit = TESTS_FACTOR * job["min_time_limit"]
        answer({"expected": True, "limit": limit})
        started = time.monotonic()
        token = secrets.token_bytes(16)
        read, write = os.pipe()
        os.set_blocking(read, False)
        process = Process(
            target=tests, args=(job["solution"], job["problem"]["test"], token, write)
        )
        process.start()
        os.close(write)
        process.join(limit)
        late = process.is_alive()
        process.kill()
        process.join()
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(read, 2**16)
        os.close(read)
        status = {token: PASS, FORGED.encode(): FORGED}.get(said, TIMEOUT if late else FAIL)
        seconds = time.monotonic() - started
        return {"base": status, "plus": None, "seconds": seconds, "limit": limit}

    return run


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


# ------------------------------------------------------------------ after a solution


class Cleaner:
    """Leaves nothing of a solution in the box, neither processes nor files."""

    standing: frozenset[Path] | None = None  # what was there before the first solution
    modes: ClassVar[dict[Path, int]] = {}

    def __init__(self) -> None:
        self.home = Path(os.environ["HOME"])
        self.folders = [Path(os.environ["TMPDIR"])]
        if os.getpid() == 1:  # of a PID namespace: /dev/shm is the box's own, then
            self.folders.append(Path("/dev/shm"))
        if Cleaner.standing is None:
            empty(self.home)
            found = {path for folder in self.folders for path in below(folder)}
            Cleaner.standing = frozenset(found - {self.home})
            Cleaner.modes = {folder: folder.stat().st_mode for folder in self.folders}

    def clean(self) -> None:
        kill_others()
        assert self.standing is not None
        for folder in self.folders:
            if folder.stat().st_mode != self.modes[folder]:  # its owner may have closed it
                folder.chmod(stat.S_IMODE(self.modes[folder]))
            empty(folder, self.standing)
        self.home.mkdir(exist_ok=True)
        # Where multiprocessing keeps its sockets, made when they are first needed.
        multiprocessing.process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]


def kill_others() -> None:
    """End every other process of the box: of the PID namespace, or below this one.

    Raises:
        RuntimeError: if one does not end.
    """
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        multiprocessing.active_children()  # collects its own
        with contextlib.suppress(ChildProcessError):
            while True:  # those whose parents ended are this process's children
                os.waitpid(-1, 0)
        return
    for attempt in range(2000):
        multiprocessing.active_children()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = list(processes_below(os.getpid()))
        if not found:
            return
        for kind in (signal.SIGSTOP, signal.SIGKILL):  # stopped, they start no others
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, kind)
        time.sleep(min(0.01, 0.0005 * attempt))
    raise RuntimeError("a process of the last solution does not end")


def processes_below(pid: int) -> Iterator[int]:
    """What descends from a process, parents first."""
    ahead = [pid]
    while ahead:
        children: list[int] = []
        parent = ahead.pop()
        with contextlib.suppress(OSError):  # it has ended
            for file in Path(f"/proc/{parent}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    children += map(int, file.read_text(encoding="ascii").split())
        yield from children
        ahead += children


def below(folder: Path) -> Iterator[Path]:
    """Everything below a folder, but nothing below what is mounted there."""
    device = folder.lstat().st_dev
    for path in folder.iterdir():
        yield path
        if is_folder(path) and path.lstat().st_dev == device:
            yield from below(path)


def empty(folder: Path, keep: frozenset[Path] = frozenset()) -> None:
    """Remove what is in a folder, however deep, save the paths to keep."""
    device = folder.lstat().st_dev
    for path in list(folder.iterdir()):
        if path not in keep:
            erase(path)
        elif is_folder(path) and path.lstat().st_dev == device:
            empty(path, keep)


def erase(path: Path) -> None:
    """Remove a file or folder.

    Folders within it are moved up one by one, so that neither a recursion nor a path gets deep.
    """
    if not is_folder(path):
        path.unlink()
        return
    path.chmod(0o700)
    while inner := list(path.iterdir()):
        for item in inner:
            if not is_folder(item):
                item.unlink()
                continue
            item.chmod(0o700)
            for deeper in list(item.iterdir()):
                if is_folder(deeper):
                    deeper.chmod(0o700)
                    deeper.rename(path / secrets.token_hex(16))
                else:
                    deeper.unlink()
            item.rmdir()
    path.rmdir()


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)  # itself, not what a link leads to


# ------------------------------------------------------------------ the canary


def canary(kind: str) -> Job:
    """A right solution, which must pass before anything is scored.

    Where a limit cannot be set, a library is missing or no process can be forked, every solution
    would quietly count as wrong.
    """
    right = "def f(x):\n    return x\n"
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
        "solution": right,
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


if __name__ == "__main__":
    if sys.argv[1] == "record":
        recorder()
    else:
        SOURCE = Path(__file__).read_text(encoding="utf-8")
        try:
            main(sys.argv[1])
        finally:
            kill_others()
