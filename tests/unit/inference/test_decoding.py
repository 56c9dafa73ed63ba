import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common.models import load_model
from fgit.inference.decoding import (
    common_start,
    decode,
    decode_texts,
    end_tokens,
    greedy,
    reserved_cache,
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
            logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
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
