"""MBPP+ (kind ``mbpp``): as HumanEval+, with inputs of types that JSON does not have."""

import dataclasses
import functools

from fgit.benchmarks import humaneval
from fgit.benchmarks.kind import Kind, Problem, RawProblem
from fgit.benchmarks.releases import EvalPlusFile
from fgit.common.errors import UserError


def check(where: str, row: RawProblem) -> Problem:
    """The row, checked; tuples, sets and complex numbers are made as EvalPlus does."""
    problem = humaneval.check(where, row, "mbpp")
    task_id = problem["task_id"]
    if not task_id.rpartition("/")[2].isdecimal():
        raise UserError(f"{where}: task_id {task_id!r} must end in /NUMBER for kind mbpp")
    from evalplus.data.mbpp import mbpp_deserialize_inputs

    for field in humaneval.INPUTS:
        try:
            problem[field] = list(mbpp_deserialize_inputs(task_id, problem[field]))
        except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            raise UserError(
                f"{where}: {field!r} has not the form that EvalPlus knows for {task_id} ({error}); "
                "problems of your own need numbers that MBPP does not use"
            ) from error
    return problem


MBPP = Kind(
    "mbpp",
    check,
    humaneval.protect,
    functools.partial(EvalPlusFile, "MbppPlus"),
    dataclasses.replace(
        humaneval.PROGRAMS, stops=functools.partial(humaneval.stops, dataset="mbpp"), scorer="mbpp"
    ),
)
