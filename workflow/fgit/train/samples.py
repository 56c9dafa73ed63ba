"""What training did with each sample, in each epoch: ``samples.parquet``."""

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


def sample_values(output: StepOutput) -> Tensor:
    """float32 [7, samples], detached, in the order of :data:`VALUES`; it stays on its device."""
    return torch.stack([getattr(output, name).detach().float() for name in VALUES])


def samples_of(
    accelerator: accelerate.Accelerator,
    batch: Sequence[Example],
    rows: Sequence[tuple[Sequence[str], Tensor]],
    *,
    step: int,
    epoch: int,
) -> pl.DataFrame:
    """The samples of an optimizer step, as they were before its update.

    Every process has to call it, and gets the samples of all of them.

    Args:
        batch: the step's samples.
        rows: the names in each row of this process, and what :func:`sample_values` says of them.

    Returns:
        Columns :data:`SCHEMA`, in the order of the batch. loss and nll are sums over a sample's
        response tokens (DPO: loss of the pair). p_response, p_variant and weight are null where
        nothing is paired and for objectives without a dynamic weight, margin but for DPO.
    """
    names = [name for row_names, _ in rows for name in row_names]
    values = torch.cat([values for _, values in rows], dim=1).T.tolist() if rows else []
    samples = list(zip(names, values, strict=True))
    if accelerator.use_distributed:
        samples = accelerate.utils.gather_object(samples)
    place = {example.id: number for number, example in enumerate(batch)}
    samples.sort(key=lambda sample: place[sample[0]])
    return pl.DataFrame(
        [(name, epoch, step, int(tokens), *rest) for name, (tokens, *rest) in samples],
        schema=SCHEMA,
        orient="row",
    ).with_columns(pl.col(pl.Float32).fill_nan(None))
