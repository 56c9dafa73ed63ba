"""What select chooses from: a sample's correct code and its candidates.

Apart from :mod:`fgit.select.stage`, since the processes that read the candidates need no torch.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit.common.code_blocks import CodeBlock, block_at, forms_of, replace_code
from fgit.common.files import PART_ROWS
from fgit.variants import normalised, read_variants, variant_parts


@dataclasses.dataclass(frozen=True)
class Choice:
    """A sample's correct code, and by candidate code the whole response with that code in it.

    Of candidates that are the same after normalisation it has the first. ``same_response`` and
    ``duplicates`` count those that were left out.
    """

    code: str
    responses: dict[str, str]
    same_response: int = 0
    duplicates: int = 0


def choice_of(response: str, block: CodeBlock | None, codes: Iterable[str]) -> Choice | None:
    """What there is to choose from, in the order given; None if the response has no code.

    Args:
        block: the response's code.
    """
    if block is None:
        return None
    as_it_is = normalised(response)
    responses: dict[str, str] = {}
    seen: set[str] = set()
    same_response = duplicates = 0
    for code in codes:
        variant = replace_code(response, block, code)
        if normalised(variant) == as_it_is:
            same_response += 1
        elif normalised(code) in seen:
            duplicates += 1
        else:
            seen.add(normalised(code))
            responses[code] = variant
    return Choice(normalised(block.content), responses, same_response, duplicates)


def choices_of(
    samples: Sequence[tuple[str, Mapping[str, Any] | None, str | None, list[str]]],
) -> tuple[list[Choice | None], Counter[str]]:
    """:func:`choice_of` of responses and the codes of their variants, and the responses' forms.

    Args:
        samples: response, where its code is, language, and the codes of its variants.

    Returns:
        The choices, and how many responses have which of :func:`fgit.common.code_blocks.forms_of`.
    """
    choices: list[Choice | None] = []
    forms: Counter[str] = Counter()
    for response, place, language, codes in samples:
        block = block_at(response, place)
        choices.append(choice_of(response, block, codes))
        forms.update(forms_of(response, block, language))
    return choices, forms


class Candidates:
    """The codes that each sample chooses from, read from the variants when they are asked for.

    Where the file has them in the samples' order, as the stages write it, it is gone through once
    and little of it is in memory; in another order, what lies before a sample's last code is.

    Args:
        path: Parquet with id, k and code (null where refused), as generate and mutate write it.
        ids: of all samples.
        verified: Parquet as verify writes it of ``path``: what passes its tests is left out, what
            is untested stays.

    Attributes:
        usable: how many usable codes a sample has; no entry for none.
        eligible: how many of them are not left out, likewise.
        verified: how many usable ones are ``wrong``, ``not_wrong`` (left out) and ``untested``;
            None without the file.

    Raises:
        UserError: if it is no such file, a variant belongs to no sample, or ``verified`` is of
            other variants.
    """

    def __init__(self, path: Path, ids: Iterable[str], verified: Path | None = None) -> None:
        self.path, self.ids = path, frozenset(ids)
        self.wrong: pl.Series | None = None
        if verified is not None:
            from fgit.verify import read_verified  # with all that running programs needs

            self.wrong = read_verified(verified, read_variants(path, self.ids), path)
        self.usable: Counter[str] = Counter()
        self.eligible: Counter[str] = Counter()
        counts: Counter[bool | None] = Counter()
        for sample, _, _, wrong in self.rows():
            self.usable[sample] += 1
            self.eligible[sample] += wrong is not False
            counts[wrong] += 1
        self.eligible = +self.eligible
        outcomes = {"wrong": counts[True], "not_wrong": counts[False], "untested": counts[None]}
        self.verified = None if verified is None else outcomes

    def rows(self) -> Iterator[tuple[str, int | None, str, bool | None]]:
        """The usable variants in the file's order: id, k, code, and whether tests show it wrong."""
        start = 0
        for part in variant_parts(self.path, self.ids, PART_ROWS):
            wrong = pl.lit(None) if self.wrong is None else self.wrong.slice(start, len(part))
            start += len(part)
            rows = part.with_columns(wrong=wrong).filter(pl.col("code").is_not_null())
            yield from rows.select("id", "k", "code", "wrong").iter_rows()

    def codes(self, ids: Iterable[str]) -> Iterator[list[str]]:
        """Yield the codes of each of these samples, in the order of k."""
        rows = (row for row in self.rows() if row[3] is not False)
        waiting: dict[str, list[tuple[int | None, str]]] = {}
        for wanted in ids:
            while len(waiting.get(wanted, [])) < self.eligible[wanted]:
                sample, k, code, _ = next(rows)
                waiting.setdefault(sample, []).append((k, code))
            codes = waiting.pop(wanted, [])
            codes.sort(key=lambda row: (row[0] is not None, row[0]))
            yield [code for _, code in codes]
