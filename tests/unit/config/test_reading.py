"""What a file must be to be a config."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.common.files import sha256
from fgit.config import check_yaml, read_config
from tests.unit.config.test_experiment import SMALL


def test_numbers_as_yaml_writes_them(tmp_path):
    """YAML 1.1 reads 5e-6 as text; it means the number all the same."""
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL) + "train: {learning_rate: 5e-6, epochs: 2}\n")
    assert read_config(path).resolve("fgit").learning_rate == 5e-6


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "null"])
def test_an_empty_file(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml: this config is empty; start from workflow/"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "kind"), [("- a\n- b\n", "list"), ("[]", "list"), ("name", "str"), ("3", "int")]
)
def test_not_a_mapping(tmp_path, text, kind):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"c\.yaml: a config is a mapping .*, not {kind}$"):
        read_config(path)


@pytest.mark.parametrize("content", [b"name: [", b"a: b: c", b"\tname: x", b"a: \xff", b"a: *b"])
def test_invalid_yaml(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.yaml: not valid YAML: "):
        read_config(path)


def test_no_python_objects_from_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch made']")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.yaml: no such config file"):
        read_config(tmp_path / "no.yaml")


def test_reading_leaves_the_file_alone(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    before = sha256(path)
    read_config(path)
    assert sha256(path) == before


# ------------------------------------------------------------------ what YAML is silent about


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", (3, 1)),
        ("a: 1\na: 1\n", "a", (2, 1)),  # the same value
        ("a: 1\n'a': 2\n", "a", (2, 1)),
        ('a: 1\n"\\x61": 2\n', "a", (2, 1)),
        ("{a: 1, b: 2, a: 3}", "a", (1, 1)),
        ("t:\n  u:\n    v: 1\n    w: 2\n    v: 3\n", "t.u.v", (5, 3)),
        ("t: {u: {v: 1, v: 2}}", "t.u.v", (1, 1)),
        ("t:\n- x: 1\n- {x: 1, y: 2,\n   x: 3}\n", "t, entry 2, x", (4, 3)),
        ("? a\n: 1\n? a\n: 2\n", "a", (3, 1)),
        ("a: &a {x: 1, x: 2}\nb: *a\n", "a.x", (1, 1)),
        ("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}\n", "b.x", (2, 2)),
        ("\ufeffa: 1\na: 2\n", "a", (2, 1)),
        ("a: |\n  a: 1\n  a: 2\na: 3\n", "a", (4, 1)),
        ('{\n\t"a": {"b": 1,\n\t\t"b": 2}\n}', "a.b", (3, 2)),
        ("# a\n\na: # 1\n  1\n\na:\n", "a", (6, 3)),
        ("ä b: 1\nä b: 2\n", "ä b", (2, 1)),
    ],
)
def test_a_key_that_stands_twice(tmp_path, text, key, lines):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (check_yaml, read_config):
        with pytest.raises(UserError) as caught:
            read(path)
        (line,) = str(caught.value).splitlines()
        again, first = lines
        start = f"{path}, line {again}: the key {key!r} stands twice, first in line {first}, "
        assert line.startswith(start)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1}\nb: {<<: *a, x: 2}\n",  # an override
        "a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b], y: 3}\n",
        "a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n",  # both count
        "a: {x: 1}\nb: {x: 1}\n",
        "- {x: 1}\n- {x: 1}\n",
        "a: |\n  x: 1\n  x: 2\n",
        "a: 1\nA: 2\n",
        "a: 'a: 1, a: 2'\n",
        "a: &a\n  b: *a\n",  # holds itself
        "",
    ],
)
def test_what_does_not_stand_twice(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert check_yaml(path) == text


def test_each_key_that_stands_twice_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\nb: {c: 1, c: 2}\na: 2\na: 010\n")
    with pytest.raises(UserError) as caught:
        check_yaml(path)
    lines = str(caught.value).splitlines()
    assert [line.strip().removeprefix(f"{path}, ")[:20] for line in lines] == [
        "line 2: the key 'b.c",
        "line 3: the key 'a' ",
        "line 4: a: YAML read",
        "line 4: the key 'a' ",
    ]


PLAIN = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=2), PLAIN), st.booleans(), st.booleans())
def test_what_is_written_by_a_program_passes(tmp_path_factory, values, flow, as_json):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    text = json.dumps(values) if as_json else yaml.safe_dump(values, default_flow_style=flow)
    path.write_text(text)
    assert check_yaml(path, numbers=False) == text


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        *(("010", "8"), ("-017", "-15"), ("0_7", "7"), ("00", "0")),
        *(("1:30", "90"), ("1:30:00", "5400"), ("1:30.5", "90.5")),
    ],
)
def test_numbers_that_nobody_means(tmp_path, text, reads):
    path = tmp_path / "c.yaml"
    path.write_text(f"a:\n- {text}\n")
    with pytest.raises(UserError, match=rf"line 2: a, entry 1: YAML reads {text} as {reads}; "):
        check_yaml(path)
    check_yaml(path, numbers=False)
    path.write_text(f"a: '{text}'\nb: [0, 10, 0.5, 1_000, 0x1F, -3, 01.5, 1e-5, 5e-6, 1.0e+3]\n")
    check_yaml(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("models.m.revision", "1234567", r"must be text, not 1234567; put it in quotes"),
        ("models.m.revision", "1.0e+10", r"must be text, not 10000000000\.0; put it in quotes"),
        ("models.m.revision", "2024-01-01", r"must be text, not datetime.*; put it in quotes"),
        ("models.m.licence", "no", r"must be text, not False; put it in quotes"),
        ("evaluate.batch_size", "yes", r"must not be true or false .*, not True"),
        ("seeds", "[on]", r"must not be true or false .*, not \[True\]"),
        ("train.epochs", "on", r"must not be true or false .*, not True"),
        ("train.learning_rate", ".nan", r"finite number"),
        ("train.max_grad_norm", ".inf", r"finite number"),
        ("score.min_time_limit", "1e999", r"finite number"),
        ("train.learning_rate", "2024-13-45", r"not valid YAML: month must be in 1\.\.12"),
        ("select.prefix", r'"a\0"', r"select\.prefix: 'a\\x00' has a NUL byte"),
        ("select.prefix", r'"\ud800"', r"select\.prefix: .* half a surrogate pair"),
    ],
)
def test_values_that_yaml_reads_otherwise(tmp_path, key, value, message):
    path = tmp_path / "c.yaml"
    *sections, last = key.split(".")
    values = json.loads(json.dumps(SMALL))
    section = values
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = "@"
    path.write_text(yaml.safe_dump(values).replace("'@'", value))
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_another_encoding_and_deep_nesting(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes("name: x\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"not valid YAML: not UTF-8 \(byte 0\); save it as UTF-8"):
        read_config(path)
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_config(path)
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(SMALL).encode())
    assert read_config(path).name == SMALL["name"]
