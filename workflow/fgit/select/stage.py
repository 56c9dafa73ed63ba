"""The most similar variant of each sample, by embeddings (section II-A of the paper)."""

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers

from fgit.common import files, models, processes
from fgit.common.code_blocks import CODE_FORMS, NOTES
from fgit.common.errors import UserError, described
from fgit.common.progress import bar
from fgit.common.weights import UNUSED_BY_EMBEDDERS, load_checked
from fgit.config import SelectSettings
from fgit.select.candidates import Candidates, Choice, choices_of
from fgit.stage_reports import SelectReport, means
from fgit.variants import RECORD_COLUMNS, normalised, sample_ids, sample_parts

log = logging.getLogger(__name__)

CHOICE_COLUMNS = {"variant": pl.String, "similarity": pl.Float64, "candidates": pl.Int64}
PAIR_COLUMNS: dict[str, type[pl.DataType]] = {**RECORD_COLUMNS, **CHOICE_COLUMNS}

LOST_REASONS = ("no_code", "no_usable_variant", "same_as_response", "passes_its_tests")  # reason_of

READ_SAMPLES = 250  # whose candidates are read at a time
WINDOW = 16  # parts whose texts are embedded together, in the order of their lengths
TOKENIZED_TEXTS = 500  # at a time
# At a time, on a CPU: with more, what a layer makes does not stay in its caches, and the same
# texts take a quarter longer.
CPU_TOKENS = 2048
SIMILARITY_BINS = 400  # from -1 to 1


def select(
    records: Path,
    variants: Path,
    out: Path,
    report: Path,
    settings: SelectSettings,
    verified: Path | None = None,
    threads: int = 1,
) -> None:
    """Pair each record with the most similar of its variants.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        variants: Parquet with id, k and code (null where refused), as generate and mutate write it.
        out: Parquet with all records in their order, and variant (the response with its code
            replaced; null where there is none), similarity (cosine to the correct code, null
            likewise) and candidates (how many distinct ones there were).
        report: :class:`fgit.stage_reports.SelectReport`, with the settings.
        verified: Parquet as verify writes it: a variant that passes the tests is left out, an
            untested one stays.
        threads: processes that read the candidates.

    Raises:
        UserError: if a file or the embedder is missing, or the variants are of other records.
    """
    ids = sample_ids(records)
    candidates = Candidates(variants, ids, verified)
    embedder = Embedder(settings)
    counts: Counter[str] = Counter()
    lost = dict.fromkeys(LOST_REASONS, 0)
    similarities: list[float] = []
    texts = candidates.eligible.total() + len(candidates.eligible)
    forms: Counter[str] = Counter()
    parts = read_choices(records, candidates, ids, threads, forms)
    with (
        files.writing_parquet(out, PAIR_COLUMNS) as write,
        bar(description="Embedding", total=texts, unit="text") as progress,
    ):
        done = 0
        while window := list(itertools.islice(parts, WINDOW)):
            every = [choice for _, choices in window for choice in choices if choice is not None]
            counts["same_response"] += sum(choice.same_response for choice in every)
            counts["duplicates"] += sum(choice.duplicates for choice in every)
            with_candidates = (choice for choice in every if choice.responses)
            index, vectors = embedder.embed(
                (text for choice in with_candidates for text in (choice.code, *choice.responses)),
                progress,
            )
            for part, choices in window:
                for sample, choice in zip(part["id"], choices, strict=True):
                    usable, eligible = candidates.usable[sample], candidates.eligible[sample]
                    if choice is None or not choice.responses:
                        lost[reason_of(choice, usable, eligible)] += 1
                    done += eligible + bool(eligible)
                pairs = with_variants(part, choices, index, vectors)
                similarities += pairs["similarity"].drop_nulls().to_list()
                write(pairs)
            progress.update(done - progress.n)  # of equal texts one was embedded
    without = sum(lost.values())
    summary = SelectReport(
        samples=len(ids),
        with_variant=len(ids) - without,
        without_variant=without,
        lost=lost,
        forms={name: forms[name] for name in (*CODE_FORMS, *NOTES)},
        same_response=counts["same_response"],
        duplicates=counts["duplicates"],
        verified=candidates.verified,
        similarity=means(similarities),
        distribution=distribution(similarities),
        device=str(models.device()),
        **settings.model_dump(mode="json"),
    )
    summary.write(report)
    if similarities:
        log.info(
            "%d of %d samples have a variant; mean similarity %.3f",
            *(len(similarities), len(ids), summary.similarity["mean"]),
        )
    else:
        log.warning("None of the %d samples has a variant", len(ids))


