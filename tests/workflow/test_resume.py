"""Trainings that are killed at any moment, and started again.

One process (:func:`serve`, this file run as a script) imports everything once and uses no threads;
it forks a child for each training, which takes a second instead of ten.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.config import TrainSettings

SEED = 20
SETTINGS = {
    "batch_size": 4,
    "token_budget": 64,
    "max_length": 64,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "epochs": 2,
    "held_out": 2,
}
STEPS = 8
TIMES = {"seconds", "tokens_per_second", "model_tokens_per_second", "mfu"}
# Where a training is killed: at the k-th of these calls, of the first four while it saves.
WHILE_SAVING = ("save_state", "torch.save", "fsync", "rename")
PLACES = (*WHILE_SAVING, "step")


# ------------------------------------------------------------------ the process that forks


def serve() -> None:
    """Answer each JSON line: ``{"start": …}`` forks a training, ``{"wait": pid}`` gives its end."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401  (what from_pretrained imports)

    import fgit.train.stage  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            process = os.fork()
            if process == 0:
                os._exit(child(request["start"]))
            answer: dict[str, Any] = {"process": process}
        else:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer), flush=True)


def child(request: dict[str, Any]) -> int:
    """Train in a forked process. Its output goes to ``log``, its counts of calls to ``counts``."""
    from fgit.train.stage import train

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    file = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDONLY) if standard == 0 else file, standard)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
    counts = dict.fromkeys(PLACES, 0)
    watch(counts, request.get("at"))
    try:
        train(
            request["model"],
            Path(request["spans"]),
            Path(request["out"]),
            TrainSettings(**request["settings"]),
            template="magicoder",
        )
        return 0
    except UserError as error:
        print(f"UserError: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        logging.exception("the training failed")
        return 99
    finally:
        sys.stderr.flush()
        Path(request["counts"]).write_text(json.dumps(counts))


def watch(counts: dict[str, int], at: dict[str, Any] | None) -> None:
    """Count the calls at each of ``PLACES``, and do ``at["act"]`` at one.

    ``at``: place, call (from 1), when (``before``, ``after``, or ``within``, which is between the
    halves of a file that torch.save writes), act (``SIGKILL``, ``SIGTERM``, ``sleep``).
    """
    import accelerate
    import torch

    from fgit.train.state import State

    saving: list[State] = []

    def act() -> None:
        if at is not None and at["act"] == "sleep":
            time.sleep(600)
        elif at is not None:
            os.kill(os.getpid(), signal.Signals[at["act"]])

    def watched(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if place in WHILE_SAVING and not saving:
                return function(*arguments, **options)
            counts[place] += 1
            here = at is not None and (at["place"], at["call"]) == (place, counts[place])
            if here and at["when"] == "before":
                act()
            if here and at["when"] == "within":
                content = io.BytesIO()
                function(arguments[0], content)
                Path(arguments[1]).write_bytes(content.getvalue()[: content.tell() // 2])
                act()
            result = function(*arguments, **options)
            if here and at["when"] == "after":
                act()
            return result

        return call

    save = State.save

    def flagged(self: State, *arguments: Any, **options: Any) -> None:
        saving.append(self)
        try:
            save(self, *arguments, **options)
        finally:
            saving.pop()

    State.save = flagged  # type: ignore[method-assign]
    for place, owner, name in (
        ("save_state", accelerate.Accelerator, "save_state"),
        ("torch.save", torch, "save"),
        ("fsync", os, "fsync"),
        ("rename", os, "rename"),
        ("step", torch.optim.AdamW, "step"),
    ):
        setattr(owner, name, watched(place, getattr(owner, name)))


# ------------------------------------------------------------------ the tests' side of it


class Trainings:
    """Trainings of one model on one file, each in a folder of its own."""

    def __init__(self, folder: Path, model: Path, spans: Path) -> None:
        self.folder, self.model, self.spans = folder, model, spans
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return dict(json.loads(self.server.stdout.readline()))

    def start(self, name: str, at: dict[str, Any] | None = None, **settings: Any) -> int:
        """Start a training that is saved after every step; the process's id."""
        request = {
            "model": str(self.model),
            "spans": str(self.spans),
            "out": str(self.folder / name),
            "log": str(self.folder / f"{name}.log"),
            "counts": str(self.folder / f"{name}.json"),
            "settings": SETTINGS | {"checkpoint_minutes": 0} | settings,
            "at": at,
        }
        return int(self.ask({"start": request})["process"])

    def wait(self, process: int) -> int:
        return int(self.ask({"wait": process})["code"])

    def run(self, name: str, at: dict[str, Any] | None = None, **settings: Any) -> int:
        """The exit code of a training."""
        return self.wait(self.start(name, at, **settings))

    def killed(self, name: str, at: dict[str, Any], **settings: Any) -> None:
        assert self.run(name, at | {"act": "SIGKILL"}, **settings) == -signal.SIGKILL

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def counts(self, name: str) -> dict[str, int]:
        """Calls at each place in the last training of this name that was not killed."""
        return dict(json.loads((self.folder / f"{name}.json").read_text()))

    def state(self, name: str) -> Path:
        return self.folder / name / "state"

    def result(self, name: str) -> tuple[bytes, list[dict[str, Any]], list[tuple[Any, ...]]]:
        """The weights, what each step logged but for times, and what was noted of each sample."""
        out = self.folder / name
        lines = (out / "steps.jsonl").read_text().splitlines()
        steps = [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]
        samples = pl.read_parquet(out / "samples.parquet").rows()
        return (out / "model" / "model.safetensors").read_bytes(), steps, samples

    def finishes(self, name: str, like: str = "undisturbed", **settings: Any) -> None:
        """Start it again: it goes on, ends as the undisturbed one did, and its state is gone."""
        before = sorted(self.state(name).glob("step-*")) if self.state(name).exists() else []
        assert self.run(name, **settings) == 0, self.log(name)
        weights, steps, samples = self.result(name)
        expected_weights, expected_steps, expected_samples = self.result(like)
        assert steps == expected_steps
        assert samples == expected_samples
        assert weights == expected_weights
        assert not self.state(name).exists()
        # It did not start anew, though that would have come to the same.
        done = int(before[-1].name.removeprefix("step-")) if before else 0
        assert self.counts(name)["step"] == len(steps) - done


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, tiny_model):
    from tests.conftest import annotated  # here, since this file also runs as a program

    folder = tmp_path_factory.mktemp("resume")
    rows = [
        {
            "id": f"s{i}",
            "instruction": f"Add {i}.",
            "response": f"x + {i}",
            "variant": f"x - {i}" if i % 3 else None,
        }
        for i in range(16)
    ]
    found = Trainings(folder, tiny_model, annotated(folder, rows))
    try:
        # Without any checkpoint: to write them must not change anything either.
        assert found.run("undisturbed", checkpoint_minutes=15) == 0, found.log("undisturbed")
        assert found.counts("undisturbed") == dict.fromkeys(PLACES, 0) | {"step": STEPS}
        yield found
    finally:
        assert found.server.stdin is not None
        found.server.stdin.close()
        found.server.wait()


@pytest.fixture(scope="module")
def calls(trainings) -> dict[str, int]:
    """How often a training that is saved after every step comes by each place."""
    start = time.monotonic()
    trainings.finishes("saved")
    counts = trainings.counts("saved")
    assert all(counts.values())
    return counts | {"milliseconds": int(1000 * (time.monotonic() - start))}


def moments() -> list[tuple[str, str, float]]:
    """20 moments: place, when, and how far into the training, as a fraction of the calls there."""
    drawn = random.Random(SEED)
    places = [*WHILE_SAVING * 2, *["torch.save within"] * 2, *["step"] * 6, *["time"] * 4]
    found = []
    for place in places:
        place, _, within = place.partition(" ")
        found.append((place, within or drawn.choice(("before", "after")), drawn.random()))
    return found


def test_killed_while_a_checkpoint_is_written(trainings):
    """The one of these tests that is quick: killed when the fourth file of step 3 is on disk."""
    trainings.killed("quick", {"place": "fsync", "call": 20, "when": "after"})
    names = sorted(path.name for path in trainings.state("quick").glob("*step-*"))
    assert len(names) == 3
    assert names[0].startswith(".step-000003.")
    assert names[1:] == ["step-000001", "step-000002"]
    trainings.finishes("quick")
    assert "going on after step 2" in trainings.log("quick")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_killed_at_any_moment(trainings, calls, number):
    place, when, fraction = moments()[number]
    name = f"moment-{number}"
    if place == "time":
        seconds = calls["milliseconds"] / 1000 * fraction
        while True:
            process = trainings.start(name)
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
            if trainings.wait(process) == -signal.SIGKILL:
                break
            seconds /= 2  # it was through; the machine is faster than when it was timed
    else:
        call = 1 + int(fraction * calls[place])
        trainings.killed(name, {"place": place, "call": call, "when": when})
    trainings.finishes(name)


@pytest.mark.slow
def test_killed_again_and_again(trainings):
    """Each start gets one checkpoint further; the third is killed as it removes the oldest."""
    for _ in range(3):
        trainings.killed("again", {"place": "rename", "call": 2, "when": "before"})
    names = [path.name for path in sorted(trainings.state("again").glob("step-*"))]
    assert names == ["step-000001", "step-000002", "step-000003"]
    trainings.finishes("again")


@pytest.mark.slow
def test_sigterm_saves_and_ends(trainings):
    at = {"place": "step", "call": 3, "when": "after", "act": "SIGTERM"}
    assert trainings.run("sigterm", at, checkpoint_minutes=15) == 128 + signal.SIGTERM
    assert [path.name for path in trainings.state("sigterm").glob("step-*")] == ["step-000003"]
    assert not (trainings.folder / "sigterm" / "model").exists()
    trainings.finishes("sigterm", checkpoint_minutes=15)


@pytest.mark.slow
def test_sigterm_in_the_last_step(trainings):
    at = {"place": "step", "call": STEPS, "when": "after", "act": "SIGTERM"}
    assert trainings.run("last", at, checkpoint_minutes=15) == 128 + signal.SIGTERM
    trainings.finishes("last", checkpoint_minutes=15)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"objective": "dpo"}, {"lora_rank": 2}], ids=["dpo", "lora"])
