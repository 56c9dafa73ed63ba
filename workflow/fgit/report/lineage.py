"""What each number rests on, as the page's panel shows it: chains of steps, each step once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from fgit.common.provenance import code_text, hardware_text
from fgit.lineage import File, Lineage, RecordedStep

DIGITS = 12  # of a digest; the whole ones stand in the provenance files
Texts = list[tuple[str, str]]  # what it is, and its value


@dataclasses.dataclass
class Chains:
    """The chains of many numbers; steps and long texts that they share are there once.

    numbers: by key (:func:`key_of`), the number's provenance id and its steps' places.
    steps: stage, what, when, facts (name, text), shared (name, place of its text), files (what for,
        path, short digest, how it stands now).
    """

    numbers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    shared: dict[str, int] = dataclasses.field(default_factory=dict)
    places: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)

    def add(self, lineage: Lineage, run: str, benchmark: str) -> None:
        """Note a number's chain; one of which there is nothing yet is left out."""
        steps = lineage.behind(run, benchmark)
        if steps:
            self.numbers[key_of(run, benchmark)] = {
                "id": lineage.identity(run, benchmark),
                "steps": [self.place_of(step) for step in steps],
            }

    def place_of(self, step: RecordedStep) -> int:
        key = (step.stage, step.name)
        if key not in self.places:
            self.places[key] = len(self.steps)
            self.steps.append(
                {
                    "stage": step.stage,
                    "what": step.name,
                    "when": when(step),
                    "facts": own_texts(step),
                    "shared": [
                        (name, self.shared.setdefault(text, len(self.shared)))
                        for name, text in shared_texts(step)
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
        return {"chains": self.numbers, "steps": self.steps, "shared": list(self.shared)}


def chains_of(lineage: Lineage, evaluations: Iterable[tuple[str, str]]) -> Chains:
    """The chains behind (run, benchmark) pairs."""
    chains = Chains()
    for run, benchmark in evaluations:
        chains.add(lineage, run, benchmark)
    return chains


def key_of(run: str, benchmark: str) -> str:
    return f"{run} {benchmark}"


def when(step: RecordedStep) -> str:
    if step.provenance is None:
        return "no provenance file"
    seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
    return ", ".join(part for part in (step.started, seconds) if part)


def own_texts(step: RecordedStep) -> Texts:
    """What is a step's own."""
    texts = [
        ("provenance", step.provenance),
        ("seed", None if step.seed is None else str(step.seed)),
        ("models", "; ".join(f"{name} ({joined(about)})" for name, about in step.models.items())),
        ("code", code_text(step.code) if step.code else None),
        ("SLURM job", step.slurm_job),
    ]
    return [(name, text) for name, text in texts if text]


def shared_texts(step: RecordedStep) -> Texts:
    """What many steps have alike."""
    return [
        ("settings", joined(step.settings | step.arguments)),
        ("hardware", hardware_text(step.hardware) if step.hardware else ""),
        ("packages", ", ".join(f"{name} {version}" for name, version in step.packages.items())),
    ]


def joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None)


def file_of(file: File, role: str) -> tuple[str, str, str, str]:
    return role, file.path, (file.sha256 or "")[:DIGITS], file.state
