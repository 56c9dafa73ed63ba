"""Problems of whatever benchmark that are only kept out of the data (kind ``texts``)."""

from __future__ import annotations

import re
from pathlib import Path

from fgit.benchmarks.kind import Kind, Problem, Row, texts_of
from fgit.benchmarks.releases import HubDataset
from fgit.common.errors import UserError
from fgit.common.files import BadRow

# What can be fetched: the dataset on the hub, and its subset.
DATASETS = {
    "mbpp": ("google-research-datasets/mbpp", "full"),
    "ds-1000": ("xlangai/DS-1000", None),
}
# The fields by which a format is known; all hold text.
DS_1000 = ("prompt", "reference_code")
MBPP = ("task_id", "text", "code")
QUESTION = ("question",)  # APPS, GSM8K

MBPP_TEST = frozenset(map(str, range(11, 511)))  # the ids of MBPP's test split
DS_1000_ANSWER = re.compile(r"^A:", re.MULTILINE)
DS_1000_SOLUTION = re.compile(r"SOLUTION START|BEGIN SOLUTION")


def check(where: str, row: Row) -> Problem:
    raise UserError(f"{where}: problems of kind texts are only kept out of the data, never asked")


def protect(path: Path, number: int, row: Row) -> Problem | BadRow | None:
    for fields in (DS_1000, MBPP, QUESTION):
        problem = texts_of(path, number, row, fields, may_be_empty=["code"])
        if isinstance(problem, BadRow):
            return problem
        if problem is None:
            continue
        if fields == DS_1000:
            prompt = problem["prompt"]
            problem["verbatim"] = {"description": DS_1000_SOLUTION.split(prompt)[0]}
            problem |= {"text": DS_1000_ANSWER.split(prompt)[0], "code": problem["reference_code"]}
        if fields == QUESTION:
            problem |= {"text": problem["question"], "code": ""}
        if fields == MBPP and "test_list" in row and problem["task_id"] not in MBPP_TEST:
            problem["verbatim"] = {}
        return problem
    return None


def release(version: str) -> HubDataset:
    name, _, commit = version.partition("/")
    if name not in DATASETS or not commit:
        names = " or ".join(f"release:{name}/COMMIT" for name in DATASETS)
        raise UserError(
            f"texts release:{version}: only {names} can be fetched, with a commit of "
            f"{' or '.join(place for place, _ in DATASETS.values())}; name the file of others"
        )
    place, subset = DATASETS[name]
    return HubDataset(place, subset, commit, "all")


TEXTS = Kind("texts", check, protect, release)
