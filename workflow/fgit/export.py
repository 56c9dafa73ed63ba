"""What leaves the workflow: pairs and masks for other trainers, a trained model to publish."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fgit.annotate import SIDES, SPAN_COLUMNS, read_spans
from fgit.benchmarks.kinds import kind_of
from fgit.common.errors import UserError
from fgit.common.files import existing, replacing, write_jsonl, write_text
from fgit.common.progress import bar
from fgit.common.provenance import content
from fgit.lineage import Lineage
from fgit.scores import AGAIN, TESTS, ScoreSummary, read_summary
from fgit.steps import folder_of, output_of

log = logging.getLogger(__name__)


# ------------------------------------------------------------------ pairs


def export_pairs(
    spans: Path,
    out: Path,
    tokenizer: str | None = None,
    *,
    revision: str | None = None,
    template: str = "own",
) -> None:
    """Write annotated pairs as JSONL, in the form that TRL calls conversational preferences.

    Keys of a row: id; prompt, chosen and rejected, each a list of messages; and response_lines,
    response_characters, variant_lines, variant_characters: [start, end) in characters of the
    answers. With a tokenizer also prompt_ids, response_ids and variant_ids, as training feeds them
    (the answers end in the end-of-turn token), and for each side ``_line``, ``_token`` and
    ``_hybrid``, as long as its ids. Nothing is cut. Samples without a variant are left out.

    Raises:
        UserError: if the file has no spans or no pairs, or ``out`` is not named as JSONL.
    """
    frame = read_spans(spans)
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"{out}: pairs are written as JSONL; name it so (.jsonl, .jsonl.gz)")
    pairs = frame.filter(pl.col("variant").is_not_null())
    if pairs.is_empty():
        raise UserError(f"{spans}: none of its {frame.height} samples has a variant")
    loaded = None
    if tokenizer is not None:
        from fgit.common.chat_templates import require_chat_template
        from fgit.common.tokenizers import load_tokenizer

        loaded = load_tokenizer(tokenizer, revision, template)
        require_chat_template(loaded, tokenizer)
    write_jsonl(out, preferences(pairs, loaded))
    log.info("%d pairs; %d samples have none", pairs.height, frame.height - pairs.height)


def preferences(pairs: pl.DataFrame, tokenizer: Any | None) -> Iterator[dict[str, Any]]:
    """The rows of :func:`export_pairs`."""
    for row in bar(
        pairs.iter_rows(named=True), description="export", total=pairs.height, unit="pair"
    ):
        yield {
            "id": row["id"],
            "prompt": [*(row["history"] or []), {"role": "user", "content": row["instruction"]}],
            "chosen": [{"role": "assistant", "content": row["response"]}],
            "rejected": [{"role": "assistant", "content": row["variant"]}],
            **{name: row[name] for name in SPAN_COLUMNS},
            **(tokens_of(row, tokenizer) if tokenizer else {}),
        }


def tokens_of(row: Mapping[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """Ids and masks of a pair; lists of one side are of equal length."""
    from fgit.common.chat_templates import end_of_turn
    from fgit.common.tokenizers import chat_ids
    from fgit.masks import GRANULARITIES
    from fgit.train.examples import masks_of

    end = end_of_turn(tokenizer)
    lists = {"prompt_ids": chat_ids(tokenizer, row["instruction"], row["history"] or ())}
    for side, masks in zip(SIDES, masks_of(tokenizer, row), strict=True):
        if masks is not None:
            lists[f"{side}_ids"] = [*masks.tokens.tolist(), end]
            for granularity in GRANULARITIES:
                lists[f"{side}_{granularity}"] = [*masks.of(granularity).tolist(), 0]
    return lists


# ------------------------------------------------------------------ a model


def export_model(results: Path, run: str, out: Path) -> None:
    """Make a folder to publish: a run's weights, its tokenizer, and its card with the scores.

    Files are linked where the file system can (they share their space with those in ``results``),
    else copied.

    Raises:
        UserError: if there is no such run, it has no weights, or ``out`` is there already.
    """
    from fgit.train.model_card import with_scores

    existing(results)
    if out.exists():
        raise UserError(f"{out}: is there already, and is left as it is; name a new folder")
    trained = results / folder_of("train", run=run)
    if not (trained / "run.yaml").is_file():
        runs = trained_runs(results)
        raise UserError(
            f"{run}: no such trained run in {results}; "
            + (f"there are: {', '.join(runs)}" if runs else "nothing was trained there yet")
        )
    model = trained / "model"
    if not (model / "config.json").is_file():
        raise UserError(
            f"{model}: the weights of {run} are not there; with keep_models the config says whose "
            "weights stay. Name its method there, and run the workflow again"
        )
    card = model / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {run}\n"
    with replacing(out) as folder:
        for name, file in content(model):  # all but the card
            link(file, folder / name)
        write_text(folder / "README.md", with_scores(text, score_table(results, run)))
    log.info("%s: weights, tokenizer and card of %s", out, run)


def trained_runs(results: Path) -> list[str]:
    """The names of the runs that were trained, in order."""
    folder = results / "train"
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("run.yaml"))


def link(source: Path, target: Path) -> None:
    """Link weights to another place, or copy them: over file systems, or if they are another's.

    All else is copied: what is published may be edited, and must not change what was scored.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors" and source.stat().st_uid == os.geteuid():
        try:
            os.link(source.resolve(), target)
        except OSError:
            pass
        else:
            return
    shutil.copyfile(source, target)


