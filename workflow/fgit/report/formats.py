"""A table in every form: Markdown, CSV, LaTeX and HTML."""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import great_tables
import polars as pl

from fgit.benchmarks.kinds import kind_of
from fgit.common.files import write_text
from fgit.common.statistics import LEVEL
from fgit.report.tables import AVERAGE, DASH, PENDING, SIGNIFICANT, Cell, Drawn, Line

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "*": "{*}",  # at the beginning of a row it would belong to the command that ends the last
    }
)
TEXT_COLUMNS = ["model", "dataset", "method"]
LATEX_PACKAGES = "% needs the packages booktabs, caption (for \\caption*) and adjustbox\n"
# What Markdown would read as its own: marks of emphasis not within a word, tags, links, entities;
INLINE = re.compile(r"[\\`*<\[\]]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")
# and at the beginning of a paragraph, a heading, quotation or list.
BLOCK_START = re.compile(r"^(?=[#>~=+-])|(?<=^\d)(?=[.)])")


def write_table(folder: Path, name: str, drawn: Drawn, note: str | None) -> None:
    """Write ``NAME.md``, ``.csv``, ``.tex`` and ``.html``, the same bytes for the same table."""
    write_text(folder / f"{name}.md", table_markdown(drawn, note))
    write_text(folder / f"{name}.csv", table_csv(drawn))
    write_text(folder / f"{name}.tex", table_latex(drawn, note))
    write_text(folder / f"{name}.html", table_html(drawn, note))


def how_to_read(drawn: Drawn, *, counts: bool = False) -> str:
    """One line on how to read a table, and where the logs of what failed are.

    Args:
        counts: say how many problems each benchmark has, for a table without a column of them.
    """
    columns = [column for column in drawn.columns if column.kind != AVERAGE]
    cells = [cell for line in drawn.lines for cell in line.cells]
    solving = [column for column in columns if kind_of(column.kind).programs]
    pairs = [column for column in columns if not kind_of(column.kind).programs]
    if columns[0].heading == "base":
        tests = "base: base tests, plus: base and plus tests"
    elif any(column.tests == "plus" for column in columns):
        tests = "NAME: base tests, NAME+: base and plus tests"
    else:
        tests = "base tests"
    order = f" ({' / '.join(drawn.benchmarks)})" if len(drawn.benchmarks) > 1 else ""
    units = f"{'problems' if solving else 'pairs'}{' or pairs' if solving and pairs else ''}"
    bold = "bold: the highest of a model's rows"
    bold += ", measured and published each by themselves" * drawn.quotes
    parts = [
        *(["pass@1 in percent, greedy decoding", tests] if solving else []),
        *(
            f"{column.heading}: share of pairs, in percent, whose correct side the model finds "
            "the more probable one, not pass@1"
            for column in pairs
        ),
        *(["avg: mean over the columns"] if len(columns) < len(drawn.columns) else []),
        *([] if counts else [f"n: {units}{order}"]),
        *([f"number of {units}: {sizes}"] if counts and (sizes := sizes_of(drawn)) else []),
        *["mean over the seeds"] * drawn.several_seeds,
        *["in brackets: published"] * drawn.quotes,
        *[bold] * any(cell.best or cell.published_best for cell in cells),
        *[f"{PENDING}: not scored yet"] * drawn.pending,
        *([f"failed: see {', '.join(drawn.failed)}"] if drawn.failed else []),
        *[marks(drawn)] * drawn.compared,
        "95 % intervals: results.parquet",
        *([f"problems: {', '.join(drawn.problems)}"] if drawn.problems else []),
        *([f"scored without a strong sandbox: {', '.join(drawn.weak)}"] if drawn.weak else []),
        *(f"computed in different precisions: {stage}" for stage in drawn.mixed),
    ]
    return "; ".join(parts) + "."


def sizes_of(drawn: Drawn) -> str:
    """How many problems each benchmark has that is scored."""
    sizes = []
    for benchmark in drawn.benchmarks:
        if counts := {str(line.n[benchmark]) for line in drawn.lines} - {"None"}:
            sizes.append(f"{benchmark} {' or '.join(sorted(counts))}")
    return ", ".join(sizes)


