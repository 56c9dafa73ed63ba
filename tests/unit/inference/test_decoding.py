import logging

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.inference import decoding
from fgit.inference.decoding import (
    ONE_BY_ONE,
    by_library,
    common_start,
    decode,
    decode_texts,
    end_tokens,
    exact_way,
    first_exact,
    greedy,
    in_batches,
    reserved_cache,
)
from fgit.inference.transformers_engine import GumbelSampling
from tests.architectures import (
    documented,
    from_config,
    small_windows,
    tiny,
    tiny_config,
    trains,
    writes,
)

PROMPTS = [[5, 6, 7], [8], [5, 6, 7], [9, 10, 11, 12]]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), dtype="float32")


def alone(model, prompt, length, choose=None):
    """One token at a time, the whole sequence anew for each: slow, and without a cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(length):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
            ids.append(int((choose or greedy)(logits, [0])))
    return ids[len(prompt) :]


def never(row, tokens):
    return False


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(3, 400), min_size=1, max_size=6), min_size=1, max_size=5))
def test_greedy_equals_one_at_a_time(model, prompts):
    found = {
        row: tokens
        for row, tokens, _ in decode(model, prompts, max_new_tokens=5, choose=greedy, ended=never)
    }
    assert found == {row: alone(model, prompt, 5) for row, prompt in enumerate(prompts)}


tokens = st.integers(3, 400)


@settings(max_examples=8)
@given(
    st.lists(tokens, max_size=5),
    st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=1, max_size=9),
    st.integers(1, 5),
)
def test_a_common_start_is_read_once_and_changes_nothing(model, start, rests, longest):
    """Prompts that begin alike, some of them equal, in rows of many lengths."""
    prompts = [start + rest for rest in rests]
    lengths = [1 + row % longest for row in range(len(prompts))]
    written = []
    found = {
        row: new
        for row, new, _ in decode(
            *(model, prompts),
            max_new_tokens=8,
            choose=greedy,
            ended=lambda row, new: len(new) == lengths[row],
            wrote=written.append,
        )
    }
    assert found == {row: alone(model, ids, lengths[row]) for row, ids in enumerate(prompts)}
    assert sum(written) == sum(lengths)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4))
def test_of_each_prompt_a_token_is_left(prompts):
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    count = common_start(distinct)
    assert len({ids[:count] for ids in distinct}) == 1
    assert all(len(ids) > count for ids in distinct)
    if len(distinct) > 1 and all(len(ids) > count + 1 for ids in distinct):
        assert len({ids[count] for ids in distinct}) > 1


def test_a_step_copies_no_keys_and_values(model):
    """The buffers of a layer stay where they are while no row is taken out."""
    cache = reserved_cache(model, 9)
    mask = torch.ones(2, 4, dtype=torch.long)
    with torch.inference_mode():
        model(input_ids=torch.full((2, 4), 5), attention_mask=mask, past_key_values=cache)
        before = [layer.keys.data_ptr() for layer in cache.layers]
        mask = torch.ones(2, 5, dtype=torch.long)
        model(input_ids=torch.full((2, 1), 6), attention_mask=mask, past_key_values=cache)
    assert [layer.keys.data_ptr() for layer in cache.layers] == before
    assert cache.get_seq_length() == 5


def test_rows_that_end_leave_the_others_alone(model):
    whole = [alone(model, prompt, 8) for prompt in PROMPTS]

    def ended(row, tokens):
        return len(tokens) == row + 1

    found = {
        row: (tokens, complete)
        for row, tokens, complete in decode(
            model, PROMPTS, max_new_tokens=8, choose=greedy, ended=ended
        )
    }
    assert found == {row: (whole[row][: row + 1], True) for row in range(4)}


def test_choose_knows_its_rows(model):
    """Equal prompts are read once, and each row still draws for itself."""

    def choose(logits, rows):
        return torch.tensor([100 + row for row in rows])

    found = {
        row: tokens
        for row, tokens, _ in decode(
            model,
            PROMPTS,
            max_new_tokens=3,
            choose=choose,
            ended=lambda row, tokens: row == 1,
        )
    }
    assert found == {0: [100] * 3, 1: [101], 2: [102] * 3, 3: [103] * 3}


def test_shared_prompts_go_on_as_if_alone(model):
    """After the shared reading, rows that chose differently continue from their own tokens."""

    def pick(place):
        return lambda logits, rows: logits.argsort(-1)[:, -1 - place]

    def choose(logits, rows):
        ranked = logits.argsort(-1)
        return torch.stack([ranked[i, -1 - row] for i, row in enumerate(rows)])

    found = {
        row: tokens
        for row, tokens, _ in decode(
            model, [[5, 6, 7]] * 2, max_new_tokens=4, choose=choose, ended=never
        )
    }
    assert found == {row: alone(model, [5, 6, 7], 4, pick(row)) for row in (0, 1)}


def test_length_limit_is_not_an_end(model):
    [(_, tokens, complete)] = decode(model, [[5]], max_new_tokens=2, choose=greedy, ended=never)
    assert len(tokens) == 2
    assert not complete


def test_context_length_ends_a_row(model, monkeypatch):
    monkeypatch.setattr(model.config, "max_position_embeddings", 6)
    [(_, tokens, _)] = decode(model, [[5, 6, 7]], max_new_tokens=50, choose=greedy, ended=never)
    assert len(tokens) == 3


def test_end_tokens(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, 8])
    assert end_tokens(model, tokenizer) == {7, 8, tokenizer.eos_token_id}


def test_the_token_that_ends_an_answer_is_not_its_text(model, tokenizer, monkeypatch):
    """Whether it is a special token or not; a model may end its turn in an ordinary one."""
    [a, end] = tokenizer("a stop", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [end])
    written = {0: [a, a, end], 1: [a, a, a, a]}

    def choose(logits, rows):
        step = len(seen) // 2 if len(seen) < 6 else 3
        seen.extend(rows)
        return torch.tensor([written[row][step] for row in rows])

    seen = []
    found = decode_texts(
        *(model, tokenizer, [[5], [6]], lambda tokens: False),
        max_new_tokens=4,
        wrote=lambda count: None,
        choose=choose,
    )
    assert sorted(found) == [(0, "aa", 3, True), (1, "aaaa", 4, False)]


# ------------------------------------------------------------------ models of other kinds

OTHER_START, NO_WAY = "in batches, a common start read for each row", "refused"
# Each differs from the others in what it carries from token to token, or in what it makes of
# padding, positions and distances. Windows are of 6 tokens.
KINDS = {
    "gpt2": "in batches",  # learned positions
    "deepseek_v3": "in batches",  # latent attention, experts
    "mistral": OTHER_START,  # sliding windows in all layers
    "gpt_oss": OTHER_START,  # ... in some, and sinks
    "gpt_neo": OTHER_START,  # windows that its cache does not know of
    "llama4_text": OTHER_START,  # chunks
    "mpt": OTHER_START,  # ALiBi
    "qwen3_5_text": OTHER_START,  # linear attention in some layers
    "jamba": OTHER_START,  # a state space in some layers
    "lfm2": OTHER_START,  # convolutions in some layers
    "mamba": ONE_BY_ONE,  # a state space alone
    "rwkv": ONE_BY_ONE,  # a state of its own
    "recurrent_gemma": ONE_BY_ONE,  # a state inside of its modules
    "bart": ONE_BY_ONE,  # positions counted by the cache
    "ernie": NO_WAY,  # an encoder, which looks ahead
    "roberta": NO_WAY,  # positions that begin behind the padding token's id
}
RAGGED = [[5, 6, 7, *range(20, 38)], [5, 6, 7, 9], [5, 6, 7, 9], [5, 6, 7, *range(60, 67)]]
LENGTHS = [7, 9, 2, 4]


def assert_exact(kind, way):
    """Answers are those of full forward passes, or the model is refused by name."""
    other = tiny(tiny_config(kind, **small_windows(kind)))

    def answers():
        rows = decode(
            *(other, RAGGED),
            max_new_tokens=max(LENGTHS),
            choose=greedy,
            ended=lambda row, tokens: len(tokens) == LENGTHS[row],
        )
        return {row: (tokens, complete) for row, tokens, complete in rows}

    if way == NO_WAY:
        with pytest.raises(UserError, match=rf"{type(other).__name__} \({kind}\) .*another model"):
            answers()
        return
    found = answers()
    expected = [alone(other, *row) for row in zip(RAGGED, LENGTHS, strict=True)]
    assert found == {row: (tokens, True) for row, tokens in enumerate(expected)}
    assert list(decoding.EXACT[other].values()) == [way]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_full_forward_passes(kind):
    assert_exact(kind, KINDS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", documented())
def test_what_is_documented_of_architectures(kind):
    """As in docs/evaluation.md; and beyond small windows answers are exact, or refused."""
    model = tiny(tiny_config(kind))
    assert (writes(model), trains(model)) == documented()[kind]
    shorter = tiny(tiny_config(kind, **small_windows(kind)))
    try:
        rows = list(decode(shorter, RAGGED, max_new_tokens=9, choose=greedy, ended=never))
    except UserError:
        rows = []
    for row, tokens, _ in rows:
        assert tokens == alone(shorter, RAGGED[row], 9)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_the_library_answers_as_the_loop_does(model, monkeypatch, temperature):
    """Choice, ends, limits and progress; and nothing that a generation_config holds."""
    own = transformers.GenerationConfig(
        repetition_penalty=5.0, max_length=3, eos_token_id=5, do_sample=True, forced_eos_token_id=9
    )
    monkeypatch.setattr(model, "generation_config", own)
    monkeypatch.setattr(model.config, "max_position_embeddings", 12)

    def rows(way):
        written = []
        choose = GumbelSampling([3, 1, 4, 1], temperature, model.device) if temperature else greedy
        found = way(
            *(model, [*PROMPTS[:3], list(range(5, 15))]),
            max_new_tokens=6,
            choose=choose,
            ended=lambda row, tokens: len(tokens) == 2 + 2 * row,
            wrote=written.append,
        )
        return sorted(found), sum(written)

    assert rows(by_library) == rows(in_batches)
    assert [len(tokens) for _, tokens, _ in rows(by_library)[0]] == [2, 4, 6, 2]
    assert model.generation_config is own


def test_a_model_is_compared_once_and_nothing_is_drawn(tiny_model, caplog, monkeypatch):
    model = load_model(str(tiny_model), dtype="bfloat16")
    calls = []
    monkeypatch.setattr(
        decoding, "first_exact", lambda *seen: calls.append(1) or first_exact(*seen)
    )
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    before = torch.get_rng_state()
    for _ in range(2):
        list(decode(model, PROMPTS, max_new_tokens=2, choose=greedy, ended=never))
    assert torch.equal(torch.get_rng_state(), before)
    assert (calls, caplog.messages) == ([1], [])
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.bfloat16}


def test_bf16_hides_no_fault():
    """Convolutions over padding change these logits by less than bf16 may round them."""
    way = exact_way(tiny(tiny_config("lfm2")).bfloat16(), 20)
    assert way is decoding.WAYS[OTHER_START]


def test_what_serves_a_model_is_said(caplog):
    caplog.set_level(logging.INFO, "fgit")
    for kind, level in {"mamba": "WARNING", "lfm2": "INFO"}.items():
        exact_way(tiny(tiny_config(kind)), 20)
        assert caplog.records[-1].levelname == level
        assert f"({kind}) writes its answers {KINDS[kind]}" in caplog.records[-1].message


def test_nan_is_not_blamed_on_the_architecture(tiny_model):
    model = load_model(str(tiny_model), dtype="float32")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN as logits"):
        exact_way(model, 20)


@pytest.mark.parametrize(("noise", "message"), [(1e-4, None), (0.01, "context changes them by 0")])
def test_a_model_that_does_not_use_its_context(tiny_model, monkeypatch, noise, message):
    """Training may leave one behind: rounding is no fault of it, and a fault is still one."""
    model = load_model(str(tiny_model), dtype="float32")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    generator = torch.Generator().manual_seed(0)

    def rounded(*arguments, choose, **options):
        def noisy(logits, rows):
            errors = torch.randn(logits.shape, generator=generator)
            return choose(logits + noise * logits.std() * errors, rows)

        return in_batches(*arguments, choose=noisy, **options)

    monkeypatch.setattr(decoding, "WAYS", {"rounded": rounded})
    if message:
        with pytest.raises(UserError, match=message):
            exact_way(model, 20)
    else:
        assert exact_way(model, 20) is rounded


def test_constant_logits_are_served(tiny_model):
    model = load_model(str(tiny_model), dtype="float32")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert exact_way(model, 20) is in_batches


@pytest.mark.parametrize("kind", ["ernie", "bert-generation"])
def test_small_weights_hide_no_look_ahead(kind):
    """Of an untrained encoder a token's position changes the logits more than the context does."""
    with pytest.raises(UserError, match="looks ahead"):
        exact_way(from_config(tiny_config(kind)), 20)


def test_without_room_for_fp32_the_comparison_is_in_bf16(tiny_model, monkeypatch):
    """Weights may have had room, and what they compute had not."""
    model = load_model(str(tiny_model), dtype="bfloat16")

    def on_a_small_gpu(*arguments):
        if model.dtype is torch.float32:
            raise torch.OutOfMemoryError
        return first_exact(*arguments)

    monkeypatch.setattr(decoding, "first_exact", on_a_small_gpu)
    assert exact_way(model, 20) is in_batches
