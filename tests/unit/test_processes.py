"""What this process may use."""

import os

import pytest

from fgit import processes


@pytest.mark.parametrize(
    ("quota", "bound", "expected"),
    [
        ("max 100000\n", {0, 1, 2}, 3),
        ("200000 100000\n", {0, 1, 2}, 2),
        ("150000 100000\n", {0, 1, 2}, 1),
        ("50000 100000\n", {0, 1, 2}, 1),
        ("900000 100000\n", {4}, 1),
        (None, {0, 1}, 2),
    ],
)
def test_cores(tmp_path, monkeypatch, quota, bound, expected):
    monkeypatch.setattr(processes, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert processes.cores() == expected
