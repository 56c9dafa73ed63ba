"""Entries on disk: what both of their users rely on."""

from __future__ import annotations

import json

import pytest

from fgit.common.journal import Journal


class Numbers(Journal):
    """Entries of a number each."""

    foreign = "other numbers"

    def __init__(self, path, header):
        super().__init__(path, header)
        self.numbers = []

    def take(self, entry):
        if "n" in entry:
            self.numbers.append(entry["n"])
        return entry.keys() <= {"n", *self.header}


def test_entries_come_back_in_their_order(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    for start in (0, 2):
        with Numbers(path, {"of": "a"}) as journal:
            assert journal.numbers == list(range(start))
            for n in range(start, start + 2):
                journal.append({"of": "a", "n": n} if n == 0 else {"n": n})
    with Numbers(path, {"of": "a"}) as journal:
        assert journal.numbers == [0, 1, 2, 3]
        journal.remove()
        journal.remove()
    assert not path.exists()


@pytest.mark.parametrize("first", [{"of": "b"}, {"n": 1}, {}])
def test_what_depends_on_something_else_is_begun_anew(tmp_path, caplog, first):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(first) + '\n{"n": 7}\n')
    with Numbers(path, {"of": "a"}) as journal:
        assert journal.numbers == []
    assert path.read_bytes() == b"" and "other numbers; starting anew" in caplog.text


@pytest.mark.parametrize("bad", [b'{"n": 2', b"{]\n", b"3\n", b'{"n": 2, "m": 1}\n', b"\xff\n"])
def test_nothing_behind_a_broken_line_is_used(tmp_path, caplog, bad):
    path = tmp_path / "journal.jsonl"
    whole = b'{"of": "a", "n": 1}\n'
    path.write_bytes(whole + bad)
    with Numbers(path, {"of": "a"}):
        pass
    assert path.read_bytes() == whole
    assert f"its last {len(bad)} bytes are broken, and not used" in caplog.text
