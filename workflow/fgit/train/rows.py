"""Rows: what goes through the model at once. Several samples, each a trunk and a short branch.

FGit needs P(y_t | x, y_<t) for the correct response y and, for p̄', the probabilities of the marked
tokens of the variant y'. Running the model on x + y and on x + y' would cost two SFT steps. But y'
equals y up to the fork f, the first token at which they differ, and nothing behind the last marked
token of y' is needed. So one sequence holds x + y, the *trunk*, and behind it y' from the fork to
the last token that predicts a marked one, the *branch*:

    y  = a b C d end        y' = a b X Z d end        marked: C in y, X and Z in y'     (f = 2)

    row         x0 x1 x2  a  b  C  d │ X ║ u0 u1 …       ║ the next sample's trunk
    position     0  1  2  3  4  5  6 │ 5 ║  0  1 …
    predicts           a  b  C  d  e │ Z ║               e = end of turn
                             X                           the fork is read twice, at trunk token b

    The branch sees x, a, b and itself, never C; its positions go on from the fork. A sample sees
    nothing of the others. (The branches of a few neighbours stand together behind their trunks,
    which makes attention cheaper.) y and y' are cut to the maximum length before they come here,
    that is, by position. Marked tokens of y' before the fork have the trunk's probabilities. The
    last token of y is only predicted, so it is not fed (unless y' goes on behind it); nor is the
    last marked token of y'. A branch may be empty, and always is for objectives that need no
    variant (standard SFT, fixed weight).
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgit.train.examples import Example, fork


@dataclasses.dataclass(frozen=True)
class Segment:
    """Where a sample lies in a row: trunk start:end, branch branch:stop, which sees start:fork."""

    start: int
    end: int
    branch: int
    stop: int
    fork: int

    def __len__(self) -> int:
        return self.end - self.start + self.stop - self.branch


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """One row of T tokens with S samples, of which R response and V variant probabilities are read.

    names: the samples' ids. groups: where each sample lies; the trunks of a group, then its
        branches, are a piece of the row.
    tokens, positions: int64 [1, T], what is fed.
    read_at: int64 [R + V], the token behind which a probability is read; labels: int64 [R + V],
        of which token. The response tokens of all samples come first.
    response_sample: int64 [R]; response_marks: float32 [R], h.
    variant_at: int64 [M], where among the R + V each marked token of a variant is;
        variant_sample: int64 [M]; variant_marks: float32 [M].
    paired: bool [S], whether the sample has a dynamic weight (or a preference).
    """

    names: tuple[str, ...]
    groups: tuple[tuple[Segment, ...], ...]
    tokens: Tensor
    positions: Tensor
    read_at: Tensor
    labels: Tensor
    response_sample: Tensor
    response_marks: Tensor
    variant_at: Tensor
    variant_sample: Tensor
    variant_marks: Tensor
    paired: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[1]

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(segment for group in self.groups for segment in group)

    def to(self, device: torch.device) -> PackedRow:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What an objective needs of a sample: marks of both sides, and what is fed of them."""

    response_marks: np.ndarray  # [n], h >= 0
    variant_marks: np.ndarray  # [m], h >= 0; empty if the variant is not needed
    fork: int
    trunk: int  # how many tokens of x + y are fed
    branch: np.ndarray  # token ids that are fed of y'

    @property
    def paired(self) -> bool:
        return bool(self.response_marks.any() and self.variant_marks.any())


NO_TOKENS = np.zeros(0, dtype=np.int64)


def needs_of(example: Example, objective: str) -> Needs:
    """Marks and branch of a sample for an objective, worked out once and kept with the sample.

    For ``dpo`` every token from the fork on is marked: what lies before cancels out.
    """
    if objective not in example.needs:
        example.needs[objective] = compute_needs(example, objective)
    return example.needs[objective]


def compute_needs(example: Example, objective: str) -> Needs:
    y, v = example.response, example.variant
    marks, variant_marks = example.response_marks, example.variant_marks
    trunk = len(example.prompt) + len(y) - 1
    if objective == "fixed" or (objective == "fgit" and not example.paired):
        return Needs(marks, NO_TOKENS, len(y), trunk, NO_TOKENS)
    at = fork(y, v)
    if at is None:
        at = min(len(y), len(v))
    if objective == "dpo":
        marks, variant_marks = np.arange(len(y)) >= at, np.arange(len(v)) >= at
    last = int(np.flatnonzero(variant_marks)[-1]) if variant_marks.any() else 0
    # The last token of y is fed only where the variant goes on behind it.
    trunk = max(trunk, len(example.prompt) + at)
    return Needs(marks, variant_marks, at, trunk, v[at:last])


def length(example: Example, objective: str) -> int:
    """Tokens of a sample in a row: trunk and branch."""
    needs = needs_of(example, objective)
    return needs.trunk + len(needs.branch)


