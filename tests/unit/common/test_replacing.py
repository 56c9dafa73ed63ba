"""What is written takes its place whole or not at all, and nothing of others is overwritten."""

from __future__ import annotations

import collections
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common import files, replacing
from fgit.common.errors import UserError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def model(folder: Path, *members: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", *members):
        (folder / name).write_text(name)
    return folder


def test_replacing_leaves_the_old_file_when_the_block_raises(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), replacing.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(target) == {"old": 1}
    assert names(tmp_path) == {"a.json"}


def test_replacing_leaves_the_old_folder_when_the_block_raises(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing.replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == {"model"} and names(target) == {"old"}


def test_replacing_a_folder_takes_the_old_one_away(tmp_path):
    target = tmp_path / "model"
    for name in ("first", "second"):
        with replacing.replacing(target) as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text("{}")
            (temporary / name).write_text(name)
    assert names(target) == {"config.json", "second"}
    assert names(tmp_path) == {"model"}


def test_replacing_keeps_the_suffix_and_makes_the_folders(tmp_path):
    target = tmp_path / "new" / "folder" / "a.jsonl.gz"
    with replacing.replacing(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".gz"
        assert not target.exists()
        temporary.write_text("")
    assert target.exists()


def test_the_file_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), real_replace(a, b)))
    files.write_text(tmp_path / "a.txt", "text")
    assert events == ["sync", "rename"]