def read_choices(
    records: Path, candidates: Candidates, ids: Sequence[str], threads: int, forms: Counter[str]
) -> Iterator[tuple[pl.DataFrame, list[Choice | None]]]:
    """Yield the records, some at a time, and what there is to choose from for each.

    Args:
        ids: of all records, in their order.
        forms: is updated with :func:`fgit.common.code_blocks.forms_of` the responses.
    """
    codes = candidates.codes(ids)
    parts, same_parts = itertools.tee(sample_parts(records, READ_SAMPLES))
    columns = ("response", "code_at", "language")
    work = (
        list(zip(*(part[name] for name in columns), codes, strict=False))  # codes go on and on
        for part in same_parts
    )
    results = processes.each(choices_of, work, threads, len(ids))
    for part, (choices, forms_of_part) in zip(parts, results, strict=True):
        forms.update(forms_of_part)
        yield part.drop("code_at"), choices


def reason_of(choice: Choice | None, usable: int, eligible: int) -> str:
    """Why a sample has no variant: the first of :data:`LOST_REASONS` that holds.

    Args:
        usable: its variants that are not refused.
        eligible: those of them that do not pass its tests.
    """
    if choice is None:
        return "no_code"
    if eligible:
        return "same_as_response"  # after normalisation
    return "passes_its_tests" if usable else "no_usable_variant"


def with_variants(
    part: pl.DataFrame,
    choices: Sequence[Choice | None],
    index: Mapping[str, int],
    vectors: np.ndarray,
) -> pl.DataFrame:
    """The records with the columns variant, similarity and candidates (:data:`PAIR_COLUMNS`)."""
    rows: list[tuple[str | None, float | None, int]] = []
    for choice in choices:
        if choice is None or not choice.responses:
            rows.append((None, None, 0))
        else:
            code, similarity = most_similar(choice, index, vectors)
            rows.append((choice.responses[code], similarity, len(choice.responses)))
    columns = pl.DataFrame(rows, schema=CHOICE_COLUMNS, orient="row")
    return pl.concat([part, columns], how="horizontal")


