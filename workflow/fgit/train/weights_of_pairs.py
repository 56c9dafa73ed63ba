"""What the objective gives for each pair, so that anyone can check it against their own code."""

import logging
from pathlib import Path
from typing import Any

import polars as pl
import torch

from fgit.common.errors import UserError
from fgit.common.files import read_objects, read_records, write_parquet
from fgit.common.progress import bar
from fgit.config import TrainSettings
from fgit.variants import HISTORY, history_in

log = logging.getLogger(__name__)


def weights(model: str, pairs: Path, out: Path, settings: TrainSettings) -> None:
    """Write p̄, p̄', w and the loss of each pair, computed in fp32.

    Output columns: id, p_response, p_variant, weight (null where nothing can be paired: the
    weight is 1 there), loss: the mean of −w log P over the response tokens, end of turn included.
    """
    from fgit.annotate import with_spans
    from fgit.common.chat_templates import require_chat_template
    from fgit.common.models import device, load_model
    from fgit.common.tokenizers import load_tokenizer
    from fgit.train.engine import Engine, check_exact, check_fits
    from fgit.train.examples import examples
    from fgit.train.rows import lay_out

    rows = list(read_objects(pairs))
    frame, _ = read_records(
        pairs,
        ["id", "instruction", "response", "variant"],
        rows=rows,
        empty=["response", "variant"],
    )
    histories = [history_in(pairs, number, row) for number, row in rows]
    frame = frame.with_columns(pl.Series("history", histories, dtype=HISTORY))
    tokenizer = load_tokenizer(model)
    require_chat_template(tokenizer, model)
    built, _ = examples(
        map(with_spans, frame.iter_rows(named=True)),
        tokenizer,
        granularity=settings.granularity,
        max_length=settings.max_length,
    )
    if len(built) < frame.height:
        fitting = {example.id for example in built}
        too_long = next(sample for sample in frame["id"] if sample not in fitting)
        raise UserError(
            f"{pairs}: the prompt of {too_long!r} leaves no room for a response in "
            f"{settings.max_length} tokens; raise --max-length"
        )
    network = load_model(model, dtype="float32")
    check_fits(network, tokenizer, built, "--max-length")
    engine = Engine(network, settings.model_copy(update={"precision": "fp32"}))
    check_exact(engine)
    measured: list[tuple[Any, ...]] = []
    with torch.no_grad():
        for example in bar(built, description="weights", unit="pair"):
            output = engine(lay_out([example], "fgit").to(device()), objective="fgit")
            figures: tuple[float | None, ...] = (None, None, 1.0)
            if example.paired:
                columns = output.p_response, output.p_variant, output.weight
                figures = tuple(column.item() for column in columns)
            measured.append((example.id, *figures, (output.loss / output.tokens).item()))
    schema = dict.fromkeys(["p_response", "p_variant", "weight", "loss"], pl.Float64)
    write_parquet(out, pl.DataFrame(measured, schema={"id": pl.String, **schema}, orient="row"))
    log.info("%d pairs", len(measured))