# ------------------------------------------------------------------ its scores


def score_table(results: Path, run: str) -> str:
    """Every score of a run, its base model's beside it, as Markdown."""
    folders = [p.parent for p in results.glob(output_of("score", run=run, benchmark="*"))]
    if not folders:
        return f"Not evaluated yet: there is no {results.name}/score/{run}."
    config = results / "config.yaml"
    sections = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    benchmarks = (sections or {}).get("benchmarks") or {}
    lineage = Lineage(results)
    lines = [
        "pass@1 in percent, greedy, with its 95 % interval, and of how many problems.",
        "",
        "| benchmark | this model | base model | problems | provenance |",
        "| --- | --- | --- | --- | --- |",
    ]
    for folder in sorted(folders):
        name, summary = folder.name, read_summary(folder)
        base = results / folder_of("score", run=f"{run.split('/')[0]}/base", benchmark=name)
        base_summary = read_summary(base) if (base / "summary.json").exists() else None
        if base_summary and base_summary.problems_sha256 != summary.problems_sha256:
            base_summary = None
        problems = problems_text(folder, summary, benchmarks.get(name) or {})
        for tests, label in zip(TESTS, (name, f"{name}+"), strict=True):
            if tests not in summary.of(summary.n):
                continue
            cells = [
                label if kind_of(summary.benchmark).programs else f"{name} (preference)",
                score_text(summary, tests),
                score_text(base_summary, tests) if base_summary else "–",
                problems,
                lineage.identity(run, name) or "–",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def score_text(summary: ScoreSummary, tests: str) -> str:
    score = summary.of(summary.n).get(tests)
    if score is None:
        return "–"
    low, high = score.interval
    return f"{score.percent:.1f} ({low:.1f} to {high:.1f}) of {score.n}"


def problems_text(folder: Path, summary: ScoreSummary, benchmark: Mapping[str, Any]) -> str:
    """Which problems: as the config names them, and their digest.

    Raises:
        UserError: if neither the config nor the summary names them.
    """
    name = benchmark.get("problems") or summary.problems
    if name is None:
        raise UserError(f"{folder / 'summary.json'}, key 'problems': missing; {AGAIN}")
    if "/" in name and not name.startswith(("release:", "package:")):
        name = Path(name).name
    limit = benchmark.get("limit")
    first = f", the first {limit}" if limit else ""
    return f"{name}{first}, SHA-256 {summary.problems_sha256[:12]}"