def distribution(similarities: Sequence[float]) -> list[tuple[float, float, int]]:
    """Those of :data:`SIMILARITY_BINS` equal bins from the first to the last that is used.

    Each is (from, to, count); cosines beyond 1 by rounding are taken for 1.
    """
    clipped = np.clip(similarities, -1, 1)
    counts, edges = np.histogram(clipped, bins=SIMILARITY_BINS, range=(-1, 1))
    ends = edges.round(3).tolist()
    used = np.flatnonzero(counts)
    bins = list(zip(ends[:-1], ends[1:], counts.tolist(), strict=True))
    return bins[used[0] : used[-1] + 1] if len(used) else []


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
    """A transformer encoder with mean pooling over its last hidden states, in fp32.

    Raises:
        UserError: if it cannot be loaded whole, or does not give each text a vector of its own.
    """

    def __init__(self, settings: SelectSettings) -> None:
        self.settings = settings
        path, revision = settings.embedder, settings.revision
        name, arguments = models.source(path)
        with models.loading_errors(path, "embedder"):
            model = load_checked(
                *(transformers.AutoModel, name, path),
                **arguments,
                unused=UNUSED_BY_EMBEDDERS,
                revision=revision,
                dtype=torch.float32,
            )
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                name, **arguments, revision=revision, trust_remote_code=False
            )
        models.note_commit(path, name, revision)
        # Of a model in two parts, as T5, the first reads the code. Saved alone, it has the class
        # and the name of the whole, but not its flag.
        kinds = transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        in_parts = model.config.is_encoder_decoder or type(model.config) in kinds
        self.model: Any = model.get_encoder() if in_parts else model
        self.model.eval().to(models.device())
        limit, _ = models.position_limit(self.model)
        if limit is not None and settings.max_length > limit:
            raise UserError(
                f"max_length {settings.max_length}: the embedder {path} takes {limit} tokens at "
                f"most; set select.max_length to {limit}"
            )
        self.prefix = self.prefix_ids()
        self.check()

    def check(self) -> None:
        """Refuse a model whose vector of a text depends on the texts beside it."""
        sequences = self.token_ids([f"{name} = 1" for name in ("x", "a_long_name_of_a_value")])
        sequences = [sequence for sequence in sequences if len(sequence)]
        try:
            self.rows = models.embedding_rows(self.model)
            together = self.forward(sequences)
            alone = np.concatenate([self.forward([sequence]) for sequence in sequences])
        except UserError:
            raise
        except Exception as error:  # models of another kind ask for images, labels and whatever
            raise UserError(
                f"embedder {self.settings.embedder}: {type(self.model).__name__} gives texts no "
                f"hidden states ({described(error)}); use an encoder of texts"
            ) from error
        self.size = alone.shape[1]
        difference = float(np.abs(together - alone).max() / np.abs(alone).max().clip(1e-30))
        if np.isfinite(alone).all() and not difference < 1e-4:
            raise UserError(
                f"embedder {self.settings.embedder}: {type(self.model).__name__} gives a text "
                "another vector when longer texts are beside it, so it does not leave out padding; "
                "use another embedder"
            )

    def prefix_ids(self) -> list[int]:
        """UniXcoder's opening [CLS] <mode> [SEP], or nothing if no prefix is set."""
        prefix = self.settings.prefix
        if not prefix:
            return []
        ends = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        token = self.tokenizer.get_vocab().get(prefix)
        if token is None or None in ends:
            lacks = "such token" if token is None else "[CLS] or [SEP] to put around it"
            raise UserError(
                f"prefix {prefix!r}: the embedder {self.settings.embedder} has no {lacks}; "
                "set prefix to '' unless the embedder is a UniXcoder"
            )
        return [ends[0], token, ends[1]]

    def token_ids(self, texts: list[str]) -> list[np.ndarray]:
        """Of each text at most ``max_length`` ids, special tokens included: Int32 each.

        What is cut is the code's end.
        """
        length = self.settings.max_length
        if self.prefix:
            length -= len(self.prefix) + 1
        encoded = self.tokenizer(
            texts,
            add_special_tokens=not self.prefix,
            truncation=True,
            max_length=length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        if self.prefix:
            end = [self.tokenizer.sep_token_id]
            encoded = [self.prefix + code + end for code in encoded]
        return [np.array(ids, dtype=np.int32) for ids in encoded]

    def embed(
        self, texts: Iterable[str], progress: Any = None
    ) -> tuple[dict[str, int], np.ndarray]:
        """Row of each distinct text, and the vectors: Float32[rows, d].

        What is embedded is :func:`fgit.variants.normalised`. Texts with the same token ids share
        a row, so that their similarities are exactly equal.

        Args:
            progress: a bar that counts the rows; None shows one of its own.
        """
        distinct = list(dict.fromkeys(texts))
        index: dict[str, int] = {}
        rows: dict[bytes, int] = {}  # by token ids: as Python's integers they would take ten times
        for start in range(0, len(distinct), TOKENIZED_TEXTS):
            some = distinct[start : start + TOKENIZED_TEXTS]
            for text, ids in zip(some, self.token_ids(list(map(normalised, some))), strict=True):
                index[text] = rows.setdefault(ids.tobytes(), len(rows))
        sequences = [np.frombuffer(ids, dtype=np.int32) for ids in rows]
        path = f"embedder {self.settings.embedder}"
        models.require_rows(self.rows, self.tokenizer, sequences, path)
        vectors = np.zeros((len(sequences), self.size), dtype=np.float32)
        # A text without tokens keeps a vector of zeros.
        order = [row for row, sequence in enumerate(sequences) if len(sequence)]
        order.sort(key=lambda row: -len(sequences[row]))
        with (
            bar(description="Embedding", total=len(order), unit="text")
            if progress is None
            else contextlib.nullcontext(progress)
        ) as counted:
            start = 0
            while start < len(order):
                batch = order[start : start + self.texts_at_a_time(len(sequences[order[start]]))]
                vectors[batch] = self.forward([sequences[row] for row in batch])
                counted.update(len(batch))
                start += len(batch)
        broken = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist())
        if broken:
            text = next(text for text, row in index.items() if row in broken)
            raise UserError(
                f"{path} gives {len(broken)} texts NaN or infinite numbers, one of them the code "
                f"that begins with {text[:80]!r}; use another embedder"
            )
        return index, vectors

    def texts_at_a_time(self, length: int) -> int:
        """``batch_size``, or on a CPU fewer texts of so many tokens."""
        size = self.settings.batch_size
        if models.device().type == "cpu":
            size = max(1, min(size, CPU_TOKENS // max(length, 1)))
        return size

    @torch.inference_mode()
    def forward(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of a batch of token ids: Float32[len(sequences), d]."""
        shape = len(sequences), max(map(len, sequences))
        # Not attended to. RoBERTa's kind tells from the ids of padding which positions count.
        padding = self.tokenizer.pad_token_id
        if padding is None or padding >= self.rows:
            padding = getattr(self.model.config, "pad_token_id", None) or 0
        ids = np.full(shape, padding, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        device = models.device()
        attended = torch.from_numpy(mask).to(device)
        states = self.model(
            input_ids=torch.from_numpy(ids).to(device), attention_mask=attended
        ).last_hidden_state
        return mean_pool(states, attended).cpu().numpy()
