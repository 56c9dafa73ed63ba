"""Data of any size for the benchmarks of the data's stages, made of real instructions and code.

Read from a folder of real data (tests/conftest.py says where): GPTeacher's instructions and
responses, the problems of HumanEval, MBPP and BigCodeBench, and real pairs of right and wrong
programs. A sample or a pair depends on its number and the seed alone, so a file of 10,000 is the
beginning of one of 100,000, and no more than one is in memory.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fgit.common.files import BadRow, read_json, read_objects
from tests.conftest import REPOSITORY
from tests.speed.pairs import humanevalpack

Part = TypeVar("Part", str, tuple[str, str])

DATA = Path(os.environ.get("FGIT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
BENCHMARKS = {
    "humaneval": "humaneval/HumanEval.jsonl.gz",
    "mbpp": "mbpp/mbpp.jsonl.gz",
    "bigcodebench": "bigcodebench/BigCodeBench.jsonl.gz",
}
GPTEACHER = "instruct/gpteacher-codegen-instruct.json.gz"
ANSWERS = "samples/starcoder2-15b-instruct-v0.1"

INSTRUCTION_CHARACTERS = 400  # on average, as are these
RESPONSE_CHARACTERS = 1950
PAIR_CHARACTERS = 2000
AROUND_CODE, ADDED_LINE = 50, 26  # characters, about, that a piece of code gets beside its own
SPREAD = 0.5  # of the logarithm of a length
PLANTED_EVERY = 1000  # samples; the first of them holds a benchmark's text
PLANTED_CHARACTERS = 100  # without whitespace, at least: no rule exempts such a text as trivial
LARGE_SHARE = 0.25  # of the pairs: each of its functions is another, where the others have one bug
LEADS = ("Here is a piece:\n", "Then:\n", "It can be used as follows:\n", "Also,\n")
DEFINED = re.compile(r"^def[ \t]+(\w+)", re.MULTILINE)
NUMBER = re.compile(r"\b\d+\b")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A benchmark's problem.

    Attributes:
        prompt: as a model gets it; of MBPP one sentence, of the others code with a docstring.
        docstring: what stands between the prompt's last pair of triple quotes, or MBPP's prompt.
        head: what must stand before the solution to make a program, without the docstring.
        solution: the canonical one, as the file has it.
    """

    benchmark: str
    task_id: str
    prompt: str
    docstring: str
    head: str
    solution: str
    entry_point: str

    @property
    def program(self) -> str:
        return self.head + self.solution


# ------------------------------------------------------------------ the real data


def objects(path: Path) -> list[dict[str, Any]]:
    """The rows of a records file that has no bad ones."""
    rows = []
    for _, row in read_objects(path):
        if isinstance(row, BadRow):
            raise ValueError(str(row))
        rows.append(row)
    return rows


def problem_files(data: Path) -> dict[str, Path]:
    return {name: data / path for name, path in BENCHMARKS.items()}


def problems(data: Path) -> list[Problem]:
    """All problems of the three benchmarks."""
    found = []
    for row in objects(data / BENCHMARKS["humaneval"]):
        head, docstring = around_docstring(row["prompt"])
        texts = (row["prompt"], docstring, head, row["canonical_solution"])
        found.append(Problem("humaneval", row["task_id"], *texts, row["entry_point"]))
    for row in objects(data / BENCHMARKS["mbpp"]):
        named = set(re.findall(r"\w+", row["test_list"][0]))
        [entry, *_] = [name for name in DEFINED.findall(row["code"]) if name in named]
        texts = (row["text"], row["text"], "", row["code"])
        found.append(Problem("mbpp", str(row["task_id"]), *texts, entry))
    for row in objects(data / BENCHMARKS["bigcodebench"]):
        _, docstring = around_docstring(row["complete_prompt"])
        texts = (row["complete_prompt"], docstring, row["code_prompt"], row["canonical_solution"])
        found.append(Problem("bigcodebench", row["task_id"], *texts, row["entry_point"]))
    return found


def around_docstring(prompt: str) -> tuple[str, str]:
    """What stands before the last docstring of a prompt, and what it says."""
    quotes = '"""' if '"""' in prompt else "'''"
    *before, docstring, _ = prompt.split(quotes)
    return quotes.join(before).rstrip("r \t"), docstring


def gpteacher(data: Path) -> list[dict[str, str]]:
    """GPTeacher's samples with instruction and input joined, ids g0, g1, ..."""
    return [
        {
            "id": f"g{number}",
            "instruction": "\n".join(filter(None, [row["instruction"], row["input"]])),
            "response": row["response"],
        }
        for number, row in enumerate(objects(data / GPTEACHER))
    ]


def bugs(data: Path) -> list[tuple[str, str]]:
    """A right program and the same with a bug."""
    packs = humanevalpack(data / "pairs/humanevalpack-python.jsonl.gz")
    quix = objects(data / "pairs/quixbugs_python_octopack.jsonl.gz")
    return [(row["response"], row["variant"]) for row in packs] + [
        (row["solution"], row["buggy_program"]) for row in quix
    ]


