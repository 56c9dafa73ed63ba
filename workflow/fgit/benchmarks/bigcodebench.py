"""BigCodeBench (kind ``bigcodebench``), its *complete* split: its own prompts, sanitizer and check.

Its programs use many libraries, of versions that its own environment has.
"""

from pathlib import Path
from typing import Any

from fgit.benchmarks.humaneval import INSTRUCTION_PREFIX, RESPONSE_PREFIX
from fgit.benchmarks.kind import Kind, Problem, Programs, RawProblem, require_texts, text_fields
from fgit.benchmarks.releases import HubDataset
from fgit.common.chat_templates import as_evalplus_asks
from fgit.common.files import BadRow
from fgit.config import Mode

PROTECTED = ("task_id", "complete_prompt", "canonical_solution", "entry_point")
FIELDS = (*PROTECTED, "instruct_prompt", "code_prompt", "test")
# Where a docstring's sections begin, and the description of the problem ends.
SECTION = (
    r"^[ \t]*(?:parameters?|args|returns?|requirements?|raises?|notes?|constants?|functionality)"
    r"[ \t]*:"
)


def check(where: str, row: RawProblem) -> Problem:
    may_be_empty = ("instruct_prompt", "code_prompt")
    return require_texts("bigcodebench", where, row, FIELDS, may_be_empty=may_be_empty)


def protect(path: Path, number: int, row: RawProblem) -> Problem | BadRow | None:
    problem = text_fields(path, number, row, PROTECTED)
    if isinstance(problem, dict):
        problem |= {"prompt": problem["complete_prompt"], "section": SECTION}
    return problem


def release(version: str) -> HubDataset:
    """``VERSION`` or ``VERSION/SUBSET``: a split of the dataset; the subset has one of its own."""
    split, _, subset = version.partition("/")
    name = "bigcode/bigcodebench" + (f"-{subset}" if subset not in ("", "full") else "")
    return HubDataset(name, None, None, split)


def prompt(problem: Problem, tokenizer: Any, mode: Mode) -> str:
    """The text that the model is asked: in chat mode, up to the opened code fence."""
    from fgit.common.tokenizers import marked

    start = marked(tokenizer, problem["complete_prompt"])
    if mode == "completion":
        return start
    from bigcodebench.provider.utility import make_raw_chat_prompt

    return make_raw_chat_prompt(
        task_prompt=start,
        subset="full",
        split="complete",
        instruction_prefix=INSTRUCTION_PREFIX,
        response_prefix=RESPONSE_PREFIX,
        tokenizer=as_evalplus_asks(tokenizer),
    )


def stops(mode: Mode) -> tuple[str, ...]:
    """None of its own in chat mode: what follows the code block is left to its sanitizer."""
    from bigcodebench.provider import utility

    completion = mode == "completion"
    extra = utility.extra_eos_for_direct_completion("bigcodebench") if completion else []
    return (*utility.EOS, *extra)


def sanitize(code: str, entry_point: str) -> str:
    from bigcodebench.sanitize import sanitize

    return sanitize(code, entry_point)


BIGCODEBENCH = Kind(
    "bigcodebench",
    check,
    protect,
    release,
    Programs(
        prompt,
        stops,
        sanitize,
        head="complete_prompt",
        tests=("test",),
        scorer="bigcodebench",
        library="bigcodebench",
        tight_limits=False,  # it raises every limit to 240 s
    ),
    environment="bigcodebench",
    ground_truth=True,
)
