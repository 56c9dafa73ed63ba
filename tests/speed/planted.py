"""Which way of decontaminating finds which form of a benchmark's text, and what that costs.

    python tests/speed/planted.py --json planted.json --markdown planted.md

Prompts and solutions of HumanEval, MBPP and BigCodeBench are planted in real samples that no way
removes by themselves (GPTeacher's), each as it is and in altered forms: FORMS. Measured is the
share that is found by Magicoder's rule, by open-r1's n-grams (peers.py), and by `fgit
decontaminate` in its two modes; and, as the price, how many of GPTeacher's own samples each way
removes. Paraphrases are not planted.

A prompt stands in a sample's instruction. A solution stands in the response as a program: the
prompt's code without its docstring, then the canonical solution. A form counts only where it
changes the text. Written: for each benchmark, kind and form the number planted and the share found
by each way; the price; packages, code, hardware, command.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import io
import itertools
import math
import re
import sys
import tempfile
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fgit.common.errors import UserError
from fgit.common.files import write_json, write_jsonl, write_text
from fgit.common.provenance import code_version, hardware, package_versions
from tests.speed import peers, synthetic
from tests.speed.data_stages import CORES, run_decontaminate
from tests.speed.synthetic import Problem

WAYS = {
    "magicoder": "Magicoder",
    "open_r1": "open-r1",
    "paper": "`paper`",
    "strict": "`strict`",
}
TITLES = {"humaneval": "HumanEval", "mbpp": "MBPP", "bigcodebench": "BigCodeBench"}
KINDS = {"prompt": "prompts", "solution": "solutions"}
NEW_NAMES = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india")
NEW_FUNCTION = "answer_of_task"
OTHER_LINES = {"prompt": "Other words stand here.", "solution": "checked = True"}
REMOVED = "\0"  # stands for what is cut, until the lines that it leaves blank are
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Text:
    """What is planted.

    Attributes:
        kind: ``prompt`` or ``solution``.
        core: the part of ``text`` that a benchmark's strings are taken from: the docstring of a
            prompt, the canonical solution of a program.
        is_code: false of MBPP's prompts, which are one sentence.
    """

    kind: str
    text: str
    core: str
    entry_point: str
    is_code: bool


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    parser.add_argument("--data", type=Path, default=synthetic.DATA, metavar="DIR")
    parser.add_argument(
        "--every", type=int, nargs=3, default=[1, 1, 5], metavar="N",
        help="plant each N-th problem of HumanEval, MBPP, BigCodeBench (default: 1 1 5)",
    )  # fmt: skip
    given = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(given.data, dict(zip(TITLES, given.every, strict=True)), Path(folder))
        write_json(given.json, result)
        if given.markdown:
            write_text(given.markdown, markdown(result))
    except UserError as error:
        print(f"planted.py: error: {error}", file=sys.stderr)
        return 1
    print(markdown(result))
    return 0


def measure(data: Path, every: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """What is written to --json."""
    problems = synthetic.problems(data)
    benchmarks = synthetic.problem_files(data)
    real = synthetic.gpteacher(data)
    removed = removed_by(real, problems, benchmarks, folder)
    price = {way: len(ids) for way, ids in removed.items()}
    carriers = [row for row in real if not any(row["id"] in ids for ids in removed.values())]
    samples: list[dict[str, str]] = []
    places: dict[str, tuple[str, str, str]] = {}
    for benchmark, step in every.items():
        chosen = [problem for problem in problems if problem.benchmark == benchmark][::step]
        for kind, form, text in plants(chosen):
            identifier = f"p{len(samples)}"
            carrier = carriers[len(samples) % len(carriers)]
            samples.append(planted(carrier, kind, text) | {"id": identifier})
            places[identifier] = benchmark, kind, form
    # A sample that no way removes, so that never all are.
    found = removed_by([carriers[0], *samples], problems, benchmarks, folder)
    rows: dict[tuple[str, str, str], dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(["planted", *WAYS], 0)
    )
    for identifier, place in places.items():
        rows[place]["planted"] += 1
        for way, ids in found.items():
            rows[place][way] += identifier in ids
    return {
        "forms": [
            {
                "benchmark": benchmark,
                "kind": kind,
                "form": form,
                "planted": row["planted"],
                "found": {way: row[way] / row["planted"] for way in WAYS},
            }
            for (benchmark, kind, form), row in rows.items()
        ],
        "price": {"samples": len(real), "removed": price},
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "command": sys.argv,
    }


def removed_by(
    samples: Sequence[Mapping[str, str]],
    problems: Sequence[Problem],
    benchmarks: Mapping[str, Path],
    folder: Path,
) -> dict[str, set[str]]:
    """The ids that each way removes."""
    write_jsonl(folder / "samples.jsonl", samples)
    texts, grams = peers.magicoder_texts(problems), peers.open_r1_grams(problems)
    found = {
        "magicoder": {row["id"] for row in samples if peers.magicoder_removes(row, texts)},
        "open_r1": {row["id"] for row in samples if peers.open_r1_removes(row, grams)},
    }
    for mode in ("paper", "strict"):
        _, found[mode] = run_decontaminate(
            folder / "samples.jsonl", benchmarks, folder, mode, CORES
        )
    return found


def planted(carrier: Mapping[str, str], kind: str, text: str) -> dict[str, str]:
    """A sample with a text in it."""
    if kind == "prompt":
        return {**carrier, "instruction": f"{carrier['instruction']}\n\n{text}"}
    return {**carrier, "response": f"{carrier['response']}\n\n```python\n{text}\n```"}


def plants(problems: Iterable[Problem]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, form, text) of each problem, where the form changes the text."""
    for problem in problems:
        for kind, text, core in [
            ("prompt", problem.prompt, problem.docstring),
            ("solution", problem.program, problem.solution),
        ]:
            is_code = kind == "solution" or problem.benchmark != "mbpp"
            given = Text(kind, text, core, problem.entry_point, is_code)
            for form, change in FORMS.items():
                changed = change(given)
                if form == "verbatim" or changed not in (None, text):
                    yield kind, form, changed or text


