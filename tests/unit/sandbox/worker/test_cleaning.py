"""What is left after a solution."""

from __future__ import annotations

from pathlib import Path

from fgit.sandbox.worker.cleaning import empty


def test_emptying_a_folder_keeps_what_stood_there(tmp_path):
    (tmp_path / "stands/inner").mkdir(parents=True)
    (tmp_path / "stands/inner/left").touch()
    (tmp_path / "gone/deep/deeper").mkdir(parents=True)
    (tmp_path / "gone/deep/deeper/file").touch()
    keep = frozenset({tmp_path / "stands", tmp_path / "stands/inner"})
    empty(tmp_path, keep)
    assert set(tmp_path.rglob("*")) == keep


def test_emptying_a_very_deep_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").touch()
    for _ in range(2000):
        Path("x" * 20).mkdir()
        monkeypatch.chdir("x" * 20)
    Path("link").symlink_to(tmp_path / "victim")
    monkeypatch.chdir(tmp_path)
    empty(tmp_path, frozenset({tmp_path / "victim"}))
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
