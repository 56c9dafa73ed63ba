"""What each number rests on, as the page's panel shows it: chains of steps, each step once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fgit import explain
from fgit.explain import File, Step

DIGITS = 12  # of a digest; the whole ones stand in the provenance files
Facts = list[tuple[str, str]]


@dataclasses.dataclass
class Chains:
    """The chains of many numbers; steps and long texts that they share are there once.

    chains: by key (:func:`key_of`), the number's provenance id and its steps' places.
    steps: stage, what, when, facts (name, text), shared (name, place of its text), files (what for,
        path, short digest, how it stands now).
    """

    chains: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    shared: dict[str, int] = dataclasses.field(default_factory=dict)
    places: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)

    def add(self, results: Path, run: str, benchmark: str) -> None:
        """Note a number's chain; one of which there is nothing yet is left out."""
        steps = explain.chain(results, run, benchmark)
        if steps:
            self.chains[key_of(run, benchmark)] = {
                "id": explain.identity(results, run, benchmark),
                "steps": [self.place_of(step) for step in steps],
            }

    def place_of(self, step: Step) -> int:
        key = (step.stage, step.name)
        if key not in self.places:
            self.places[key] = len(self.steps)
            self.steps.append(
                {
                    "stage": step.stage,
                    "what": step.name,
                    "when": when(step),
                    "facts": facts_of(step),
                    "shared": [
                        (name, self.shared.setdefault(text, len(self.shared)))
                        for name, text in shared_of(step)
                        if text
                    ],
                    "files": [
                        *(file_of(file, file.name or "input") for file in step.inputs),
                        *(file_of(file, "output") for file in step.outputs),
                    ],
                }
            )
        return self.places[key]

    @property
    def data(self) -> dict[str, Any]:
        """JSON-like."""
        return {"chains": self.chains, "steps": self.steps, "shared": list(self.shared)}


def chains_of(results: Path, evaluations: Iterable[tuple[str, str]]) -> Chains:
    """The chains behind (run, benchmark) pairs."""
    found = Chains()
    for run, benchmark in evaluations:
        found.add(results, run, benchmark)
    return found


def key_of(run: str, benchmark: str) -> str:
    return f"{run} {benchmark}"


def when(step: Step) -> str:
    if step.provenance is None:
        return "no provenance file"
    seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
    return ", ".join(part for part in (step.started, seconds) if part)


def facts_of(step: Step) -> Facts:
    """What is a step's own."""
    commit, sources = step.code.get("commit"), step.code.get("sources_sha256")
    code = [
        str(step.code.get("version") or ""),
        f"commit {commit[:DIGITS]}" if commit else f"sources {sources[:DIGITS]}" if sources else "",
        "with changes" if step.code.get("changed") else "",
    ]
    facts = [
        ("provenance", step.provenance),
        ("seed", None if step.seed is None else str(step.seed)),
        ("models", "; ".join(f"{name} ({values(found)})" for name, found in step.models.items())),
        ("fgit", ", ".join(part for part in code if part)),
        ("SLURM job", step.slurm_job),
    ]
    return [(name, text) for name, text in facts if text]


def shared_of(step: Step) -> Facts:
    """What many steps have alike."""
    hardware = step.hardware
    gpus = [str(gpu) for gpu in hardware.get("gpus") or []]
    machine = [
        str(hardware["cpu"]) if hardware.get("cpu") else "",
        f"{hardware['cores']} cores" if hardware.get("cores") else "",
        ", ".join(f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)),
        str(hardware.get("system") or ""),
    ]
    return [
        ("settings", values(step.settings | step.arguments)),
        ("hardware", "; ".join(part for part in machine if part)),
        ("packages", ", ".join(f"{name} {version}" for name, version in step.packages.items())),
    ]


def values(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in found.items() if value is not None)


def file_of(file: File, role: str) -> tuple[str, str, str, str]:
    return role, file.path, (file.sha256 or "")[:DIGITS], file.state
