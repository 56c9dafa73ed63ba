"""The tables, the file of all results, and an HTML page that opens anywhere.

What is not there yet is shown as pending or failed. While something is, all of it is drawn in the
folder ``partial``: a file under its own name is whole, and Snakemake would take it for that. The
same inputs give the same bytes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import remove, write_parquet, write_text
from fgit.config import Config
from fgit.lineage import Lineage
from fgit.published import read_published
from fgit.report.claims import claims_of, write_claims
from fgit.report.curves import write_curve
from fgit.report.evaluations import name_unscored, read_evaluations
from fgit.report.formats import write_table
from fgit.report.funnel import FunnelLine, read_funnel, write_funnel
from fgit.report.page import page
from fgit.report.places import PARTIAL, report_folder, require_table
from fgit.report.results import joined_results, read_results, results_frame
from fgit.report.tables import Drawn, draw_table
from fgit.report.training import read_trainings
from fgit.runs import all_runs, evaluations

log = logging.getLogger(__name__)


def report(
    config: Config, results: Path, *, folder: Path | None = None, ended: bool = False
) -> None:
    """Draw the report of ``config`` from what lies in the folder ``results``.

    Writes ``results.parquet`` (:func:`fgit.report.results.results_frame`), ``report.html``, and in
    ``tables`` the claims and the funnel; into the folder ``partial`` also every table.

    Args:
        folder: where to write, as :func:`fgit.report.places.report_folder` gives it.
        ended: nothing runs any more, so that what began and has not ended has failed.

    Raises:
        UserError: naming the file, if one that is there cannot be read or lacks something. (Where
            the funnel does not add up, since a stage before has run again, page and table say so.)
    """
    folder = folder or report_folder(config, results)
    scores = read_evaluations(config, results)
    lineage = Lineage(results, hashes=False)
    whole = folder == results
    if not whole:
        name_unscored(config, config.tables, scores)
    frame = results_frame(config, lineage, scores, read_published(config), ended=ended)
    if whole:
        frame = joined_results(config, results, frame)
    tables = {name: draw_table(config, name, frame) for name in config.tables}
    trainings = read_trainings(all_runs(config).values(), results)
    lines: list[FunnelLine] = []
    mismatch: UserError | None = None
    try:
        lines = read_funnel(results, config.datasets, trainings)
    except UserError as error:
        mismatch = error
    html = page(config, lineage, tables, scores, trainings, lines, str(mismatch or ""))
    write_parquet(folder / "results.parquet", frame)
    if not whole:
        write_tables(config, tables, folder / "tables")
    write_claims(folder / "tables", claims_of(config, tables))
    write_text(folder / "report.html", html)
    write_funnel(folder / "tables", lines, mismatch)
    if mismatch is not None:  # an error would have Snakemake remove all the rest
        log.error("%s", mismatch)
    if whole:
        remove(results / PARTIAL)
    wanted = len(evaluations(config, config.tables))
    log.info("%d of %d evaluations are scored; see %s", len(scores), wanted, folder / "report.html")


def draw_tables(config: Config, path: Path, folder: Path, table: str | None = None) -> None:
    """Draw one table, or all tables and the claims, from a file of results and from it alone.

    Raises:
        UserError: if the file cannot be read, or is of an older layout or another config; or if
            there is no such table.
    """
    if table is not None:
        require_table(config, table)
    frame = read_results(path)
    names = config.tables if table is None else [table]
    tables = {name: draw_table(config, name, frame) for name in names}
    write_tables(config, tables, folder)
    if table is None:
        write_claims(folder, claims_of(config, tables))
    log.info("Drew %s; see %s", table or f"{len(tables)} tables", folder)


def write_tables(config: Config, tables: Mapping[str, Drawn], folder: Path) -> None:
    for name, drawn in tables.items():
        write_table(folder, name, drawn, config.note)
        if drawn.table.figure:
            write_curve(drawn, folder, name)
