"""How two peers find benchmarks in training data, in our own words, to compare with.

Magicoder (ise-uiuc/magicoder, src/magicoder/decontamination) tests each of a benchmark's strings
in each sample. open-r1 (huggingface/open-r1, scripts/decontaminate.py) looks for a shared n-gram of
words. Both are the plain rule, as slow as it is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from tests.speed.synthetic import Problem

# Of HumanEval. A fourth one there holds quotes that end its string too early, so it never matches.
MAGICODER_EXEMPT = ("return x + y", "return len(string)", "return n**2")
MAGICODER_MBPP = range(11, 511)  # MBPP's test part
OPEN_R1_WORDS = 8


def magicoder_texts(problems: Iterable[Problem]) -> list[str]:
    """The strings that must not be in a sample: docstrings and solutions.

    BigCodeBench is not among Magicoder's benchmarks; it is treated as HumanEval is.
    """
    found = []
    for problem in problems:
        if problem.benchmark == "mbpp":
            if int(problem.task_id) in MAGICODER_MBPP:
                found += [problem.docstring, problem.solution]
            continue
        texts = [problem.docstring.strip(), problem.solution.strip()]
        found += [text for text in texts if text not in MAGICODER_EXEMPT]
    return found


def magicoder_removes(sample: Mapping[str, str], texts: Sequence[str]) -> bool:
    """Whether one of the strings stands in the sample, case aside."""
    content = f"{sample['instruction'].lower()}\n\n{sample['response'].lower()}"
    return any(text.lower() in content for text in texts)


def open_r1_grams(problems: Iterable[Problem]) -> set[str]:
    """The n-grams of words of prompts and solutions, which must not be in a sample."""
    return {
        gram
        for problem in problems
        for text in (problem.prompt, problem.solution)
        for gram in grams(text)
    }


def open_r1_removes(sample: Mapping[str, str], forbidden: Collection[str]) -> bool:
    """Whether instruction or response shares an n-gram."""
    return any(
        gram in forbidden for name in ("instruction", "response") for gram in grams(sample[name])
    )


def grams(text: str) -> set[str]:
    """A text's n-grams of words, lower-cased, one space between words."""
    words = text.lower().split()
    return {
        " ".join(words[start : start + OPEN_R1_WORDS])
        for start in range(len(words) - OPEN_R1_WORDS + 1)
    }
