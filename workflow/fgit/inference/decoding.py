"""Decoding in batches, one token a step; rows that have ended cost little more.

Not ``model.generate``: that goes on computing rows that have ended until the last one has, reads
what prompts have in common once for each of them, copies all keys and values at each step, and
applies whatever a model's generation_config holds (repetition penalties, top-k).
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from fgit.common.chat_templates import ends_of_turn
from fgit.common.models import position_limit
from fgit.common.tokenizers import answer_text

Choose = Callable[[Tensor, list[int]], Tensor]
Ended = Callable[[int, list[int]], bool]

# Rows that have ended are taken out of the batch once they are one of so many.
ENDED_SHARE = 8


def greedy(logits: Tensor, rows: list[int]) -> Tensor:
    """The most probable tokens."""
    return logits.argmax(-1)


def decode_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    complete: Callable[[list[int]], bool],
    *,
    max_new_tokens: int,
    wrote: Callable[[int], Any],
    choose: Choose = greedy,
) -> Iterator[tuple[int, str, int, bool]]:
    """Yield ``(row, text, new tokens, whether it ended by itself)`` as the rows end.

    Args:
        complete: whether a row's tokens so far are all; an end token ends it in any case.
        prompts, max_new_tokens, wrote, choose: as for :func:`decode`.
    """
    ends = end_tokens(model, tokenizer)

    def ended(row: int, tokens: list[int]) -> bool:
        return tokens[-1] in ends or complete(tokens)

    for row, tokens, by_itself in decode(
        model, prompts, max_new_tokens=max_new_tokens, choose=choose, ended=ended, wrote=wrote
    ):
        text = answer_text(tokenizer, tokens[:-1] if tokens[-1] in ends else tokens)
        yield row, text, len(tokens), by_itself


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    choose: Choose,
    ended: Ended,
    wrote: Callable[[int], Any] = lambda tokens: None,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield ``(row, new tokens, whether it ended by itself)`` as the rows end.

    Args:
        prompts: token ids of each row; none is empty. What they begin with alike is read once, and
            so are equal prompts.
        max_new_tokens: length limit; a row also stops at the model's context length.
        choose: next tokens int64 [n], from logits [n, vocabulary] and the n rows they belong to.
        ended: whether a row is complete, asked after each of its tokens.
        wrote: told after each step how many tokens it gave.
    """
    device = model.device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place_of = {ids: place for place, ids in enumerate(distinct)}
    shared = common_start(distinct)
    longest = max(map(len, distinct))
    limits = [min(max_new_tokens, context_length(model) - len(ids)) for ids in prompts]
    cache = reserved_cache(model, longest + max(limits))
    last = last_logits_only(model)

    def step(inputs: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **last,
        ).logits[:, -1]

    if shared:
        start = torch.tensor([distinct[0][:shared]], device=device)
        step(start, torch.ones_like(start), torch.arange(shared, device=device)[None])
        cache.batch_select_indices(torch.zeros(len(distinct), dtype=torch.long, device=device))
    # Behind the common start, so that all prompts end together.
    padding = [longest - len(ids) for ids in distinct]
    rest = [[0] * pad + list(ids[shared:]) for pad, ids in zip(padding, distinct, strict=True)]
    columns = torch.arange(longest, device=device)
    pads = torch.tensor(padding, device=device)[:, None]
    mask = ((columns < shared) | (columns >= shared + pads)).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = step(torch.tensor(rest, device=device), mask, positions[:, shared:])
    if len(distinct) < len(prompts):  # each row gets a copy of its prompt's keys and values
        own = torch.tensor([place_of[tuple(ids)] for ids in prompts], device=device)
        cache.batch_select_indices(own)
        logits, mask, positions = logits[own], mask[own], positions[own]
    rows = list(range(len(prompts)))  # of the batch, in its order
    going = list(rows)  # the places in the batch of those that go on
    new: list[list[int]] = [[] for _ in prompts]
    while True:
        on = torch.tensor(going, device=device)
        chosen = choose(logits[on], [rows[place] for place in going])
        wrote(len(going))
        inputs = chosen.new_zeros(len(rows))
        inputs[on] = chosen
        stay = []
        for place, token in zip(going, chosen.tolist(), strict=True):
            row = rows[place]
            new[row].append(token)
            complete = ended(row, new[row])
            if complete or len(new[row]) >= limits[row]:
                yield row, new[row], complete
            else:
                stay.append(place)
        if not stay:
            return
        going = stay
        if len(rows) - len(going) > len(rows) // ENDED_SHARE:
            on = torch.tensor(going, device=device)
            cache.batch_select_indices(on)
            inputs, mask, positions = inputs[on], mask[on], positions[on]
            rows = [rows[place] for place in going]
            going = list(range(len(rows)))
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits = step(inputs[:, None], mask, positions)


def common_start(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with alike; of each at least the last token is left."""
    first, last = min(prompts), max(prompts)  # what these two share, all do
    most = min(map(len, prompts)) - 1
    if len(prompts) == 1:
        return 0
    pairs = enumerate(zip(first, last, strict=False))
    return min(most, next((place for place, (a, b) in pairs if a != b), most))


class ReservedLayer(DynamicLayer):
    """Keys and values of a layer in buffers with room for all tokens: a step copies none of them.

    Args:
        room: tokens that there is room for.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def reserved(self, states: Tensor) -> Tensor:
        """The states, float [rows, heads, tokens, size], at the start of a buffer with room."""
        rows, heads, tokens, size = states.shape
        buffer = states.new_empty(rows, heads, max(self.room, tokens), size)
        buffer[:, :, :tokens] = states
        return buffer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put further tokens behind those that are there; the views of all."""
        before, count = self.get_seq_length(), key_states.shape[-2]
        if not before:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [self.reserved(states) for states in (key_states, value_states)]
        else:
            for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, before : before + count] = states
        keys, values = (buffer[:, :, : before + count] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may come several times."""
        tokens = self.get_seq_length()
        self.buffers = [self.reserved(buffer[indices, :, :tokens]) for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)


def reserved_cache(model: Any, room: int) -> transformers.DynamicCache:
    """A cache of the model's own kind whose plain layers have room for so many tokens."""
    cache = transformers.DynamicCache(config=model.config)
    cache.layers = [
        ReservedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def last_logits_only(model: Any) -> dict[str, int]:
    """The argument that spares the logits of the prompt, where the model's class has it."""
    has = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if has else {}


def context_length(model: Any) -> int:
    """Tokens that the model has positions for."""
    return position_limit(model)[0] or 2**31


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer (:func:`fgit.common.chat_templates.ends_of_turn`)."""
    return set(ends_of_turn(tokenizer, model.generation_config))
