"""What made the results: the provenance files, and what they have in common."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgit.config import Config
from fgit.explain import COMPUTING, SHORT
from fgit.report.facts import Facts
from fgit.report.funnel import SOURCES
from fgit.report.rendering import Fact, distinct
from fgit.runs import all_runs, evaluations


@dataclasses.dataclass(frozen=True)
class Record:
    """What made one result, from its provenance file."""

    stage: str
    what: str
    started: str
    seconds: float
    code: str
    outputs: list[Fact]  # path and digest
    command: str
    packages: dict[str, str]
    hardware: str
    precision: str  # what its numbers were computed in, in words; empty if they do not depend on it


def read_provenance(config: Config, results: Path) -> Iterator[Record]:
    """The provenance files of what the config asks for, in the order of the stages."""
    for stage, pattern in provenance_places(config):
        for path in sorted(results.glob(f"{stage}/{pattern}")):
            yield read_record(stage, path, results)


def provenance_places(config: Config) -> Iterator[tuple[str, str]]:
    for name in config.models:
        yield "fetch", f"models/{name}/provenance.json"
    for name in config.benchmarks:
        yield "fetch", f"benchmarks/{name}.jsonl.provenance.json"
        yield "fetch", f"benchmarks/{name}.first-*.jsonl.provenance.json"
    for stage in ("decontaminate", "generate", "mutate"):
        yield from ((stage, f"{dataset}/*.provenance.json") for dataset in config.datasets)
    for name in config.datasets:
        yield "generate", f"{name}/shards/*.provenance.json"
    for name in config.audit.benchmarks:
        yield "audit", f"{name}/*provenance.json"
        yield "audit", f"{name}/generate/*.provenance.json"
    for name in config.datasets:
        yield "audit", f"sheets/{name}/*provenance.json"
    for name in config.benchmarks:
        yield "score", f"canonical/{name}/provenance.json"
    for stage in ("verify", "select", "annotate"):
        for dataset, source in itertools.product(config.datasets, SOURCES):
            yield stage, f"{dataset}/{source}/*.provenance.json"
    for run in all_runs(config):
        yield "train", f"{run}/provenance.json"
    for run, benchmark in evaluations(config, config.tables):
        yield "evaluate", f"{run}/{benchmark}/*.provenance.json"
    for run, benchmark in evaluations(config, config.tables):
        yield "score", f"{run}/{benchmark}/provenance.json"


def read_record(stage: str, path: Path, results: Path) -> Record:
    facts = Facts.read(path, stage)
    code = facts.part("code")
    commit = code.get("commit")
    command = facts.get("command")
    hardware = facts.part("hardware")
    settings = facts.values.get("settings") or {}  # layout 1 had none of some stages
    name = settings.get(COMPUTING.get(stage, ""))
    gpus = hardware.get("gpus")
    return Record(
        stage=stage,
        what=str(path.parent.relative_to(results / stage)),
        started=str(facts.get("started")),
        seconds=facts.number("seconds"),
        code=f"{code.get('version')}, "
        + (f"commit {commit[:10]}" if commit else f"sources {str(code.get('sources_sha256'))[:10]}")
        + (", changed since" if code.get("changed") else ""),
        outputs=[(name, str(digest)) for name, digest in facts.part("outputs").values.items()],
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        packages={name: str(version) for name, version in facts.part("packages").values.items()},
        hardware=f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
        + (f", {', '.join(map(str, gpus))}" if gpus else ", no GPU")
        + f"; {hardware.get('system')}",
        precision=f"{stage} in {SHORT[name]}" if name in SHORT else "",
    )


def environment_of(records: list[Record]) -> dict[str, list[Any]]:
    """Each package's versions, and the machines and code versions that took part."""
    packages: dict[str, list[str]] = {}
    for record in records:
        for name, version in record.packages.items():
            found = packages.setdefault(name, [])
            if version not in found:
                found.append(version)
    return {
        "packages": [(name, ", ".join(versions)) for name, versions in packages.items()],
        "hardware": distinct(record.hardware for record in records),
        "precision": distinct(record.precision for record in records),
        "code": distinct(record.code for record in records),
    }
