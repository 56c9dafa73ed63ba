"""Decoding in batches, one token a step; rows that have ended cost little more.

Not ``model.generate``: that goes on computing rows that have ended until the last one has, reads
what prompts have in common once for each of them, copies all keys and values at each step, and
applies whatever a model's generation_config holds (repetition penalties, top-k).

What a model carries from token to token need not be keys and values, and need not stand padding,
a common start or rows that leave: each would be a wrong answer without an error. So the first
answers of a model wait for a comparison with plain forward passes (:func:`exact_way`). A model
that these loops do not serve is asked by ``model.generate``, one prompt at a time, if that is
exact, and is refused if not.
"""

import contextlib
import functools
import inspect
import logging
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from fgit.common.chat_templates import ends_of_turn
from fgit.common.errors import UserError, described
from fgit.common.models import position_limit
from fgit.common.tokenizers import answer_text

log = logging.getLogger(__name__)

Choose = Callable[[Tensor, list[int]], Tensor]
Ended = Callable[[int, list[int]], bool]
Decode = Callable[..., Iterator[tuple[int, list[int], bool]]]

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

    Raises:
        UserError: for a model that nothing here decodes exactly.
    """
    way = exact_way(model, max(map(len, prompts)) + max_new_tokens)
    yield from way(
        *(model, prompts),
        max_new_tokens=max_new_tokens,
        choose=choose,
        ended=ended,
        wrote=wrote,
    )


@torch.inference_mode()
def in_batches(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    choose: Choose,
    ended: Ended,
    wrote: Callable[[int], Any] = lambda tokens: None,
    share_start: bool = True,
) -> Iterator[tuple[int, list[int], bool]]:
    """All rows together.

    Args:
        share_start: whether what the prompts begin with alike is read once. The padding then lies
            behind it, where layers that look back over a window or carry a state meet it.
        model, prompts, max_new_tokens, choose, ended, wrote: as for :func:`decode`.
    """
    device = model.device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place_of = {ids: place for place, ids in enumerate(distinct)}
    shared = common_start(distinct) if share_start else 0
    longest = max(map(len, distinct))
    limits = [min(max_new_tokens, context_length(model) - len(ids)) for ids in prompts]
    cache: Any = reserved_cache(model, longest + max(limits))
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
        cache.reorder_cache(torch.zeros(len(distinct), dtype=torch.long, device=device))
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
        cache.reorder_cache(own)
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
            cache.reorder_cache(on)
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order; a row may come several times."""
        tokens = self.get_seq_length()
        self.buffers = [self.reserved(buffer[beam_idx, :, :tokens]) for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)


@torch.inference_mode()
def by_library(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    choose: Choose,
    ended: Ended,
    wrote: Callable[[int], Any] = lambda tokens: None,
) -> Iterator[tuple[int, list[int], bool]]:
    """One row after the other, by the model's own generation.

    Args:
        model, prompts, max_new_tokens, choose, ended, wrote: as for :func:`decode`.
    """
    # Nothing that a model's generation_config holds may reach its answers, but generate takes from
    # there whatever it is not told.
    own, bare = model.generation_config, transformers.GenerationConfig(pad_token_id=0)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([list(prompt)], device=model.device)
        most = max(1, min(max_new_tokens, context_length(model) - len(prompt)))
        step = LibraryStep(row, len(prompt), choose, ended, wrote)
        model.generation_config = bare
        try:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=transformers.GenerationConfig(
                    max_new_tokens=most, do_sample=False, pad_token_id=0
                ),
                logits_processor=[step],
                stopping_criteria=[step.stop],
            )
        finally:
            model.generation_config = own
        yield row, step.new, step.complete


