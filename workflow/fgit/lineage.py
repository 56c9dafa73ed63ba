"""The steps behind a number, by the provenance files beside the results.

A step's inputs are looked up by their places: what lies in a stage's folder of the results was
written by the step whose provenance file lies with it. So the chain is found in a folder that was
moved, too. Anything else (data, benchmarks, models on the hub) is where a chain begins.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fgit.common.provenance import LARGE, Record, cached_digest, content, digest, read_provenance
from fgit.scores import read_summary
from fgit.steps import STAGES, folder_of, output_of

COPIED = {"stage", "settings", "arguments", "models", "code", "hardware"}  # from a Record
COPIED |= {"started", "seconds", "slurm_job"}
FOLDERS = {*STAGES} - {"gather", "audit", "report"}  # of what a number rests on
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
    step: str | None  # name of the step that wrote it, for an input that a step wrote


@dataclasses.dataclass(frozen=True)
class RecordedStep:
    """One stage's work, as its provenance file tells it. Without one, only stage and name."""

    stage: str  # score, evaluate, train, ...
    name: str  # what it wrote, relative to the results folder; unique in a chain
    provenance: str | None = None  # its provenance file, relative to the results folder
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Further flags: revision, template, mode, split, limit, ...
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    inputs: tuple[File, ...] = ()
    outputs: tuple[File, ...] = ()
    # The hub's models and datasets, with their commits.
    models: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    # Version, sources_sha256, commit, changed.
    code: dict[str, Any] = dataclasses.field(default_factory=dict)
    packages: dict[str, str] = dataclasses.field(default_factory=dict)
    # Machine, system, cpu, cores, gpus.
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    started: str | None = None  # ISO 8601, UTC
    seconds: float | None = None
    slurm_job: str | None = None


# ------------------------------------------------------------------ following


