"""Bars: lines in a log, and an estimate of tokens that promises nothing too early."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common import progress
from fgit.common.progress import Lines, Writing, bar


@pytest.fixture
def log(monkeypatch, capsys):
    """What is on standard error, which is no terminal; every state of a bar is written."""
    monkeypatch.setattr(progress, "SECONDS_IN_A_LOG", 0.0)
    return lambda: capsys.readouterr().err


def test_a_log_gets_lines_without_carriage_returns(log):
    for _ in bar(range(3), description="rows", unit="row"):
        pass
    text = log()
    lines = text.splitlines()
    assert len(lines) >= 4
    assert all(line.startswith("rows: ") for line in lines)
    assert "\r" not in text and "3/3" in lines[-1]


def test_lines_leave_out_what_is_empty():
    stream = io.StringIO()
    lines = Lines(stream)
    for text in ["\r", "  ", "\rhalf  "]:
        lines.write(text)
    assert stream.getvalue() == "half\n"


def test_the_speed_is_the_mean_so_far(log):
    assert bar(description="rows", total=3).smoothing == 0


def test_what_is_shown_while_answers_are_written(log):
    with Writing("teacher", answers=2, limit=100) as writing:
        assert writing.bar.total == 200
        writing.wrote(2)
        assert (writing.bar.n, writing.bar.total) == (2, 200)
        for _ in range(9):
            writing.wrote(2)
        writing.end()  # one of 10 tokens, and the other has 10 so far
        assert writing.bar.total == 40
        writing.wrote(1)
        writing.end()
        assert (writing.bar.n, writing.bar.total) == (21, 21)
    assert "2 of 2 answers" in log().splitlines()[-1]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 40))
def test_the_estimate_is_never_below_what_is_there(lengths, batch):
    """Batches that are written a token a step: the total stays in its bounds, and ends exact."""
    limit = 30
    with Writing("teacher", len(lengths), limit) as writing:
        for start in range(0, len(lengths), batch):
            rows = lengths[start : start + batch]
            for step in range(max(rows)):
                writing.wrote(sum(length > step for length in rows))
                for _ in range(sum(length == step + 1 for length in rows)):
                    writing.end()
                assert writing.bar.n <= writing.bar.total <= len(lengths) * limit
                # An answer that is still to come has a token at least.
                left = len(lengths) - writing.ended
                assert (
                    writing.bar.total >= writing.bar.n + left or writing.bar.total == writing.bar.n
                )
        assert writing.bar.n == writing.bar.total == sum(lengths)
