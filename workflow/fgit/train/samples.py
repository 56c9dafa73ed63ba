"""What training did with each sample, in each epoch: ``samples.parquet``."""

from __future__ import annotations

from collections.abc import Sequence

import accelerate
import polars as pl
import torch
from torch import Tensor

from fgit.train.engine import StepOutput
from fgit.train.examples import Example

VALUES = ("tokens", "loss", "nll", "p_response", "p_variant", "weight", "margin")
SCHEMA: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "epoch": pl.Int32,
    "step": pl.Int32,
    "tokens": pl.Int32,
    **dict.fromkeys(VALUES[1:], pl.Float32),
}


def values_of(output: StepOutput) -> Tensor:
    """float32 [7, samples], detached, in the order of :data:`VALUES`; it stays on its device."""
    return torch.stack([getattr(output, name).detach().float() for name in VALUES])


def samples_of(
    accelerator: accelerate.Accelerator,
    batch: Sequence[Example],
    found: Sequence[tuple[Sequence[str], Tensor]],
    *,
    step: int,
    epoch: int,
) -> pl.DataFrame:
    """The samples of an optimizer step, as they were before its update.

    Every process has to call it, and gets the samples of all of them.

    Args:
        batch: the step's samples.
        found: the names in each row of this process, and what :func:`values_of` says of them.

    Returns:
        Columns :data:`SCHEMA`, in the order of the batch. loss and nll are sums over a sample's
        response tokens (DPO: loss of the pair). p_response, p_variant and weight are null where
        nothing is paired and for objectives without a dynamic weight, margin but for DPO.
    """
    names = [name for row, _ in found for name in row]
    values = torch.cat([value for _, value in found], dim=1).T.tolist() if found else []
    rows = list(zip(names, values, strict=True))
    if accelerator.use_distributed:
        rows = accelerate.utils.gather_object(rows)
    place = {example.id: number for number, example in enumerate(batch)}
    rows.sort(key=lambda row: place[row[0]])
    return pl.DataFrame(
        [(name, epoch, step, int(tokens), *rest) for name, (tokens, *rest) in rows],
        schema=SCHEMA,
        orient="row",
    ).with_columns(pl.col(pl.Float32).fill_nan(None))
