"""The most similar variant of each sample, by embeddings (section II-A of the paper)."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from fgit import files, models
from fgit.config import SelectSettings
from fgit.errors import UserError
from fgit.markdown import main_code, replace_code
from fgit.progress import bar
from fgit.variants import normalised, read_samples, read_variants

log = logging.getLogger(__name__)

SCHEMA: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "instruction": pl.String,
    "response": pl.String,
    "language": pl.String,
    "tests": pl.String,
    "variant": pl.String,
    "similarity": pl.Float64,
    "candidates": pl.Int64,
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """A sample's correct code, and by candidate code the whole response with that code in it.

    ``same_response`` and ``duplicates`` count the candidates that were left out.
    """

    code: str
    responses: dict[str, str]
    same_response: int = 0
    duplicates: int = 0


def select(
    records: Path,
    variants: Path,
    out: Path,
    report: Path,
    settings: SelectSettings,
    verified: Path | None = None,
) -> None:
    """Pair each record with the most similar of its variants.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        variants: Parquet with id, k and code (null where refused), as generate and mutate write it.
        out: Parquet with all records in their order, and variant (the response with its code
            replaced; null where there is none), similarity (cosine to the correct code, null
            likewise) and candidates (how many distinct ones there were).
        report: JSON with counts and the similarities' mean, median and minimum.
        verified: Parquet as verify writes it: a variant that passes the tests is left out, one
            that nothing was shown of stays.

    Raises:
        UserError: if a file or the embedder is missing, or the variants are of other records.
    """
    samples = read_samples(records)
    candidates, shown = read_candidates(variants, set(samples["id"]), verified)
    choices = [
        choice_of(row["response"], candidates.get(row["id"], []))
        for row in samples.iter_rows(named=True)
    ]
    paired = [choice for choice in choices if choice is not None and choice.responses]
    embedder = Embedder(settings)
    index, vectors = embedder.embed(
        text for choice in paired for text in (choice.code, *choice.responses)
    )
    rows = []
    similarities = []
    for row, choice in zip(samples.iter_rows(named=True), choices, strict=True):
        best: dict[str, Any] = {"variant": None, "similarity": None, "candidates": 0}
        if choice is not None and choice.responses:
            code, similarity = most_similar(choice, index, vectors)
            similarities.append(similarity)
            best = {
                "variant": choice.responses[code],
                "similarity": similarity,
                "candidates": len(choice.responses),
            }
        rows.append(row | best)
    summary = {
        "samples": len(samples),
        "with_variant": len(paired),
        "without_variant": len(samples) - len(paired),
        "same_response": sum(choice.same_response for choice in choices if choice),
        "duplicates": sum(choice.duplicates for choice in choices if choice),
        "verified": shown,
        "similarity": {
            "mean": statistics.fmean(similarities) if similarities else None,
            "median": statistics.median(similarities) if similarities else None,
            "min": min(similarities, default=None),
        },
        "device": str(models.device()),
        **settings.model_dump(mode="json"),
    }
    files.write_parquet(out, pl.DataFrame(rows, schema=SCHEMA))
    files.write_json(report, summary)
    if similarities:
        log.info(
            "%d of %d samples have a variant; mean similarity %.3f",
            *(len(paired), len(samples), summary["similarity"]["mean"]),
        )
    else:
        log.warning("None of the %d samples has a variant", len(samples))


def choice_of(response: str, codes: Iterable[str]) -> Choice | None:
    """What there is to choose from, in the order given; None if the response has no code."""
    block = main_code(response)
    if block is None:
        return None
    responses: dict[str, str] = {}
    same_response = duplicates = 0
    for code in codes:
        variant = replace_code(response, block, code)
        if normalised(variant) == normalised(response):
            same_response += 1
        elif code in responses:
            duplicates += 1
        else:
            responses[code] = variant
    return Choice(normalised(block.content), responses, same_response, duplicates)


def most_similar(
    choice: Choice, index: Mapping[str, int], vectors: np.ndarray
) -> tuple[str, float]:
    """The candidate nearest to the correct code, and its cosine; of equal ones the first.

    Args:
        choice: with one candidate at least.
        index, vectors: as :meth:`Embedder.embed` gives them for all the choice's codes.
    """
    codes = list(choice.responses)
    near = cosine(
        np.repeat(vectors[[index[choice.code]]], len(codes), axis=0),
        vectors[[index[code] for code in codes]],
    )
    first = int(np.argmax(near))
    return codes[first], float(near[first])


def read_candidates(
    path: Path, ids: set[str], verified: Path | None = None
) -> tuple[dict[str, list[str]], dict[str, int] | None]:
    """The usable codes of each sample, in the order of k.

    With ``verified``, those that pass their tests are left out, and the second value counts the
    usable ones that are ``wrong``, ``not_wrong`` (left out) and ``untested``.

    Raises:
        UserError: if a column is missing, or a variant belongs to no record.
    """
    frame = read_variants(path, ids)
    found: dict[str, list[str]] = {}
    shown = None
    usable = frame
    if verified is not None:
        from fgit.verify import read_verified  # with all that running programs needs

        usable = frame.with_columns(wrong=read_verified(verified, frame, path))
        wrong = usable.filter(pl.col("code").is_not_null())["wrong"]
        shown = {
            "wrong": int(wrong.sum()),  # of nulls neither
            "not_wrong": int((~wrong).sum()),
            "untested": wrong.null_count(),
        }
        usable = usable.filter(pl.col("wrong").fill_null(True))
    usable = usable.filter(pl.col("code").is_not_null()).sort("k", maintain_order=True)
    for sample, code in usable.select("id", "code").iter_rows():
        found.setdefault(sample, []).append(code)
    return found, shown


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the rows of two Float32[n, d] arrays: Float32[n], 0 where a row is all zeros."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    dot = np.einsum("nd,nd->n", a, b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of Float[b, t, d] over the tokens with ``mask`` (Int[b, t]) 1: Float32[b, d]."""
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1)


