"""A table in every form: Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import great_tables
import polars as pl

from fgit.benchmarks.kinds import kind_of
from fgit.common.files import write_text
from fgit.common.statistics import LEVEL, Comparison
from fgit.report.tables import AVERAGE, NOTHING, PENDING, SIGNIFICANT, Cell, Drawn, Line

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
TEXTS = ["model", "dataset", "method"]
PACKAGES = "% needs the packages booktabs, caption (for \\caption*) and adjustbox\n"
# What Markdown would read as its own: marks of emphasis not within a word, tags, links, entities;
INLINE = re.compile(r"[\\`*<\[\]]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")
# and at the beginning of a paragraph, a heading, quotation or list.
BLOCK = re.compile(r"^(?=[#>~=+-])|(?<=^\d)(?=[.)])")


def write_table(folder: Path, name: str, drawn: Drawn, note: str | None) -> None:
    """Write ``NAME.md``, ``.csv``, ``.tex`` and ``.html``, the same bytes for the same table."""
    write_text(folder / f"{name}.md", to_markdown(drawn, note))
    write_text(folder / f"{name}.csv", to_csv(drawn))
    write_text(folder / f"{name}.tex", to_latex(drawn, note))
    write_text(folder / f"{name}.html", to_html(drawn, note))


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
    counted = f"{'problems' if solving else 'pairs'}{' or pairs' if solving and pairs else ''}"
    bold = "bold: the highest of a model's rows"
    parts = [
        *(["pass@1 in percent, greedy decoding", tests] if solving else []),
        *(
            f"{column.heading}: share of pairs, in percent, whose correct side the model finds "
            "the more probable one, not pass@1"
            for column in pairs
        ),
        *(["avg: mean over the columns"] if len(columns) < len(drawn.columns) else []),
        *([] if counts else [f"n: {counted}{order}"]),
        *([f"number of {counted}: {sizes}"] if counts and (sizes := sizes_of(drawn)) else []),
        *(["mean over the seeds"] if drawn.several_seeds else []),
        *(["in brackets: published"] if drawn.quotes else []),
        *(
            [bold + ", measured and published each by themselves" * drawn.quotes]
            if any(cell.best or cell.published_best for cell in cells)
            else []
        ),
        *([f"{PENDING}: not scored yet"] if drawn.pending else []),
        *([f"failed: see {', '.join(drawn.failed)}"] if drawn.failed else []),
        *([marks(drawn)] if drawn.compared else []),
        "95 % intervals: results.parquet",
        *([f"problems: {', '.join(drawn.problems)}"] if drawn.problems else []),
        *([f"scored without a strong sandbox: {', '.join(drawn.weak)}"] if drawn.weak else []),
        *(f"computed in different precisions: {stage}" for stage in drawn.mixed),
    ]
    return "; ".join(parts) + "."


def sizes_of(drawn: Drawn) -> str:
    """How many problems each benchmark has that is scored."""
    sizes = {
        benchmark: {line.n[benchmark] for line in drawn.lines} - {None}
        for benchmark in drawn.benchmarks
    }
    return ", ".join(
        f"{benchmark} {' or '.join(map(str, sorted(found, key=str)))}"
        for benchmark, found in sizes.items()
        if found
    )


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


def texts_of(line: Line) -> list[str]:
    return [line.row.model, line.row.dataset or NOTHING, line.method]


def counts_of(drawn: Drawn, line: Line) -> list[str]:
    n = " / ".join(NOTHING if n is None else str(n) for n in line.n.values())
    return [n, *seeds_of(drawn, line)]


def seeds_of(drawn: Drawn, line: Line) -> list[str]:
    return [line.seeds or NOTHING] * drawn.several_seeds


# ------------------------------------------------------------------ Markdown and CSV


def to_markdown(drawn: Drawn, note: str | None) -> str:
    """Caption, note, the table with its columns aligned, and how to read it."""
    heading = ["group"] * drawn.grouped + TEXTS
    numbers = [column.heading for column in drawn.columns]
    numbers += ["n"] + ["seeds"] * drawn.several_seeds
    rows = []
    group = ""
    for line in drawn.lines:
        new = escape_markdown(line.group) if line.group != group else ""
        group = line.group
        rows.append(
            [
                *([new] * drawn.grouped),
                *map(escape_markdown, texts_of(line)),
                # Behind bold, the mark would be read as a part of it.
                *(
                    cell_text(cell, "**{}**".format, "\\*" if cell.best else SIGNIFICANT)
                    for cell in line.cells
                ),
                *counts_of(drawn, line),
            ]
        )
    paragraphs = [escape_markdown(text) for text in (drawn.table.caption, note) if text]
    parts = [BLOCK.sub(r"\\", text) for text in paragraphs]
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


def to_csv(drawn: Drawn) -> str:
    """One row per line; what Markdown leaves out for width is here too.

    A number that is not there is its status: pending, failed or quoted.
    """
    several = len(drawn.benchmarks) > 1
    rows = []
    for line in drawn.lines:
        row: dict[str, str] = {"group": line.group} if drawn.grouped else {}
        row |= {"model": line.row.model, "dataset": line.row.dataset or "", "method": line.method}
        for column, cell in zip(drawn.columns, line.cells, strict=True):
            row[column.heading] = cell.status if cell.mean is None else cell.text
            if drawn.quotes:
                both = cell.mean is not None and cell.published is not None
                apart = (cell.mean or 0) - (cell.published or 0) if both else None
                row[f"{column.heading} published"] = number(cell.published, 1)
                row[f"{column.heading} difference from published"] = number(apart, 2)
            if drawn.several_seeds:
                row[f"{column.heading} sd"] = number(cell.deviation, 2)
            if drawn.compared and column.kind != AVERAGE:
                row |= {
                    f"{column.heading} {what}": text
                    for what, text in difference_of(cell.difference).items()
                }
        for benchmark, n in line.n.items():
            row[f"n {benchmark}" if several else "n"] = "" if n is None else str(n)
        if drawn.several_seeds:
            row["seeds"] = line.seeds
        rows.append(row)
    return csv_of(rows)


def csv_of(rows: Sequence[dict[str, str]]) -> str:
    """Rows of the same columns as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def difference_of(found: Comparison | None) -> dict[str, str]:
    """A difference from the row built on: points and 95 % interval, and the test's p."""
    if found is None:
        return dict.fromkeys(("difference", "low", "high", "p"), "")
    points = {"difference": found.difference, "low": found.low, "high": found.high}
    return {
        **{what: f"{100 * value:.2f}" for what, value in points.items()},
        "p": f"{found.p:.4g}",
    }


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# ------------------------------------------------------------------ LaTeX and HTML


