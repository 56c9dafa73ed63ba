"""HumanEval+ (kind ``humaneval``): EvalPlus's format, prompts, sanitizer and check.

The other kinds that ask as EvalPlus does take what they share from here.
"""

import functools
from typing import Any

from fgit.benchmarks.kind import Kind, Problem, Programs, RawProblem, require_texts, text_fields
from fgit.benchmarks.releases import EvalPlusFile
from fgit.common.chat_templates import as_evalplus_asks
from fgit.common.errors import UserError
from fgit.config import Mode

FIELDS = ("task_id", "prompt", "entry_point", "contract", "canonical_solution")
INPUTS = ("base_input", "plus_input")

# evalplus.codegen.run_codegen and bigcodebench.generate.run_codegen, which cannot be imported from
# there: they are local to one and a default argument in the other.
INSTRUCTION_PREFIX = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:"
)
RESPONSE_PREFIX = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:"
)


def check(where: str, row: RawProblem, kind: str = "humaneval") -> Problem:
    """The row with its fields checked, and its inputs as lists of argument lists."""
    others = (*INPUTS, "atol")
    problem = require_texts(kind, where, row, FIELDS, others=others, may_be_empty=["contract"])
    if isinstance(row["atol"], bool) or not isinstance(row["atol"], int | float):
        raise UserError(f"{where}: 'atol' is not a number: {row['atol']!r:.60}")
    return problem | {field: argument_lists(where, field, row[field]) for field in INPUTS}


def argument_lists(where: str, field: str, inputs: Any) -> list[Any]:
    if inputs == {}:  # how MBPP+ v0.2.0 writes that Mbpp/793 has no further tests
        inputs = []
    if not isinstance(inputs, list) or not all(isinstance(item, list) for item in inputs):
        raise UserError(f"{where}: {field!r} is not a list of argument lists: {inputs!r:.60}")
    if field == "base_input" and not inputs:
        raise UserError(f"{where}: {field!r} is empty: the problem has no tests")
    return inputs


def prompt(problem: Problem, tokenizer: Any, mode: Mode) -> str:
    """The text that the model is asked: in chat mode, up to the opened code fence."""
    from fgit.common.tokenizers import marked

    start = marked(tokenizer, problem["prompt"].strip()) + "\n"
    if mode == "completion":
        return start
    from evalplus.provider.utility import make_raw_chat_prompt

    asked = as_evalplus_asks(tokenizer)
    return make_raw_chat_prompt(start, INSTRUCTION_PREFIX, RESPONSE_PREFIX, asked)


def stops(mode: Mode, dataset: str = "humaneval") -> tuple[str, ...]:
    from evalplus.provider import utility as evalplus

    if mode == "chat":
        return (*evalplus.EOS, "\n```\n")
    return (*evalplus.EOS, *evalplus.extra_eos_for_direct_completion(dataset))


def sanitize(code: str, entry_point: str) -> str:
    from evalplus.sanitize import sanitize

    return sanitize(code, entry_point)


protect = functools.partial(
    text_fields, fields=("task_id", "prompt", "canonical_solution", "entry_point")
)

PROGRAMS = Programs(
    prompt, stops, sanitize, head="prompt", tests=INPUTS, scorer="humaneval", library="evalplus"
)
HUMANEVAL = Kind(
    "humaneval", check, protect, functools.partial(EvalPlusFile, "HumanEvalPlus"), PROGRAMS
)
