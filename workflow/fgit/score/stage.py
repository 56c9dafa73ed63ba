"""Scoring what a model gave, by what its kind of benchmark asks."""

from __future__ import annotations

import os

from fgit.benchmarks.kinds import kind_of
from fgit.config import BenchmarkKind, ScoreSettings
from fgit.score.preferences import score_pairs
from fgit.score.programs import score_programs


def score(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    samples: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ScoreSettings,
    one_bos: str | os.PathLike[str] | None = None,
    ground_truth: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    python: str | None = None,
    sha256: str | None = None,
    leave_out_others: bool = False,
) -> None:
    """Score samples of a benchmark, in the folder ``out``.

    Programs are run (:func:`fgit.score.programs.score_programs`, which says what the arguments
    are); of pairs of code, the probabilities are compared, for which ``problems``, ``samples`` and
    ``sha256`` suffice (:func:`fgit.score.preferences.score_pairs`).
    """
    if kind_of(kind).programs is None:
        score_pairs(kind, problems, samples, out, sha256=sha256)
        return
    score_programs(
        *(kind, problems, samples, out, settings),
        one_bos=one_bos,
        ground_truth=ground_truth,
        threads=threads,
        python=python,
        sha256=sha256,
        leave_out_others=leave_out_others,
    )