def marks(drawn: Drawn) -> str:
    """What the mark of a significant difference means."""
    test = "McNemar test"
    if drawn.several_seeds:
        test = "sign-flip test of the problems' means over the seeds"
    return (
        f"{SIGNIFICANT}: differs from the base row of its model at 95 % (exact {test}, "
        f"p < {LEVEL}; not corrected for the number of comparisons)"
    )


def cell_text(cell: Cell, bold: Callable[[str], str], mark: str = SIGNIFICANT) -> str:
    """``73.1* (73.2)``: ours, its mark, and in brackets the published number."""
    ours = bold(cell.text) if cell.best else cell.text
    if cell.marked != cell.text:
        ours += mark
    if cell.published is None:
        return ours
    published = f"{cell.published:.1f}"
    return f"{ours} ({bold(published) if cell.published_best else published})"


def row_texts(line: Line) -> list[str]:
    return [line.row.model, line.row.dataset or DASH, line.method]


def seeds_of(drawn: Drawn, line: Line) -> list[str]:
    return [line.seeds or DASH] * drawn.several_seeds


# ------------------------------------------------------------------ Markdown and CSV


def table_markdown(drawn: Drawn, note: str | None) -> str:
    """Caption, note, the table with its columns aligned, and how to read it."""
    heading = ["group"] * drawn.grouped + TEXT_COLUMNS
    numbers = [*(column.heading for column in drawn.columns), "n"]
    numbers += ["seeds"] * drawn.several_seeds
    rows = []
    group = ""
    for line in drawn.lines:
        new = escape_markdown(line.group) if line.group != group else ""
        group = line.group
        sizes = " / ".join(DASH if n is None else str(n) for n in line.n.values())
        rows.append(
            [
                *([new] * drawn.grouped),
                *map(escape_markdown, row_texts(line)),
                # Behind bold, the mark would be read as a part of it.
                *(
                    cell_text(cell, "**{}**".format, "\\*" if cell.best else SIGNIFICANT)
                    for cell in line.cells
                ),
                sizes,
                *seeds_of(drawn, line),
            ]
        )
    paragraphs = [escape_markdown(text) for text in (drawn.table.caption, note) if text]
    parts = [BLOCK_START.sub(r"\\", text) for text in paragraphs]
    table = grid([*heading, *numbers], rows, len(heading))
    return "\n\n".join([*parts, table, how_to_read(drawn)]) + "\n"


def escape_markdown(text: str) -> str:
    """A text on one line, as Markdown shows it literally; bars are left to the grid."""
    return INLINE.sub(r"\\\g<0>", one_line(text))


