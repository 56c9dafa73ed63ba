from hypothesis import given
from hypothesis import strategies as st

from fgit.common.subset import subset

IDS = st.lists(st.text(max_size=5), unique=True, max_size=30)


def chosen(ids, count, seed):
    return {name for name, taken in zip(ids, subset(ids, count, seed), strict=True) if taken}


@given(IDS, st.integers(0, 40), st.integers(0, 3), st.randoms())
def test_order_does_not_matter(ids, count, seed, random):
    shuffled = random.sample(ids, len(ids))
    assert chosen(ids, count, seed) == chosen(shuffled, count, seed)
    assert len(chosen(ids, count, seed)) == min(count, len(ids))


@given(IDS, st.integers(0, 40), st.integers(0, 3))
def test_a_larger_count_keeps_what_a_smaller_one_chose(ids, count, seed):
    assert chosen(ids, count, seed) <= chosen(ids, count + 1, seed)


@given(IDS, st.integers(0, 40))
def test_one_more_sample_changes_at_most_one_choice(ids, count):
    more = chosen([*ids, "a new one"], count, 0)
    assert len(chosen(ids, count, 0) - more) <= 1


def test_the_seed_matters():
    ids = [str(i) for i in range(50)]
    assert chosen(ids, 10, 0) != chosen(ids, 10, 1)
