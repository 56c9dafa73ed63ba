"""Code inside Markdown responses: finding it, reading it from an answer, replacing it."""

import dataclasses
import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

# A line that may open or close a block. It begins with the newline before it, which a search finds
# much faster than a line's start.
FENCE = re.compile(r"\n(?P<indent> {0,3})(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
PYTHON = frozenset({"", "python", "python3", "py", "py3"})
DEEP_FENCE = re.compile(r"(?: {4,}| *\t[ \t]*)(?:`{3,}|~{3,})")
SHEBANG_OF_OTHERS = re.compile(r"#!(?!.*python)")
STATEMENT = re.compile(r"[\r\n][ \t\f]*[^ \t\f\r\n#]")
NEWLINE = re.compile(r"\r\n|\r|\n")
TABBED = re.compile(r"[\r\n] *\t[ \t]*[^ \t\r\n]")

CODE_FORMS = {
    "one_block": "one fenced block of code",
    "several_blocks": "several fenced blocks",
    "bare_code": "no fence; the whole is a program",
    "no_code": "no fenced block, and not a program",
}
NOTES = {
    "unclosed_fence": "a block that nothing closes, which goes to the end",
    "nested_fence": "a block, or bare code, that holds a line that looks like a fence",
    "other_language": "the code's fence names a language other than Python",
    "does_not_parse": "the code is meant as Python and does not compile",
    "crlf": "lines that end in \\r\\n",
    "tabs": "a line of the code that is indented by a tab",
    "mixed_newlines": "lines that end in different ways (\\n, \\r\\n, \\r)",
}


@dataclasses.dataclass(frozen=True)
class CodeBlock:
    """A fenced block: ``text[start:end]`` is what stands between its fences.

    ``content`` is that without the indentation of the fences (code in a list item), its last
    newline included. ``closed`` says whether a fence ends it, and ``nested`` whether it holds a
    line that looks like a fence.
    """

    start: int
    end: int
    language: str
    content: str
    indent: int = 0
    closed: bool = True
    nested: bool = False


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced code blocks of a Markdown text, in order (CommonMark's rule for fences).

    A closing fence has at least as many marks as the opening one and nothing behind it, so a
    block fenced by four marks may hold fences of three, and a fence with a language closes nothing.
    A block that is never closed goes to the end of the text, and is left out if it is empty. Lines
    end at ``\\n``; a ``\\r`` that stands alone ends none.
    """
    blocks: list[CodeBlock] = []
    opened: re.Match[str] | None = None
    nested = False
    # With a newline before it, the text's first line is like all others. A match then starts where
    # its line starts in the text, and ends where the next line does.
    for line in FENCE.finditer("\n" + text):
        if opened is None:
            if line["fence"][0] == "~" or "`" not in line["info"]:
                opened, nested = line, False
        elif line["fence"].startswith(opened["fence"]) and not line["info"].strip():
            blocks.append(block_of(text, opened, line.start(), True, nested))
            opened = None
        else:
            nested = True
    if opened is not None and opened.end() < len(text):
        blocks.append(block_of(text, opened, len(text), False, nested))
    return blocks


def block_of(text: str, opened: re.Match[str], end: int, closed: bool, nested: bool) -> CodeBlock:
    start, indent = opened.end(), len(opened["indent"])
    language = (opened["info"].split(None, 1) or [""])[0].lower()
    content = content_of(text[start:end], indent)
    return CodeBlock(start, end, language, content, indent, closed, nested)


def content_of(text: str, indent: int) -> str:
    """What stands between two fences, without their indentation."""
    return re.sub(rf"^ {{1,{indent}}}", "", text, flags=re.M) if indent else text


def place_of(block: CodeBlock | None) -> dict[str, Any] | None:
    """Where a response's code is, as a record keeps it (:data:`fgit.variants.CODE_AT`)."""
    if block is None:
        return None
    return {name: getattr(block, name) for name in ("start", "end", "indent", "language")}


def block_at(response: str, place: Mapping[str, Any] | None) -> CodeBlock | None:
    """The code at a place that a record keeps; whether it is closed or nested is not kept.

    Raises:
        ValueError: if the place does not lie in the response.
    """
    if place is None:
        return None
    start, end, indent = place["start"], place["end"], place["indent"]
    if not 0 <= start <= end <= len(response):
        raise ValueError(f"no place in a response of {len(response)} characters: {start} to {end}")
    return CodeBlock(start, end, place["language"], content_of(response[start:end], indent), indent)


@functools.lru_cache(maxsize=16)  # a response's code is parsed more than once in a row
def parses(code: str) -> bool:
    """Whether ``code`` is a Python program (by ``compile``: ``ast.parse`` lets too much pass)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<code>", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return False
    return True


def main_code(response: str) -> CodeBlock | None:
    """The code of a response that a variant replaces.

    The whole response where it is a Python program (bare code: what looks like a fence is in a
    string of it); else the longest block that parses as Python; if none parses, the longest block;
    of equally long ones the first. None if there is no block either. Blank blocks do not count.

    Blocks begin and end where CommonMark has them, also where that is not what was meant: a README
    in a ``markdown`` block ends with the first block that it holds. One thing is corrected: if
    nothing closes a block but the last line is a fence that is indented too far, the block ends
    before it.
    """
    blocks = blocks_with_code(response)
    # A fence in a string of a program stands behind the quotes that open it.
    before = response[: blocks[0].start] if blocks else ""
    if not blocks or '"""' in before or "'''" in before:
        bare = response.strip()
        if is_program(bare):
            # Blank lines before it are its own, as those behind it are; a first line's indentation
            # is not.
            lead = len(response) - len(response.lstrip())
            start = 0 if first_line(response) == lead else lead
            return CodeBlock(start, len(response), "python", response[start:])
    by_length = sorted(blocks, key=lambda block: len(block.content), reverse=True)
    for block in by_length if len(blocks) > 1 else []:  # of one block it does not matter
        if block.language in PYTHON and parses(block.content):
            return block
    return by_length[0] if by_length else None


def is_program(bare: str) -> bool:
    """Whether a text is a Python program of more than a word, and not of comments alone.

    A script whose first line names another interpreter is none, though Python may read it.
    """
    if len(bare.split(None, 1)) < 2 or SHEBANG_OF_OTHERS.match(bare):
        return False
    return STATEMENT.search("\n" + bare) is not None and parses(bare)


def blocks_with_code(response: str) -> list[CodeBlock]:
    """The blocks that are not blank, the last one without a fence that is indented too far."""
    blocks = (without_deep_fence(response, block) for block in code_blocks(response))
    return [block for block in blocks if block.content.strip()]


def without_deep_fence(response: str, block: CodeBlock) -> CodeBlock:
    """The block without a last line that would close it, were it not indented too far."""
    if block.closed:
        return block
    text = response.rstrip()
    last = text.rfind("\n") + 1
    if last < block.start or not DEEP_FENCE.fullmatch(text, last):
        return block
    content = block.content[: block.content.rstrip().rfind("\n") + 1]
    return dataclasses.replace(block, end=last, content=content)


def forms_of(response: str, code: CodeBlock | None, language: str | None = None) -> tuple[str, ...]:
    """What a response looks like: one of :data:`CODE_FORMS`, then any of :data:`NOTES`, in order.

    Blank blocks do not count.

    Args:
        code: the response's code, as :func:`main_code` gives it.
        language: the record's, for code whose fence names none; None is taken for Python.
    """
    blocks = blocks_with_code(response)
    bare = code is not None and not response[: code.start].strip()
    if code is None:
        form = "no_code"
    elif bare:
        form = "bare_code"
    else:
        form = "one_block" if len(blocks) == 1 else "several_blocks"
    named = code.language or (language or "").strip().lower() if code else ""
    notes = {
        "unclosed_fence": not bare and any(not block.closed for block in blocks),
        "nested_fence": bool(blocks) if bare else any(block.nested for block in blocks),
        "other_language": code is not None and code.language not in PYTHON,
        "does_not_parse": code is not None and named in PYTHON and not parses(code.content),
        "crlf": "\r\n" in response,
        "tabs": code is not None and TABBED.search("\n" + code.content) is not None,
        "mixed_newlines": len(set(NEWLINE.findall(response))) > 1,
    }
    return (form, *[name for name, holds in notes.items() if holds])


def replace_code(response: str, block: CodeBlock, code: str) -> str:
    """The variant y': the response with the content of ``block`` replaced by ``code``.

    The new code takes the old code's newline style and indentation, the whitespace and the newline
    at the end of lines that the old code has too, and its blank lines at the start and final
    whitespace, so that only what the code itself says differs.
    """
    old = block.content
    newline = newline_of(old.rstrip()) or newline_of(response) or "\n"
    # Of \r\n, lines are split at the \n, so that each keeps the \r that it has or lacks.
    between, end = newline[-1], newline[:-1]
    lines = old.rstrip().split(between)
    lines[-1] += end
    as_before = {line.rstrip(): line for line in reversed(lines)}
    new = between.join(
        as_before.get(line.rstrip(), line.rstrip() + end)
        for line in code.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ).rstrip()
    new = new[first_line(new) :]
    head = old[: first_line(old)] if old.strip() else ""
    whole = head + new + old[len(old.rstrip()) :]
    if block.indent:
        whole = re.sub(r"^(?=[^\r\n])", " " * block.indent, whole, flags=re.M)
    return response[: block.start] + whole + response[block.end :]


def newline_of(text: str) -> str:
    """How new lines of a text are to end: ``\\r\\n`` if any line does, empty if it has one line."""
    return next((newline for newline in ("\r\n", "\n", "\r") if newline in text), "")


def first_line(text: str) -> int:
    """Where the first line that is not blank starts."""
    blank = len(text) - len(text.lstrip())
    return max(text.rfind("\n", 0, blank), text.rfind("\r", 0, blank)) + 1


def fenced(code: str, language: str) -> str:
    """The code as a Markdown block, whatever fences it holds itself."""
    marks = "`" * (max((len(run) for run in re.findall(r"`{3,}", code)), default=2) + 1)
    return f"{marks}{language}\n{code}\n{marks}"
