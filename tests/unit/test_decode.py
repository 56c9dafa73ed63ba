import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.decode import decode, end_tokens, greedy
from fgit.models import load_model

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
