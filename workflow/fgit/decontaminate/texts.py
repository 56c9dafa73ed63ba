"""The texts of benchmarks that must not be in training data."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgit.benchmarks.kinds import KINDS
from fgit.benchmarks.problems import problem_rows
from fgit.common import files
from fgit.common.errors import UserError

# Solutions of HumanEval that Magicoder's rule lets pass. (Its fourth, of HumanEval/28, is cut by
# its own quotation marks, and lets nothing pass.)
TRIVIAL_SOLUTIONS = frozenset({"return x + y", "return len(string)", "return n**2"})

DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
EXAMPLE = r">>>|(?:\bfor\s+)?\bexamples?\b|^[ \t]*assert\b"
LITERAL = r"""(?:["'\[({\d-]|True\b|False\b|None\b)"""


@dataclasses.dataclass(frozen=True)
class BenchmarkText:
    """A text that must not be in the data.

    ``what`` is ``docstring``, ``description``, ``prompt``, ``solution`` or ``program``.
    """

    benchmark: str
    task_id: str
    what: str
    text: str


@dataclasses.dataclass(frozen=True)
class ProtectedBenchmark:
    """What is looked for of a benchmark.

    verbatim: as Magicoder's rule has them. texts: for the other rules, long enough each.
    exempt: how many texts are too short to be looked for.
    unprotected: the problems of which no text is long enough.
    """

    problems: int
    verbatim: list[BenchmarkText]
    texts: list[BenchmarkText]
    exempt: int
    unprotected: list[str]


def normalise(text: str) -> str:
    """Lower case, without whitespace; each character alone gives its part of the result."""
    if text.isascii():  # the same, ten times as fast
        return text.encode().translate(LOWER, WHITESPACE).decode()
    return lowered("".join(text.split()))


LOWER = bytes(range(256)).lower()
WHITESPACE = bytes(code for code in range(128) if chr(code).isspace())


def lowered(text: str) -> str:
    """Lower case, each character by itself, and one sigma.

    ``str.lower`` is that but for the capital sigma, whose lower case depends on its neighbours, and
    these differ between a text and a sample that holds it.
    """
    return text.replace("Σ", "σ").lower().replace("ς", "σ")


# ------------------------------------------------------------------ reading


def read_benchmark(name: str, path: Path, min_characters: int) -> ProtectedBenchmark:
    """What is looked for of a problem file.

    Args:
        min_characters: texts of fewer characters, whitespace not counted, are trivial; the rule
            ``verbatim`` has them all the same.

    Raises:
        UserError: naming file and row, if a row is not a problem of a known benchmark.
    """
    verbatim: list[BenchmarkText] = []
    texts: list[BenchmarkText] = []
    unprotected: list[str] = []
    problems = exempt = 0
    for number, row in problem_rows(path):
        problem = row if isinstance(row, files.BadRow) else protected_problem(path, number, row)
        if isinstance(problem, files.BadRow):
            raise UserError(
                f"{problem}. Benchmark {name!r} must be a problem file of HumanEval, MBPP, "
                "EvalPlus, BigCodeBench, DS-1000 or APPS, or of pairs, or rows of task_id, text "
                "and code"
            )
        problems += 1
        task_id = problem["task_id"]
        verbatim += (
            BenchmarkText(name, task_id, *item) for item in verbatim_texts(problem).items()
        )
        by_what = problem_texts(problem, min_characters)
        long = [item for item in by_what.items() if len(normalise(item[1])) >= min_characters]
        exempt += len(by_what) - len(long)
        if not long:
            unprotected.append(task_id)
        texts += (BenchmarkText(name, task_id, *item) for item in long)
    if not problems:
        raise UserError(f"{path}: no problem in it; fetch the file of benchmark {name!r} again")
    return ProtectedBenchmark(problems, verbatim, texts, exempt, unprotected)


def protected_problem(
    path: Path, number: int, row: Mapping[str, Any]
) -> dict[str, Any] | files.BadRow:
    """A row as a problem of the kind whose fields it has.

    Of whatever kind: ``task_id``; ``prompt``, ``entry_point`` and ``canonical_solution``, or
    ``text`` and ``code``; ``verbatim``, where Magicoder's rule has other texts of it; and
    ``section``, a pattern of where the description of the prompt ends too.
    """
    for kind in KINDS.values():
        if (problem := kind.protect(path, number, row)) is not None:
            return problem
    reason = f"not a problem of a known benchmark (its fields: {', '.join(row)})"
    return files.BadRow(str(path), number, reason, "not a problem")


# ------------------------------------------------------------------ what is looked for


def verbatim_texts(problem: Mapping[str, Any]) -> dict[str, str]:
    """A problem's texts as Magicoder's rule has them: the whole docstring, and the solution.

    MBPP's are text and code, of the test split alone; DS-1000's is the prompt.
    """
    if "verbatim" in problem:
        texts = problem["verbatim"]
    elif "text" in problem:
        texts = {"description": problem["text"], "solution": problem["code"]}
    else:
        texts = {
            "docstring": docstring(problem["prompt"], problem["entry_point"]).strip(),
            "solution": problem["canonical_solution"].strip(),
        }
    return {w: t for w, t in texts.items() if t.strip() and t not in TRIVIAL_SOLUTIONS}


def problem_texts(problem: Mapping[str, Any], min_characters: int) -> dict[str, str]:
    """A problem's texts for the other rules: ``description``, ``docstring`` and ``solution``.

    The description is the prose of the docstring, up to the first example; BigCodeBench's ends
    at the first section (Parameters, Returns, ...) too. MBPP's is its text, DS-1000's ends where
    the solution is to stand. The docstring, with all that the description leaves out, is for
    partial copies.

    A text of fewer than ``min_characters`` would be found by chance. So where the description has
    fewer, ``prompt`` is added: the function's head and the description. Where the solution has
    fewer, ``program`` is: head and solution.
    """
    if "text" in problem:
        texts = {"description": problem["text"], "solution": problem["code"]}
    else:
        prompt, entry = problem["prompt"], problem["entry_point"]
        end = f"{EXAMPLE}|{problem['section']}" if "section" in problem else EXAMPLE
        whole = docstring(prompt, entry)
        description = prose(whole, entry, end)
        solution = problem["canonical_solution"]
        texts = {"description": description, "solution": solution}
        if len(normalise(whole)) >= max(len(normalise(description)) + 1, min_characters):
            texts["docstring"] = whole
        head, opening = head_of(prompt, entry)
        if head and len(normalise(description)) < min_characters:
            texts["prompt"] = f"{head}{opening}{description}"
        if head and len(normalise(solution)) < min_characters:
            texts["program"] = f"{head}\n{solution}"
    return {what: text.strip() for what, text in texts.items() if text.strip()}


def head_of(prompt: str, entry_point: str) -> tuple[str, str]:
    """The head of the function ``entry_point``, and what is between it and its docstring's text.

    Two empty texts if there is no such function, or no docstring behind its head.
    """
    function = function_at(prompt, entry_point)
    match = DOCSTRING.search(prompt, function.start()) if function else None
    if function is None or match is None:
        return "", ""
    before = prompt[function.start() : match.start(2)]
    head = before[: match.start() - function.start()]
    return head.strip(), before[len(head.rstrip()) :]


def function_at(prompt: str, entry_point: str) -> re.Match[str] | None:
    return re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", prompt, re.MULTILINE)


def docstring(prompt: str, entry_point: str) -> str:
    """The source of the docstring of ``entry_point``; the whole prompt if it has none.

    The source and not the value, since that is what stands in a sample's code. Helpers may stand
    before the function, with docstrings of their own.
    """
    function = function_at(prompt, entry_point)
    match = DOCSTRING.search(prompt, function.start() if function else 0)
    return match[2] if match else prompt


def prose(text: str, entry_point: str, end: str) -> str:
    """The part of a docstring before the first match of ``end``.

    Some docstrings have no heading over their examples, only lines with a call of the function;
    such a call has a literal argument (``f(n) = ...`` may be the definition that is asked for).
    """
    call = rf"^[ \t]*{re.escape(entry_point)}\([ \t]*{LITERAL}"
    match = re.search(f"{end}|{call}", text, re.IGNORECASE | re.MULTILINE)
    return text[: match.start()] if match else text
