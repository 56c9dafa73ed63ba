"""The segment view: response and variant side by side, with what differs marked.

Of pairs that were trained on, their tokens with the masks and the weights that training gave them
(:func:`view_of`); of others, their lines and characters (:func:`code_lines`).
"""

import dataclasses
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from fgit.annotate import SIDES, segments
from fgit.report.training import Training
from fgit.stage_reports import SegmentPair, SegmentsReport
from fgit.steps import folder_of

Spans = Sequence[Sequence[int]]

# Control characters as their pictures: a page cannot hold them, and a reader cannot see them.
PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
PICTURES[127] = "\u2421"


@dataclasses.dataclass(frozen=True)
class CodeLine:
    """A line of one side, numbered from 1; ``html`` is escaped, its marked characters in <mark>."""

    number: int
    changed: bool
    html: Markup


Pair = tuple[CodeLine | None, CodeLine | None]


def code_lines(text: str, lines: Spans, characters: Spans) -> list[CodeLine]:
    """Cut a text into lines and mark them.

    Args:
        lines: half-open character ranges of the changed lines (newline included).
        characters: half-open ranges of the changed characters, in order, not touching. A changed
            newline is shown as an arrow.
    """
    code = []
    start = 0
    # Only a newline ends a line; behind the final one there is no line to see.
    for number, part in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), start=1):
        end = start + len(part)
        changed = any(max(a, start) < min(b, end) for a, b in lines)
        code.append(CodeLine(number, changed, marked(text, start, end, characters)))
        start = end
    return code


def marked(text: str, start: int, end: int, characters: Spans) -> Markup:
    """``text[start:end]``, escaped, with the characters of the ranges in <mark>."""
    html = Markup()
    position = start
    for a, b in characters:
        a, b = max(a, start), min(b, end)
        if a < b:
            html += visible(text[position:a].rstrip("\n"))
            html += Markup("<mark>{}</mark>").format(visible(text[a:b].replace("\n", "↵")))
            position = b
    return html + visible(text[position:end].rstrip("\n"))


def visible(text: str) -> Markup:
    """Escaped for HTML, control characters as pictures."""
    return escape(text.translate(PICTURES))


def side_by_side(response: Sequence[CodeLine], variant: Sequence[CodeLine]) -> list[Pair]:
    """Pair the lines: unchanged ones face each other, changed blocks are filled up with None."""
    pairs: list[Pair] = []
    sides = deque(response), deque(variant)
    while any(sides):
        pairs += itertools.zip_longest(changed_block(sides[0]), changed_block(sides[1]))
        if any(sides):
            left, right = (side.popleft() if side else None for side in sides)
            pairs.append((left, right))
    return pairs


def changed_block(lines: deque[CodeLine]) -> Iterator[CodeLine]:
    """Take the changed lines from the front, up to the first unchanged one."""
    while lines and lines[0].changed:
        yield lines.popleft()


def lines_of(row: Mapping[str, Any]) -> list[Pair]:
    """The lines of an annotated pair, side by side."""
    return side_by_side(
        *(code_lines(row[side], row[f"{side}_lines"], row[f"{side}_characters"]) for side in SIDES)
    )


# ------------------------------------------------------------------ as training saw them


@dataclasses.dataclass(frozen=True)
class View:
    """The viewer's data, and its first run as it stands in the page.

    data: JSON-like, with what runs share once: ``texts`` (instruction, both sides' tokens, which
        lines face each other), ``masks`` (text of digits, one for each token) and ``runs``, whose
        samples refer to both by their place.
    """

    data: dict[str, Any]
    name: str
    first: list[dict[str, Any]]


