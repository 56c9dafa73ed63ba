"""Statistics: intervals and tests against published values, brute force and simulation."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from fgit.common.statistics import compare_paired, over_seeds, paired_bootstrap, sign_flip, wilson

OUTCOMES = st.integers(0, 1)
PAIRS = st.lists(st.tuples(OUTCOMES, OUTCOMES), min_size=1, max_size=60)
VALUES = st.floats(-1, 1, allow_nan=False)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def bootstrap(pairs, **options):
    a, b = zip(*pairs, strict=True)
    return paired_bootstrap(a, b, **{"resamples": 500} | options)


# ------------------------------------------------------------------ a share


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [  # Newcombe 1998, table I, the score method without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_published_values(passed, n, low, high):
    assert wilson(passed, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_bounds(case):
    passed, n = case
    low, high = wilson(passed, n)
    assert 0 <= low <= passed / n <= high <= 1
    mirrored = wilson(n - passed, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


# ------------------------------------------------------------------ the test


def discordant(only_a, only_b, neither=0):
    return [1] * only_a + [-1] * only_b + [0] * neither


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 5))
def test_with_one_seed_each_the_sign_flip_is_mcnemar(only_a, only_b, neither):
    p = sign_flip(discordant(only_a, only_b, neither))
    n = only_a + only_b
    assert p == pytest.approx(binomtest(only_a, n, 0.5).pvalue if n else 1.0, rel=1e-9)
    assert 0 < p <= 1
    assert p == sign_flip(discordant(only_b, only_a))


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (1, 9, 22 / 1024)],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    assert sign_flip(discordant(only_a, only_b)) == p


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_wider_gap_is_never_less_significant(only_a, only_b):
    low, high = sorted((only_a, only_b))
    assume(low > 0)
    assert sign_flip(discordant(low - 1, high + 1)) <= sign_flip(discordant(low, high))


def all_signs(differences):
    """The share of all patterns of signs whose sum is at least as far from 0."""
    found = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    sums = (sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in patterns)
    return sum(abs(total) >= found for total in sums) / len(patterns)


DIFFERENCES = st.lists(st.integers(-9, 9), min_size=1, max_size=10)


@given(DIFFERENCES)
def test_the_sign_flip_is_the_share_of_all_patterns(differences):
    assert sign_flip(differences) == all_signs(differences)  # powers of two: without rounding


@given(DIFFERENCES, st.integers(1, 5), st.randoms(use_true_random=False))
def test_neither_scale_nor_direction_nor_order_matters(differences, scale, random):
    other = [-scale * difference for difference in differences]
    random.shuffle(other)
    assert sign_flip(other) == sign_flip(differences)


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(3, 3), (3, 1), (1, 5)])
def test_runs_that_are_alike_seldom_differ(seeds_a, seeds_b):
    """By simulation: with as many seeds or not, the level holds."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        chance = random.beta(0.2, 0.4, size=164)
        a, b = (random.random((seeds, 164)) < chance for seeds in (seeds_a, seeds_b))
        found += sign_flip(seeds_b * a.sum(axis=0) - seeds_a * b.sum(axis=0)) < 0.05
    assert 0.02 < found / 1000 < 0.065


def test_the_largest_benchmark_with_many_seeds():
    random = np.random.default_rng(0)
    differences = random.integers(-25, 26, size=1140)
    # The sum is nearly normal.
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    assert sign_flip(differences) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


# ------------------------------------------------------------------ the bootstrap


@given(PAIRS)
def test_the_interval_holds_the_difference_and_stays_in_range(pairs):
    difference, low, high = bootstrap(pairs)
    assert difference == pytest.approx(statistics.fmean(a - b for a, b in pairs))
    assert -1 <= low <= difference <= high <= 1


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
def test_it_takes_values_other_than_outcomes(pairs):
    difference, low, high = bootstrap(pairs)
    assert low <= difference <= high
    assert min(a - b for a, b in pairs) - 1e-12 <= low
    assert high <= max(a - b for a, b in pairs) + 1e-12


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_problems_does_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert bootstrap(pairs) == bootstrap(shuffled)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
def test_swapping_the_runs_mirrors_the_result(pairs):
    difference, low, high = bootstrap(pairs)
    assume(difference != 0)
    assert bootstrap([(b, a) for a, b in pairs]) == (-difference, -high, -low)


