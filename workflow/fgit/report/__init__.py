"""Report: the tables, one results file, and an HTML page that opens anywhere.

Everything is read from the files that the other stages wrote; what is not there yet is shown as
pending or failed. While something is, all of it is drawn in the folder ``partial``: a file under
its own name is whole, and Snakemake would take it for that. The same inputs give the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import existing, remove, write_parquet, write_text
from fgit.config import Config
from fgit.published import read_published
from fgit.report.claims import claims_of, write_claims
from fgit.report.curves import write_curve
from fgit.report.formats import write_table
from fgit.report.funnel import Line, read_funnel, write_funnel
from fgit.report.page import page
from fgit.report.results import read_results, results_frame
from fgit.report.scores import Evaluations, read_evaluations
from fgit.report.tables import Drawn, draw
from fgit.report.training import read_trainings
from fgit.runs import all_runs, evaluations, sheets_of

__all__ = ["redraw", "report"]

log = logging.getLogger(__name__)


PARTIAL = "partial"


def report(config: Config, results: Path, *, table: str | None = None, ended: bool = False) -> Path:
    """Draw the tables of ``config`` from what lies in the folder ``results``.

    Writes there, or in its folder ``partial`` while something is missing, ``results.parquet``
    (:func:`fgit.report.results.results_frame`), for every table ``tables/NAME`` in each form, the
    claims, the funnel, and ``report.html``.

    Args:
        table: write the files of this table alone.
        ended: nothing runs any more, so that what began and has not ended has failed.

    Returns:
        The report, or the table as CSV.

    Raises:
        UserError: naming the file, if one that is there cannot be read or lacks something; or if
            there is no such table. (Where the funnel does not add up, since a stage before has run
            again, page and table say so.)
    """
    existing(results)
    if table is not None and table not in config.tables:
        raise UserError(f"no table is called {table!r}; known: {', '.join(config.tables)}")
    names = list(config.tables) if table is None else [table]
    published = read_published(config)
    found = read_evaluations(config, results, names)
    name_empty(config, names, found)
    frame = results_frame(config, results, found, published, tables=names, ended=ended)
    tables = {name: draw(config, name, frame) for name in names}
    asked = len(evaluations(config, names))
    if table is not None:
        out = results if len(found) == asked else results / PARTIAL
        write_tables(config, tables, out / "tables")
        place = out / "tables" / f"{table}.csv"
    else:
        whole = len(found) == asked and audited(config, results)
        out = results if whole else results / PARTIAL
        trainings = read_trainings(all_runs(config).values(), results)
        lines: list[Line] = []
        mismatch: UserError | None = None
        try:
            lines = read_funnel(results, config.datasets, trainings)
        except UserError as error:
            mismatch = error
        html = page(config, results, tables, found, trainings, lines, str(mismatch or ""))
        write_parquet(out / "results.parquet", frame)
        write_all(config, tables, out / "tables")
        write_text(out / "report.html", html)
        write_funnel(out / "tables", lines, mismatch)
        if mismatch is not None:  # an error would have Snakemake remove all the rest
            log.error("%s", mismatch)
        place = out / "report.html"
        if whole:
            remove(results / PARTIAL)
    log.info("%d of %d evaluations are scored; see %s", len(found), asked, place)
    return place


def audited(config: Config, results: Path) -> bool:
    """Whether the audit that the config asks for is there."""
    folder = results / "audit"
    tested = [folder / name / "audit.json" for name in config.audit.benchmarks]
    sheets = sheets_of(config, all_runs(config).values())
    drawn = [folder / "sheets" / dataset / "sheet.json" for dataset in sheets]
    return all(path.exists() for path in [*tested, *drawn])


def redraw(config: Config, path: Path, out: Path) -> None:
    """Draw the tables, figures and claims anew in the folder ``out``, from ``results.parquet``.

    Raises:
        UserError: if the file cannot be read, or is of an older layout or another config.
    """
    frame = read_results(path)
    write_all(config, {name: draw(config, name, frame) for name in config.tables}, out)
    log.info("Drew %d tables; see %s", len(config.tables), out)


def write_all(config: Config, tables: Mapping[str, Drawn], folder: Path) -> None:
    write_tables(config, tables, folder)
    if config.claims:
        write_claims(folder, claims_of(config, tables))


def write_tables(config: Config, tables: Mapping[str, Drawn], folder: Path) -> None:
    for name, drawn in tables.items():
        write_table(folder, name, drawn, config.note)
        if drawn.table.figure:
            write_curve(drawn, folder, name)


def name_empty(config: Config, tables: list[str], found: Evaluations) -> None:
    """Say which benchmarks have no result at all, and what makes them."""
    scored = {benchmark for _, benchmark in found}
    said: set[str] = set()
    for name in tables:
        for _, benchmark in evaluations(config, [name]):
            if benchmark not in scored | said:
                said.add(benchmark)
                log.warning(
                    "%s has no results yet: run `snakemake %s`, the first table that shows it",
                    benchmark,
                    name,
                )