def view_of(trainings: Iterable[Training], names: Mapping[str, str], results: Path) -> View | None:
    """What the trainings left of their first pairs; None if none did."""
    texts: dict[str, dict[str, Any]] = {}
    masks: dict[str, int] = {}
    runs: list[dict[str, Any]] = []
    for training in trainings:
        report = SegmentsReport.find(results / folder_of("train", run=training.run.name))
        if report is None or not report.samples:  # the latter: nothing is paired
            continue
        samples = [trained_pair(sample, report.weight, texts, masks) for sample in report.samples]
        weights = [e["weight"] for s in samples for e in s["epochs"] if e["weight"] is not None]
        runs.append(
            {
                "run": training.run.name,
                "name": names[training.run.name],
                "method": f"objective {report.objective}"
                + (f", {report.granularity} mask" if report.objective != "dpo" else ""),
                # The weight that has the full colour; None where none is above 1.
                "scale": max(weights) if any(weight > 1 for weight in weights) else None,
                "samples": samples,
            }
        )
    if not runs:
        return None
    runs.sort(key=lambda run: run["scale"] is None)  # runs with a weight first
    data: dict[str, Any] = {"texts": list(texts.values()), "masks": list(masks), "runs": runs}
    first = [
        still(sample, data["texts"][sample["text"]], data["masks"]) for sample in runs[0]["samples"]
    ]
    return View(data, runs[0]["name"], first)


def trained_pair(
    pair: SegmentPair, weight: float | None, texts: dict[str, dict[str, Any]], masks: dict[str, int]
) -> dict[str, Any]:
    """A sample of ``segments.json``, its texts and masks noted once for all runs.

    Args:
        weight: the constant one, of epochs that have none of their own.
    """
    sides, constant = (pair.response, pair.variant), {"weight": weight}
    # The length of each token stays.
    tokens = [[token.translate(PICTURES) for token in side.tokens] for side in sides]
    instruction = pair.instruction.translate(PICTURES)
    key = repr((instruction, tokens))
    if key not in texts:
        pairs = facing(*("".join(side) for side in tokens))
        texts[key] = {"instruction": instruction, "tokens": tokens, "pairs": pairs}
    return {
        "id": pair.id,
        "text": list(texts).index(key),
        "masks": [
            [
                masks.setdefault("".join(map(str, mask)), len(masks))
                for mask in (side.line, side.token, side.marks)
            ]
            for side in sides
        ],
        "kept": [side.kept for side in sides],
        "epochs": [
            epoch.model_dump() | (constant if epoch.weight is None else {}) for epoch in pair.epochs
        ],
    }


def facing(response: str, variant: str) -> list[list[int]]:
    """The lines that stand beside each other, counted from 0; -1 where one side has none."""
    changed = segments(response, variant)
    pairs = side_by_side(
        code_lines(response, changed.response_lines, ()),
        code_lines(variant, changed.variant_lines, ()),
    )
    return [[-1 if line is None else line.number - 1 for line in pair] for pair in pairs]


def still(
    sample: Mapping[str, Any], text: Mapping[str, Any], masks: Sequence[str]
) -> dict[str, Any]:
    """A sample with its hybrid mask, as the page shows it before any script runs.

    ``weights`` says what training gave it, in words.
    """
    sides = []
    for tokens, (line, token, _) in zip(text["tokens"], sample["masks"], strict=True):
        hybrid = [int(a) + int(b) for a, b in zip(masks[line], masks[token], strict=True)]
        sides.append(token_lines(tokens, hybrid))
    lines = [
        [
            None if number < 0 else CodeLine(number + 1, False, side[number])
            for number, side in zip(pair, sides, strict=True)
        ]
        for pair in text["pairs"]
    ]
    weights = [
        f"epoch {epoch['epoch']}: w {epoch['weight']:.3f}"
        + (
            f", p̄ {epoch['p_response']:.3f}, p̄′ {epoch['p_variant']:.3f}"
            if epoch["p_response"] is not None and epoch["p_variant"] is not None
            else ""
        )
        for epoch in sample["epochs"]
        if epoch["weight"] is not None
    ]
    return {
        "id": sample["id"],
        "instruction": text["instruction"],
        "weights": "; ".join(weights),
        "lines": lines,
    }


def token_lines(tokens: Sequence[str], mask: Sequence[int]) -> list[Markup]:
    """A side's lines, escaped, marked tokens in <mark>; one over a line break is on both lines."""
    lines = [Markup()]
    for token, value in zip(tokens, mask, strict=True):
        pieces = token.split("\n")
        for number, piece in enumerate(pieces):
            if number:
                lines.append(Markup())
            text = piece + ("↵" if value and number < len(pieces) - 1 else "")
            if text:
                html = Markup('<mark class="m{}">{}</mark>').format(value, text)
                lines[-1] += html if value else escape(text)
    return lines