def test_other_trainings_go_on_too(trainings, changes):
    """DPO keeps its reference, LoRA its adapters."""
    name = "".join(changes)
    assert trainings.run(f"{name} undisturbed", **changes) == 0
    trainings.killed(name, {"place": "step", "call": 3, "when": "before"}, **changes)
    trainings.finishes(name, like=f"{name} undisturbed", **changes)


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_passed_over(trainings):
    trainings.killed("short", {"place": "step", "call": 6, "when": "before"})
    newest = trainings.state("short") / "step-000005"
    os.truncate(newest / "optimizer.bin", (newest / "optimizer.bin").stat().st_size // 2)
    assert trainings.run("short") == 0
    log = trainings.log("short")
    assert "step-000005 is not whole: optimizer.bin has" in log
    assert "using the one before it" in log
    assert trainings.counts("short")["step"] == STEPS - 4
    assert trainings.result("short") == trainings.result("undisturbed")


@pytest.mark.slow
def test_a_second_process_is_refused(trainings):
    at = {"place": "step", "call": 4, "when": "before", "act": "sleep"}
    holder = trainings.start("shared", at)
    try:
        deadline = time.monotonic() + 60
        while not (trainings.state("shared") / "step-000003").exists():
            assert time.monotonic() < deadline, trainings.log("shared")
            time.sleep(0.05)
        assert trainings.run("shared") == 1
        assert f"in use by process {holder} of " in trainings.log("shared")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGKILL)
        trainings.wait(holder)
    trainings.finishes("shared")


@pytest.mark.slow
def test_other_parameters_are_refused(trainings):
    at = {"place": "step", "call": 3, "when": "before"}
    trainings.killed("parameters", at)
    assert trainings.run("parameters", alpha=3.0) == 1
    log = trainings.log("parameters")
    assert "alpha: 2.0 → 3.0" in log
    assert f"delete {trainings.state('parameters')}" in log
    trainings.finishes("parameters")


@pytest.mark.slow
def test_another_token_budget_is_accepted(trainings):
    trainings.killed("budget", {"place": "step", "call": 3, "when": "before"})
    assert trainings.run("budget", token_budget=128) == 0, trainings.log("budget")
    assert trainings.counts("budget")["step"] == STEPS - 2
    losses, expected = (
        [step["loss"] for step in trainings.result(name)[1]] for name in ("budget", "undisturbed")
    )
    assert losses == pytest.approx(expected, rel=1e-2)  # equal but for bf16's rounding


if __name__ == "__main__":
    serve()