class Lineage:
    """The steps behind places in a results folder, each followed once.

    Args:
        hashes: whether weights are read too. Otherwise they are compared where their digest is
            known (:func:`fgit.common.provenance.digest`) and else ``not checked``; all other files
            are read. None: files are not looked at, and every state is empty.
    """

    def __init__(self, results: Path, hashes: bool | None = None) -> None:
        self.results = results
        self.hashes = hashes
        self.steps: dict[str, RecordedStep] = {}
        self.begun: set[str] = set()
        self.identities: dict[str, str] = {}  # of steps, in full
        self.record = functools.cache(read_provenance)
        self.digests: dict[Path, str] = {}  # of files and folders as they are now

    def behind(self, run: str, benchmark: str) -> list[RecordedStep]:
        """The steps behind a run's number on a benchmark, each before those that read it.

        The last is *score*; where that is not there yet, *evaluate* or *train*; empty where there
        is nothing.

        Raises:
            UserError: if a provenance file is broken.
        """
        for place in (
            folder_of("score", run=run, benchmark=benchmark),
            output_of("evaluate", run=run, benchmark=benchmark),
            folder_of("train", run=run),
        ):
            if (self.results / place).exists():
                return self.ending_in(self.follow(place))
        return []

    def behind_score(self, run: str, benchmark: str) -> list[RecordedStep]:
        """The same of a score alone; empty where it has no provenance."""
        steps = self.ending_in(self.follow(folder_of("score", run=run, benchmark=benchmark)))
        return steps if steps and steps[-1].provenance is not None else []

    def identity(self, run: str, benchmark: str) -> str:
        """12 hex digits over what determines a number; empty where its score has no provenance.

        Of every step: settings, further flags, seed, commits of the hub's models, digest of the
        code, package versions, and what it read: the step that wrote it, and its digest. Score
        folders count by their step alone, since they hold times. Neither times nor places, hosts or
        commands count.

        Raises:
            UserError: if a provenance file is broken.
        """
        steps = self.behind_score(run, benchmark)
        for step in steps:
            if step.name not in self.identities:
                self.identities[step.name] = identity_of(step, self.identities)
        return self.identities[steps[-1].name][:12] if steps else ""

    def ending_in(self, last: str | None) -> list[RecordedStep]:
        """A step with all that it rests on, each before those that read it."""
        steps: dict[str, RecordedStep] = {}

        def visit(name: str) -> None:
            for file in self.steps[name].inputs:
                if file.step is not None and file.step not in steps:
                    visit(file.step)
            steps[name] = self.steps[name]

        if last is not None:
            visit(last)
        return list(steps.values())

    def follow(self, place: str) -> str | None:
        """Add the step that wrote what lies at a place, after those that it rests on; its name.

        None if the place lies in no stage's folder.
        """
        if PurePosixPath(place).parts[0] not in FOLDERS:
            return None
        path = self.producer(place)
        if path is None:
            state = "" if (self.results / place).exists() else GONE
            self.steps.setdefault(place, without_provenance(place, state))
            return place
        name = written_by(path, self.results)
        if name in self.steps:
            return name
        if name in self.begun:  # it was written over what it was made from
            return None
        self.begun.add(name)
        record = self.record(path)
        root = root_of(record, name)
        inputs = [
            self.file(record, root, read.path, read.sha256, flag)
            for flag, read in record.inputs.items()
        ]
        outputs = [self.file(record, root, *output) for output in record.outputs.items()]
        self.steps[name] = RecordedStep(
            name=name,
            provenance=path.relative_to(self.results).as_posix(),
            seed=record.settings.get("seed"),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            packages=record.packages | worker_packages(record, path.parent),
            **record.model_dump(include=COPIED),
        )
        return name

    def file(
        self, record: Record, root: str | None, path: str, sha256: str | None, flag: str = ""
    ) -> File:
        """A file or folder that a step read with a flag, or, without one, wrote."""
        place = within(root, path)
        step = self.follow(place) if flag and place else None
        outputs = self.steps[step].outputs if step else ()
        written = next((out.sha256 for out in outputs if out.path == place), None)
        on_disk = self.results / place if place else Path(record.directory or "", path)
        state = ""
        if sha256 is not None and self.hashes is not None:
            # The digests of the first layout's folders cannot be compared.
            if record.layout <= 1 and not on_disk.is_file():
                state = NOT_CHECKED if on_disk.exists() else GONE
            else:
                state = self.state_of(on_disk, sha256)
                if state in (GONE, NOT_CHECKED) and written not in (None, sha256):
                    state = CHANGED
        return File(flag, place or path, sha256, state, step)

    def state_of(self, path: Path, sha256: str) -> str:
        """How a file or folder stands against the digest that a step recorded."""
        if path not in self.digests:
            if not path.exists():
                self.digests[path] = GONE
            elif not self.hashes and has_unread_weights(path):
                self.digests[path] = NOT_CHECKED
            else:
                self.digests[path] = digest(path, again=bool(self.hashes))
        now = self.digests[path]
        return now if now in (GONE, NOT_CHECKED) else "" if now == sha256 else CHANGED

    def producer(self, place: str) -> Path | None:
        """The provenance file of what lies (or lay) at a place in the results."""
        at = self.results / place
        for path in (at.with_name(f"{at.name}.provenance.json"), at / "provenance.json"):
            if path.is_file():
                return path
        for path in sorted(at.parent.glob("*.provenance.json")):  # a second output of a step
            record = self.record(path)
            root = root_of(record, written_by(path, self.results))
            if any(within(root, output) == place for output in record.outputs):
                return path
        for parent in PurePosixPath(place).parents[:-2]:
            if (path := self.results / parent / "provenance.json").is_file():
                return path
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
    return place if PurePosixPath(place).parts[:1] and place.split("/")[0] in FOLDERS else None


def without_provenance(place: str, state: str) -> RecordedStep:
    return RecordedStep(place.split("/")[0], place, outputs=(File("", place, None, state, None),))


def worker_packages(record: Record, folder: Path) -> dict[str, str]:
    """The versions of the environment in which a score's programs ran; it may be another one."""
    if record.stage != "score" or not (folder / "summary.json").is_file():
        return {}
    versions = read_summary(folder).versions
    return {name: version for name, version in versions.items() if name != "fgit"}


def has_unread_weights(path: Path) -> bool:
    """Whether a digest would take reading a large file of weights."""
    weights = (file for _, file in content(path) if file.suffix in WEIGHTS)
    return any(file.stat().st_size >= LARGE and cached_digest(file) is None for file in weights)


# ------------------------------------------------------------------ what steps say


def precisions(steps: Iterable[RecordedStep]) -> dict[str, str]:
    """What the teacher, the training and the evaluation were computed in: fp32 or bf16, by stage.

    Where the teacher's shards differ, both, joined by ``and``.
    """
    names: dict[str, set[str]] = {}
    for step in steps:
        name = step.settings.get(COMPUTING.get(step.stage, ""))
        if name in SHORT:
            names.setdefault(step.stage, set()).add(SHORT[name])
    return {stage: " and ".join(sorted(short)) for stage, short in names.items()}


def identity_of(step: RecordedStep, identities: Mapping[str, str]) -> str:
    """The identity in full; ``identities``: of the steps that it read from."""
    inputs = {
        file.name: [
            None if file.step and file.step.startswith("score/") else file.sha256,
            identities[file.step] if file.step else None,
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