def test_a_full_disk_of_safetensors_is_one_too(small_disk):
    import torch
    from safetensors.torch import save_file

    with (
        pytest.raises(OSError, match="No space left") as caught,
        replacing.replacing(small_disk / "model") as temporary,
    ):
        temporary.mkdir()
        save_file({"weight": torch.zeros(100_000)}, temporary / "model.safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == set()


def test_a_disk_that_is_full_at_fsync(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.txt"):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_the_old_folder_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    target, seen = model(tmp_path / "model", "old"), []
    remove_tree = replacing.shutil.rmtree

    def watching(path, **options):
        seen.append(target.is_dir() and (target / "new").exists())
        remove_tree(path, **options)

    monkeypatch.setattr(replacing.shutil, "rmtree", watching)
    with replacing.replacing(target) as temporary:
        model(temporary, "new")
    assert seen == [True]
    assert names(tmp_path) == {"model"} and names(target) == {"config.json", "new"}


def test_what_may_refuse_is_asked_before_the_renaming(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")

    def refuse(path):
        assert path == tmp_path / "a"
        raise UserError("no")

    monkeypatch.setattr(replacing, "CHECKS", [*replacing.CHECKS, refuse])
    with pytest.raises(UserError, match="no"):
        files.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == {"a"}


# ------------------------------------------------------------------ which disk is full


class OfALibrary(Exception):
    """As Parquet's and safetensors' writers raise it."""


def test_a_library_that_does_not_say_that_the_disk_is_full(small_disk):
    with (
        pytest.raises(OSError, match="No space left") as caught,
        replacing.replacing(small_disk / "a"),
    ):
        raise OfALibrary("transport error")
    assert caught.value.filename == str(small_disk / "a")
    with pytest.raises(UserError, match="a bad row"), replacing.replacing(small_disk / "a"):
        raise UserError("a bad row")


@pytest.mark.parametrize("kind", [OSError, OfALibrary])
def test_a_full_place_of_temporary_files_is_not_taken_for_the_outputs(
    small_disk, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr("tempfile.tempdir", None)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if kind is OfALibrary:
        full = OfALibrary(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")
    with pytest.raises(OSError, match="No space left") as caught, files.scratch():
        raise full
    assert Path(caught.value.filename).parent == small_disk
    with (
        pytest.raises(OSError, match="No space left") as caught,
        replacing.replacing(tmp_path / "a") as temporary,
    ):
        temporary.write_text("half")
        raise full
    assert caught.value.filename == str(small_disk)
    # And the other way round: a full output while something lies in a folder of temporary files.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with (
        pytest.raises(OSError, match="No space left") as caught,
        files.scratch(),
        replacing.replacing(small_disk / "a"),
    ):
        raise full
    assert caught.value.filename == str(small_disk / "a")


def test_a_file_that_an_error_names_stays_named(tmp_path):
    with (
        pytest.raises(OSError, match="elsewhere") as caught,
        replacing.replacing(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/file")
    assert caught.value.filename == "/elsewhere/file"
    with (
        pytest.raises(OSError, match="Input/output") as caught,
        replacing.replacing(tmp_path / "a") as temporary,
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(temporary / "part"))
    assert caught.value.filename == str(tmp_path / "a")


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("relative", [True, False])
def test_a_file_behind_a_link_is_written_and_the_link_stays(tmp_path, old, relative):
    real = tmp_path / "elsewhere" / "b.json"
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "a.json"
    link.symlink_to("../elsewhere/b.json" if relative else real)
    if old:
        files.write_text(real, old)
    files.write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert names(tmp_path / "here") == {"a.json"} and names(real.parent) == {"b.json"}


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_behind_a_link_is_written_and_the_link_stays(tmp_path, there):
    if there:
        (tmp_path / "scratch").mkdir()
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "scratch")
    replacing.check_place(link, folder=True)
    with replacing.replacing(link) as temporary:
        model(temporary)
    assert link.is_symlink() and names(tmp_path / "scratch") == {"config.json"}
    assert names(tmp_path) == {"model", "scratch"}


# ------------------------------------------------------------------ places that are refused


def a_link(path, target):
    path.symlink_to(target)


# What stands there -> whether a folder is to go there -> what is said.
IN_THE_WAY = {
    "a folder for a file": (Path.mkdir, False, "a folder of yours is in the way"),
    "a model for a file": (model, False, "a folder of yours is in the way"),
    "a folder with files": (lambda p: (p / "of mine").mkdir(parents=True), True, "of yours"),
    "the same, not known yet": (lambda p: (p / "of mine").mkdir(parents=True), None, "of yours"),
    "a file for a folder": (Path.touch, True, "a file is where a folder is to go"),
    "a link to a file for a folder": (
        lambda p: (p.with_name("f").touch(), p.symlink_to("f")),
        True,
        "a file is where a folder is to go",
    ),
    "a link to a model of another": (
        lambda p: a_link(p, model(p.with_name("base"))),
        True,
        r"base \(a link leads there from .*a folder of yours",
    ),
    "a link to a folder for a file": (
        lambda p: (p.with_name("f").mkdir(), p.symlink_to("f")),
        False,
        "a folder of yours",
    ),
    "a link to itself": (lambda p: a_link(p, p), False, "neither a file nor a folder"),
    "a circle of links": (
        lambda p: (a_link(p.with_name("b"), p), a_link(p, p.with_name("b"))),
        True,
        "neither a file nor a folder",
    ),
    "a pipe": (os.mkfifo, False, "neither a file nor a folder"),
    "a device": (lambda p: a_link(p, "/dev/null"), False, "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_a_place_that_something_else_has(tmp_path, kind):
    make, folder, said = IN_THE_WAY[kind]
    place = tmp_path / "in" / "out"
    place.parent.mkdir()
    make(place)
    before = sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*"))
    with pytest.raises((UserError, OSError), match=said):
        replacing.check_place(place, folder=folder)
    # And it stays as it is if it came there while the work was done.
    with pytest.raises((UserError, OSError)), replacing.replacing(place) as temporary:
        model(temporary) if folder is not False else temporary.touch()
    assert sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", [True, False, None])
def test_places_that_are_free(tmp_path, folder, monkeypatch):
    for name in ("new", "new/deeper/out", "ä ö", "line\nbreak", "-x", "[a]*?", ".hidden"):
        replacing.check_place(tmp_path / name, folder=folder)
    monkeypatch.chdir(tmp_path)
    replacing.check_place("out", folder=folder)
    assert not names(tmp_path)


def test_a_file_system_that_is_mounted_there(small_disk, tmp_path):
    (tmp_path / "link").symlink_to(small_disk)
    for place in (small_disk, tmp_path / "link"):
        with pytest.raises(UserError, match=f"{small_disk}.*mounted here.*a folder in it"):
            replacing.check_place(place, folder=True)
    replacing.check_place(small_disk / "model", folder=True)


def test_places_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        replacing.check_place(tmp_path / "file/new/out", folder=False)
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(NotADirectoryError, match="gone"):
        replacing.check_place(tmp_path / "gone/out", folder=False)
    with pytest.raises(OSError, match="name too long"):
        replacing.check_place(tmp_path / ("x" * 250), folder=False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=re.escape(f"'{tmp_path}'")):
        replacing.check_place(tmp_path / "new/out", folder=True)


# ------------------------------------------------------------------ put aside

KINDS = {
    "file": lambda p, text: p.write_text(text),
    "empty file": lambda p, text: p.touch(),
    "folder": lambda p, text: (p.mkdir(), (p / "member").write_text(text)),
    "empty folder": lambda p, text: p.mkdir(),
    "link": lambda p, text: p.symlink_to(f"to {text}"),
    "link to a folder": lambda p, text: p.symlink_to("/tmp"),
}
ODD_NAMES = ["a.parquet", "model", ".hidden", "a.damaged", "ä b", "x\ny", "[a]*?", "-r", "a.tar.gz"]


def state(path: Path):
    if path.is_symlink():
        return "link", str(path.readlink())
    if path.is_dir():
        return "folder", *sorted((m.name, m.read_text()) for m in path.iterdir())
    return "file", path.read_text()


@settings(max_examples=60, deadline=None)
@given(made=st.lists(st.tuples(st.sampled_from(ODD_NAMES), st.sampled_from([*KINDS])), max_size=9))
def test_whatever_is_put_aside_is_kept_under_a_name_of_its_own(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("aside")
    expected = collections.Counter()
    for number, (name, kind) in enumerate(made):
        path = folder / name
        if path.exists() or path.is_symlink():  # an earlier aside has this name
            continue
        KINDS[kind](path, str(number))
        expected[state(path)] += 1
        aside = replacing.set_aside(path, "damaged")
        assert aside.name.startswith(f"{name}.damaged") and not path.is_symlink()
    assert collections.Counter(state(path) for path in folder.iterdir()) == expected


def test_the_names_of_what_was_put_aside(tmp_path):
    (tmp_path / "a.damaged").symlink_to("nowhere")  # a name is taken, whatever has it
    (tmp_path / "a.damaged-3").mkdir()
    asides = []
    for _ in range(3):
        (tmp_path / "a").touch()
        asides.append(replacing.set_aside(tmp_path / "a", "damaged").name)
    assert asides == ["a.damaged-2", "a.damaged-4", "a.damaged-5"]
    (tmp_path / "a").touch()
    assert replacing.set_aside(tmp_path / "a", "before").name == "a.before"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_there_cannot_be_put_aside(tmp_path, kind, monkeypatch):
    with pytest.raises(FileNotFoundError):
        replacing.set_aside(tmp_path / "a", "damaged")
    assert not names(tmp_path)
    KINDS[kind](tmp_path / "a", "text")
    rename = Path.rename

    def answer_is_lost(path, target):
        rename(path, target)
        raise FileNotFoundError

    monkeypatch.setattr(Path, "rename", answer_is_lost)
    with pytest.raises(FileNotFoundError):
        replacing.set_aside(tmp_path / "a", "damaged")
    assert state(tmp_path / "a.damaged")[0] == kind


RACE = """
import sys, time; from pathlib import Path; from fgit.common.replacing import set_aside
while time.time() < float(sys.argv[2]): pass
for number in range(100):
    try: print(set_aside(Path(sys.argv[1], str(number)), "damaged").name)
    except FileNotFoundError: pass
"""


def test_of_several_processes_one_puts_a_file_aside(tmp_path):
    import time

    for number in range(100):
        KINDS["folder" if number % 2 else "file"](tmp_path / str(number), str(number))
    words = [sys.executable, "-c", RACE, str(tmp_path), str(time.time() + 1.5)]
    racers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    moved = [line for racer in racers for line in racer.communicate()[0].splitlines()]
    assert len(moved) == 100 and {name.partition(".")[0] for name in moved} == {
        str(number) for number in range(100)
    }
    kept = {path.name.partition(".")[0]: state(path) for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 100
    assert all(number in str(content) for number, content in kept.items())
