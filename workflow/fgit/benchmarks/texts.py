"""Problems of whatever benchmark that are only kept out of the data (kind ``texts``)."""

import re
from pathlib import Path

from fgit.benchmarks.kind import Kind, Problem, RawProblem, text_fields
from fgit.benchmarks.releases import HubDataset
from fgit.common.errors import UserError
from fgit.common.files import BadRow

# What can be fetched: the dataset on the hub, and its subset.
HUB_DATASETS = {
    "mbpp": ("google-research-datasets/mbpp", "full"),
    "ds-1000": ("xlangai/DS-1000", None),
}
# The fields by which a format is known; all hold text.
DS_1000_FIELDS = ("prompt", "reference_code")
MBPP_FIELDS = ("task_id", "text", "code")
QUESTION_FIELDS = ("question",)  # APPS, GSM8K

MBPP_TEST_IDS = frozenset(map(str, range(11, 511)))  # the ids of MBPP's test split
DS_1000_ANSWER = re.compile(r"^A:", re.MULTILINE)
DS_1000_SOLUTION = re.compile(r"SOLUTION START|BEGIN SOLUTION")


def check(where: str, row: RawProblem) -> Problem:
    raise UserError(f"{where}: problems of kind texts are only kept out of the data, never asked")


def protect(path: Path, number: int, row: RawProblem) -> Problem | BadRow | None:
    for fields in (DS_1000_FIELDS, MBPP_FIELDS, QUESTION_FIELDS):
        problem = text_fields(path, number, row, fields, may_be_empty=["code"])
        if isinstance(problem, BadRow):
            return problem
        if problem is None:
            continue
        if fields == DS_1000_FIELDS:
            prompt = problem["prompt"]
            problem["verbatim"] = {"description": DS_1000_SOLUTION.split(prompt)[0]}
            problem |= {"text": DS_1000_ANSWER.split(prompt)[0], "code": problem["reference_code"]}
        if fields == QUESTION_FIELDS:
            problem |= {"text": problem["question"], "code": ""}
        if fields == MBPP_FIELDS and "test_list" in row and problem["task_id"] not in MBPP_TEST_IDS:
            problem["verbatim"] = {}
        return problem
    return None


def release(version: str) -> HubDataset:
    name, _, commit = version.partition("/")
    if name not in HUB_DATASETS or not commit:
        names = " or ".join(f"release:{name}/COMMIT" for name in HUB_DATASETS)
        raise UserError(
            f"texts release:{version}: only {names} can be fetched, with a commit of "
            f"{' or '.join(place for place, _ in HUB_DATASETS.values())}; name the file of others"
        )
    place, subset = HUB_DATASETS[name]
    return HubDataset(place, subset, commit, "all")


TEXTS = Kind("texts", check, protect, release)
