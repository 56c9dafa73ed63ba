"""log P of given tokens from hidden states, without ever holding all logits.

The output embedding gives V logits a token: for 8,192 tokens and 49,152 words, 1.6 GB in fp32, and
as much again for their gradient. Here they exist for one chunk of tokens at a time, forward and
backward; the backward pass computes them again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

# Numbers in a chunk of logits: 64 MB in fp32; 1 GB on a GPU, whose products want more rows.
LOGITS = {"cpu": 2**24, "cuda": 2**28}


def target_logprobs(
    hidden: Tensor, head: torch.nn.Linear, labels: Tensor, logits: int | None = None
) -> Tensor:
    """log P of a token for each hidden state; log-softmax in fp32, products as autocast says.

    Args:
        hidden: float [tokens, h].
        head: the output embedding, V x h, with or without a bias.
        labels: int64 [tokens], in [0, V).
        logits: how many logits may exist at a time (by default, what suits the device).

    Returns:
        float32 [tokens], differentiable in ``hidden`` and in the output embedding.
    """
    chunk = max(1, (logits or LOGITS[hidden.device.type]) // head.weight.shape[0])
    return TargetLogprobs.apply(hidden, head.weight, head.bias, labels, chunk)


class TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        with torch.autocast(kind, enabled=False):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for at in range(0, len(hidden), chunk):
                part = slice(at, at + chunk)
                logs = log_softmax(linear(hidden[part].to(dtype), w, b).float(), -1)
                logprobs[part] = logs.gather(-1, labels[part].unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk, ctx.dtype = chunk, dtype
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad = grads[0].float()
        w, b = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for at in range(0, len(hidden), ctx.chunk):
            part = slice(at, at + ctx.chunk)
            h = hidden[part].to(ctx.dtype)
            # d log P_label / d logits = (1 at the label) − softmax
            softmax = log_softmax(linear(h, w, b).float(), -1).exp_()
            upstream = grad[part].unsqueeze(-1)
            by_logits = softmax.mul_(-upstream).scatter_add_(
                -1, labels[part].unsqueeze(-1), upstream
            )
            if grad_bias is not None:
                grad_bias += by_logits.sum(0)
            by_logits = by_logits.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = (by_logits @ w).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += by_logits.t() @ h
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )
