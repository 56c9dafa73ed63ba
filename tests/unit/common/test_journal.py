"""Entries on disk: what both of their users rely on."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fgit.common.journal import Entry, Journal, checked, line_of


class Number(Entry):
    """A number, and what a text does to its line."""

    n: float
    text: str = ""


class Numbers(Journal[Number]):
    """Entries of a number each."""

    def __init__(self, path):
        super().__init__(path, Number)
        self.taken = []

    def take(self, entry):
        self.taken.append(entry)


def fill(path, written):
    with Numbers(path) as journal:
        for entry in written:
            journal.append(entry)
    return path.read_bytes()


def read(path):
    with Numbers(path) as journal:
        return journal.taken


def test_entries_come_back_in_their_order(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    for start in (0, 2):
        with Numbers(path) as journal:
            assert [entry.n for entry in journal.taken] == list(range(start))
            for n in range(start, start + 2):
                journal.append(Number(n=n))
    assert [entry.n for entry in read(path)] == [0, 1, 2, 3]
    assert json.loads(path.read_text().splitlines()[1])["n"] == 1
    with Numbers(path) as journal:
        journal.remove()
        journal.remove()
    assert not path.exists()


def whole(rest):
    """A line whose checksum is right."""
    return checked(rest) + rest + b"\n"


WRITTEN = [Number(n=1.5, text="\u2028 {}\n"), Number(n=-2, text='"\\'), Number(n=1e300, text="é")]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"n": 2',
        b"{]\n",
        b"3\n",
        b"[1]\n",
        b"null\n",
        b'{"n": 2}\n',  # no checksum
        line_of(Number(n=2)).replace(b"2.0", b"3.0"),
        line_of(Number(n=2))[:-2] + b"\n",
        line_of(Number(n=2))[:-1] + b" \n",
        line_of(Number(n=2)).replace(b"\n", b"\r\n"),
        b"\0" * 4096,
        b"\0" * 10 + line_of(Number(n=2)),
        b"\xff\xfe\n",
        b"\x1f\x8b\x08\0binary\n\n\n junk",
        b"[" * 100_000 + b"\n",
        b'{"crc32":"00000000",\n',
        whole(b"}"),
        whole(b'"n":NaN}'),
        whole(b'"n":1e999}'),
        whole(b'"n":true}'),
        whole(b'"n":"1"}'),
        whole(b'"n":null}'),
        whole(b'"n":1,"text":3}'),
        whole(b'"n":1,"text":"\\ud800"}'),
        whole(b'"n":1,"more":1}'),
        whole(b'"n":' + b"[" * 100_000),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_broken_line_is_left_alone_and_all_others_count(tmp_path, caplog, bad, place):
    path = tmp_path / "journal.jsonl"
    lines = [line_of(entry) for entry in WRITTEN]
    separator = b"" if bad.endswith(b"\n") or place == 3 else b"\n"
    path.write_bytes(b"".join([*lines[:place], bad, separator, *lines[place:]]))
    before = path.read_bytes()
    assert read(path) == WRITTEN
    assert path.read_bytes() == before
    assert "not used: " in caplog.text
    fill(path, [Number(n=9)])
    assert read(path) == [*WRITTEN, Number(n=9)]
    assert path.read_bytes().startswith(before)


numbers = st.builds(Number, n=st.floats(allow_nan=False, allow_infinity=False), text=st.text())


@given(st.lists(numbers, max_size=5), st.data())
def test_whatever_happens_to_the_bytes_what_is_read_was_written(tmp_path_factory, written, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    whole = fill(path, written)
    place = data.draw(st.integers(0, len(whole)))
    harm = data.draw(st.sampled_from(["cut", "append", "insert", "flip", "zero"]))
    if harm == "cut":
        path.write_bytes(whole[:place])
        assert read(path) == written[: whole[: place + 1].count(b"\n")]
    elif harm in ("append", "insert"):
        place = len(whole) if harm == "append" else place
        path.write_bytes(whole[:place] + data.draw(st.binary()) + whole[place:])
    elif place < len(whole):
        flipped = whole[place] ^ (1 << data.draw(st.integers(0, 7))) if harm == "flip" else 0
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
    taken = read(path)
    rest = iter(written)
    assert all(entry in rest for entry in taken)  # in their order
    # An end of a line stands between two.
    assert harm == "cut" or len(taken) >= len(written) - (2 if harm in ("flip", "zero") else 1)
    assert harm != "append" or taken == written
    with Numbers(path) as journal:
        journal.append(Number(n=7))
    assert read(path) == [*taken, Number(n=7)]


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None, [1]])
def test_what_could_not_be_read_is_not_written(value):
    with pytest.raises(ValidationError):
        Number(n=value)