def escape_latex(text: str) -> str:
    return text.translate(LATEX)


def to_latex(drawn: Drawn, note: str | None) -> str:
    """A ``table*`` environment (as wide as the page) with booktabs' rules.

    Its first line names the packages needed. A table that is too wide is shrunk to the line; so
    that this is seldom much, there are only the columns that a paper prints: the numbers of
    problems are in the note, and model and dataset are left out where the labels say them.
    """
    texts = ["method"] if labelled(drawn) else TEXTS
    table = styled(drawn, note, texts, escape_latex, r"\textbf{{{}}}".format)
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
    return PACKAGES + text.replace("|", r"\textbar{}") + "\n"


def labelled(drawn: Drawn) -> bool:
    """Whether the rows' labels are enough to tell the models and datasets.

    They are where every row has one, and where there is one model or each has its own base row.
    """
    rows = [line.row for line in drawn.lines]
    models = {row.model for row in rows}
    based = {row.model for row in rows if row.dataset is None}
    return all(row.label for row in rows) and (len(models) == 1 or models == based)


def to_html(drawn: Drawn, note: str | None) -> str:
    """One self-contained page."""
    table = styled(drawn, note, TEXTS, html.escape, "<b>{}</b>".format)
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
        texts: the columns of texts to show, of :data:`TEXTS`.
        escape: makes a text one of the output's.
        bold: sets it in bold.
    """
    headings = [
        *texts,
        *(column.heading for column in drawn.columns),
        *["seeds"] * drawn.several_seeds,
    ]
    names = [f"c{i}" for i in range(len(headings))]
    rows = []
    for line in drawn.lines:
        told = dict(zip(TEXTS, texts_of(line), strict=True))
        rows.append(
            [
                *(escape(one_line(told[name])) for name in texts),
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
