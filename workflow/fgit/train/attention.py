"""Attention over a packed row: a trunk sees itself, a branch its trunk up to the fork and itself.

Registered with transformers under a name of our own, so that models compute nothing but this
attention in another way and a library never guesses from positions which tokens belong together.
Two forms of one mask:

- ``sdpa``: PyTorch's scaled_dot_product_attention, sample by sample: causal for the trunk, a
  boolean mask for the branch. No work is spent on pairs of tokens that do not see each other.
- ``flex``: FlexAttention with a block mask for the whole row, compiled; for GPUs.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from fgit import processes
from fgit.errors import UserError
from fgit.train.rows import Segment

log = logging.getLogger(__name__)

NAME = "trunk_and_branch"
BLOCK = 128  # rows are padded to a multiple of FlexAttention's block


@dataclasses.dataclass(frozen=True)
class Visible:
    """Which tokens of a row see which: its segments and, for FlexAttention, the block mask."""

    segments: tuple[Segment, ...]
    block_mask: BlockMask | None = None

    @property
    def longest(self) -> int:
        """The longest distance between two tokens that see each other, in positions."""
        return max(max(s.end - s.start, s.fork - s.start + s.stop - s.end) for s in self.segments)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    visible: Visible | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, with what :class:`Visible` says in place of a mask.

    Args:
        query: [1, heads, T, d]; key, value: [1, heads or fewer, T, d].

    Returns:
        [1, T, heads, d], and no attention weights.
    """
    if visible is None:
        raise UserError(
            f"{type(module).__name__}: this model does not hand on what its attention is told, "
            "so it cannot be trained here"
        )
    if sliding_window is not None and sliding_window < visible.longest:
        raise UserError(
            f"the model's attention sees {sliding_window} tokens back, but a sample has "
            f"{visible.longest}; lower max_length to {sliding_window}"
        )
    if softcap is not None or s_aux is not None:
        raise UserError(
            f"{type(module).__name__}: attention with soft-capped scores or sinks is not supported"
        )
    # Under autocast, rotary embeddings leave queries and keys in fp32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if visible.block_mask is not None:
        found = compiled_flex()(
            query,
            key,
            value,
            block_mask=visible.block_mask,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    else:
        found = sample_by_sample(query, key, value, visible.segments, scaling)
    return found.transpose(1, 2), None


AttentionInterface.register(NAME, attend)


def sample_by_sample(
    query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], scaling: float | None
) -> Tensor:
    """[1, heads, T, d], with PyTorch's scaled_dot_product_attention."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    pieces = [size for s in segments for size in (s.end - s.start, s.stop - s.end)]
    # Split once: the backward pass of a split is one concatenation, that of slices a sum of rows.
    queries, keys, values = (part.split(pieces, dim=2) for part in (query, key, value))
    found = []
    for number, segment in enumerate(segments):
        trunk, branch = 2 * number, 2 * number + 1
        found.append(
            scaled_dot_product_attention(
                queries[trunk], keys[trunk], values[trunk], is_causal=True, scale=scaling
            )
        )
        size = pieces[branch]
        if size:
            shared = segment.fork - segment.start
            mask = torch.ones(size, shared + size, dtype=torch.bool, device=query.device)
            found.append(
                scaled_dot_product_attention(
                    queries[branch],
                    torch.cat([keys[trunk][:, :, :shared], keys[branch]], dim=2),
                    torch.cat([values[trunk][:, :, :shared], values[branch]], dim=2),
                    attn_mask=mask.tril(shared),
                    scale=scaling,
                )
            )
    return torch.cat(found, dim=2)


# ------------------------------------------------------------------ FlexAttention


def sees(segments: Sequence[Segment], size: int, device: torch.device) -> Callable[..., Tensor]:
    """The mask of a row as a function of two tokens' indices, for FlexAttention.

    Tokens behind the last segment are padding: they see themselves only.
    """
    sample = torch.arange(size) + len(segments)  # padding: each its own
    below = torch.full((size,), size)  # a token sees its sample's tokens below this index ...
    start = torch.zeros(size, dtype=torch.long)  # ... and those from this one on
    for number, segment in enumerate(segments):
        sample[segment.start : segment.stop] = number
        below[segment.end : segment.stop] = segment.fork
        start[segment.end : segment.stop] = segment.end
    sample, below, start = sample.to(device), below.to(device), start.to(device)

    def mask(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (k < below[q]) | (k >= start[q])
        return (sample[q] == sample[k]) & (k <= q) & own

    return mask


def block_mask(segments: Sequence[Segment], size: int, device: torch.device) -> BlockMask:
    """The block mask of a row of ``size`` tokens, padding included."""
    return create_block_mask(
        sees(segments, size, device), None, None, size, size, device=device, BLOCK_SIZE=BLOCK
    )


@functools.cache
def compiled_flex() -> Any:
    """FlexAttention, compiled where there is a GPU; uncompiled it is slow, and right."""
    return torch.compile(flex_attention) if torch.cuda.is_available() else flex_attention


@functools.cache
def backend(asked: str, heads: int, key_heads: int, head_size: int, dtype: torch.dtype) -> str:
    """``flex`` or ``sdpa``: what is asked for if this machine has it, else what is taken instead.

    FlexAttention is fast only when compiled, on a GPU; a trial of the model's shape shows whether
    it can be.
    """
    if asked == "sdpa":
        return "sdpa"
    lacking = None
    if not torch.cuda.is_available():
        lacking = "there is no GPU"
    else:
        try:
            device = torch.device("cuda", torch.cuda.current_device())
            query, key, value = (
                torch.randn(1, n, BLOCK, head_size, device=device, dtype=dtype, requires_grad=True)
                for n in (heads, key_heads, key_heads)
            )
            segments = (Segment(0, BLOCK - 8, BLOCK, 16),)
            mask = block_mask(segments, BLOCK, device)
            found = compiled_flex()(
                query, key, value, block_mask=mask, enable_gqa=heads != key_heads
            )
            found.sum().backward()
        except Exception as error:  # whatever a compiler may raise
            lacking = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if lacking is None:
        return "flex"
    if processes.is_first() and (asked == "flex" or torch.cuda.is_available()):
        log.warning("FlexAttention cannot be used here (%s); taking sdpa instead", lacking)
    return "sdpa"
