"""The kinds of benchmarks, each a module of this folder."""

from fgit.benchmarks.bigcodebench import BIGCODEBENCH
from fgit.benchmarks.humaneval import HUMANEVAL
from fgit.benchmarks.kind import Kind, Programs
from fgit.benchmarks.mbpp import MBPP
from fgit.benchmarks.own_tests import OWN_TESTS
from fgit.benchmarks.pairs import PAIRS
from fgit.benchmarks.texts import TEXTS
from fgit.common.errors import UserError

# By name. A file to be kept out of the data has the first format in this order that fits, so that
# formats with more fields come first.
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


def programs_of(name: str) -> Programs:
    """How programs of a kind are asked for and checked.

    Raises:
        UserError: if no program of this kind is.
    """
    if (programs := kind_of(name).programs) is None:
        raise UserError(f"kind {name} has no programs; name a benchmark with tests")
    return programs
