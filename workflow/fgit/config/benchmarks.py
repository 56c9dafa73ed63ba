"""``benchmarks``: what is evaluated, or must not be in the data."""

from typing import Annotated, Literal

from pydantic import Field

from fgit.config.base import Name, Place, Settings

# Whose format and scorer. Three are published; `tests` is any problems with a program of tests,
# `pairs` is correct and incorrect code, of which the model must find the correct one more probable,
# and `texts` is problems of whatever benchmark, which are only to be kept out of the data.
BenchmarkKind = Literal["humaneval", "mbpp", "bigcodebench", "tests", "pairs", "texts"]
WITH_PLUS = ("humaneval", "mbpp")  # kinds with plus tests, of which NAME+ is a column
AUDITED = ("humaneval", "mbpp", "tests")  # kinds whose canonical solutions get variants
KEPT_OUT = ("texts",)  # kinds that are only kept out of the data: no model is asked


class Benchmark(Settings):
    """A benchmark that is evaluated, or that must not be in the training data."""

    kind: BenchmarkKind = Field(description="whose format and scorer")
    problems: Annotated[str, Place("file")] = Field(
        description="problem file: a path, package:NAME/file, or release:VERSION to fetch (of kind "
        "texts: release:mbpp/COMMIT, all 974 problems, or release:ds-1000/COMMIT)"
    )
    sha256: str | None = Field(None, description="the file's digest; another file is refused")
    limit: int | None = Field(
        None, ge=1, description="only the first problems, this many, are asked and scored"
    )
    part_of: Name | None = Field(
        None,
        description="a larger benchmark that has all of these problems: its solutions and "
        "outcomes are used, so that each problem is solved and scored once",
    )
