"""A solution's outputs, recorded by a process that knows nothing of the expected ones.

A new interpreter gets this file's text, ``python -c TEXT``, so it imports none of its neighbours;
they use from here what every process of a solution needs.
"""

from __future__ import annotations

import ctypes
import gzip
import io
import os
import pickle
import random
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

EVALPLUS_MEMORY = 4 * 2**30
PR_SET_DUMPABLE = 4


def main() -> None:
    """Run a solution on the inputs of the request on standard input, as EvalPlus does.

    What it writes counts for what EvalPlus makes of it; nothing here need withstand the solution.
    """
    from evalplus.eval.utils import create_tempdir, reliability_guard, swallow_io, time_limit

    hide()
    request = pickle.loads(sys.stdin.buffer.read())
    silence()
    raise_no_hard_limit()
    with gzip.open(request["path"], "wb", compresslevel=1) as out, create_tempdir():
        seed()
        reliability_guard(maximum_memory_bytes=EVALPLUS_MEMORY)
        namespace: dict[str, Any] = {}
        leave = os._exit
        try:
            with swallow_io():
                exec(request["solution"], namespace)
            function = namespace[request["entry_point"]]
            for arguments, limit in zip(request["inputs"], request["limits"], strict=True):
                with time_limit(limit), swallow_io():
                    value = function(*arguments)
                if request["not_none"] and not isinstance(value, bool):
                    value = value is not None
                if request["as_list"]:
                    value = list(value)
                # At once: the next call may change it.
                PlainPickler(out, protocol=4).dump(value)
                del value
            out.close()
        finally:
            leave(0)


class PlainPickler(pickle.Pickler):
    """Writes a value as plain data, whatever a subclass says that it equals."""

    def reducer_override(self, value: Any) -> Any:
        """What to call with what; for anything that is not exactly of a type pickle knows."""
        if isinstance(value, np.generic) or type(value) is complex:
            return NotImplemented
        for scalar in (int, float, complex):
            if isinstance(value, scalar):
                return scalar, (getattr(scalar, "__pos__")(value),)  # noqa: B009
        if isinstance(value, str):
            return str, (str.__str__(value),)
        if isinstance(value, bytes):
            return bytes, (b"".join([value]),)
        for sequence in (list, tuple, set, frozenset):
            if isinstance(value, sequence):
                items = getattr(sequence, "__iter__")(value)  # noqa: B009  mypy knows no common type
                return sequence, (list(items),)
        if isinstance(value, dict):
            return dict, (list(dict.items(value)),)
        if type(value) in (type({}.keys()), type({}.items())):  # they equal sets
            return set, (list(value),)
        return NotImplemented


# What an output may be, besides scalars and containers that pickle writes without a name.
PLAIN = {
    "builtins": (
        *("bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
        *("range", "set", "slice", "str", "tuple"),
    ),
    "collections": ("deque",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
}


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
        return super().find_class(module, name)


def player(recorded: bytes) -> Callable[..., Any]:
    """A function that returns the recorded outputs, call by call."""
    outputs = gzip.GzipFile(fileobj=io.BytesIO(recorded))
    return lambda *_: PlainUnpickler(outputs).load()


# ------------------------------------------------------------------ any process of a solution


def hide() -> None:
    """Let no other process read the memory or descriptors of this one and of what it forks."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def seed() -> None:
    """Give programs that draw numbers the same ones in every scoring."""
    random.seed(0)
    np.random.seed(0)


def silence() -> None:
    """Cut what solutions print or ask for: descriptors 0 to 2 become the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def raise_no_hard_limit() -> None:
    """Let the guards take a hard limit where it is lower than theirs, instead of failing."""
    really = resource.setrlimit

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            soft_wanted, hard_wanted = (
                hard if value == resource.RLIM_INFINITY else min(value, hard) for value in limits
            )
            limits = (soft_wanted, hard_wanted)
        really(kind, limits)

    resource.setrlimit = setrlimit


if __name__ == "__main__":
    main()