# ------------------------------------------------------------------ the forms


def other_indentation(text: Text, unit: str) -> str:
    """The text with another unit of indentation."""
    lines = [line.expandtabs(4) for line in text.text.split("\n")]
    widths = [len(line) - len(line.lstrip(" ")) if line.strip() else 0 for line in lines]
    own = min(filter(None, widths), default=4)
    return "\n".join(
        unit * (width // own) + " " * (width % own) + line[width:]
        for line, width in zip(lines, widths, strict=True)
    )


def a_level_deeper(text: Text) -> str:
    return re.sub(r"^(?=.*\S)", "    ", text.text, flags=re.MULTILINE)


def other_line_ends(text: Text) -> str:
    """CRLF in place of LF, or the other way round."""
    if "\r\n" in text.text:
        return text.text.replace("\r\n", "\n")
    return text.text.replace("\n", "\r\n")


def other_arguments(text: Text) -> str | None:
    """The arguments of the function have other names, in its docstring too."""
    tree = parsed(text)
    if tree is None or (function := function_of(tree, text.entry_point)) is None:
        return None
    of = function.args
    arguments = [*of.posonlyargs, *of.args, of.vararg, *of.kwonlyargs, of.kwarg]
    old = [argument.arg for argument in arguments if argument is not None]
    new = [name for name in NEW_NAMES if name not in words_of(text.text)]
    return renamed(text, tree, function, dict(zip(old, new, strict=False)))


def other_function(text: Text) -> str | None:
    """The function has another name, in its docstring too."""
    tree = parsed(text)
    if tree is None or function_of(tree, text.entry_point) is None:
        return None
    return renamed(text, tree, tree, {text.entry_point: NEW_FUNCTION})


def without_comments(text: Text) -> str | None:
    """A program without its comments and docstrings."""
    tree = parsed(text) if text.kind == "solution" else None
    if tree is None:
        return None
    places = Places(text.text)
    changes = []
    for token in tokens_of(text.text):
        if token.type == tokenize.COMMENT:
            start = places.of(*token.start)
            end = start + len(token.string)
            changes.append((len(text.text[:start].rstrip(" \t")), end, REMOVED))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (docstring := docstring_of(node)) is not None:
            start, end = places.span(docstring)
            changes.append((start, end, REMOVED if len(node.body) > 1 else "pass"))
    lines = replaced(text.text, changes).split("\n")
    kept = [line for line in lines if REMOVED not in line or line.replace(REMOVED, "").strip()]
    return "\n".join(kept).replace(REMOVED, "")


def other_ends(text: Text) -> str | None:
    """A partial copy: the first and the last line of the core are others."""
    lines = text.core.split("\n")
    full = [number for number, line in enumerate(lines) if line.strip()]
    if len(full) < 3:
        return None
    for number in (full[0], full[-1]):
        indentation = lines[number][: -len(lines[number].lstrip())]
        lines[number] = indentation + OTHER_LINES[text.kind]
    before, _, after = text.text.rpartition(text.core)
    return before + "\n".join(lines) + after


FORMS: dict[str, Callable[[Text], str | None]] = {
    "verbatim": lambda text: text.text,
    "indented by tabs": lambda text: other_indentation(text, "\t"),
    "indented by two spaces": lambda text: other_indentation(text, "  "),
    "a level deeper": a_level_deeper,
    "upper case": lambda text: text.text.upper(),
    "swapped case": lambda text: text.text.swapcase(),
    "spaces for newlines": lambda text: re.sub(r"\r?\n", " ", text.text),
    "doubled spaces": lambda text: text.text.replace(" ", "  "),
    "blank lines between": lambda text: text.text.replace("\n", "\n\n"),
    "other line ends": other_line_ends,
    "arguments renamed": other_arguments,
    "function renamed": other_function,
    "no comments and docstrings": without_comments,
    "first and last line changed": other_ends,
}


# ------------------------------------------------------------------ changing a program


class Places:
    """Where the lines and columns of a text are, in characters."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.starts = [0, *itertools.accumulate(len(line) + 1 for line in self.lines)]

    def of(self, line: int, column: int) -> int:
        """Of a token."""
        return self.starts[line - 1] + column

    def of_bytes(self, line: int, column: int) -> int:
        """Of a node, whose columns count bytes."""
        return self.of(line, len(self.lines[line - 1].encode()[:column].decode()))

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.of_bytes(node.lineno, node.col_offset),
            self.of_bytes(node.end_lineno, node.end_col_offset),
        )


def parsed(text: Text) -> ast.Module | None:
    """The tree of a program; None of what is none."""
    if not text.is_code:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text.text)
        except SyntaxError:
            return None


def tokens_of(code: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(code).readline))


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def function_of(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The last function of this name at the top level."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[-1] if found else None


def docstring_of(node: Any) -> ast.Expr | None:
    """The statement that is a function's, class's or module's docstring."""
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
            return docstring
    return None


def renamed(text: Text, tree: ast.Module, scope: ast.AST, names: Mapping[str, str]) -> str:
    """The text with other names within ``scope``: its variables, functions, and docstrings."""
    places = Places(text.text)
    starts: set[int] = set()
    docstrings: list[tuple[int, int]] = []
    for node in ast.walk(scope):
        if getattr(node, "id", getattr(node, "arg", None)) in names and not isinstance(
            node, ast.keyword
        ):
            starts.add(places.span(node)[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == text.entry_point:
            own = [keyword for keyword in node.keywords if keyword.arg in names]
            starts |= {places.span(keyword)[0] for keyword in own}
        if isinstance(node, ast.FunctionDef) and node.name in names:
            start = places.span(node)[0]
            starts.add(text.text.index(node.name, start + len("def ")))
        if isinstance(node, DOCUMENTED) and (docstring := docstring_of(node)) is not None:
            docstrings.append(places.span(docstring))
    changes = []
    for token in tokens_of(text.text):
        start = places.of(*token.start)
        end = places.of(*token.end)
        if token.type == tokenize.NAME and start in starts:
            changes.append((start, end, names[token.string]))
        elif token.type == tokenize.STRING and (start, end) in docstrings:
            changes.append((start, end, with_other_words(token.string, names)))
        elif token.type == tokenize.STRING and "f" in token.string[:2].lower():
            # Before Python 3.12 a formatted string is one token, and its names have no places.
            inner = re.sub(r"\{[^{}]*\}", lambda m: with_other_words(m[0], names), token.string)
            changes.append((start, end, inner))
    return replaced(text.text, changes)


def with_other_words(text: str, names: Mapping[str, str]) -> str:
    """The text with whole words replaced; neither the article "a" nor the "s" of "it's"."""
    for old, new in names.items():
        article = r"(?! [a-z])" if old == "a" else ""
        text = re.sub(rf"(?<!\w)(?<!\w['’]){re.escape(old)}(?!\w){article}", new, text)
    return text


def replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """The text with other characters in the places from start to end, which do not overlap."""
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


# ------------------------------------------------------------------ the tables


def markdown(result: Mapping[str, Any]) -> str:
    """A table for each benchmark, and one of the price."""
    rows = {(row["benchmark"], row["kind"], row["form"]): row for row in result["forms"]}
    parts = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in result["forms"]):
        columns = [name for kind in KINDS.values() for name in (kind, *WAYS.values())]
        table = [[TITLES[benchmark], *columns], ["---", *["---:"] * len(columns)]]
        for form in FORMS:
            found = [rows.get((benchmark, kind, form)) for kind in KINDS]
            if any(found):
                table.append([form, *(cell for row in found for cell in cells(row))])
        parts.append(table)
    price = result["price"]
    parts.append(
        [
            ["removed of GPTeacher's samples", *WAYS.values()],
            ["---", *["---:"] * len(WAYS)],
            [f"{price['samples']:,}", *(f"{price['removed'][way]:,}" for way in WAYS)],
        ]
    )
    return "\n".join(
        "".join(f"| {' | '.join(cells_of_row)} |\n" for cells_of_row in table) for table in parts
    )


def cells(row: Mapping[str, Any] | None) -> list[str]:
    """How many were planted, and the share found by each way."""
    if row is None:
        return [""] * (1 + len(WAYS))
    return [f"{row['planted']:,}", *(percent(row["found"][way]) for way in WAYS)]


def percent(share: float) -> str:
    """In whole percents; 0 and 100 only where it is none or all."""
    return f"{math.floor(100 * share) if share > 0.5 else math.ceil(100 * share)} %"


if __name__ == "__main__":
    sys.exit(main())
