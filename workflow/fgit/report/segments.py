"""The segment view: response and variant side by side, with what differs marked.

Of pairs that were trained on, their tokens with the masks and the weights that training gave them
(:func:`view_of`); of others, their lines and characters (:func:`code_lines`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from fgit.annotate import SIDES
from fgit.annotate import segments as changes
from fgit.report.training import Training
from fgit.stage_reports import SegmentPair, SegmentsReport

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
    found = []
    start = 0
    parts = text.split("\n")
    for number, part in enumerate(parts, start=1):
        last = number == len(parts)
        end = start + len(part) + (not last)
        if not (last and not part):  # behind the final newline there is no line to see
            changed = any(max(a, start) < min(b, end) for a, b in lines)
            found.append(CodeLine(number, changed, marked(text, start, end, characters)))
        start = end
    return found


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
    i = j = 0
    while i < len(response) or j < len(variant):
        blocks = list(changed_run(response, i)), list(changed_run(variant, j))
        for k in range(max(map(len, blocks))):
            pairs.append(
                (
                    blocks[0][k] if k < len(blocks[0]) else None,
                    blocks[1][k] if k < len(blocks[1]) else None,
                )
            )
        i, j = i + len(blocks[0]), j + len(blocks[1])
        if i < len(response) or j < len(variant):
            pairs.append(
                (
                    response[i] if i < len(response) else None,
                    variant[j] if j < len(variant) else None,
                )
            )
            i, j = i + 1, j + 1
    return pairs


def lines_of(row: Mapping[str, Any]) -> list[Pair]:
    """The lines of an annotated pair, side by side."""
    return side_by_side(
        *(code_lines(row[side], row[f"{side}_lines"], row[f"{side}_characters"]) for side in SIDES)
    )


def changed_run(lines: Sequence[CodeLine], start: int) -> Iterator[CodeLine]:
    """The changed lines from ``start`` on, up to the first unchanged one."""
    for line in lines[start:]:
        if not line.changed:
            return
        yield line


# ------------------------------------------------------------------ as training saw them


@dataclasses.dataclass(frozen=True)
class TokenPair:
    """A pair's tokens with their hybrid mask, for readers without the script."""

    id: str
    instruction: str
    weights: str  # what training gave it, in words
    lines: list[Pair]


@dataclasses.dataclass(frozen=True)
class View:
    """The viewer's data, and its first run as it stands in the page.

    data: JSON-like, with what runs share once: ``texts`` (instruction, both sides' tokens, which
        lines face each other), ``masks`` (text of digits, one for each token) and ``runs``, whose
        samples refer to both by their place.
    """

    data: dict[str, Any]
    name: str
    first: list[TokenPair]


def view_of(trainings: Iterable[Training], names: Mapping[str, str], results: Path) -> View | None:
    """What the trainings left of their first pairs; None if none did.

    Raises:
        UserError: naming the file, if one that is there lacks something.
    """
    texts: dict[str, dict[str, Any]] = {}
    masks: dict[str, int] = {}
    runs: list[dict[str, Any]] = []
    for training in trainings:
        report = SegmentsReport.find(results / "train" / training.run.name)
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
    tokens = [[drawable(token) for token in side.tokens] for side in sides]
    instruction = drawable(pair.instruction)
    key = repr((instruction, tokens))
    places = list(texts)
    if key not in texts:
        pairs = facing(*("".join(side) for side in tokens))
        texts[key] = {"instruction": instruction, "tokens": tokens, "pairs": pairs}
        places.append(key)
    return {
        "id": pair.id,
        "text": places.index(key),
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


def drawable(text: str) -> str:
    """Text without characters that a page cannot hold; the length stays."""
    return text.translate(PICTURES)


def facing(response: str, variant: str) -> list[list[int]]:
    """The lines that stand beside each other, counted from 0; -1 where one side has none."""
    found = changes(response, variant)
    pairs = side_by_side(
        code_lines(response, found.response_lines, ()),
        code_lines(variant, found.variant_lines, ()),
    )
    return [[-1 if line is None else line.number - 1 for line in pair] for pair in pairs]


def still(sample: Mapping[str, Any], text: Mapping[str, Any], masks: Sequence[str]) -> TokenPair:
    """A sample with its hybrid mask, as the page shows it before any script runs."""
    sides = []
    for tokens, (line, token, _) in zip(text["tokens"], sample["masks"], strict=True):
        hybrid = [int(a) + int(b) for a, b in zip(masks[line], masks[token], strict=True)]
        sides.append(token_lines(tokens, hybrid))
    lines: list[Pair] = []
    for pair in text["pairs"]:
        left, right = (
            None if number < 0 else CodeLine(number + 1, False, side[number])
            for number, side in zip(pair, sides, strict=True)
        )
        lines.append((left, right))
    told = [
        f"epoch {epoch['epoch']}: w {epoch['weight']:.3f}"
        + (
            f", p̄ {epoch['p_response']:.3f}, p̄′ {epoch['p_variant']:.3f}"
            if epoch["p_response"] is not None and epoch["p_variant"] is not None
            else ""
        )
        for epoch in sample["epochs"]
        if epoch["weight"] is not None
    ]
    return TokenPair(sample["id"], text["instruction"], "; ".join(told), lines)


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
