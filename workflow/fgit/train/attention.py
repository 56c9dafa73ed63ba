"""Attention over a packed row: a trunk sees itself, a branch its trunk up to the fork and itself.

Registered with transformers under a name of our own, so that nothing but a model's attention is
computed differently, and no library guesses from positions which tokens belong together. Two forms
of one mask:

- ``sdpa``: PyTorch's scaled_dot_product_attention, causal for each trunk, and with a boolean mask
  for the branches of a few samples at a time. Little work is spent on pairs of tokens that do not
  see each other.
- ``flex``: FlexAttention with a block mask for the whole row, compiled; for GPUs.
"""

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

from fgit.common import processes
from fgit.common.errors import UserError, described
from fgit.train.rows import Segment

log = logging.getLogger(__name__)

ATTENTION = "trunk_and_branch"  # its name with transformers
FLEX_BLOCK = 128  # rows are padded to a multiple of FlexAttention's block


@dataclasses.dataclass(frozen=True)
class Visible:
    """Which tokens of a row see which: its groups and, for FlexAttention, the block mask."""

    groups: tuple[tuple[Segment, ...], ...]
    block_mask: BlockMask | None = None

    @property
    def longest(self) -> int:
        """The longest distance between two tokens that see each other, in positions."""
        segments = [segment for group in self.groups for segment in group]
        return max(max(s.end, s.fork + s.stop - s.branch) - s.start for s in segments)

    @functools.cached_property
    def branch_masks(self) -> list[Tensor]:
        """For each group, bool [its branch tokens, its tokens]: what they see; on the CPU."""
        masks = []
        for group in self.groups:
            first, behind = group[0].start, group[0].branch
            mask = torch.zeros(group[-1].stop - behind, group[-1].stop - first, dtype=torch.bool)
            for s in group:
                rows = slice(s.branch - behind, s.stop - behind)
                mask[rows, s.start - first : s.fork - first] = True
                own = torch.ones(s.stop - s.branch, s.stop - s.branch, dtype=torch.bool)
                mask[rows, s.branch - first : s.stop - first] = own.tril()
            masks.append(mask)
        return masks


def head_size(config: Any) -> int:
    """d, the numbers that a head of attention has for each token."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


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
        grouped = key.shape[1] != query.shape[1]
        output = compiled_flex()(
            *(query, key, value), block_mask=visible.block_mask, scale=scaling, enable_gqa=grouped
        )
    else:
        output = by_groups(query, key, value, visible, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)


def by_groups(
    query: Tensor, key: Tensor, value: Tensor, visible: Visible, scaling: float | None
) -> Tensor:
    """[1, heads, T, d], with PyTorch's scaled_dot_product_attention.

    A trunk is a call of its own, so that none is spent on other samples. A branch is often a token
    or two, where the call would cost more than its work: a group's branches share one.
    """
    ratio = query.shape[1] // key.shape[1]
    if ratio > 1:
        key, value = key.repeat_interleave(ratio, 1), value.repeat_interleave(ratio, 1)
    sizes = [group[-1].stop - group[0].start for group in visible.groups]
    # Split once: the backward pass of a split is one concatenation, that of slices a sum of rows.
    pieces = [part.split(sizes, dim=2) for part in (query, key, value)]
    outputs = []
    for group, mask, q, k, v in zip(visible.groups, visible.branch_masks, *pieces, strict=True):
        branches = len(mask)
        trunks = [s.end - s.start for s in group]
        inner = [part.split([*trunks, branches], dim=2) for part in (q, k, v)]
        for a, b, c in list(zip(*inner, strict=True))[:-1]:
            outputs.append(scaled_dot_product_attention(a, b, c, is_causal=True, scale=scaling))
        if branches:
            mask, q = mask.to(q.device), inner[0][-1]
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
    return torch.cat(outputs, dim=2)


# ------------------------------------------------------------------ FlexAttention


def sees(segments: Sequence[Segment], size: int, device: torch.device) -> Callable[..., Tensor]:
    """The mask of a row as a function of two tokens' indices, for FlexAttention.

    Tokens behind the last segment are padding: they see themselves only.
    """
    sample = torch.arange(size) + len(segments)  # padding: each its own
    below = torch.full((size,), size)  # a token sees its sample's tokens below this index ...
    start = torch.zeros(size, dtype=torch.long)  # ... and those from this one on
    for number, segment in enumerate(segments):
        sample[segment.start : segment.end] = number
        branch = slice(segment.branch, segment.stop)
        sample[branch], below[branch], start[branch] = number, segment.fork, segment.branch
    sample, below, start = sample.to(device), below.to(device), start.to(device)

    def mask(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (k < below[q]) | (k >= start[q])
        return (sample[q] == sample[k]) & (k <= q) & own

    return mask


def block_mask(segments: Sequence[Segment], size: int, device: torch.device) -> BlockMask:
    """The block mask of a row of ``size`` tokens, padding included."""
    return create_block_mask(
        sees(segments, size, device), None, None, size, size, device=device, BLOCK_SIZE=FLEX_BLOCK
    )


@functools.cache
def compiled_flex() -> Any:
    """FlexAttention, compiled where there is a GPU; uncompiled it is slow, and right."""
    return torch.compile(flex_attention) if torch.cuda.is_available() else flex_attention


@functools.cache
def backend(setting: str, heads: int, key_heads: int, head_size: int, dtype: torch.dtype) -> str:
    """``flex`` or ``sdpa``: what the settings ask for if this machine can, else sdpa.

    FlexAttention is fast only when compiled, on a GPU; a trial of the model's shape shows whether
    it can be.
    """
    if setting == "sdpa":
        return "sdpa"
    lacking = "there is no GPU"
    if torch.cuda.is_available():
        try:
            device, size = torch.device("cuda", torch.cuda.current_device()), FLEX_BLOCK
            query, key, value = (
                torch.randn(1, n, size, head_size, device=device, dtype=dtype, requires_grad=True)
                for n in (heads, key_heads, key_heads)
            )
            mask = block_mask([Segment(0, size - 8, size - 8, size, 16)], size, device)
            grouped = heads != key_heads
            output = compiled_flex()(query, key, value, block_mask=mask, enable_gqa=grouped)
            output.sum().backward()
            return "flex"
        except Exception as error:  # whatever a compiler may raise
            lacking = described(error)
    if processes.is_first() and (setting == "flex" or torch.cuda.is_available()):
        log.warning("FlexAttention cannot be used here (%s); taking sdpa instead", lacking)
    return "sdpa"
