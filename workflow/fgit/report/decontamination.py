"""What decontaminate removed of a dataset and why, for the report."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from fgit.common.code_blocks import CODE_FORMS, NOTES
from fgit.report.facts import Facts

MODES = {"paper": "paper: Magicoder's rule", "strict": "strict"}
DUPLICATES = {
    "exact": "duplicates among the clean: instruction and response equal",
    "same_text": "duplicates among the clean: equal but for case and whitespace",
    "same_instruction": "duplicates among the clean: instruction equal",
}


def section(results: Path, dataset: str) -> dict[str, Any] | None:
    """What decontaminate's report says; None if there is none yet.

    Raises:
        UserError: naming the file, if it lacks something.
    """
    path = results / "decontaminate" / dataset / "report.json"
    if not path.exists():
        return None
    facts = Facts.read(path, "decontaminate")
    removed, not_removed = facts.parts("removed"), facts.parts("not_removed")
    duplicates = facts.counts("duplicates")
    mode = str(facts.get("mode"))
    return {
        "dataset": dataset,
        "rule": facts.get("rule"),
        "facts": [
            ("mode", MODES.get(mode, mode)),
            ("rows read", str(facts.count("rows"))),
            ("unusable rows", str(facts.count("bad_row_count"))),
            ("usable samples", str(facts.count("samples"))),
            ("removed", str(facts.count("removed_count"))),
            ("left by this mode, found by others", str(facts.count("not_removed_count"))),
            ("over the config's limit", str(facts.count("over_limit"))),
            ("kept", str(facts.count("kept"))),
            *((words, str(duplicates[key])) for key, words in DUPLICATES.items()),
            ("trivial texts, exempt", str(facts.count("exempt_texts"))),
            ("looked for", ", ".join(looked_for(facts)) or "nothing"),
        ],
        "forms": forms(results, dataset),
        "rules": [
            (rule, *(part.count(key) for key in ("matches", "samples", "only")))
            for rule, part in parts(facts, "rules").items()
        ],
        "removed": [match(item) for item in removed],
        "more": facts.count("removed_matches") - len(removed),
        "not_removed": [match(item) for item in not_removed],
        "unprotected": unprotected(facts),
        "path": path.with_name("matches.parquet").relative_to(results),
    }


def forms(results: Path, dataset: str) -> dict[str, list[tuple[str, int, str, float]]] | None:
    """How many of the kept responses have which form, as select counts them; None before that."""
    paths = sorted(results.glob(f"select/{glob.escape(dataset)}/*/report.json"))
    if not paths:
        return None
    facts = Facts.read(paths[0], "select")  # the source of the variants changes nothing
    counts, samples = facts.counts("forms"), facts.count("samples")
    return {
        "forms": [
            form_row(words, counts.get(form, 0), samples) for form, words in CODE_FORMS.items()
        ],
        "notes": [
            form_row(words, counts[note], samples)
            for note, words in NOTES.items()
            if counts.get(note)
        ],
    }


def parts(facts: Facts, key: str) -> dict[str, Facts]:
    """The objects in an object, by name."""
    part = facts.part(key)
    return {name: part.part(name) for name in part.values}


def looked_for(facts: Facts) -> list[str]:
    """The benchmarks, and how much of each."""
    return [
        f"{name} ({part.count('problems')} problems, {part.count('texts')} texts)"
        for name, part in parts(facts, "benchmarks").items()
    ]


def form_row(words: str, count: int, kept: int) -> tuple[str, int, str, float]:
    """What is counted, how many, and the share of the kept samples in words and in percent."""
    percent = 100 * count / max(kept, 1)
    return words, count, f"{percent:.1f} %", percent


def match(facts: Facts) -> dict[str, Any]:
    """A match as a row: where, of what, by which rule, and both texts."""
    share = facts.number_or_none("share")
    keys = ("id", "row", "benchmark", "task_id", "what", "field", "position", "text", "found")
    return {key: facts.get(key) for key in keys} | {
        "rule": str(facts.get("rule")) + ("" if share is None else f", {100 * share:.0f} %")
    }


def unprotected(facts: Facts) -> list[tuple[str, int, str]]:
    """Benchmarks with problems that cannot be looked for: how many, and which."""
    found = []
    part = facts.part("unprotected")
    for name in part.values:
        tasks = part.get(name)
        if not isinstance(tasks, list):
            raise part.wrong(name, f"not a list of tasks but {tasks!r:.60}")
        if tasks:
            found.append((name, len(tasks), ", ".join(map(str, tasks))))
    return found
