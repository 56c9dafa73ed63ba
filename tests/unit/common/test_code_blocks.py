"""Fenced code: found as CommonMark has it, and replaced without touching anything else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fgit.common.code_blocks import (
    CODE_FORMS,
    NOTES,
    CodeBlock,
    block_at,
    code_blocks,
    compiled,
    forms_of,
    main_code,
    parses,
    place_of,
    replace_code,
)

many = settings(max_examples=150)


def contents(text: str) -> list[str]:
    return [block.content for block in code_blocks(text)]


# ------------------------------------------------------------------ finding

CASES = {
    "plain": ("a\n```\nx\n```\nb", ["x\n"]),
    "language": ("```python\nx\n```", ["x\n"]),
    "two": ("```\nx\n```\ntext\n```\ny\n```\n", ["x\n", "y\n"]),
    "tildes": ("~~~\nx\n~~~", ["x\n"]),
    "tildes hold backticks": ("~~~\n```\nx\n```\n~~~", ["```\nx\n```\n"]),
    "four hold three": ("````\n```\nx\n```\n````", ["```\nx\n```\n"]),
    "longer fence closes": ("```\nx\n`````\ny", ["x\n"]),
    "shorter fence does not": ("`````\nx\n```\n", ["x\n```\n"]),
    "fence with words does not close": ("```\nx\n``` end\ny\n```", ["x\n``` end\ny\n"]),
    "closing fence with spaces": ("```\nx\n```  \t\ny", ["x\n"]),
    "never closed": ("```python\nx\ny", ["x\ny"]),
    "never closed, and empty": ("text\n```python\n", []),
    "empty": ("```\n```", [""]),
    "up to three spaces": ("   ```\nx\n  ```\n", ["x\n"]),
    "four spaces are no fence": ("    ```\nx\n", []),
    "four spaces do not close": ("```\nx\n    ```\ny\n```", ["x\n    ```\ny\n"]),
    "inline code": ("```x``` and ``y``", []),
    "a backtick in the info": ("```a`b\nx\n```", []),  # no fence: the last line opens an empty one
    "a backtick in the info of tildes": ("~~~ a`b\nx\n~~~", ["x\n"]),
    "two marks are no fence": ("``\nx\n``", []),
    "windows": ("a\r\n```python\r\nx\r\ny\r\n```\r\nb", ["x\r\ny\r\n"]),
    "other line separators stay": ("```\nx\fy\u2028z\x0b\n```", ["x\fy\u2028z\x0b\n"]),
    "nothing": ("", []),
    "text": ("no code here", []),
}


@pytest.mark.parametrize("name", CASES)
def test_code_blocks(name):
    text, expected = CASES[name]
    assert contents(text) == expected
    for block in code_blocks(text):
        assert text[block.start : block.end] == block.content


@pytest.mark.parametrize(
    ("info", "language"),
    [
        ("", ""),
        ("python", "python"),
        ("Python", "python"),
        (" py3 title=x", "py3"),
        ("python\t{1}", "python"),
        ("c++", "c++"),
    ],
)
def test_the_language_is_the_first_word_of_the_info(info, language):
    (block,) = code_blocks(f"```{info}\nx\n```\n")
    assert block.language == language


lines = st.lists(
    st.sampled_from(
        ["```", "````", "```python", "~~~", "~~~~ text", "  ```", "x = 1", "", "a `b`", "``` x y"]
    ),
    max_size=12,
)


@many
@given(lines=lines, newline=st.sampled_from(["\n", "\r\n"]), end=st.booleans())
def test_the_same_blocks_as_a_commonmark_parser(lines, newline, end):
    markdown_it = pytest.importorskip("markdown_it")
    text = newline.join(lines) + (newline if end else "")
    parser = markdown_it.MarkdownIt("commonmark")
    fences = [token for token in parser.parse(text) if token.type == "fence"]
    found = [block.content.replace("\r\n", "\n") for block in code_blocks(text)]
    # The parser ends an unclosed block's last line, and keeps such a block if it is empty.
    expected = [token.content for token in fences]
    if len(expected) == len(found) + 1 and not expected[-1]:
        expected.pop()
    assert [code.rstrip("\n") for code in found] == [code.rstrip("\n") for code in expected]


def plain_blocks(text: str) -> list[tuple[int, int, str, bool, bool]]:
    """Line by line: start, end, language, closed and nested of each block."""
    found = []
    opened = None
    position = 0
    for line in text.split("\n"):
        after = position + len(line) + 1
        bare = line.lstrip(" ")
        fence = bare[: len(bare) - len(bare.lstrip(bare[:1]))] if bare[:1] in ("`", "~") else ""
        info = bare[len(fence) :].strip()
        if len(fence) < 3 or len(line) - len(bare) > 3:
            pass
        elif opened is None:
            if fence[0] == "~" or "`" not in info:
                opened = [fence, (info.lower().split() or [""])[0], after, False]
        elif fence[0] == opened[0][0] and len(fence) >= len(opened[0]) and not info:
            found.append((opened[2], position, opened[1], True, opened[3]))
            opened = None
        else:
            opened[3] = True
        position = after
    if opened is not None and opened[2] < len(text):
        found.append((opened[2], len(text), opened[1], False, opened[3]))
    return found


@many
@given(
    st.lists(
        st.sampled_from(
            [*["\n"] * 6, "\r\n", "\r", "```", "````", "~~~", "```Py x", "   ", " ", "\t", "x", "`"]
        )
    ).map("".join)
)
def test_the_same_blocks_as_line_by_line(text):
    found = [(b.start, b.end, b.language, b.closed, b.nested) for b in code_blocks(text)]
    assert found == plain_blocks(text)


@many
@given(st.text(alphabet="`~ \n\rx=1\u2028\t"))
def test_blocks_are_in_order_and_apart(text):
    position = 0
    for block in code_blocks(text):
        assert position <= block.start <= block.end <= len(text)
        assert text[block.start : block.end] == block.content
        position = block.end


# ------------------------------------------------------------------ choosing


def test_the_longest_block_that_parses_is_the_code():
    text = "```\nx = 1\n```\n```py\ndef f():\n    return\n```\n```\nno Python, though longer\n```"
    assert main_code(text).content == "def f():\n    return\n"


def test_a_block_of_another_language_is_not_taken_for_python():
    text = "```python\nx\n```\n```javascript\nx = 1 + 2 + 3\n```"
    assert main_code(text).content == "x\n"


def test_the_longest_block_where_none_parses():
    assert main_code("```\nno, no\nno no\n```\n```c\nint x;\n```").content == "no, no\nno no\n"


def test_an_empty_block_is_no_code():
    assert main_code("```\n```\n```\n \n```") is None


def test_a_response_of_bare_code():
    text = "\ndef f():\n    return 1\n"
    assert main_code(text) == CodeBlock(0, len(text), "python", text)


def test_the_indentation_of_a_bare_first_line_is_not_the_codes():
    response = "\n\n   def f():\n        return 1\n"
    block = main_code(response)
    assert block.content == "def f():\n        return 1\n" and parses(block.content)
    assert replace_code(response, block, "def f():\n    return 2") == (
        "\n\n   def f():\n    return 2\n"
    )


def test_fences_in_a_string_of_bare_code_are_no_blocks():
    response = 'def f():\n    """Use it:\n```python\nx = f()\n```\n"""\n    return 1\n'
    assert len(code_blocks(response)) == 1
    assert main_code(response) == CodeBlock(0, len(response), "python", response)
    prose = f'Not """code""":\n{response}'
    assert main_code(prose).content == "x = f()\n"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("#!/bin/sh\n\nls -l", False),
        ("#!/usr/bin/env python3\nx = 1", True),
        ("# A heading\n\n  # and another", False),
        ("# A comment\n\n  # and another\nx = 1", True),
        ("# A comment\rx = 1", True),
    ],
)
def test_bare_scripts_and_comments(text, program):
    assert (main_code(text) is not None) is program


README = "Here:\n```markdown\n# Title\n```python\nx = 1\n```\nSo it goes.\n```\nEnd of it.\n"


def test_a_block_in_a_block_ends_the_outer_one():
    """As CommonMark has it: a fence with a language opens nothing in a block, and a bare one ends
    the block; what was meant to end the outer block opens another."""
    block = main_code(README)
    assert (block.language, block.content) == ("markdown", "# Title\n```python\nx = 1\n")
    assert [block.content for block in code_blocks(README)][1:] == ["End of it.\n"]
    two = README.replace("So it goes.", "Or:\n```python\ny = 2\n```")
    assert main_code(two).content == "y = 2\n"
    assert main_code(README.replace("```m", "````m").replace("```\nE", "````\nE")).content == (
        "# Title\n```python\nx = 1\n```\nSo it goes.\n"
    )


@pytest.mark.parametrize(
    ("response", "content"),
    [
        ("```python\nx = 1\n    ```", "x = 1\n"),
        ("```python\r\nx = 1\r\n\t```\r\n\r\n", "x = 1\r\n"),
        ("-\n  ```python\n  x = 1\n      ````\n", "x = 1\n"),
        ("```python\nx = 1\n    ```\nThat was it.", "x = 1\n    ```\nThat was it."),
        ("````python\nx = 1\n```", "x = 1\n```"),
        ("```python\nx = 1\n    ```\n```", "x = 1\n    ```\n"),
        ("```python\n    ```", None),
    ],
)
def test_a_last_fence_that_is_indented_too_far_ends_the_main_code(response, content):
    block = main_code(response)
    assert (block and block.content) == content
    if block is not None:
        same = replace_code(response, block, block.content)
        assert same == response


@pytest.mark.parametrize("text", ["", "Yes", "42", "I do not know.", "\n \n"])
def test_a_response_without_code(text):
    assert main_code(text) is None


def test_parses_is_what_compile_says():
    assert parses("def f():\n    return 1") and parses("")
    assert not parses("break")  # ast.parse lets it pass
    assert not parses("def f(:")
    assert not parses("x = '\0'")
    assert not parses("(" * 5000)
    assert not parses("9" * 5000)


def test_warnings_of_the_code_are_not_ours(recwarn):
    assert parses("x = '\\d'\nassert (1, 'x')")
    assert not recwarn.list


def test_future_imports_of_this_code_do_not_leak_into_the_compiled_one():
    namespace: dict = {}
    exec(compiled("def f(x: int): pass"), namespace)
    assert namespace["f"].__annotations__ == {"x": int}


# ------------------------------------------------------------------ forms

PROGRAM = "def f():\n    return 1\n"
FORMS = {
    "Words.": "no_code",
    "int main() { return 0; }": "no_code",
    "```\n```": "no_code",
    PROGRAM: "bare_code",
    f"So:\n```python\n{PROGRAM}```\n": "one_block",
    f"```python\n{PROGRAM}```\n```\n\n```\n": "one_block",
    f"```python\n{PROGRAM}```\n```\n1\n```\n": "several_blocks",
    f"```python\n{PROGRAM}": "one_block unclosed_fence",
    f"```python\n{PROGRAM}    ```": "one_block unclosed_fence",
    f"````\n{PROGRAM}'''\n```\n'''\n````": "one_block nested_fence",
    f"{PROGRAM}'''\n```\nx\n```\n'''": "bare_code nested_fence",
    README: "several_blocks unclosed_fence nested_fence other_language",
    "```c\nint x;\n```": "one_block other_language",
    f"```c\nint a_long_name;\n```\n```\n{PROGRAM}```": "several_blocks",
    "```python\nint x;\n```": "one_block does_not_parse",
    "```\nint x;\n```": "one_block does_not_parse",
    PROGRAM.replace("\n", "\r\n"): "bare_code crlf",
    PROGRAM.replace("\n", "\r"): "bare_code",
    PROGRAM.replace("    ", "\t"): "bare_code tabs",
    f"Text:\n\tindented\n```py\n{PROGRAM}x = '\t'\n \t \n```": "one_block",
    f"```py\r\n{PROGRAM}```": "one_block crlf mixed_newlines",
    "Words\ron\nlines.": "no_code mixed_newlines",
    "```\nx = '\0'\n```": "one_block does_not_parse",
}


@pytest.mark.parametrize("response", FORMS)
def test_forms(response):
    assert " ".join(forms_of(response, main_code(response))) == FORMS[response]


@pytest.mark.parametrize(
    ("fence", "language", "notes"),
    [
        ("```", "C", ()),
        ("```", " Python", ("does_not_parse",)),
        ("```py", "C", ("does_not_parse",)),
    ],
)
def test_the_records_language_stands_in_where_the_fence_names_none(fence, language, notes):
    response = f"{fence}\nint x;\n```"
    assert forms_of(response, main_code(response), language) == ("one_block", *notes)
    assert forms_of("```\nint x;\n```", main_code("```\nint x;\n```"), " Python") == (
        "one_block",
        "does_not_parse",
    )
    assert forms_of("```python\nint x;\n```", main_code("```python\nint x;\n```"), "C") == (
        "one_block",
        "does_not_parse",
    )


@many
@given(st.lists(st.sampled_from([*FORMS, "  ```py\n  x = 1\n    ```", "    ```"])).map("\n".join))
def test_the_code_is_found_again_at_the_place_that_a_record_keeps(response):
    block = main_code(response)
    again = block_at(response, place_of(block))
    if block is None:
        assert again is None
    else:
        assert again == dataclasses.replace(block, closed=True, nested=False)
        assert replace_code(response, again, "y = 2") == replace_code(response, block, "y = 2")


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 1), (0, 6)])
def test_a_place_outside_of_the_response(start, end):
    with pytest.raises(ValueError, match=f"a response of 5 characters: {start} to {end}"):
        block_at("x = 1", {"start": start, "end": end, "indent": 0, "language": ""})


@many
@given(st.sampled_from(list(FORMS)), st.sampled_from(list(FORMS)), st.sampled_from(["\n", "\r\n"]))
def test_a_response_has_one_form_and_it_is_that_of_its_main_code(one, other, newline):
    response = f"{one}\n{other}".replace("\n", newline)
    form, *notes = forms_of(response, main_code(response))
    assert form in CODE_FORMS
    assert notes == [name for name in NOTES if name in notes]
    block = main_code(response)
    assert (block is None) == (form == "no_code")
    if block is not None:
        assert (block.start == 0) == (form == "bare_code")
        assert not {"does_not_parse", "other_language"} & set(notes) or not (
            block.language in ("", "python") and parses(block.content)
        )


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("x = 1\n" * 170_000, "bare_code"),
        ("word " * 200_000, "no_code"),
        ("```\nx\n```\n" * 50_000, "several_blocks"),
        ("```a\n" * 100_000, "one_block unclosed_fence nested_fence other_language"),
        ("`" * 1_000_000, "no_code"),
        ("```\n" + " " * 1_000_000 + "x", "one_block unclosed_fence does_not_parse"),
        ("```\n" + "(" * 100_000 + ")" * 100_000, "one_block unclosed_fence does_not_parse"),
        ("x = " + "-" * 100_000 + "1", "no_code"),
        ("```py\nx" + ".a" * 100_000, "one_block unclosed_fence does_not_parse"),
        ("\n\t" * 300_000 + "x", "no_code"),
        ("\r" * 1_000_000, "no_code"),
    ],
    ids=range(11),
)
def test_long_and_hostile_responses(response, expected):
    assert " ".join(forms_of(response, main_code(response))) == expected


# ------------------------------------------------------------------ replacing

code_line = st.text(alphabet="x= 1\t#", max_size=8)
code_text = st.lists(code_line, min_size=1, max_size=5).map("\n".join)
prose = st.text(alphabet="ab \n.", max_size=12)


def without_trailing_space(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))


@many
@given(before=prose, code=code_text, after=prose, newline=st.sampled_from(["\n", "\r\n"]))
def test_replacing_code_by_itself_changes_nothing(before, code, after, newline):
    response = f"{before}\n```python\n{code}\n```\n{after}".replace("\n", newline)
    block = code_blocks(response)[0]
    same = replace_code(response, block, block.content)
    if newline == "\n":
        assert without_trailing_space(same) == without_trailing_space(response)
    assert without_trailing_space(same.replace("\r", "")) == without_trailing_space(
        response.replace("\r", "")
    )
    assert same.count("\r\n") == response.count("\r\n")


@many
@given(
    before=prose, old=code_text, new=code_text, after=prose, fence=st.sampled_from(["```", "~~~~"])
)
def test_the_text_around_the_code_stays(before, old, new, after, fence):
    response = f"{before}\n{fence}python\n{old}\n{fence}\n{after}"
    block = code_blocks(response)[0]
    variant = replace_code(response, block, new)
    assert variant.startswith(response[: block.start])
    assert variant.endswith(response[block.end :])
    assert without_trailing_space(new).strip() in without_trailing_space(variant)


@many
@given(old=code_text, new=code_text)
def test_the_fence_still_closes(old, new):
    assume(old.strip() and new.strip())
    response = f"Text.\n```python\n{old}\n```\nMore."
    (block,) = code_blocks(response)
    (replaced,) = code_blocks(replace_code(response, block, new))
    assert without_trailing_space(replaced.content).strip() == without_trailing_space(new).strip()


@pytest.mark.parametrize("code", ["y = 2", "y = 2\n", "\n\ny = 2\n\n\n", "y = 2   \r\n", "y = 2\r"])
def test_the_end_is_that_of_the_response(code):
    for tail in ("", "\n", "\n\n", "  \n"):
        response = f"```\nx = 1{tail}"
        assert replace_code(response, code_blocks(response)[0], code) == f"```\ny = 2{tail}"


def test_spaces_at_the_end_of_lines_are_those_of_the_response():
    response = "```\nx = 1  \n\t\ny = 2\nz = 3 \n```"
    (block,) = code_blocks(response)
    variant = replace_code(response, block, "x = 1\n\ny = 2   \nz = 4   \n")
    assert variant == "```\nx = 1  \n\t\ny = 2\nz = 4 \n```"


def test_blank_lines_at_the_start_are_those_of_the_response():
    response = "```\n\n  \n    x = 1\n```"
    (block,) = code_blocks(response)
    assert replace_code(response, block, "\n    y = 2\n") == "```\n\n  \n    y = 2\n```"
    response = "```\nx = 1\n```"
    (block,) = code_blocks(response)
    assert replace_code(response, block, "\n\ny = 2\n") == "```\ny = 2\n```"


def test_the_newlines_are_those_of_the_response():
    windows = "Text\r\n```\r\nx\r\ny\r\n```\r\n"
    (block,) = code_blocks(windows)
    assert replace_code(windows, block, "a\nb\n") == "Text\r\n```\r\na\r\nb\r\n```\r\n"
    unix = windows.replace("\r", "")
    (block,) = code_blocks(unix)
    assert replace_code(unix, block, "a\r\nb\r\n") == "Text\n```\na\nb\n```\n"


def test_indentation_of_the_first_line_stays():
    response = "```\n    return 1\n```"
    (block,) = code_blocks(response)
    assert replace_code(response, block, "    return 2") == "```\n    return 2\n```"


@pytest.mark.parametrize("tail", ["", "\n", "\n\n", " "])
def test_bare_code_is_replaced_whole(tail):
    response = f"def f():\n    return 1{tail}"
    variant = replace_code(response, main_code(response), "def f():\n    return 2\n")
    assert variant == f"def f():\n    return 2{tail}"


def test_the_newline_style_is_the_codes():
    """Prose in CRLF around code in LF: the code keeps LF, so that only its change differs."""
    response = "Here.\r\n\r\n```python\ndef f():\n    return 1\n```\r\n"
    replaced = replace_code(response, main_code(response), "def f():\n    return 2\n")
    assert replaced == response.replace("return 1", "return 2")


def test_lines_keep_their_own_newlines():
    mixed = "```\na = 1\r\nb = 2\nc = 3\r\nd = 4\n```\n"
    block = main_code(mixed)
    assert replace_code(mixed, block, "a = 1\nb = 2\nc = 0\nd = 4") == mixed.replace("3", "0")
    longer = replace_code(mixed, block, "a = 1\nb = 2\nc = 3\nd = 4\ne = 5")
    assert longer == mixed.replace("d = 4\n", "d = 4\r\ne = 5\n")


def test_lines_that_end_in_a_carriage_return_alone():
    response = "\r\rdef f():\r    return 1\r"
    block = main_code(response)
    assert replace_code(response, block, "def f():\n    return 2") == response.replace("1", "2")


def test_code_in_a_list_item():
    response = "1. So:\n   ```python\n   def f():\n       return 1\n   ```\n"
    block = main_code(response)
    assert block.content == "def f():\n    return 1\n"
    replaced = replace_code(response, block, "def f():\n    return 2")
    assert replaced == response.replace("return 1", "return 2")
