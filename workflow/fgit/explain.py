"""Where a number comes from: the chain of steps behind it, by the provenance files beside them.

A step's inputs are looked up by their places: what lies in a stage's folder of the results was
written by the step whose provenance file lies with it. So the chain is found in a folder that was
moved, too. Anything else (data, benchmarks, models on the hub) is where a chain begins.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fgit.common.errors import UserError
from fgit.common.files import existing, read_json
from fgit.common.provenance import (
    LARGE,
    NOT_CONTENT,
    Record,
    digest,
    known_digest,
    read_provenance,
)

STAGES = {
    "fetch",
    "decontaminate",
    "generate",
    "mutate",
    "verify",
    "select",
    "annotate",
    "train",
    "evaluate",
    "score",
}
WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt"}
CHANGED, GONE, NOT_CHECKED = "changed since", "gone", "not checked"
# The stages whose numbers depend on what they were computed in, and the setting that says it.
COMPUTING = {"generate": "dtype", "train": "precision", "evaluate": "dtype"}
SHORT = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "bfloat16": "bf16"}
PLACE_ONLY = {"url"}  # settings that say where, not what


@dataclasses.dataclass(frozen=True)
class File:
    """A file or model folder that a step read or wrote.

    ``state`` says how it stands now, against what the step recorded: ``""`` (as recorded, or a name
    on the hub), ``changed since``, ``gone``, or ``not checked`` (weights that were not hashed).
    """

    name: str  # the flag: spans, model, benchmark humaneval; empty for outputs
    path: str  # relative to the results folder where it lies there, else as the step had it
    sha256: str | None
    state: str
    step: str | None  # name of the Step that wrote it, for an input that a step wrote


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage's work, as its provenance file tells it. Without one, only stage and name."""

    stage: str  # score, evaluate, train, ...
    name: str  # what it wrote, relative to the results folder; unique in a chain
    provenance: str | None  # its provenance file, relative to the results folder
    settings: dict[str, Any]
    arguments: dict[str, Any]  # further flags: revision, template, mode, split, limit, ...
    seed: int | None
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    models: dict[str, dict[str, Any]]  # the hub's models and datasets, with their commits
    code: dict[str, Any]  # version, sources_sha256, commit, changed
    packages: dict[str, str]
    hardware: dict[str, Any]  # machine, system, cpu, cores, gpus
    started: str | None  # ISO 8601, UTC
    seconds: float | None
    slurm_job: str | None


def chain(results: Path, run: str, benchmark: str, hashes: bool = False) -> list[Step]:
    """The steps behind a run's number on a benchmark, each before those that read it.

    The last is *score*; where that is not there yet, *evaluate* or *train*; empty where there is
    nothing.

    Args:
        hashes: read weights again too. Otherwise they are compared where their digest is known
            (:func:`fgit.common.provenance.digest`) and else ``not checked``; all other files are
            read.

    Raises:
        UserError: if a provenance file is broken.
    """
    chained = Chain(results, hashes)
    for place in (
        f"score/{run}/{benchmark}",
        f"evaluate/{run}/{benchmark}/samples.jsonl",
        f"train/{run}",
    ):
        if (results / place).exists():
            chained.follow(place)
            break
    return list(chained.steps.values())


def identity(results: Path, run: str, benchmark: str) -> str:
    """12 hex digits over what determines a number; empty where the score has no provenance.

    Of every step: settings, further flags, seed, commits of the hub's models, digest of the code,
    package versions, and what it read: the step that wrote it, and its digest. Score folders count
    by their step alone, since they hold times. Neither times nor places, hosts or commands count.

    Raises:
        UserError: if a provenance file is broken.
    """
    return identity_of_all(score_steps(results, run, benchmark))


def identity_of_all(steps: Iterable[Step]) -> str:
    """The same of steps that were followed already (:func:`score_steps`)."""
    found = ""
    before: dict[str, str] = {}
    for step in steps:
        found = before[step.name] = identity_of(step, before)
    return found[:12]


