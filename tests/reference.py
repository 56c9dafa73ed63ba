"""The objective in its plain form: the model runs on x + y and on x + y', one sample at a time.

Slow and independent of the training step: full forward passes of transformers, no packing, no
shared prefix, all logits. Tests compare the engine with it; the benchmark times it in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