def pack(
    examples: Sequence[Example], budget: int, objective: str, multiple: int = 1
) -> list[list[Example]]:
    """Spread samples over as few rows as the token budget allows, of similar length.

    Longest first, each into the row that has the fewest tokens; more rows if one overflows.

    Args:
        budget: tokens that a row may have. A sample that is longer has a row of its own.
        multiple: the number of rows is a multiple of it; some may be empty.

    Returns:
        The rows, longest first; in each, the samples as they were ordered in ``examples``.
    """
    lengths = [length(example, objective) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: -lengths[i])
    count = max(1, -(-sum(lengths) // budget))
    while True:
        count = -(-count // multiple) * multiple
        rows: list[list[int]] = [[] for _ in range(count)]
        totals = [(0, row) for row in range(count)]  # a heap
        for index in order:
            total, row = totals[0]
            rows[row].append(index)
            heapq.heapreplace(totals, (total + lengths[index], row))
        if not any(total > budget and len(rows[row]) > 1 for total, row in totals):
            break
        count += 1 + count // 100
    sums = {row: total for total, row in totals}
    longest_first = sorted(range(count), key=lambda row: (-sums[row], row))
    return [[examples[index] for index in sorted(rows[row])] for row in longest_first]


GROUP = 512  # tokens of the trunks in a group, unless one sample has more


def in_groups(pairs: Sequence[tuple[Example, Needs]]) -> list[list[tuple[Example, Needs]]]:
    """Neighbours whose branches stand together; see :func:`fgit.train.attention.by_groups`."""
    groups: list[list[tuple[Example, Needs]]] = []
    total = GROUP
    for example, needs in pairs:
        if total + needs.trunk > GROUP:
            groups.append([])
            total = 0
        groups[-1].append((example, needs))
        total += needs.trunk
    return groups


def lay_out(samples: Sequence[Example], objective: str) -> PackedRow:
    """Put samples into one row."""
    pairs = [(example, needs_of(example, objective)) for example in samples]
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    groups: list[tuple[Segment, ...]] = []
    start = 0
    for group in in_groups(pairs):
        segments = []
        branch = start + sum(needs.trunk for _, needs in group)
        for example, needs in group:
            end, stop = start + needs.trunk, branch + len(needs.branch)
            fork = start + len(example.prompt) + needs.fork
            segments.append(Segment(start, end, branch, stop, fork))
            tokens.append(np.concatenate([example.prompt, example.response])[: needs.trunk])
            positions.append(np.arange(needs.trunk))
            start, branch = end, stop
        for (_, needs), segment in zip(group, segments, strict=True):
            tokens.append(needs.branch)
            positions.append(np.arange(len(needs.branch)) + segment.fork - segment.start)
        groups.append(tuple(segments))
        start = branch

    # Of each sample: the response's tokens, the variant's from the fork on, its marked ones.
    read_at: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    own_read_at: list[np.ndarray] = []
    own_labels: list[np.ndarray] = []
    variant_at: list[np.ndarray] = []
    variant_marks: list[np.ndarray] = []
    responses = sum(len(example.response) for example in samples)
    before = extra = 0  # of the response tokens, of the variants' own
    placed = itertools.chain.from_iterable(groups)
    for (example, needs), segment in zip(pairs, placed, strict=True):
        first = segment.start + len(example.prompt) - 1  # predicts the response's first token
        read_at.append(first + np.arange(len(example.response)))
        labels.append(example.response)
        marked = np.flatnonzero(needs.variant_marks)
        shared, own = marked[marked < needs.fork], marked[marked >= needs.fork]
        # The variant's own are read at the fork, then in the branch.
        in_branch = segment.branch + own - needs.fork - 1
        own_read_at.append(np.where(own == needs.fork, first + needs.fork, in_branch))
        own_labels.append(example.variant[own])
        variant_at += [before + shared, responses + extra + np.arange(len(own))]
        variant_marks.append(needs.variant_marks[marked])
        before, extra = before + len(example.response), extra + len(own)

    def whole(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([NO_TOKENS, *parts]).astype(np.int64))

    def owners(parts: Sequence[np.ndarray]) -> Tensor:
        return whole([np.full(len(part), number) for number, part in enumerate(parts)])

    return PackedRow(
        names=tuple(example.id for example in samples),
        groups=tuple(groups),
        tokens=whole(tokens).unsqueeze(0),
        positions=whole(positions).unsqueeze(0),
        read_at=whole(read_at + own_read_at),
        labels=whole(labels + own_labels),
        response_sample=owners(labels),
        response_marks=whole([needs.response_marks for _, needs in pairs]).float(),
        variant_at=whole(variant_at),
        variant_sample=owners(variant_marks),
        variant_marks=whole(variant_marks).float(),
        paired=torch.tensor([needs.paired for _, needs in pairs], dtype=torch.bool),
    )
