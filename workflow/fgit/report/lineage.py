"""What each number rests on, as the page's panel shows it: chains of steps, each step once."""

from collections.abc import Iterable, Mapping
from typing import Any

from fgit.common.provenance import code_text, hardware_text
from fgit.lineage import Lineage, RecordedStep

DIGITS = 12  # of a digest; the whole ones stand in the provenance files
Texts = list[tuple[str, str | None]]  # what it is, and its value, if there is one


def chains_of(lineage: Lineage, evaluations: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The chains behind (run, benchmark) pairs, JSON-like.

    ``chains`` has by key (:func:`number_key`) the number's provenance id and its steps' places; one
    of which there is nothing yet is left out. ``steps`` has each step once, ``shared`` the long
    texts that they share.
    """
    chains: dict[str, dict[str, Any]] = {}
    steps: list[dict[str, Any]] = []
    places: dict[tuple[str, str], int] = {}
    shared: dict[str, int] = {}
    for run, benchmark in evaluations:
        behind = {(step.stage, step.name): step for step in lineage.behind(run, benchmark)}
        for key, step in behind.items():
            if key not in places:
                places[key] = len(steps)
                steps.append(step_data(step, shared))
        if behind:
            chains[number_key(run, benchmark)] = {
                "id": lineage.identity(run, benchmark),
                "steps": [places[key] for key in behind],
            }
    return {"chains": chains, "steps": steps, "shared": list(shared)}


def step_data(step: RecordedStep, shared: dict[str, int]) -> dict[str, Any]:
    """What the panel says of a step.

    Its long texts are noted in ``shared``, by their places; a file is what it was for, its path, a
    short digest, and how it stands now.
    """
    files = [
        *((file.name or "input", file) for file in step.inputs),
        *(("output", file) for file in step.outputs),
    ]
    return {
        "stage": step.stage,
        "what": step.name,
        "when": when(step),
        "facts": [(name, text) for name, text in own_texts(step) if text],
        "shared": [
            (name, shared.setdefault(text, len(shared)))
            for name, text in shared_texts(step)
            if text
        ],
        "files": [
            (role, file.path, (file.sha256 or "")[:DIGITS], file.state) for role, file in files
        ],
    }


def number_key(run: str, benchmark: str) -> str:
    return f"{run} {benchmark}"


def when(step: RecordedStep) -> str:
    if step.provenance is None:
        return "no provenance file"
    seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
    return ", ".join(part for part in (step.started, seconds) if part)


def own_texts(step: RecordedStep) -> Texts:
    """What is a step's own."""
    models = "; ".join(f"{name} ({values_text(facts)})" for name, facts in step.models.items())
    return [
        ("provenance", step.provenance),
        ("seed", None if step.seed is None else str(step.seed)),
        ("models", models),
        ("code", code_text(step.code) if step.code else None),
        ("SLURM job", step.slurm_job),
    ]


def shared_texts(step: RecordedStep) -> Texts:
    """What many steps have alike."""
    return [
        ("settings", values_text(step.settings | step.arguments)),
        ("hardware", hardware_text(step.hardware) if step.hardware else None),
        ("packages", ", ".join(f"{name} {version}" for name, version in step.packages.items())),
    ]


def values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None)
