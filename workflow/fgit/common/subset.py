"""A subset of samples that depends on nothing but their ids and a seed."""

import hashlib
from collections.abc import Iterable

import polars as pl


def subset(ids: Iterable[str], count: int, seed: int) -> pl.Series:
    """Which ``count`` of the ids are chosen: those of the smallest hashes of (seed, id).

    A sample that is added or removed elsewhere changes at most one choice, and neither the order
    of the samples nor where their variants come from changes any.

    Returns:
        Boolean, one for each id; all of them if ``count`` is at least their number.
    """
    hashes = [hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest() for name in ids]
    return pl.Series(hashes, dtype=pl.String).rank("ordinal") <= count
