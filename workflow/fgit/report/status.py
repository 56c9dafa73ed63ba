"""What has become of a number: scored, pending or failed, and the log that says why."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

from fgit.benchmarks.kinds import kind_of
from fgit.config import Config
from fgit.runs import Run, is_fetched_benchmark, is_fetched_model, shard_count, train_settings

END = 16_384  # bytes of a log's end that are looked at
FAILED = re.compile(
    r"^fgit [a-z -]+: error: |^Traceback \(most recent call last\)|^(.*: line \d+: +\d+ +)?Killed\b"
    r"|^[\w.]+(Error|Exception)(: |$)|Segmentation fault|Bus error|\(core dumped\)"
    r"|oom[-_ ]kill|^slurmstepd: error: |DUE TO TIME LIMIT",
    re.MULTILINE | re.IGNORECASE,
)
# Told to end, not failed: it goes on where it was when it is started again.
STOPPED = re.compile(r"^fgit [a-z -]+: error: (stopped by SIGTERM|interrupted)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a run's score on a benchmark; the log (if failed) is relative to the results."""

    state: Literal["scored", "pending", "failed"]
    log: str | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """What a stage does on the way to a score; paths are relative to the results folder."""

    output: str
    log: str
    needs: tuple[Step, ...] = ()


def status_of(
    config: Config, results: Path, run: Run, benchmark: str, *, ended: bool = False
) -> Status:
    """How far a run's score on a benchmark has come.

    It is scored if its summary is there. Else the first stages on the way whose output is not there
    decide: it is failed if the log of one of them ends with an error, and pending otherwise. What a
    stage that has its output would need is not looked at, since it may be removed.

    Args:
        results: the results folder.
        ended: nothing runs any more, so that a log without its output is of a stage that failed,
            whatever it says (a process that was killed says nothing); save for a stage that was
            told to end, which is pending.
    """
    last = way(config, run, benchmark)
    waiting = next_steps(results, last)
    if not waiting:
        return Status("scored")
    logs = [step.log for step in waiting if failed(results / step.log, ended=ended)]
    return Status("failed", logs[0]) if logs else Status("pending")


def next_steps(results: Path, step: Step) -> list[Step]:
    """The steps that could be done next to get this one's output; none if it is there."""
    if (results / step.output).exists():
        return []
    waiting = [first for needed in step.needs for first in next_steps(results, needed)]
    return list(dict.fromkeys(waiting)) or [step]


def failed(log: Path, *, ended: bool) -> bool:
    """Whether a log is of a stage that failed; it has not, if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - END))
            end = file.read().decode("utf-8", errors="replace").replace("\r", "\n")
    except FileNotFoundError:
        return False
    if STOPPED.search(end):
        return False
    return ended or FAILED.search(end) is not None


# ------------------------------------------------------------------ the way to a score


def way(config: Config, run: Run, benchmark: str) -> Step:
    """The last step to a score, with all that it needs, as the workflow's rules have it."""
    place = f"{run.name}/{benchmark}"
    output, log = f"score/{place}/summary.json", f"logs/score/{place}.log"
    entry = config.benchmarks[benchmark]
    if entry.part_of is not None:
        return Step(output, log, (*problems(config, benchmark), way(config, run, entry.part_of)))
    needs = [*problems(config, benchmark)]
    if kind_of(entry.kind).ground_truth:  # its environment must first be shown to be the right one
        needs.append(
            Step(
                f"score/canonical/{benchmark}/summary.json",
                f"logs/score/canonical/{benchmark}.log",
                problems(config, benchmark),
            )
        )
    given = run.dataset is None and benchmark in config.models[run.model].samples
    if not given:
        model = base_model(config, run.model) if run.dataset is None else (training(config, run),)
        needs.append(
            Step(
                f"evaluate/{place}/samples.jsonl",
                f"logs/evaluate/{place}.log",
                (*problems(config, benchmark), *model),
            )
        )
    return Step(output, log, tuple(needs))


def training(config: Config, run: Run) -> Step:
    """The training of a run. Its weights may be removed once all is evaluated; its figures stay."""
    assert run.dataset is not None
    dataset, source = run.dataset, train_settings(config, run).variants
    against = [
        needed
        for benchmark in config.decontaminate.against
        for needed in whole_problems(config, benchmark)
    ]
    clean = Step(
        f"decontaminate/{dataset}/records.parquet",
        f"logs/decontaminate/{dataset}.log",
        tuple(against),
    )
    made = variants_step(config, dataset, source, clean)
    if config.select.verified_variants:
        made = pairs_step("verify", dataset, source, "verified", made)
    selected = pairs_step("select", dataset, source, "pairs", made)
    annotated = pairs_step("annotate", dataset, source, "spans", selected)
    return Step(
        f"train/{run.name}/metrics.json",
        f"logs/train/{run.name}.log",
        (annotated, *base_model(config, run.model)),
    )


def variants_step(config: Config, dataset: str, source: str, clean: Step) -> Step:
    """Making a dataset's variants: mutants at once, the teacher's shard by shard."""
    output = f"{source}/{dataset}/variants.parquet"
    if source == "mutate":
        return Step(output, f"logs/mutate/{dataset}.log", (clean,))
    count = shard_count(config, dataset)
    names = [f"{number}-of-{count}" for number in range(1, count + 1)]
    shards = [
        Step(
            f"generate/{dataset}/shards/{name}.parquet",
            f"logs/generate/{dataset}/{name}.log",
            (clean,),
        )
        for name in names
    ]
    return Step(output, f"logs/gather/{dataset}.log", tuple(shards))


def pairs_step(stage: str, dataset: str, source: str, name: str, needed: Step) -> Step:
    """A stage that works on a dataset's variants of one source."""
    return Step(
        f"{stage}/{dataset}/{source}/{name}.parquet",
        f"logs/{stage}/{dataset}.{source}.log",
        (needed,),
    )


def base_model(config: Config, name: str) -> tuple[Step, ...]:
    """Fetching a base model, if that has to be done."""
    if not is_fetched_model(config.models[name].path):
        return ()
    return (Step(f"fetch/models/{name}", f"logs/fetch/models/{name}.log"),)


def whole_problems(config: Config, benchmark: str) -> tuple[Step, ...]:
    """Fetching a benchmark's problems, if that has to be done."""
    if not is_fetched_benchmark(config.benchmarks[benchmark].problems):
        return ()
    name = f"benchmarks/{benchmark}"
    return (Step(f"fetch/{name}.jsonl", f"logs/fetch/{name}.log"),)


def problems(config: Config, benchmark: str) -> tuple[Step, ...]:
    """Getting the problems that are asked: all, or the first so many."""
    whole = whole_problems(config, benchmark)
    limit = config.benchmarks[benchmark].limit
    if limit is None:
        return whole
    name = f"benchmarks/{benchmark}.first-{limit}"
    return (Step(f"fetch/{name}.jsonl", f"logs/fetch/{name}.log", whole),)
