"""The kinds of benchmarks, each a module of this folder."""

from __future__ import annotations

from fgit.benchmarks.bigcodebench import BIGCODEBENCH
from fgit.benchmarks.humaneval import HUMANEVAL
from fgit.benchmarks.kind import Kind, Programs
from fgit.benchmarks.mbpp import MBPP
from fgit.benchmarks.own_tests import OWN_TESTS
from fgit.benchmarks.pairs import PAIRS
from fgit.benchmarks.texts import TEXTS
from fgit.common.errors import UserError
from fgit.config import KEPT_OUT, BenchmarkKind

# By name. Whose format a file has that is only kept out of the data is asked in this order, so
# those that need more fields come first.
KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (PAIRS, BIGCODEBENCH, HUMANEVAL, MBPP, OWN_TESTS, TEXTS)
}


def kind_of(name: str) -> Kind:
    """The record of a kind.

    Raises:
        UserError: if there is no such kind.
    """
    if name not in KINDS:
        raise UserError(f"no kind of benchmark is called {name!r}; known: {', '.join(KINDS)}")
    return KINDS[name]


def asked_kind(name: BenchmarkKind) -> Kind:
    """A kind of benchmark that models are asked.

    Raises:
        UserError: if it is only kept out of the data.
    """
    if name in KEPT_OUT:
        raise UserError(f"kind {name} is only kept out of the data; no model is asked")
    return kind_of(name)


def programs_of(name: str) -> Programs:
    """How programs of a kind are asked for and checked.

    Raises:
        UserError: if no program of this kind is.
    """
    if (programs := kind_of(name).programs) is None:
        raise UserError(f"kind {name} has no programs; name a benchmark with tests")
    return programs
