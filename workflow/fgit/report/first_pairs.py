"""The first pairs of a dataset, side by side, where no training shows what it saw."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fgit.annotate import SPANS, check_spans
from fgit.common.files import readable, scan_parquet
from fgit.config import Config
from fgit.report.rendering import decimals
from fgit.report.segments import View, lines_of
from fgit.runs import Run
from fgit.stage_reports import AnnotateReport
from fgit.steps import folder_of, output_of
from fgit.variants import conversation

PAIRS_SHOWN = 8
# Without the checks that go through all rows.
SHOWN = dataclasses.replace(
    SPANS, columns={**SPANS.columns, "similarity": pl.Float64}, filled=(), key=(), empty=True
)


def first_pairs(results: Path, dataset: str, source: str) -> pl.DataFrame | None:
    """The first samples with a variant and their spans; None if they are not annotated yet.

    Only as many rows are read as that takes: all of them, texts included, would fill the memory.
    """
    path = results / output_of("annotate", dataset=dataset, source=source)
    if not path.exists():
        return None
    with readable(path, SHOWN):
        frame = scan_parquet(path, SHOWN).select(list(SHOWN.types))
        # The similarity is null where the variant is, and a number is read sooner than a text.
        is_pair = pl.col("similarity").is_not_null()
        places = frame.select(pl.arg_where(is_pair)).head(PAIRS_SHOWN).collect().to_series()
        rows = places[-1] + 1 if len(places) else 0
        first = frame.head(rows).filter(is_pair).collect()
    check_spans(path, first)
    return first


def untrained_sources(
    config: Config,
    sources: Collection[tuple[str, str, str]],
    view: View | None,
    runs: Mapping[str, Run],
) -> list[tuple[str, str, str]]:
    """The datasets and sources of which no training shows what it saw."""
    viewed = [runs[run["run"]] for run in view.data["runs"]] if view else []
    trained = {(run.dataset, config.resolve(run.method).variants) for run in viewed}
    return [item for item in sources if item[:2] not in trained]


def pairs_section(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    frame = first_pairs(results, dataset, source)
    folder = folder_of("annotate", dataset=dataset, source=source)
    annotated = AnnotateReport.find(results / folder)
    if frame is None or frame.is_empty() or annotated is None:
        return None
    return {
        "dataset": dataset,
        "label": label,
        "total": annotated.pairs,
        "pairs": [
            {
                "id": row["id"],
                "instruction": conversation(row),
                "similarity": decimals(row["similarity"], 3),
                "lines": lines_of(row),
            }
            for row in frame.iter_rows(named=True)
        ],
    }
