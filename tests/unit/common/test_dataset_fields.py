"""Names of fields, paths to them and templates of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.dataset_fields import check_template, value_of

ROW = {
    "task": "Add.",
    "input": None,
    "a.b": 1,
    "a": {"b": 2, "c": [{"d": "x"}, "y"]},
    "number": 3,
    "nested": {"null": None, "list": [1]},
    "{task}": "as it stands",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "Add."),
        ("input", None),
        ("gone", None),
        ("a.b", 1),  # a field of that name comes first
        ("a.c.0.d", "x"),
        ("a.c.1", "y"),
        ("a.c.2", None),
        ("a.c.-1", "y"),
        ("a.c.-2.d", "x"),
        ("a.c.-3", None),
        ("a.c.--1", None),
        ("a.c.d", None),
        ("task.0", None),
        ("{task}", "as it stands"),
        ("{task} {input}", "Add."),
        ("<{a.c.0.d}>{task}", "<x>Add."),
        ("{{{task}}}", "{Add.}"),
        ("{task}{gone}", None),
        ("{task}{number}", "Add.3"),
        ("{task} {nested.null}", "Add."),
        ("{task}{nested.gone}", None),
        ("{task}{nested.list}", [1]),
    ],
)
def test_value_of(name, value):
    assert value_of(ROW, name) == value


@given(st.text(), st.text())
def test_what_fills_a_template_is_not_read_as_one(a, b):
    assert value_of({"a": a, "b": b}, "{a}|{b}") == f"{a}|{b}".strip()


@pytest.mark.parametrize("name", ["{}", "{a!r}", "{a:>3}", "{a", "a}", "{{a}"])
def test_other_braces_are_refused(name):
    with pytest.raises(ValueError):
        check_template(name)


@pytest.mark.parametrize("name", ["a", "a.0.b", "{a}", "{a.0.b} and {c}", "{{a}} {b}"])
def test_names_are_taken(name):
    check_template(name)
