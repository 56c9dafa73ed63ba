"""The *train* stage: read annotated pairs, train one run, save a checkpoint and its figures."""

import logging
import resource
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

from fgit.annotate import read_spans
from fgit.common import processes
from fgit.common.chat_templates import end_of_turn, require_chat_template, write_ends
from fgit.common.errors import UserError
from fgit.common.files import (
    replacing,
    sha256,
    write_jsonl,
    write_parquet,
    write_text,
)
from fgit.common.models import device, load_model, seed_everything
from fgit.common.tokenizers import load_tokenizer
from fgit.config import WEIGHT_ONE, TrainSettings
from fgit.stage_reports import RunParameters, SegmentsReport, TrainingStep, TrainReport
from fgit.train.engine import check_fits
from fgit.train.examples import check_used, examples, marked_share_bins, split_held_out
from fgit.train.loop import Trained, train_loop
from fgit.train.model_card import CardFacts, model_card, used_in_words
from fgit.train.segments import segments_of
from fgit.train.state import State

log = logging.getLogger(__name__)


def train(
    model: str,
    spans: Path,
    out: Path,
    settings: TrainSettings,
    *,
    revision: str | None = None,
    template: str = "own",
    licence: str | None = None,
) -> TrainSettings:
    """Train one run; one that was stopped goes on from its last checkpoint.

    Writes into the folder ``out``: ``model/`` (safetensors, tokenizer, chat template, and its card
    ``README.md``), ``steps.jsonl`` (one line a step), ``samples.parquet`` (a row for each sample
    and epoch, :data:`fgit.train.samples.SCHEMA`), ``segments.json`` (some pairs token by token,
    :func:`fgit.train.segments.segments_of`), ``metrics.json`` (held-out figures before and after,
    what was counted, tokens, seconds, peak memory) and ``run.yaml`` (every parameter). Until these
    are there, checkpoints lie in ``state/``.

    Args:
        licence: of the base model's weights, for the card; by default what its own card says.

    Returns:
        The settings, with the precision that ``auto`` was.
    """
    frame = read_spans(spans)
    check_responses(spans, frame)
    seed_everything(settings.seed)
    tokenizer = load_tokenizer(model, revision, template)
    require_chat_template(tokenizer, model)
    trained_on, held_out = split_held_out(frame, settings.held_out, settings.seed)
    limits = settings.model_dump(include={"granularity", "max_length"})
    training, counts = examples(trained_on.iter_rows(named=True), tokenizer, **limits)
    measured, held_out_counts = examples(held_out.iter_rows(named=True), tokenizer, **limits)
    end = end_of_turn(tokenizer)
    used = check_used(spans, training, counts["samples"], settings, end)
    log.info("training on %s", ", ".join(f"{k} {v}" for k, v in sorted(counts.items())))
    if settings.objective == "fgit" and settings.pairs_get == WEIGHT_ONE:
        log.warning("alpha is 1, so every token weighs 1: this is standard SFT")
    if settings.held_out and not held_out_counts["paired"]:
        log.warning(
            "none of the %d samples that are held out is a pair that differs within max_length "
            "(%d): %s will be measured on them",
            *(settings.held_out, settings.max_length),
            "only the loss" if measured else "nothing",
        )
    parameters = {"model": model, "revision": revision, "template": template}
    depends_on = parameters | {
        "train": settings.model_dump(exclude={*settings.speed_fields(), "save_dtype"}),
        "spans": sha256(spans),
    }
    with State(out / "state", depends_on) as state:
        settings = state.settled(settings)
        # accelerate places it: whole on a GPU, or a part on each.
        loaded = load_model(model, revision, "float32", on=torch.device("cpu"))
        check_fits(loaded, tokenizer, [*training, *measured])
        trained = train_loop(loaded, training, settings, held_out=measured, state=state)
        if processes.is_first():
            counted = {
                "counts": dict(sorted(counts.items())),
                "held_out_counts": dict(sorted(held_out_counts.items())),
                "used": used,
                "used_share": used / counts["samples"],
                "marked_share": marked_share_bins(training, end),
            }
            save(out, trained, tokenizer, parameters, settings, counted, spans, licence)
            write_parquet(out / "samples.parquet", trained.samples)
            segments = segments_of(trained_on, training, tokenizer, trained.samples, settings)
            segments.write(out / SegmentsReport.file)
        state.remove()
    return settings


def check_responses(spans: Path, frame: pl.DataFrame) -> None:
    """Refuse empty responses."""
    empty = frame.filter(pl.col("response").str.strip_chars() == "")["id"]
    if len(empty):
        raise UserError(
            f"{spans}: the response of {len(empty)} samples is empty, such as that of "
            f"{empty[0]!r}; leave them out"
        )


def save(
    out: Path,
    trained: Trained,
    tokenizer: Any,
    parameters: dict[str, Any],
    settings: TrainSettings,
    counted: dict[str, Any],
    spans: Path,
    licence: str | None,
) -> None:
    """Write what a training gave. Peak memory is that of the process that ended it."""
    model, revision, dtype = parameters["model"], parameters["revision"], settings.save_dtype
    trained.model.to(getattr(torch, dtype))
    changed, update = weight_changes(trained.model, model, revision, dtype)
    if not changed:
        other = "" if dtype == "float32" else "set save_dtype: float32, or "
        raise UserError(
            f"{model}: training left every weight as it was, as its updates are smaller than "
            f"{dtype} can show; {other}raise the learning rate (now {settings.learning_rate:g}) "
            f"and delete {out / 'state'}, if there is one"
        )
    with replacing(out / "model") as folder:
        trained.model.save_pretrained(folder)
        write_ends(tokenizer, folder / "generation_config.json")
        tokenizer.save_pretrained(folder)
        report = TrainReport(
            **counted,
            held_out_before=trained.held_out_before,
            held_out_after=trained.held_out_after,
            precision=settings.precision,
            steps=len(trained.history),
            seconds=trained.seconds,
            peak_memory_gb=peak_memory_gb(),
            changed_weights=changed,
            relative_update=update,
        )
        facts = CardFacts(model, revision, parameters["template"], licence, settings, spans, report)
        write_text(folder / "README.md", model_card(facts, tokenizer))
    write_text(
        out / RunParameters.file,
        yaml.safe_dump(parameters | {"train": settings.model_dump()}, sort_keys=False),
    )
    write_jsonl(out / TrainingStep.file, trained.history)
    report.write(out / TrainReport.file)
    if report.held_out_before:
        losses = report.held_out_before["nll"], report.held_out_after["nll"]
        log.info("held-out loss %.4f before, %.4f after; %.0f s", *losses, trained.seconds)
    log.info("%s", used_in_words(report, settings))


def weight_changes(saved: Any, model: str, revision: str | None, dtype: str) -> tuple[float, float]:
    """How a checkpoint differs from its base model, both in the checkpoint's dtype.

    Returns:
        The share of weights that differ, and ‖θ − θ₀‖ / ‖θ₀‖ over all of them. In bf16 both
        are mostly rounding: most updates of one epoch are smaller than a weight's last bit.
    """
    base = dict(load_model(model, revision, dtype, on=torch.device("cpu")).named_parameters())
    differing = count = 0
    moved = norm = 0.0
    for name, parameter in saved.named_parameters():
        before, after = base.pop(name).detach(), parameter.detach().cpu()
        differing += int((after != before).sum())
        count += after.numel()
        moved += float((after.float() - before.float()).square().sum())
        norm += float(before.float().square().sum())
    return differing / count, (moved / norm) ** 0.5


def peak_memory_gb() -> float:
    """Peak memory of this process: of the GPU where there is one, else resident memory."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
