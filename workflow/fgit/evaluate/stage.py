"""What a model gives the problems of a benchmark: solutions, or of pairs of code probabilities."""

from pathlib import Path
from typing import Any

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.chat_templates import require_chat_template
from fgit.common.models import load_model, settled
from fgit.common.tokenizers import load_tokenizer
from fgit.config import BenchmarkKind, EvaluateSettings, Mode
from fgit.evaluate.preferences import discriminate
from fgit.evaluate.solutions import solve


def evaluate(
    model: str,
    kind: BenchmarkKind,
    problems: Path,
    out: Path,
    settings: EvaluateSettings,
    revision: str | None = None,
    template: str = "own",
    mode: Mode = "chat",
    sha256: str | None = None,
    one_bos: Path | None = None,
) -> EvaluateSettings:
    """Write what a model gives each problem to ``out`` (JSONL), in the problems' order.

    The rows are those of :func:`fgit.evaluate.solutions.solve`, for pairs of code those of
    :func:`fgit.evaluate.preferences.discriminate`.

    Args:
        model: a name on the hub, a folder, or ``package:NAME/file.gguf``.
        template: as for :func:`fgit.common.tokenizers.load_tokenizer`.
        mode: ``chat`` asks by the chat template; ``completion`` lets the model go on with the
            bare prompt.
        sha256: the digest that the problem file must have.
        one_bos: the same rows for prompts that begin with one BOS token; no rows where they are
            the same prompts.

    Returns:
        The settings, with the dtype that ``auto`` was.

    Raises:
        UserError: for a bad problem file, a model that cannot be loaded or asked so, or chat mode
            without a chat template.
    """
    settings = settled(settings, "dtype")
    by_id = read_problems(kind, problems, sha256)
    tokenizer = load_tokenizer(model, revision, template)
    if mode == "chat":
        require_chat_template(tokenizer, model)
    network = load_model(model, revision, settings.dtype)
    one_bos_rows: list[dict[str, Any]] = []
    if (programs := kind_of(kind).programs) is None:
        rows = discriminate(network, tokenizer, by_id, mode)  # asked with one BOS, as in training
    else:
        if programs.max_new_tokens is not None:
            settings = settings.model_copy(update={"max_new_tokens": programs.max_new_tokens})
        arguments = (programs, model, network, tokenizer, by_id, mode, settings)
        rows, one_bos_rows = solve(*arguments, with_one_bos=one_bos is not None)
    if one_bos is not None:
        files.write_jsonl(one_bos, one_bos_rows)
    files.write_jsonl(out, rows)
    return settings