def score_steps(results: Path, run: str, benchmark: str) -> list[Step]:
    """The steps behind a score, each before those that read it; none where it has no provenance.

    The files are not looked at.

    Raises:
        UserError: if a provenance file is broken.
    """
    chained = Chain(results, hashes=None)
    last = chained.follow(f"score/{run}/{benchmark}")
    if last is None or chained.steps[last].provenance is None:
        return []
    return list(chained.steps.values())


def precisions(steps: Iterable[Step]) -> dict[str, str]:
    """What the teacher, the training and the evaluation were computed in: fp32 or bf16, by stage.

    Where the teacher's shards differ, both, joined by ``and``.
    """
    found: dict[str, dict[str, None]] = {}
    for step in steps:
        name = step.settings.get(COMPUTING.get(step.stage, ""))
        if name in SHORT:
            found.setdefault(step.stage, {})[SHORT[name]] = None
    return {stage: " and ".join(sorted(names)) for stage, names in found.items()}


def identity_of(step: Step, before: Mapping[str, str]) -> str:
    inputs = {
        file.name: [
            None if file.step and file.step.startswith("score/") else file.sha256,
            before[file.step] if file.step else None,
            file.path if file.sha256 is None and file.step is None else None,  # on the hub
        ]
        for file in step.inputs
    }
    settings = {k: v for k, v in step.settings.items() if k not in inputs.keys() | PLACE_ONLY}
    models = {
        name: facts.get("commit") or facts.get("fingerprint") or facts.get("revision")
        for name, facts in step.models.items()
    }
    text = json.dumps(
        {
            "stage": step.stage,
            "settings": settings,
            "arguments": step.arguments,
            "inputs": inputs,
            "models": models,
            "code": step.code.get("sources_sha256"),
            "packages": step.packages,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------ following


class Chain:
    """The steps behind places in a results folder, in the order in which they were made.

    Args:
        hashes: whether weights are read; None: files are not looked at.
    """

    def __init__(self, results: Path, hashes: bool | None) -> None:
        self.results = results
        self.hashes = hashes
        self.steps: dict[str, Step] = {}
        self.begun: set[str] = set()

    def follow(self, place: str) -> str | None:
        """Add the step that wrote what lies at a place, after those that it rests on; its name.

        None if the place lies in no stage's folder.
        """
        if PurePosixPath(place).parts[0] not in STAGES:
            return None
        file = producer(self.results, place)
        if file is None:
            if place not in self.steps:
                self.steps[place] = unknown(place, self.results)
            return place
        name = written_by(file, self.results)
        if name in self.steps:
            return name
        if name in self.begun:  # it was written over what it was made from
            return None
        self.begun.add(name)
        record = recorded(file)
        root = root_of(record, name)
        inputs = []
        for flag, read in record.inputs.items():
            at = within(root, read.path)
            step = self.follow(at) if at else None
            made = self.made(step, at) if step and at else None
            inputs.append(self.file(record, flag, read.path, at, read.sha256, step, made))
        outputs = [
            self.file(record, "", path, within(root, path), sha256, None, None)
            for path, sha256 in record.outputs.items()
        ]
        self.steps[name] = Step(
            stage=record.stage,
            name=name,
            provenance=file.relative_to(self.results).as_posix(),
            settings=record.settings,
            arguments=record.arguments,
            seed=record.settings.get("seed"),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            models=record.models,
            code=record.code,
            packages=record.packages | worker_packages(record, file),
            hardware=record.hardware,
            started=record.started,
            seconds=record.seconds,
            slurm_job=record.slurm_job,
        )
        return name

    def made(self, step: str, at: str) -> str | None:
        """The digest that a step recorded of what it wrote at a place."""
        return next((out.sha256 for out in self.steps[step].outputs if out.path == at), None)

    def file(
        self,
        record: Record,
        flag: str,
        path: str,
        at: str | None,
        sha256: str | None,
        step: str | None,
        made: str | None,
    ) -> File:
        on_disk = self.results / at if at else Path(record.directory or "", path)
        state = ""
        if sha256 is not None and self.hashes is not None:
            # Folders' digests were others in the first layout.
            comparable = record.layout > 1 or on_disk.is_file()
            state = state_of(on_disk, sha256, self.hashes) if comparable else NOT_CHECKED
            if state in (GONE, NOT_CHECKED) and comparable and made not in (None, sha256):
                state = CHANGED
            if not on_disk.exists() and state == NOT_CHECKED:
                state = GONE
        return File(flag, at or path, sha256, state, step)


def producer(results: Path, place: str) -> Path | None:
    """The provenance file of what lies (or lay) at a place in the results."""
    at = results / place
    for file in (at.with_name(f"{at.name}.provenance.json"), at / "provenance.json"):
        if file.is_file():
            return file
    for file in sorted(at.parent.glob("*.provenance.json")):  # a second output of a step
        name = written_by(file, results)
        record = recorded(file)
        root = root_of(record, name)
        if any(within(root, path) == place for path in record.outputs):
            return file
    for parent in PurePosixPath(place).parents[:-2]:
        if (file := results / parent / "provenance.json").is_file():
            return file
    return None


def written_by(file: Path, results: Path) -> str:
    """The name of the step of a provenance file: what it wrote, relative to the results."""
    place = file.relative_to(results)
    if place.name == "provenance.json":
        return place.parent.as_posix()
    return place.as_posix().removesuffix(".provenance.json")


def root_of(record: Record, name: str) -> str | None:
    """The results folder as a step named it, with its slash; None if it named none."""
    for path in record.outputs:
        path = os.path.normpath(path)
        start = f"/{path}/".rfind(f"/{name}/")
        if start >= 0:
            return path[:start]
    return None


def within(root: str | None, path: str) -> str | None:
    """A path relative to the results folder, if it lies in a stage's folder there."""
    path = os.path.normpath(path)
    if root is None or not path.startswith(root):
        return None
    place = path[len(root) :]
    return place if PurePosixPath(place).parts[:1] and place.split("/")[0] in STAGES else None


def unknown(place: str, results: Path) -> Step:
    state = "" if (results / place).exists() else GONE
    return Step(
        stage=place.split("/")[0],
        name=place,
        provenance=None,
        settings={},
        arguments={},
        seed=None,
        inputs=(),
        outputs=(File("", place, None, state, None),),
        models={},
        code={},
        packages={},
        hardware={},
        started=None,
        seconds=None,
        slurm_job=None,
    )


def worker_packages(record: Record, file: Path) -> dict[str, str]:
    """The versions of the environment in which a score's programs ran; it may be another one."""
    summary = file.with_name("summary.json")
    if record.stage != "score" or not summary.is_file():
        return {}
    values = read_json(summary)
    versions = values.get("versions") if isinstance(values, dict) else None
    known = versions if isinstance(versions, dict) else {}
    return {name: str(version) for name, version in known.items() if name != "fgit"}


def stamp(path: Path) -> tuple[int, int, int]:
    now = path.stat()
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns


def recorded(file: Path) -> Record:
    """A provenance file, read once: 175 evaluations share most of theirs."""
    return recorded_as(file, stamp(file))


@functools.cache
def recorded_as(file: Path, stamp: tuple[int, int, int]) -> Record:
    return read_provenance(file)


# ------------------------------------------------------------------ what is on disk now


def state_of(path: Path, sha256: str, hashes: bool) -> str:
    """How a file or folder stands against the digest that a step recorded."""
    if not path.exists():
        return GONE
    if not hashes and any(unread(member) for member in weights_in(path)):
        return NOT_CHECKED
    members = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    stamps = tuple((str(p), *stamp(p)) for p in members if p.name not in NOT_CONTENT)
    return "" if digest_as(path, stamps, hashes) == sha256 else CHANGED


@functools.cache
def digest_as(path: Path, stamps: tuple[tuple[str, int, int, int], ...], again: bool) -> str:
    return digest(path, again=again)


def weights_in(path: Path) -> Iterator[Path]:
    for member in [path] if path.is_file() else path.rglob("*"):
        if member.suffix in WEIGHTS and member.is_file():
            yield member


def unread(weights: Path) -> bool:
    """Whether a digest would take reading a large file."""
    return weights.stat().st_size >= LARGE and known_digest(weights) is None


# ------------------------------------------------------------------ fgit explain


def explain(
    results: Path, run: str, benchmark: str | None, *, hashes: bool = False, as_json: bool = False
) -> None:
    """Print the chains of a run's numbers, one for each benchmark.

    Raises:
        UserError: if the run or benchmark is unknown (naming those that are known), or, after
            printing, if files changed since the next step read them.
    """
    known = known_runs(existing(results))
    if run not in known:
        raise UserError(
            f"{results}: no run {run!r} in it; "
            + (f"it has: {', '.join(known)}" if known else "nothing was trained or evaluated yet")
        )
    asked = known[run] if benchmark is None else [benchmark]
    if benchmark is not None and benchmark not in known[run]:
        names = ", ".join(known[run]) or "none yet"
        raise UserError(f"{results}: {run} was not evaluated on {benchmark!r}, but on: {names}")
    chains = {name: chain(results, run, name, hashes) for name in asked or [""]}
    identities = {name: identity(results, run, name) for name in chains}
    print(to_json(run, chains, identities) if as_json else to_text(run, chains, identities))
    if changed := changed_files(chains):
        raise UserError(
            f"{', '.join(changed)}: changed since the run read or wrote it; the numbers are those "
            "of what it was before. Put it back, or let snakemake make again what rests on it"
        )


def known_runs(results: Path) -> dict[str, list[str]]:
    """The benchmarks on which each run was evaluated, by the run's name."""
    found: dict[str, set[str]] = {}
    for pattern in ("score/**/summary.json", "evaluate/**/samples.jsonl"):
        for file in results.glob(pattern):
            *run, benchmark = file.relative_to(results).parts[1:-1]
            if run and run != ["canonical"]:
                found.setdefault("/".join(run), set()).add(benchmark)
    for file in results.glob("train/**/run.yaml"):
        found.setdefault("/".join(file.relative_to(results).parts[1:-1]), set())
    return {run: sorted(benchmarks) for run, benchmarks in sorted(found.items())}


def changed_files(chains: Mapping[str, list[Step]]) -> list[str]:
    found = {
        file.path: None
        for steps in chains.values()
        for step in steps
        for file in (*step.inputs, *step.outputs)
        if file.state == CHANGED
    }
    return list(found)


def to_json(run: str, chains: Mapping[str, list[Step]], identities: Mapping[str, str]) -> str:
    values = {
        "run": run,
        "benchmarks": {
            name: {
                "provenance": identities[name] or None,
                "steps": [dataclasses.asdict(step) for step in steps],
            }
            for name, steps in chains.items()
        },
        "changed": changed_files(chains),
    }
    return json.dumps(values, indent=2, ensure_ascii=False)


def to_text(run: str, chains: Mapping[str, list[Step]], identities: Mapping[str, str]) -> str:
    """The chains as trees: under each step what it read, and under that the step that wrote it.

    Code, packages and hardware are named once where most steps share them, and with the steps that
    differ.
    """
    distinct = {step.name: step for steps in chains.values() for step in steps}
    known = [step for step in distinct.values() if step.provenance]
    facts: dict[str, Callable[[Step], dict[str, str]]] = {
        "code": lambda step: {"": code_text(step.code)},
        "packages": lambda step: step.packages,
        "hardware": lambda step: {"": hardware_text(step.hardware)},
    }
    usual = {kind: most_common(of(step) for step in known) for kind, of in facts.items()}
    lines = [run]
    for kind, values in usual.items():
        if values:
            lines.append(f"  {kind + ':':10}{joined(values)}")
    told: set[str] = set()
    for benchmark, steps in chains.items():
        provenance = f"  provenance {identities[benchmark]}" if identities[benchmark] else ""
        lines += ["", f"{benchmark or '(not evaluated yet)'}{provenance}"]
        lines += tree({step.name: step for step in steps}, steps[-1], facts, usual, told)
    return "\n".join(lines)


def tree(
    steps: Mapping[str, Step],
    step: Step,
    facts: Mapping[str, Callable[[Step], dict[str, str]]],
    usual: Mapping[str, dict[str, str]],
    told: set[str],
) -> list[str]:
    """A step's lines; a step that was told before is only named."""
    if step.name in told:
        return [f"{step.stage}: see above"]
    told.add(step.name)
    if step.provenance is None:
        return [f"{step.stage}: no provenance; nothing is known of how this was made"]
    job = f", SLURM job {step.slurm_job}" if step.slurm_job else ""
    lines = [f"{step.stage} · {step.started} · {step.seconds:.1f} s{job}"]
    for kind, of in facts.items():
        own = {name: v for name, v in of(step).items() if usual[kind].get(name) != v}
        if own:
            lines.append(f"│ {kind}: {joined(own)}")
    for kind, values in {"settings": step.settings, "flags": step.arguments}.items():
        if text := joined(values):
            lines.append(f"│ {kind}: {text}")
    lines += [f"│ hub: {name} {joined(about)}" for name, about in step.models.items()]
    lines += [f"│ wrote {file_text(file)}" for file in step.outputs]
    for number, file in enumerate(step.inputs, start=1):
        last = number == len(step.inputs)
        lines.append(f"{'└' if last else '├'}─ {file.name}: {file_text(file)}")
        if file.step is not None:
            below = tree(steps, steps[file.step], facts, usual, told)
            lines += [f"{' ' if last else '│'}  {line}" for line in below]
    return lines


def most_common(found: Iterable[dict[str, str]]) -> dict[str, str]:
    """The most frequent value of each name (of two, the first seen)."""
    counts: dict[str, Counter[str]] = {}
    for values in found:
        for name, value in values.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in counts.items()}


def file_text(file: File) -> str:
    parts = [file.path, file.sha256[:12] if file.sha256 else "", f"({file.state})"]
    return " ".join(part for part in parts if part not in ("", "()"))


def code_text(code: Mapping[str, Any]) -> str:
    commit = f", commit {code['commit'][:12]}" if code.get("commit") else ""
    changed = ", changed since that commit" if code.get("changed") else ""
    sources = str(code.get("sources_sha256"))[:12]
    return f"fgit {code.get('version')}{commit}{changed}, sources {sources}"


def hardware_text(hardware: Mapping[str, Any]) -> str:
    names = Counter(hardware.get("gpus") or [])
    gpus = ", ".join(f"{count} × {name}" for name, count in names.items()) or "no GPU"
    count = hardware.get("processes") or 1
    processes = f", {count} processes" if count > 1 else ""
    cpu = hardware.get("cpu") or hardware.get("machine")
    return f"{cpu}, {hardware.get('cores')} cores, {gpus}{processes}"


def joined(values: Mapping[str, Any]) -> str:
    """Names and values, but for those that are not set."""
    given = {name: value for name, value in values.items() if value is not None}
    return ", ".join(f"{name} {value_text(value)}".strip() for name, value in given.items())


def value_text(value: Any) -> str:
    plain = isinstance(value, str) and value and value.isprintable()
    return value if plain else json.dumps(value, ensure_ascii=False)
