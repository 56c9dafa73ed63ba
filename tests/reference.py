"""The method in its plain form: slow, and independent of the code that tests compare with it.

The objective: the model runs on x + y and on x + y', one sample at a time, in full forward passes
of transformers, with no packing, no shared prefix, all logits; the benchmark times it in batches.
The segments and the token masks: as the definitions say, one character and one token at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import Levenshtein
import torch
from torch import Tensor

from fgit.annotate import Segments, Span
from fgit.config import TrainSettings
from fgit.train.engine import StepOutput
from fgit.train.examples import Example


def target_logprobs(
    model: Any, examples: Sequence[Example], side: str, softmax: torch.dtype
) -> list[Tensor]:
    """log P of each token of a side given the prompt and the tokens before it, padded right."""
    device = next(model.parameters()).device
    rows = [torch.tensor([*e.prompt.tolist(), *getattr(e, side).tolist()]) for e in examples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    attention = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    # Without padding no mask is given, so that transformers may take the faster causal kernel.
    given = {} if mask.all() else {"attention_mask": mask.to(device)}
    hidden = model.get_decoder()(input_ids=ids, use_cache=False, **given).last_hidden_state
    found = []
    for index, example in enumerate(examples):
        start, stop = len(example.prompt), len(rows[index])
        logits = model.get_output_embeddings()(hidden[index, start - 1 : stop - 1]).to(softmax)
        labels = ids[index, start:stop].unsqueeze(-1)
        found.append(torch.log_softmax(logits, -1).gather(-1, labels).squeeze(-1))
    model.set_attn_implementation(attention)
    return found


def two_pass(
    model: Any,
    batch: Sequence[Example],
    settings: TrainSettings,
    softmax: torch.dtype = torch.float32,
) -> StepOutput:
    """The objective of a batch; ``loss`` carries the gradient.

    The second pass runs for the samples that have a dynamic weight only.

    Args:
        softmax: what log-softmax and the objective are computed in.
    """
    responses = target_logprobs(model, batch, "response", softmax)
    paired = [e for e in batch if settings.objective == "fgit" and e.paired]
    variants = dict(
        zip(
            (e.id for e in paired),
            target_logprobs(model, paired, "variant", softmax) if paired else [],
            strict=True,
        )
    )
    columns: list[list[Tensor]] = []
    for example, y in zip(batch, responses, strict=True):
        marks = torch.from_numpy(example.response_marks).to(y)
        nan = y.new_tensor(float("nan"))
        p, q, w, weight = nan, nan, nan, y.new_tensor(1.0)
        if settings.objective == "fixed":
            weight = y.new_tensor(settings.weight)
        elif example.id in variants:
            v = variants[example.id]
            variant_marks = torch.from_numpy(example.variant_marks).to(y)
            p = (marks * y.exp()).sum() / marks.sum()
            q = (variant_marks * v.exp()).sum() / variant_marks.sum()
            gap = (p - q).abs() if settings.gap == "absolute" else (p - q).clamp(min=0)
            weight = w = 1 + (settings.alpha - 1) * (1 - gap / (p + q))
            if not settings.weight_gradient:
                weight = weight.detach()
        weights = torch.where(marks > 0, weight, 1.0)
        found = [-(weights * y).sum(), -y.sum().detach(), p.detach(), q.detach(), w.detach()]
        columns.append(found)
    loss, nll, p_response, p_variant, weight = (
        torch.stack(column) for column in zip(*columns, strict=True)
    )
    return StepOutput(
        loss=loss,
        tokens=torch.tensor([len(e.response) for e in batch]),
        weighted_tokens=torch.tensor([int((e.response_marks > 0).sum()) for e in batch]),
        nll=nll,
        p_response=p_response,
        p_variant=p_variant,
        weight=weight,
        margin=torch.full_like(loss, float("nan")),
    )


def plain_segments(response: str, variant: str) -> Segments:
    """difflib's blocks of changed lines, and Levenshtein's edit operations within each of them."""
    lines = response.split("\n"), variant.split("\n")
    marked: dict[str, set[int]] = {
        f"{side}_{unit}": set()
        for side in ("response", "variant")
        for unit in ("lines", "characters")
    }
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(
        None, *lines, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        y, v = positions(lines[0], i, i_end), positions(lines[1], j, j_end)
        marked["response_lines"].update(y)
        marked["variant_lines"].update(v)
        before, after = "".join(response[p] for p in y), "".join(variant[p] for p in v)
        for operation, source, destination in Levenshtein.editops(before, after):
            if operation in ("replace", "delete"):
                marked["response_characters"].add(y[source])
            if operation in ("replace", "insert"):
                marked["variant_characters"].add(v[destination])
    return Segments(**{name: runs(found) for name, found in marked.items()})


def positions(lines: Sequence[str], first: int, end: int) -> range:
    """Where the characters of some lines are in the text, with the newline behind each line."""
    lengths = [len(line) + 1 for line in lines]
    lengths[-1] -= 1
    return range(sum(lengths[:first]), sum(lengths[:end]))


def runs(marked: set[int]) -> list[Span]:
    """The half-open ranges of neighbouring positions."""
    starts = sorted(p for p in marked if p - 1 not in marked)
    ends = sorted(p + 1 for p in marked if p + 1 not in marked)
    return list(zip(starts, ends, strict=True))


def plain_masks(
    tokenizer: Any, text: str, lines: Sequence[Span], characters: Sequence[Span]
) -> tuple[list[int], list[int], list[int]]:
    """A text's token ids, and 1 for each token that overlaps a span of lines, of characters.

    A token takes in the characters before it that belong to no token.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    marks: tuple[list[int], list[int]] = ([], [])
    reached = 0
    for start, end in encoded["offset_mapping"]:
        covered = set(range(min(start, reached), end))
        reached = max(reached, end)
        for spans, found in zip((lines, characters), marks, strict=True):
            found.append(int(any(covered & set(range(*span)) for span in spans)))
    return encoded["input_ids"], *marks
