import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgit.train import rows as rows_module
from fgit.train.attention import sees
from fgit.train.examples import Example
from fgit.train.rows import lay_out, length, pack

ids = st.lists(st.integers(0, 3), max_size=6)  # few values, so that sides often agree


@st.composite
def some_examples(draw):
    found = []
    for number in range(draw(st.integers(1, 6))):
        prompt = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        y = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
        v = draw(ids)
        marks = [
            np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int8)
            for n in (len(y), len(v))
        ]
        p, y, v = (np.array(side, np.int64) for side in (prompt, y, v))
        found.append(Example(str(number), p, y, marks[0], v, marks[1]))
    return found


OBJECTIVES = st.sampled_from(["fgit", "fixed", "dpo"])


def context(row, index):
    """The (position, token) pairs that the token at an index of a row sees, itself included."""
    mask = sees(row.segments, len(row), torch.device("cpu"))
    k = torch.arange(len(row))
    seen = mask(None, None, torch.full_like(k, index), k)
    positions, tokens = row.positions[0][seen].tolist(), row.tokens[0][seen].tolist()
    return sorted(zip(positions, tokens, strict=True))


@given(some_examples(), OBJECTIVES, st.sampled_from([1, 12, 512]))
def test_each_probability_is_read_behind_its_own_past(samples, objective, group):
    """What a token sees is x and the side's tokens before it, at their positions; no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "GROUP", group)
        row = lay_out(samples, objective)
    responses = len(row.response_sample)
    assert row.response_sample.tolist() == [
        number for number, e in enumerate(samples) for _ in e.response
    ]
    seen_in = [dict.fromkeys(range(len(e.response))) for e in samples]
    for k in range(responses):
        example = samples[row.response_sample[k]]
        t = next(iter(seen_in[row.response_sample[k]]))
        del seen_in[row.response_sample[k]][t]
        past = [*example.prompt.tolist(), *example.response.tolist()[:t]]
        assert row.labels[k] == example.response[t]
        assert context(row, int(row.read_at[k])) == list(enumerate(past))
    for number, example in enumerate(samples):
        own = row.variant_sample == number
        if objective == "fixed" or (objective == "fgit" and not example.paired):
            assert not own.any()
            continue
        wanted = np.flatnonzero(example.variant_marks)
        if objective == "dpo":
            y, v = example.response.tolist(), example.variant.tolist()
            same = [a == b for a, b in zip(y, v, strict=False)]
            fork = same.index(False) if False in same else len(same)
            wanted = np.arange(fork, len(v))
        assert int(own.sum()) == len(wanted)
        for t, k in zip(wanted, row.variant_at[own].tolist(), strict=True):
            past = [*example.prompt.tolist(), *example.variant.tolist()[:t]]
            assert row.labels[k] == example.variant[t]
            assert context(row, int(row.read_at[k])) == list(enumerate(past))


@given(some_examples(), OBJECTIVES)
def test_length_is_what_is_laid_out(samples, objective):
    assert len(lay_out(samples, objective)) == sum(length(e, objective) for e in samples)


def test_a_branch_ends_before_the_last_marked_token():
    """What the drawing of fgit.train.rows shows."""
    one = Example(
        "s",
        np.array([10, 11, 12]),
        np.array([1, 2, 3, 4, 0]),  # a b C d end
        np.array([0, 0, 1, 0, 0], np.int8),
        np.array([1, 2, 5, 6, 4, 0]),  # a b X y d end
        np.array([0, 0, 1, 1, 0, 0], np.int8),
    )
    row = lay_out([one], "fgit")
    assert row.tokens[0].tolist() == [10, 11, 12, 1, 2, 3, 4, 5]
    assert row.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5]
    assert row.read_at.tolist() == [2, 3, 4, 5, 6, 4, 7]
    assert row.labels.tolist() == [1, 2, 3, 4, 0, 5, 6]
    two = lay_out([one, one], "fgit")  # both trunks, then both branches
    assert two.tokens[0].tolist() == [*row.tokens[0].tolist()[:7] * 2, 5, 5]
    assert two.read_at.tolist()[-4:] == [4, 14, 11, 15]
    assert lay_out([one], "fixed").tokens[0].tolist() == [10, 11, 12, 1, 2, 3, 4]


@given(some_examples(), st.integers(1, 60), OBJECTIVES, st.integers(1, 3))
def test_packing(samples, budget, objective, multiple):
    rows = pack(samples, budget, objective, multiple)
    assert len(rows) % multiple == 0
    assert sorted(e.id for row in rows for e in row) == [e.id for e in samples]
    totals = [sum(length(e, objective) for e in row) for row in rows]
    assert totals == sorted(totals, reverse=True)
    for row, total in zip(rows, totals, strict=True):
        assert total <= budget or len(row) == 1
    assert rows == pack(samples, budget, objective, multiple)


def test_packing_needs_few_rows():
    """Real lengths: no more rows than the tokens need, but for one."""
    generator = np.random.default_rng(0)
    samples = [
        Example(str(i), np.ones(n, np.int64), np.ones(50, np.int64), *[np.zeros(0, np.int8)] * 3)
        for i, n in enumerate(generator.integers(50, 400, 64))
    ]
    total = sum(length(e, "fixed") for e in samples)
    assert len(pack(samples, 2048, "fixed")) <= -(-total // 2048) + 1
