"""What became of a dataset's variants: made, selected, annotated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from fgit.annotate import SIDES
from fgit.report import figures
from fgit.report.facts import Facts
from fgit.report.rendering import Fact, decimals, share

UNITS = ("lines", "characters")


def variants(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    """What became of a source's variants: made, selected, annotated."""
    path = results / source / dataset / "report.json"
    if not path.exists():
        return None
    made = Facts.read(path, source)
    total = made.count("answers" if source == "generate" else "mutants_tried")
    if source == "generate":
        facts = [
            ("teacher", f"{made.get('teacher')} ({made.get('backend')})"),
            ("temperature", str(made.number("temperature"))),
            ("answers", str(total)),
        ]
    else:
        facts = [("mutants looked at", str(total))]
    facts += [
        ("samples", str(made.count("samples"))),
        ("with a usable variant", str(made.count("samples_with_variant"))),
        ("without code", str(made.count("without_code"))),
    ]
    usable = made.count("usable")
    rows = [("usable", usable), *made.counts("refused").items()]
    selected = read_facts(results, "select", dataset, source)
    annotated = read_facts(results, "annotate", dataset, source)
    return {
        "dataset": dataset,
        "label": label,
        "facts": facts,
        "reasons": [
            (reason.replace("_", " "), count, share(count, total), 100 * count / max(total, 1))
            for reason, count in rows
        ],
        "selection": selected and selection(selected),
        "histogram": selected and histogram(selected, f"{dataset} {source}"),
        "annotation": annotated and annotation(annotated),
        "changed": annotated and changed(annotated, f"{dataset} {source}"),
    }


def read_facts(results: Path, stage: str, dataset: str, source: str) -> Facts | None:
    """A stage's report; None if it has not run yet."""
    path = results / stage / dataset / source / "report.json"
    return Facts.read(path, stage) if path.exists() else None


def selection(facts: Facts) -> list[Fact]:
    similarity = facts.part("similarity")
    return [
        ("embedder", str(facts.get("embedder"))),
        ("samples with a variant", str(facts.count("with_variant"))),
        ("samples without", str(facts.count("without_variant"))),
        *verification(facts),
        *(
            (f"{key} cosine", decimals(similarity.number_or_none(key), 3))
            for key in ("mean", "median", "min")
        ),
    ]


def verification(selected: Facts) -> list[Fact]:
    """What the samples' own tests say of the variants, if only wrong ones were wanted."""
    if selected.values.get("verified") is None:
        return []
    shown = selected.part("verified")
    return [
        ("variants shown to be wrong by tests", str(shown.count("wrong"))),
        ("left out, since they pass them", str(shown.count("not_wrong"))),
        ("untested", str(shown.count("untested"))),
    ]


def annotation(facts: Facts) -> list[Fact]:
    return [
        ("pairs", str(facts.count("pairs"))),
        *(
            (f"changed {unit} in the {side}, mean", decimals(changed.number_or_none(side), 1))
            for unit in UNITS
            for changed in [facts.part(f"changed_{unit}")]
            for side in SIDES
        ),
        ("pairs without a difference", str(facts.count("no_difference"))),
        ("no change in the response", str(facts.count("without_marked_response"))),
        ("no change in the variant", str(facts.count("without_marked_variant"))),
    ]


def histogram(facts: Facts, salt: str) -> Markup | None:
    bins = facts.bins("distribution")
    return figures.similarity_histogram(bins, salt) if counted(bins) else None


def changed(facts: Facts, salt: str) -> Markup | None:
    """How much differs in a pair; None if there is no pair."""
    distribution = facts.part("distribution")
    found = {
        unit: {side: part.bins(side) for side in SIDES}
        for unit in UNITS
        for part in [distribution.part(f"changed_{unit}")]
    }
    filled = any(counted(bins) for sides in found.values() for bins in sides.values())
    return figures.changed_figure(found, salt) if filled else None


def counted(bins: figures.Bins) -> int:
    return sum(count for _, _, count in bins)