def grid(heading: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """A Markdown table; the columns after the first ``texts`` are set to the right."""
    cells = [[one_line(text).replace("|", "\\|") for text in row] for row in [heading, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(heading))]

    def drawn(row: Sequence[str]) -> str:
        aligned = [
            text.ljust(width) if i < texts else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([drawn(cells[0]), drawn(rule), *(drawn(row) for row in cells[1:])])


def one_line(text: str) -> str:
    return " ".join(text.split())


def table_csv(drawn: Drawn) -> str:
    """One row per line; what Markdown leaves out for width is here too.

    A number that is not there is its status: pending, failed or quoted.
    """
    several = len(drawn.benchmarks) > 1
    rows = []
    for line in drawn.lines:
        row: dict[str, Any] = {"group": line.group} if drawn.grouped else {}
        row |= {"model": line.row.model, "dataset": line.row.dataset, "method": line.method}
        for column, cell in zip(drawn.columns, line.cells, strict=True):
            row[column.heading] = cell.status if cell.mean is None else cell.text
            if drawn.quotes:
                both = cell.mean is not None and cell.published is not None
                difference = (cell.mean or 0) - (cell.published or 0) if both else None
                row[f"{column.heading} published"] = number_text(cell.published, 1)
                row[f"{column.heading} difference from published"] = number_text(difference, 2)
            if drawn.several_seeds:
                row[f"{column.heading} sd"] = number_text(cell.deviation, 2)
            if drawn.compared and column.kind != AVERAGE:
                for what in ("difference", "low", "high"):
                    points = cell.difference and f"{100 * getattr(cell.difference, what):.2f}"
                    row[f"{column.heading} {what}"] = points
                row[f"{column.heading} p"] = cell.difference and f"{cell.difference.p:.4g}"
        for benchmark, n in line.n.items():
            row[f"n {benchmark}" if several else "n"] = n
        if drawn.several_seeds:
            row["seeds"] = line.seeds
        rows.append(row)
    return csv_of(rows)


def csv_of(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> str:
    """Rows as CSV, under these columns or those of the first row; None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns or rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def number_text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# ------------------------------------------------------------------ LaTeX and HTML


def table_latex(drawn: Drawn, note: str | None) -> str:
    """A ``table*`` environment (as wide as the page) with booktabs' rules.

    Its first line names the packages needed. A table that is too wide is shrunk to the line; so
    that this is seldom much, there are only the columns that a paper prints: the numbers of
    problems are in the note, and model and dataset are left out where the labels say them.
    """
    texts = ["method"] if labelled(drawn) else TEXT_COLUMNS
    table = styled(drawn, note, texts, lambda text: text.translate(LATEX), r"\textbf{{{}}}".format)
    text = table.tab_options(table_font_size="9pt").as_latex().strip()
    for written, meant in [
        (r"\begin{table}[!t]", "\\begin{table*}[!t]\n\\centering"),
        (r"\end{table}", r"\end{table*}"),
        (
            r"\begin{tabular*}{\linewidth}{@{\extracolsep{\fill}}",
            "\\setlength{\\tabcolsep}{4pt}\n\\begin{adjustbox}{max width=\\linewidth}\n"
            r"\begin{tabular}{",
        ),
        # The empty line ends the paragraph, so that the notes stand beneath a narrow table.
        (r"\end{tabular*}", "\\end{tabular}\n\\end{adjustbox}\n"),
    ]:
        assert text.count(written) == 1, f"great_tables wrote no {written}"
        text = text.replace(written, meant)
    # great_tables, which escapes caption, groups and notes, leaves bars: a dash in LaTeX's old font
    # encoding. No column of ours has a rule, for which a bar would stand.
    return LATEX_PACKAGES + text.replace("|", r"\textbar{}") + "\n"


def labelled(drawn: Drawn) -> bool:
    """Whether the rows' labels are enough to tell the models and datasets.

    They are where every row has one, and where there is one model or each has its own base row.
    """
    rows = [line.row for line in drawn.lines]
    models = {row.model for row in rows}
    based = {row.model for row in rows if row.dataset is None}
    return all(row.label for row in rows) and (len(models) == 1 or models == based)


def table_html(drawn: Drawn, note: str | None) -> str:
    """One self-contained page."""
    table = styled(drawn, note, TEXT_COLUMNS, html.escape, "<b>{}</b>".format)
    table = table.opt_css("#table .gt_row, #table .gt_col_heading { white-space: nowrap; }")
    return str(table.as_raw_html(make_page=True)).strip() + "\n"


def styled(
    drawn: Drawn,
    note: str | None,
    texts: Sequence[str],
    escape: Callable[[str], str],
    bold: Callable[[str], str],
) -> great_tables.GT:
    """The table for one output.

    great_tables escapes caption, groups, headings and notes by itself; cells it would also read as
    Markdown or units, so they are escaped here.

    Args:
        texts: the columns of texts to show, of :data:`TEXT_COLUMNS`.
        escape: makes a text one of the output's.
        bold: sets it in bold.
    """
    headings = [*texts, *(column.heading for column in drawn.columns)]
    headings += ["seeds"] * drawn.several_seeds
    names = [f"c{i}" for i in range(len(headings))]
    rows = []
    for line in drawn.lines:
        by_name = dict(zip(TEXT_COLUMNS, row_texts(line), strict=True))
        rows.append(
            [
                *(escape(one_line(by_name[name])) for name in texts),
                *(cell_text(cell, bold) for cell in line.cells),
                *seeds_of(drawn, line),
            ]
        )
    data = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    grouped = {"group": [one_line(line.group) for line in drawn.lines]} if drawn.grouped else {}
    table = great_tables.GT(
        pl.DataFrame(grouped | data), id="table", groupname_col="group" if drawn.grouped else None
    )
    table = (
        table.fmt(lambda text: text, columns=names)  # what is formatted is not escaped again
        .cols_label(cases=dict(zip(names, headings, strict=True)))
        .cols_align("left", columns=names[: len(texts)])
        .cols_align("right", columns=names[len(texts) :])
        .tab_header(title=one_line(drawn.table.caption))
    )
    for text in [*([one_line(note)] if note else []), how_to_read(drawn, counts=True)]:
        table = table.tab_source_note(text)
    return table
