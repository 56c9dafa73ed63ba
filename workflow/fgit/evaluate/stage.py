"""Asking a model what its kind of benchmark asks (section III-B2)."""

from __future__ import annotations

import os

from fgit.benchmarks.kinds import asked_kind
from fgit.common import files
from fgit.common.models import settled
from fgit.config import BenchmarkKind, EvaluateSettings, Mode
from fgit.evaluate.discrimination import discriminate
from fgit.evaluate.solutions import solve


def evaluate(
    model: str,
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: EvaluateSettings,
    *,
    revision: str | None = None,
    template: str = "own",
    mode: Mode = "chat",
    sha256: str | None = None,
    one_bos: str | os.PathLike[str] | None = None,
) -> EvaluateSettings:
    """Write what a model gives each problem to ``out`` (JSONL).

    The rows are those of :func:`fgit.evaluate.solutions.solve`, for pairs of code those of
    :func:`fgit.evaluate.discrimination.discriminate`.

    Args:
        model: a name on the hub, a folder, or ``package:NAME/file.gguf``.
        template: as for :func:`fgit.common.models.load_tokenizer`.
        mode: ``chat`` asks by the chat template; ``completion`` lets the model go on with the
            bare prompt.
        sha256: the digest that the problem file must have.
        one_bos: rows as in ``out`` for prompts that begin with one BOS token, where those of
            ``out`` begin with two; else no rows.

    Returns:
        The settings, with the dtype that ``auto`` was.

    Raises:
        UserError: for a kind of which no model is asked, a bad problem file, or a model that cannot
            be asked so.
    """
    programs = asked_kind(kind).programs
    settings = settled(settings, "dtype")
    if programs is None:
        if one_bos is not None:
            files.write_jsonl(one_bos, [])  # pairs are asked with one, as in training
        discriminate(
            *(model, problems, out, settings),
            revision=revision,
            template=template,
            mode=mode,
            sha256=sha256,
        )
        return settings
    if programs.max_new_tokens is not None:
        settings = settings.model_copy(update={"max_new_tokens": programs.max_new_tokens})
    solve(
        *(model, kind, problems, out, settings),
        revision=revision,
        template=template,
        mode=mode,
        sha256=sha256,
        one_bos=one_bos,
    )
    return settings
