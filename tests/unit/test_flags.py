"""Flags: what a typed function says of itself becomes what the command line takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.config import MutateSettings
from fgit.flags import Input, NamedValues, Output, Positive, Value, add_flags, read_values, verb_of


def stage(
    settings: Annotated[MutateSettings, "seed"],
    run: str = Value("the run", "RUN", positional=True),
    records: Path = Input("the records"),
    shards: list[Path] = Input("all shards", "SHARD"),
    out: Path | None = Output("the result"),
    left: Path | None = Input("either", one_of=True),
    frame: str | None = Value("or", word="from", one_of=True),
    count: Positive = Value("how many", default=50),
    mode: Literal["one", "two"] | None = Value("which"),
    one_bos: bool = Value("whether"),
) -> None:
    """Do what
    is asked. In two sentences. Or more.
    """


def parser_of(run):
    parser = argparse.ArgumentParser(prog="stage", exit_on_error=False)
    add_flags(parser, verb_of(run))
    return parser


NEEDED = ["r", "--records", "x", "--shards", "a", "b", "--left", "y"]


def test_what_a_function_says_of_itself():
    verb = verb_of(stage)
    assert (verb.summary, verb.details) == ("Do what is asked", "In two sentences. Or more.")
    assert (verb.settings, list(verb.fields)) == (MutateSettings, ["seed"])
    assert "settings" not in verb.flags
    assert verb.flags["out"].role == "output" and verb.flags["mode"].role == "value"


def test_values_come_as_their_types():
    assert vars(parser_of(stage).parse_args(NEEDED)) == {
        "run": "r", "records": Path("x"), "shards": [Path("a"), Path("b")], "out": None,
        "left": Path("y"), "frame": None, "count": 50, "mode": None, "one_bos": False,
    }  # fmt: skip
    more = ["r", *NEEDED[1:-2], "--from", "z", "--count", "3", "--mode", "two", "--one-bos"]
    got = parser_of(stage).parse_args([*more, "--out", "o"])
    assert (got.left, got.frame, got.count, got.mode, got.one_bos) == (None, "z", 3, "two", True)
    assert got.out == Path("o")


def test_a_home_folder_is_written_out(monkeypatch):
    """A shell does so in some places only: not in --records=~/x."""
    monkeypatch.setenv("HOME", "/home/me")

    def read(*words):
        return read_values(parser_of(stage).parse_args([*words]), verb_of(stage))

    words = ["~", "--records=~/x", "--shards", "~/a", "x/~", "--from=~", "--out=~"]
    assert read(*words) == {
        "run": "~", "records": Path("/home/me/x"), "shards": [Path("/home/me/a"), Path("x/~")],
        "out": Path("/home/me"), "left": None, "frame": "~", "count": 50, "mode": None,
        "one_bos": False,
    }  # fmt: skip
    with pytest.raises(UserError, match="--records: '~nobody-such/x': there is no such user"):
        read(*words[:1], "--records=~nobody-such/x", *words[2:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (NEEDED[1:], "the following arguments are required: RUN"),
        (["r", *NEEDED[3:]], "the following arguments are required: --records"),
        (NEEDED[:-2], "one of the arguments --left --from is required"),
        ([*NEEDED, "--from", "z"], "not allowed with argument --left"),
        ([*NEEDED, "--mode", "three"], "argument --mode: invalid choice: 'three'"),
        ([*NEEDED, "--count", "0"], "argument --count: must be at least 1, not 0"),
    ],
)
def test_what_is_refused(words, message, capsys):
    try:
        parser_of(stage).parse_args(words)
        pytest.fail("taken")
    except argparse.ArgumentError as error:
        told = str(error)
    except SystemExit:
        told = capsys.readouterr().err
    assert message in told


def test_help_names_what_stands_for_a_value():
    text = " ".join(parser_of(stage).format_help().split())
    for words in ("--records FILE", "--shards SHARD [SHARD ...]", "--count N", "--mode {one,two}"):
        assert words in text
    assert "RUN the run" in text and "--one-bos whether" in text


# ------------------------------------------------------------------ NAME=VALUE


def named(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--benchmark", nargs="+", action=NamedValues, default={})
    return parser.parse_args(list(words)).benchmark


def test_named_values():
    assert named() == {}
    assert named("--benchmark", "a=1", "b=2") == {"a": "1", "b": "2"}
    assert named("--benchmark", "a=1", "--benchmark", "b=2") == {"a": "1", "b": "2"}
    assert named("--benchmark", "a=x=y") == {"a": "x=y"}


@settings(max_examples=50)
@given(st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), st.text(min_size=1), max_size=4))
def test_named_values_come_as_they_were_given(values):
    assert (
        named(*(word for k, v in values.items() for word in ("--benchmark", f"{k}={v}"))) == values
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "expected NAME=VALUE, not 'a'"),
        (["=1"], "expected NAME=VALUE, not '=1'"),
        (["a="], "expected NAME=VALUE, not 'a='"),
        (["a=1", "a=2"], "'a' is given twice"),
    ],
)
def test_named_values_that_are_none(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        named("--benchmark", *words)
    assert stopped.value.code == 2
    assert f"argument --benchmark: {message}" in capsys.readouterr().err


def test_what_follows_from_flags_is_none():
    def stage(
        out: Path = Value("a folder"),
        table: str | None = Value("of a table"),
        files: list[Path] = Output(follows="fgit.report.places.table_files"),
    ) -> None:
        """Do it."""

    values = vars(parser_of(stage).parse_args(["--out", "a"]))
    assert values == {"out": Path("a"), "table": None}
    assert verb_of(stage).flags["files"].worked_out(values) == [Path("a")]