class Embedder:
    """A transformer encoder with mean pooling over its last hidden states, in fp32."""

    def __init__(self, settings: SelectSettings) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.settings = settings
        name, arguments = models.source(settings.embedder)
        with models.loading_errors(settings.embedder, "embedder"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                name, **arguments, revision=settings.revision, trust_remote_code=False
            )
            self.model: Any = AutoModel.from_pretrained(
                name,
                **arguments,
                revision=settings.revision,
                dtype=torch.float32,
                trust_remote_code=False,
            )
        models.note_commit(settings.embedder, settings.revision, self.model.config)
        self.model.eval().to(models.device())
        limit = position_limit(self.model.config)
        if limit is not None and settings.max_length > limit:
            raise UserError(
                f"max_length {settings.max_length}: the embedder {settings.embedder} takes "
                f"{limit} tokens at most"
            )
        self.prefix = self.prefix_ids()

    def prefix_ids(self) -> list[int]:
        """UniXcoder's opening [CLS] <mode> [SEP], or nothing if no prefix is set."""
        prefix = self.settings.prefix
        if not prefix:
            return []
        token = self.tokenizer.get_vocab().get(prefix)
        if token is None:
            raise UserError(
                f"prefix {prefix!r}: the embedder {self.settings.embedder} has no such token; "
                "set prefix to '' unless the embedder is a UniXcoder"
            )
        return [self.tokenizer.cls_token_id, token, self.tokenizer.sep_token_id]

    def token_ids(self, text: str) -> tuple[int, ...]:
        """At most ``max_length`` ids, special tokens included; what is cut is the code's end."""
        length = self.settings.max_length
        if not self.prefix:
            encoded = self.tokenizer(text, truncation=True, max_length=length)
            return tuple(encoded["input_ids"])
        code = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        code = code[: length - len(self.prefix) - 1]
        return (*self.prefix, *code, self.tokenizer.sep_token_id)

    def embed(self, texts: Iterable[str]) -> tuple[dict[str, int], np.ndarray]:
        """Row of each distinct text, and the vectors: Float32[rows, d].

        Texts with the same token ids share a row, so that their similarities are exactly equal.
        """
        rows: dict[tuple[int, ...], int] = {}
        index: dict[str, int] = {}
        for text in texts:
            if text not in index:
                index[text] = rows.setdefault(self.token_ids(text), len(rows))
        sequences = list(rows)
        vectors = np.zeros((len(sequences), self.model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
        with bar(order, description="Embedding", unit="text") as progress:
            for start in range(0, len(order), self.settings.batch_size):
                batch = order[start : start + self.settings.batch_size]
                vectors[batch] = self.forward([sequences[row] for row in batch])
                progress.update(len(batch))
        return index, vectors

    @torch.inference_mode()
    def forward(self, sequences: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Vectors of a batch of token ids: Float32[len(sequences), d]."""
        device = models.device()
        length = max(map(len, sequences))
        padding = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in sequences])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in sequences])
        ids, mask = ids.to(device), mask.to(device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return mean_pool(states, mask).cpu().numpy()


def position_limit(config: Any) -> int | None:
    """The most tokens that an encoder has positions for."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and "roberta" in config.model_type:
        return limit - config.pad_token_id - 1  # RoBERTa's positions start behind the padding id
    return limit