class LibraryStep(transformers.LogitsProcessor):
    """Has ``model.generate`` take for a row what ``choose`` takes, and stop where it has ended."""

    def __init__(
        self, row: int, start: int, choose: Choose, ended: Ended, wrote: Callable[[int], Any]
    ) -> None:
        self.row, self.start = row, start
        self.choose, self.ended, self.wrote = choose, ended, wrote
        self.new: list[int] = []
        self.complete = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores that leave one token to choose."""
        chosen = self.choose(scores, [self.row])
        self.wrote(1)
        self.new.append(int(chosen))
        self.complete = self.ended(self.row, self.new)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def stop(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """Whether the row has ended, bool [1]."""
        return torch.tensor([self.complete], device=input_ids.device)


# ------------------------------------------------------------------ which of them is exact

ONE_BY_ONE = "one row at a time by transformers' own generation"
WAYS: dict[str, Decode] = {
    "in batches": in_batches,
    "in batches, a common start read for each row": functools.partial(
        in_batches, share_start=False
    ),
    ONE_BY_ONE: by_library,
}
# By how much logits may differ from those of a plain forward pass: this share of what the context
# changes in them, and this share of their spread. Over the architectures tried, a context that is
# lost or mixed up gave 0.02 and more of the former, and rounding less than 1e-5 in fp32; it gave up
# to 0.1 in bf16, where a mixture of experts may choose others. The latter is for models that hardly
# use their context, as training may leave them: rounding gave up to 1.5e-4 of the spread in fp32.
TOLERANCE = {torch.float32: (0.01, 0.0005)}
ROUGH = (0.2, 0.03)  # where there was no room for weights in fp32
SHORT = (torch.bfloat16, torch.float16)
LARGE = 10**9  # weights
OTHER = "take another model (docs/evaluation.md lists those tried)"
# What a config's numbers are called by which a layer treats tokens otherwise that are so far apart.
DISTANCE = re.compile("window|chunk|block|topk|original_max")

# The exact way of each model, by the distance over which it was compared.
EXACT: weakref.WeakKeyDictionary[Any, dict[int, str]] = weakref.WeakKeyDictionary()


def exact_way(model: Any, longest: int) -> Decode:
    """The first of :data:`WAYS` whose logits are those of plain forward passes; once for a model.

    Args:
        longest: tokens that a row may have, prompt included. The comparison goes beyond those
            windows of the model that are shorter.

    Raises:
        UserError: if none is exact.
    """
    distance = max((n for n in distances(model.config) if 0 < n < longest), default=0)
    exact = EXACT.setdefault(model, {})
    if distance not in exact:
        try:
            with in_fp32(model):
                exact[distance] = first_exact(model, distance)
        except torch.OutOfMemoryError:  # the weights had room in fp32, what they compute had not
            exact[distance] = first_exact(model, distance)
    return WAYS[exact[distance]]


@contextlib.contextmanager
def in_fp32(model: Any) -> Iterator[None]:
    """Have a model's weights in fp32, where rounding hides nothing; they are what they were after.

    Those that a GPU has no room for stay as they are, and so do large ones on a CPU: its memory may
    be a job's, which is killed without a word.
    """
    weights = [t for t in (*model.parameters(), *model.buffers()) if t.dtype in SHORT]
    if model.device.type == "cpu" and sum(weight.numel() for weight in weights) > LARGE:
        weights = []
    dtypes = [weight.dtype for weight in weights]

    def back() -> None:
        for weight, dtype in zip(weights, dtypes, strict=True):
            weight.data = weight.data.to(dtype)

    try:
        for weight in weights:
            weight.data = weight.data.float()
    except torch.OutOfMemoryError:
        back()
    try:
        yield
    finally:
        back()


def distances(config: Any) -> list[int]:
    """The windows, chunks and the like of a config, in tokens."""
    sections, numbers = [config.get_text_config(decoder=True).to_dict()], []
    while sections:
        for key, value in sections.pop().items():
            if isinstance(value, dict):
                sections.append(value)
            elif DISTANCE.search(str(key)):
                several = value if isinstance(value, list) else [value]
                numbers += [n for n in several if type(n) is int]
    return numbers


@torch.inference_mode()
def first_exact(model: Any, distance: int) -> str:
    """The name of the first exact way.

    Four rows of fixed tokens are decoded. They have a common start and three lengths, two are
    equal, one is longer than ``distance``, and they end one after the other: so a start that is
    read once, padding, copies and rows that leave have their part in the logits compared.

    The measure is the root mean square of a row's differences, relative to what its logits change
    by where other tokens stand before the last, at the same positions. Nothing is drawn, and no
    argmax is taken: ties do no harm.
    """
    name = f"{model.name_or_path}: {type(model).__name__} ({model.config.model_type})"
    size = model.get_input_embeddings().weight.shape[0]
    # The first of a vocabulary are often special: padding, images.
    ids = np.random.default_rng(0).integers(size // 8, size, distance + 25).tolist()
    new = [ids[:3], ids[3:5], ids[5:7], ids[7:8]]
    start, rests = ids[8:12], [ids[12:13], ids[13:17], ids[17:]]
    room = max(1, context_length(model) - max(map(len, new)))
    prompts = [(start + rests[place])[:room] for place in (2, 0, 0, 1)]
    others = ids[17 : 17 + len(prompts[1])]
    before = prompts[0][:-5] or prompts[0]
    behind = prompts[0][len(before) :]
    try:
        [longest] = plain(model, [before], [behind + new[0]])
        [not_ahead] = plain(model, [before], [new[0][:1]])
        [shortest] = plain(model, prompts[3:], new[3:])
        # Rows of one length, which need no padding.
        *equal, elsewhere = plain(model, [*prompts[1:3], others], [*new[1:3], new[1]])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} fails in a forward pass over a few tokens, without a cache "
            f"({described(error)}), so it cannot write answers; {OTHER}"
        ) from error
    expected = [longest[len(behind) :], *equal, shortest]
    logits = torch.cat(expected)
    context = difference(elsewhere[-1], equal[0][-1])
    spread = difference(logits.mean(-1, keepdim=True), logits)
    if not context + spread < torch.inf:
        raise UserError(
            f"{name} gives NaN as logits in {model.dtype}; look at its weights, or take dtype "
            "float32"
        )
    of_context, of_spread = TOLERANCE.get(model.dtype, ROUGH)
    most = of_context * context + of_spread * spread
    if difference(longest[:1], not_ahead) > most:
        raise UserError(
            f"{name} looks ahead: its logits change with the tokens behind them, so it cannot "
            f"write answers token by token; {OTHER}"
        )
    reasons: list[str] = []
    for way, decode in WAYS.items():
        try:
            rows = forced(model, decode, prompts, new)
            largest = max(map(difference, rows, expected))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model raises that does not take what is given
            reasons.append(f"{way}: {described(error)}")
            continue
        if largest <= most:
            report(name, way, reasons)
            return way
        reasons.append(
            f"{way}: logits differ by {largest:.2g}, and the context changes them by {context:.2g}"
        )
    raise UserError(
        f"{name} cannot write answers here: what it carries from token to token does not give the "
        f"logits of a forward pass without a cache ({'; '.join(reasons)}); {OTHER}"
    )


def report(name: str, way: str, reasons: Sequence[str]) -> None:
    """Log what serves a model in place of the fastest way."""
    if way == ONE_BY_ONE:
        log.warning(
            "%s writes its answers %s, slower by about the size of a batch (%s)",
            *(name, way, "; ".join(reasons)),
        )
    elif reasons:
        log.info("%s writes its answers %s (%s)", name, way, "; ".join(reasons))


def plain(model: Any, prompts: Sequence[list[int]], new: Sequence[list[int]]) -> Tensor:
    """The logits that each new token is chosen from, float32 [rows, new, vocabulary], by one pass.

    Args:
        prompts, new: of one length each.
    """
    rows = [[*prompt, *tokens[:-1]] for prompt, tokens in zip(prompts, new, strict=True)]
    count = len(new[0])
    ids = torch.tensor(rows, device=model.device)
    last = last_logits_only(model, count)
    return model(input_ids=ids, use_cache=False, **last).logits[:, -count:].float()


def forced(
    model: Any, decode: Decode, prompts: Sequence[list[int]], new: Sequence[list[int]]
) -> list[Tensor]:
    """The logits of each row where these tokens are chosen, float32 [its new, vocabulary]."""
    logits: list[list[Tensor]] = [[] for _ in prompts]

    def choose(scores: Tensor, rows: list[int]) -> Tensor:
        tokens = [new[row][len(logits[row])] for row in rows]
        for row, own in zip(rows, scores.float(), strict=True):
            logits[row].append(own)
        return torch.tensor(tokens, device=scores.device)

    most = max(map(len, new))
    for _ in decode(
        *(model, prompts),
        max_new_tokens=most,
        choose=choose,
        ended=lambda row, tokens: len(tokens) == len(new[row]),
        wrote=lambda tokens: None,
    ):
        pass
    return [torch.stack(row) for row in logits]


def difference(some: Tensor, others: Tensor) -> float:
    """The root mean square over tokens that are not ruled out, with -inf or the lowest number."""
    allowed = (logits.masked_fill(logits < -1e30, 0.0) for logits in (some, others))
    return float(torch.sub(*allowed).square().mean().sqrt())


# ------------------------------------------------------------------ caches, lengths, ends


def reserved_cache(model: Any, room: int) -> transformers.DynamicCache:
    """A cache of the model's own kind whose plain layers have room for so many tokens."""
    cache = transformers.DynamicCache(config=model.config)
    cache.layers = [
        ReservedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def last_logits_only(model: Any, count: int = 1) -> dict[str, int]:
    """The argument that spares all but the last logits, where the model's class has it."""
    has = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": count} if has else {}


def context_length(model: Any) -> int:
    """Tokens that the model has positions for."""
    return position_limit(model)[0] or 2**31


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer (:func:`fgit.common.chat_templates.ends_of_turn`)."""
    return set(ends_of_turn(tokenizer, model.generation_config))