def wrong_answers(data: Path) -> list[tuple[str, str]]:
    """A benchmark's solution and an answer of StarCoder2-15B-Instruct that fails its tests."""
    known = {problem.task_id: problem for problem in problems(data)}
    found = []
    for name, results in [
        ("humaneval", "humaneval_eval_results.json"),
        ("mbpp", "mbpp_eval_results.json.gz"),
    ]:
        verdicts = read_json(data / ANSWERS / results)["eval"]
        for row in objects(data / ANSWERS / f"{name}.jsonl"):
            problem = known[row["task_id"].removeprefix("Mbpp/")]
            [verdict] = verdicts[row["task_id"]]
            if verdict["plus_status"] != "pass":
                solution = problem.program.replace("\r\n", "\n")
                found.append((solution, problem.head + row["completion"]))
    return found


# ------------------------------------------------------------------ what is made of it


def samples(
    real: Sequence[dict[str, str]], planted: Sequence[Problem], count: int, seed: int = 0
) -> Iterator[dict[str, str]]:
    """Yield samples {id, instruction, response}; each PLANTED_EVERY-th one is contaminated.

    Args:
        real: the samples that these are made of.
        planted: problems, of which each contaminated sample holds a prompt or a solution, verbatim.
    """
    instructions = [row["instruction"] for row in real]
    responses = [row["response"] for row in real]
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        length = drawn_length(chance, INSTRUCTION_CHARACTERS)
        instruction = gathered(chance, instructions, length, 1)
        length = drawn_length(chance, RESPONSE_CHARACTERS)
        parts = [
            f"{chance.choice(LEADS)}```\n{edited(chance, code)}\n```"
            for code in gathered(chance, responses, length, AROUND_CODE)
        ]
        if is_planted(number):
            problem = chance.choice(planted)
            if chance.random() < 0.5:
                instruction.insert(chance.randint(0, len(instruction)), problem.prompt)
            else:
                code = f"```python\n{problem.program}\n```"
                parts.insert(chance.randint(0, len(parts)), code)
        yield {
            "id": f"s{number}",
            "instruction": "\n".join(instruction),
            "response": "\n".join(parts),
        }


def is_planted(number: int) -> bool:
    """Whether the sample of this number is contaminated."""
    return number % PLANTED_EVERY == 0


def to_plant(found: Sequence[Problem]) -> list[Problem]:
    """Problems whose docstring and solution every mode must find: long, and of MBPP's test part."""
    return [
        problem
        for problem in found
        if (problem.benchmark != "mbpp" or 11 <= int(problem.task_id) <= 510)
        and min(len("".join(text.split())) for text in (problem.docstring, problem.solution))
        >= PLANTED_CHARACTERS
    ]


def pairs(
    real: Sequence[dict[str, str]],
    small: Sequence[tuple[str, str]],
    large: Sequence[tuple[str, str]],
    count: int,
    seed: int = 0,
) -> Iterator[dict[str, str]]:
    """Yield pairs {id, instruction, response, variant} of real programs.

    Args:
        real: the samples whose code stands around a small edit, the same on both sides.
        small: pairs of programs that differ by a bug; a pair has one of them.
        large: pairs of programs that differ more; a pair has nothing else.
    """
    alike = [(row["response"], row["response"]) for row in real]
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        length = drawn_length(chance, PAIR_CHARACTERS)
        if chance.random() < LARGE_SHARE:
            parts = gathered(chance, large, length, ADDED_LINE)
        else:
            bug = chance.choice(small)
            parts = gathered(chance, alike, length - len(bug[0]), ADDED_LINE)
            parts.insert(chance.randint(0, len(parts)), bug)
        ends = [line_of(chance) for _ in parts]
        response, variant = (
            "\n\n".join(part[side] + end for part, end in zip(parts, ends, strict=True))
            for side in (0, 1)
        )
        yield {
            "id": f"p{number}",
            "instruction": f"Write program {number}.",
            "response": response,
            "variant": variant,
        }


def drawn_length(chance: random.Random, mean: float) -> float:
    """A length from the log-normal distribution of this mean."""
    return chance.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)


def gathered(
    chance: random.Random, parts: Sequence[Part], length: float, beside: int
) -> list[Part]:
    """Some of ``parts``, at least one, together as near to ``length`` as whole ones come.

    Args:
        parts: texts, or pairs of texts, whose length is that of the first.
        beside: characters that each part will get beside its own.
    """
    found: list[Part] = []
    left = length
    while True:
        part = chance.choice(parts)
        size = len(part if isinstance(part, str) else part[0]) + beside
        if found and left < size / 2:
            return found
        found.append(part)
        left -= size


def edited(chance: random.Random, code: str) -> str:
    """The code with one of its numbers changed and a line added, so that no two texts are equal."""
    numbers = list(NUMBER.finditer(code))
    if numbers:
        start, end = chance.choice(numbers).span()
        code = f"{code[:start]}{chance.randrange(1000)}{code[end:]}"
    return code + line_of(chance)


def line_of(chance: random.Random) -> str:
    """A line of code that hardly any other text has."""
    return f"\nvalue_{chance.randrange(10**6)} = {chance.random():.4f}"
