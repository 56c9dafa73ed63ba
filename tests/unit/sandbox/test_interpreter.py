"""What a box shows of the file system."""

from __future__ import annotations

import sys
from pathlib import Path

from fgit.sandbox.interpreter import binds_and_links, probe
from tests.conftest import REPOSITORY


def test_links_are_shown_as_links(tmp_path):
    (tmp_path / "real/lib").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "far").symlink_to(tmp_path / "link/lib")
    binds, links = binds_and_links([str(tmp_path / "far"), str(tmp_path / "absent")])
    assert binds == (str(tmp_path / "real/lib"),)
    assert links == {
        str(tmp_path / "far"): str(tmp_path / "link/lib"),
        str(tmp_path / "link"): "real",
    }


def test_nothing_is_shown_twice(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    assert binds_and_links([str(tmp_path / "a/b"), str(tmp_path / "a")])[0] == (
        str(tmp_path / "a"),
    )


def test_the_box_shows_neither_home_nor_project():
    binds, _ = probe(sys.executable).visible
    for path in map(Path, binds):
        assert not Path.home().is_relative_to(path)
        assert not (REPOSITORY / "workflow").is_relative_to(path)
