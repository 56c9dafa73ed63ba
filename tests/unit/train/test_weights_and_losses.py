import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgit.train.weights_and_losses import (
    dynamic_weight,
    marked_mean,
    preference_loss,
    token_weights,
    weighted_nll,
)

PROBABILITY = st.floats(0, 1, width=32)
ALPHA = st.floats(1, 10, width=32)


@given(PROBABILITY, PROBABILITY, ALPHA, st.sampled_from(["clipped", "absolute"]))
def test_weight_lies_between_one_and_alpha(p, q, alpha, gap):
    w = dynamic_weight(torch.tensor(p), torch.tensor(q), alpha, gap).item()
    assert 1 - 1e-6 <= w <= alpha * (1 + 1e-6)


@given(PROBABILITY, ALPHA)
def test_equal_means_give_alpha(p, alpha):
    w = dynamic_weight(torch.tensor(p), torch.tensor(p), alpha)
    assert w.item() == pytest.approx(alpha)


@given(PROBABILITY.filter(lambda p: p > 1e-6), ALPHA)
def test_a_model_that_is_sure_gives_one(p, alpha):
    assert dynamic_weight(torch.tensor(p), torch.tensor(0.0), alpha).item() == pytest.approx(1)


@given(PROBABILITY.filter(lambda p: p > 1e-6), ALPHA)
def test_a_model_that_prefers_the_variant(p, alpha):
    p, q = torch.tensor(0.0), torch.tensor(p)
    assert dynamic_weight(p, q, alpha, "clipped").item() == pytest.approx(alpha)
    assert dynamic_weight(p, q, alpha, "absolute").item() == pytest.approx(1)


def test_weight_by_hand():
    w = dynamic_weight(torch.tensor([0.6, 0.2]), torch.tensor([0.2, 0.6]), alpha=3.0)
    assert w.tolist() == pytest.approx([1 + 2 * (1 - 0.4 / 0.8), 3.0])
    w = dynamic_weight(torch.tensor(0.2), torch.tensor(0.6), alpha=3.0, gap="absolute")
    assert w.item() == pytest.approx(2.0)


def test_both_means_zero_has_a_finite_gradient():
    p = torch.tensor(0.0, requires_grad=True)
    w = dynamic_weight(p, torch.tensor(0.0), 2.0)
    w.backward()
    assert w.item() == 2.0
    assert torch.isfinite(p.grad)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(1.1, 5))
def test_gradient_of_the_weight(p, q, alpha):
    """dw/dp and dw/dq against the derivative worked out by hand, where p > q; else 0."""
    if abs(p - q) < 1e-3:
        return
    a = torch.tensor(p, requires_grad=True, dtype=torch.float32)
    b = torch.tensor(q, requires_grad=True, dtype=torch.float32)
    dynamic_weight(a, b, alpha).backward()
    slope = (alpha - 1) * 2 / (p + q) ** 2
    expected = (-slope * q, slope * p) if p > q else (0.0, 0.0)
    assert a.grad.item() == pytest.approx(expected[0], rel=1e-3, abs=1e-6)
    assert b.grad.item() == pytest.approx(expected[1], rel=1e-3, abs=1e-6)


@given(st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_descent_never_raises_the_variant(p, q):
    """The sign of dL/dq: clipped, descent lowers P(y') or leaves it; absolute, it may raise it."""
    if abs(p - q) < 1e-3:
        return
    gradients = {}
    for gap in ("clipped", "absolute"):
        b = torch.tensor(q, requires_grad=True)
        w = dynamic_weight(torch.tensor(p), b, 2.0, gap)
        (
            w * 1.5
        ).backward()  # the loss is w times a positive number, plus what does not depend on q
        gradients[gap] = b.grad.item()
    assert gradients["clipped"] >= 0
    assert gradients["clipped"] > 0 if p > q else gradients["clipped"] == 0
    assert gradients["absolute"] > 0 if p > q else gradients["absolute"] < 0


def test_marked_mean():
    logprobs = torch.tensor([0.5, 0.25, 1.0, 0.5, 0.5]).log()
    marks = torch.tensor([2, 1, 0, 0, 0], dtype=torch.int8)
    sample = torch.tensor([0, 0, 0, 1, 1])
    assert marked_mean(logprobs, marks, sample, 2).tolist() == pytest.approx(
        [(2 * 0.5 + 0.25) / 3, 0.0]
    )


def test_marked_mean_is_fp32():
    logprobs = torch.tensor([0.3, 0.7], dtype=torch.bfloat16).log()
    sample = torch.zeros(2, dtype=torch.long)
    assert marked_mean(logprobs, torch.ones(2), sample, 1).dtype == torch.float32


def test_token_weights():
    sample = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = token_weights(torch.tensor([0, 1, 2, 0, 0, 1]), torch.tensor([1.5, 2.0]), sample)
    assert weights.tolist() == [1.0, 1.5, 1.5, 1.0, 1.0, 2.0]


def test_weighted_nll_by_sample():
    logprobs = torch.tensor([-1.0, -2.0, -9.0])
    weights = torch.tensor([1.0, 2.0, 3.0])
    sample = torch.tensor([0, 0, 2])
    assert weighted_nll(logprobs, weights, sample, 3).tolist() == [5.0, 0.0, 27.0]


def test_preference_loss():
    """log 2 where nothing has moved; less as the response gains on the variant."""
    margin = torch.tensor([1.0, 3.0, -1.0])
    found = preference_loss(margin, torch.ones(3), beta=0.5)
    expected = [math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]
    assert found.tolist() == pytest.approx(expected)