def test_no_zero_is_negative():
    a, b = [0] * 9 + [1], [1, 1] + [0] * 8
    assert "-0.0" not in map(str, paired_bootstrap(a, b, resamples=500))
    assert "-0.0" not in map(str, paired_bootstrap([0] * 30, [1] + [0] * 29))


@given(PAIRS, st.integers(0, 5))
def test_one_seed_gives_one_result(pairs, seed):
    assert bootstrap(pairs, seed=seed) == bootstrap(pairs, seed=seed)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1] * 9, [0] * 9, 1.0), ([0, 1, 1], [0, 1, 1], 0.0), ([0.5], [0.2], 0.5 - 0.2)],
)
def test_one_difference_throughout_is_its_own_interval(a, b, expected):
    assert paired_bootstrap(a, b) == (expected, expected, expected)


def test_drawing_counts_is_drawing_problems():
    random = np.random.default_rng(1)
    a, b = random.random(50), random.random(50)
    drawn = random.integers(0, 50, size=(20_000, 50))
    expected = np.quantile((a - b)[drawn].mean(axis=1), [0.025, 0.975])
    difference, low, high = paired_bootstrap(a, b)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.005)
    assert difference == pytest.approx((a - b).mean())


@pytest.mark.parametrize(("a_only", "b_only"), [(0.1, 0.05), (0.25, 0.2), (0.08, 0.08)])
def test_the_interval_covers_the_true_difference(a_only, b_only):
    """By simulation on 164 problems; 95 % is the aim, and the percentile interval a bit below."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = random.choice([1, 0, -1], size=164, p=[a_only, 1 - a_only - b_only, b_only])
        _, low, high = paired_bootstrap(values, np.zeros(164), resamples=1000)
        covered += low <= a_only - b_only <= high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 0], [1], "each of the same problems"),
        ([], [], "each of the same problems"),
        ([[1, 0]], [[1, 0]], "each of the same problems"),
        ([1, math.nan], [1, 0], "not a finite number"),
        ([1, 0], [1, math.inf], "not a finite number"),
    ],
)
def test_what_cannot_be_paired_is_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)


# ------------------------------------------------------------------ two runs


def test_two_runs_of_one_seed():
    a = [[1] * 30 + [1] * 6 + [0] * 4]
    b = [[1] * 30 + [0] * 6 + [0] * 4]
    found = compare_paired(a, b)
    assert (found.n, found.only_a, found.only_b) == (40, [30, 31, 32, 33, 34, 35], [])
    assert found.p == 0.03125 and found.significant
    assert (found.difference, found.low, found.high) == paired_bootstrap(a[0], b[0])


def test_several_seeds_are_compared_by_their_mean():
    a = [[1, 1, 0, 1, 0], [1, 1, 1, 0, 0]]
    b = [[0, 1, 0, 0, 1]]
    found = compare_paired(a, b)
    assert found.p == all_signs([2, 0, 1, 1, -2]) == 0.75  # in halves of a problem
    assert (found.only_a, found.only_b) == ([0], [4])  # not what only some seeds solve
    assert (found.difference, found.low, found.high) == paired_bootstrap([1, 1, 0.5, 0.5, 0], b[0])
    assert not found.significant
    assert compare_paired([[1] * 8, [1] * 8], [[0] * 8]).significant


def test_more_seeds_that_say_the_same_change_nothing():
    """Four problems that one side solves are not enough, however often they are asked."""
    a, b = [1] * 4 + [0, 1] * 5, [0] * 4 + [0, 1] * 5
    for seeds in (1, 2, 3):
        found = compare_paired([a] * seeds, [b])
        assert (found.p, found.significant) == (0.125, False)
    assert found.low > 0  # the bootstrap alone would say otherwise


@given(PAIRS)
@settings(max_examples=30)
def test_a_comparison_is_reversed_by_swapping(pairs):
    a, b = ([list(side)] for side in zip(*pairs, strict=True))
    found = compare_paired(a, b)
    assert found.reversed.reversed == found
    assume(found.difference != 0)
    assert found.reversed == compare_paired(b, a)


def test_a_run_does_not_differ_from_itself():
    found = compare_paired([[1, 0, 1]], [[1, 0, 1]])
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.significant


# ------------------------------------------------------------------ seeds


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_over_seeds_is_mean_and_sample_deviation(values):
    mean, deviation = over_seeds(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert deviation == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_one_seed_has_no_deviation():
    assert over_seeds([40.0]) == (40.0, None)
