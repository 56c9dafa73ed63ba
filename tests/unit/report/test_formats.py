"""Tables as Markdown, CSV, LaTeX and HTML."""

import csv
import dataclasses
import html
import io
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from fgit.common.statistics import Comparison
from fgit.config import Row, Table
from fgit.report import formats
from fgit.report.tables import Cell, Column, Drawn, Line
from fgit.scores import Score
from tests.conftest import run_twice

AWKWARD = r"a & b_c 100% #1 {x} {{y}} \z <b>no</b> p|q $5 ~t ^u *v* _w_ `k` &lt; [l](m)"
COLUMNS = [
    Column("humaneval", "humaneval", "base", "humaneval"),
    Column("humaneval+", "humaneval", "plus", "humaneval"),
]
SIGNIFICANT = Comparison(1000, 0.05, 0.01, 0.09, [1], [2], 0.0123)
COMMANDS = {  # by the package that they need
    "LaTeX": "begin end centering large fontsize selectfont setlength tabcolsep linewidth "
    "multicolumn textbf textbackslash textasciitilde textasciicircum textless textgreater textbar",
    "booktabs": "toprule midrule bottomrule addlinespace",
    "caption": "caption",
}


def scored(value, seeds=(0,), **others):
    # Of 1000 problems, so that any tenth of a percent is a share of them.
    passed = round(10 * value)
    scores = [(seed, Score(1000, passed, value / 100 - 0.02, value / 100 + 0.02)) for seed in seeds]
    return Cell(mean=value, scores=scores, status="scored", **others)


def line(cells, method="fgit", *, group="", label=None, seeds="1", n=1000, model="m"):
    base = method in ("base", "published")
    row = Row(model=model, dataset=None if base else "d", method=method, label=label)
    return Line(group, row, cells, {"humaneval": n}, "" if base else seeds)


def drawn(lines, *, caption="A table", columns=COLUMNS, several_seeds=False, average=False):
    table = Table(
        caption=caption,
        columns=["humaneval", "humaneval+"],
        rows=[item.row for item in lines],
        average=average,
    )
    return Drawn(
        table, list(columns), lines, several_seeds, ["humaneval v1 sha256 01234567…"], [], []
    )


@pytest.fixture
def whole():
    """Each kind of cell: best, significant, quoted, failed, pending, with and without published."""
    return drawn(
        [
            line(
                [Cell(published=76.8, status="quoted"), Cell(status="quoted")], "published", n=None
            ),
            line([scored(70.0, published=70.7), scored(69.0, best=True)], "base", label="Base"),
            line(
                [
                    scored(
                        75.0,
                        best=True,
                        published=73.2,
                        published_best=True,
                        difference=SIGNIFICANT,
                    ),
                    scored(68.0, difference=dataclasses.replace(SIGNIFICANT, p=0.4)),
                ]
            ),
            line(
                [
                    Cell(status="failed", log="logs/train/m_d.log", published=72.0),
                    Cell(status="pending"),
                ],
                "sft",
                n=None,
            ),
        ]
    )


class Texts(HTMLParser):
    """The texts of a page's table cells, with the elements within them."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.elements, self.inside = [], Counter(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def rows_of(markdown):
    """The cells of a Markdown table, without its rule; bars within are escaped."""
    rows = [row for row in markdown.splitlines() if row.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in [rows[0], *rows[2:]]
    ]


def latex_rows(text):
    return [row.removesuffix(r" \\").split(" & ") for row in text.splitlines() if " & " in row]


def assert_balanced(text):
    """Every brace and every environment that begins ends, in order."""
    bare = re.sub(r"\\\\|\\[{}%]", "", text)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    open_ones = []
    for what, name in re.findall(r"\\(begin|end)\{([^}]*)\}", text):
        if what == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones


def test_markdown_shows_ours_the_mark_and_the_published_number(whole):
    rows = rows_of(formats.table_markdown(whole, None))
    assert rows[0] == ["model", "dataset", "method", "humaneval", "humaneval+", "n"]
    assert [row[3:] for row in rows[1:]] == [
        ["– (76.8)", "–", "–"],
        ["70.0 (70.7)", "**69.0**", "1000"],
        [r"**75.0**\* (**73.2**)", "68.0", "1000"],
        ["failed (72.0)", "pending", "–"],
    ]


def test_latex_and_html_show_the_same_cells(whole):
    latex = latex_rows(formats.table_latex(whole, None))
    assert [row[3:] for row in latex[1:]] == [
        ["– (76.8)", "–"],
        ["70.0 (70.7)", r"\textbf{69.0}"],
        [r"\textbf{75.0}* (\textbf{73.2})", "68.0"],
        ["failed (72.0)", "pending"],
    ]
    page = formats.table_html(whole, None)
    assert "<b>75.0</b>* (<b>73.2</b>)" in page
    assert "<b>69.0</b>" in page
    cells = Texts(page).cells
    assert {"– (76.8)", "failed (72.0)", "pending", "75.0* (73.2)"} <= set(cells)


def test_the_note_says_how_to_read_it(whole):
    said = formats.how_to_read(whole)
    for part in [
        "n: problems;",
        "in brackets: published",
        "bold: the highest of a model's rows, measured and published each by themselves",
        "pending: not scored yet",
        "failed: see logs/train/m_d.log",
        "*: differs from the base row of its model at 95 % (exact McNemar test, p < 0.05;",
        "problems: humaneval v1 sha256 01234567…",
    ]:
        assert part in said
    assert "number of problems: humaneval 1000" in formats.how_to_read(whole, counts=True)
    assert said in formats.table_markdown(whole, None)


def test_the_note_says_no_more_than_the_table_shows():
    said = formats.how_to_read(drawn([line([scored(70.0), scored(60.0)])]))
    for word in ("brackets", "bold", "pending", "failed", "seeds", "avg", "differs"):
        assert word not in said
    unscored = drawn([line([Cell(), Cell()], n=None)])
    assert "number of" not in formats.how_to_read(unscored, counts=True)


def test_csv_has_plain_numbers_and_every_comparison(whole):
    rows = list(csv.DictReader(io.StringIO(formats.table_csv(whole))))
    columns = ["", " published", " difference from published"]
    columns += [" difference", " low", " high", " p"]
    assert list(rows[0]) == [
        "model",
        "dataset",
        "method",
        *(f"humaneval{what}" for what in columns),
        *(f"humaneval+{what}" for what in columns),
        "n",
    ]
    assert [row["humaneval"] for row in rows] == ["quoted", "70.0", "75.0", "failed"]
    assert [row["humaneval+"] for row in rows] == ["quoted", "69.0", "68.0", "pending"]
    assert [row["humaneval published"] for row in rows] == ["76.8", "70.7", "73.2", "72.0"]
    assert [row["humaneval difference from published"] for row in rows] == ["", "-0.70", "1.80", ""]
    comparison = [rows[2][f"humaneval {what}"] for what in ("difference", "low", "high", "p")]
    assert comparison == ["5.00", "1.00", "9.00", "0.0123"]
    assert [row["n"] for row in rows] == ["", "1000", "1000", ""]


def test_csv_keeps_texts_as_they_are():
    table = drawn([line([scored(70.0), scored(60.0)], label=AWKWARD + ' "q", r')])
    assert (
        next(csv.DictReader(io.StringIO(formats.table_csv(table))))["method"] == AWKWARD + ' "q", r'
    )


def test_groups_head_their_rows():
    cells = [scored(70.0), scored(60.0)]
    groups = ["First & one", "First & one", "Second"]
    table = drawn([line(cells, group=group, label=f"r{i}") for i, group in enumerate(groups)])
    assert [row[0] for row in rows_of(formats.table_markdown(table, None))] == [
        "group",
        "First & one",
        "",
        "Second",
    ]
    rows = csv.DictReader(io.StringIO(formats.table_csv(table)))
    assert [row["group"] for row in rows] == groups
    latex = formats.table_latex(table, None)
    assert re.findall(r"\\multicolumn\{3\}\{l\}\{(.*)\} ", latex) == [r"First \& one", "Second"]
    assert_balanced(latex)
    cells = Texts(formats.table_html(table, None)).cells
    assert [cell for cell in cells if cell in groups] == ["First & one", "Second"]


def test_several_seeds_have_their_column_and_deviation():
    cells = [scored(70.0, (0, 1), deviation=1.25), scored(60.0, (0,))]
    table = drawn([line(cells, seeds="1 of 2")], several_seeds=True)
    assert rows_of(formats.table_markdown(table, None))[1][-2:] == ["1000", "1 of 2"]
    row = next(csv.DictReader(io.StringIO(formats.table_csv(table))))
    assert (row["humaneval sd"], row["humaneval+ sd"], row["seeds"]) == ("1.25", "", "1 of 2")
    assert latex_rows(formats.table_latex(table, None))[1][-1] == "1 of 2"
    assert "1 of 2" in Texts(formats.table_html(table, None)).cells
    assert "mean over the seeds" in formats.how_to_read(table)


def test_an_average_is_a_column_without_comparison():
    columns = [*COLUMNS, Column("avg", "", "", "average")]
    base = line([scored(70.0), scored(60.0), Cell(65.0, status="scored")], "base")
    ours = line([scored(71.0), scored(61.0), Cell(66.0, status="scored")])
    table = drawn([base, ours], columns=columns, average=True)
    assert "avg: mean over the columns" in formats.how_to_read(table)
    row = next(csv.DictReader(io.StringIO(formats.table_csv(table))))
    assert row["avg"] == "65.0"
    assert "avg p" not in row


def test_pairs_are_not_called_pass_at_1():
    columns = [Column("humanevalpack", "humaneval", "base", "pairs")]
    said = formats.how_to_read(drawn([line([scored(70.0)])], columns=columns))
    assert said.startswith("base tests") is False
    assert "humanevalpack: share of pairs" in said
    assert "n: pairs" in said
    assert "greedy" not in said


@pytest.mark.parametrize("place", ["caption", "label", "group", "note", "log"])
def test_awkward_texts_are_escaped_everywhere(place):
    texts = {"caption": "c", "label": "l", "group": "g", "log": "f"} | {place: AWKWARD}
    cells = [scored(70.0), Cell(status="failed", log=texts["log"])]
    table = drawn(
        [line(cells, label=texts["label"], group=texts["group"])], caption=texts["caption"]
    )
    note = AWKWARD if place == "note" else None
    latex = formats.table_latex(table, note)
    assert_balanced(latex)
    expected = (
        r"a \& b\_c 100\% \#1 \{x\} \{\{y\}\} \textbackslash{}z \textless{}b\textgreater{}no"
        r"\textless{}/b\textgreater{} p\textbar{}q \$5 \textasciitilde{}t \textasciicircum{}u "
    )
    assert expected in latex
    assert "|" not in latex
    assert len(latex_rows(latex)[1]) == 3
    page = formats.table_html(table, note)
    assert any(AWKWARD in cell for cell in Texts(page).cells)
    assert Texts(page).elements["b"] == 0
    if place != "log":  # a sentence of ours, not a text of the config
        markdown = formats.table_markdown(table, note)
        escaped = (
            r"a & b_c 100% #1 {x} {{y}} \\z \<b>no\</b> p|q $5 ~t ^u \*v\* \_w\_ \`k\` \&lt; "
            r"\[l\](m)"
        )
        in_grid = place in ("label", "group")
        assert (escaped.replace("|", r"\|") if in_grid else escaped) in markdown
        assert {len(row) for row in rows_of(markdown)} == {7}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# 1", r"\# 1"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("> a", r"\> a"),
        ("1.5 a", r"1\.5 a"),
    ],
)
def test_a_caption_is_no_heading_or_list(text, expected):
    table = drawn([line([scored(70.0), scored(60.0)])], caption=text)
    assert formats.table_markdown(table, None).startswith(expected + "\n")


def test_texts_of_several_lines_are_put_on_one():
    table = drawn([line([scored(70.0), scored(60.0)], label="a\nb")], caption="c\n\nd")
    for text in (formats.table_markdown(table, "n\nm"), formats.table_latex(table, "n\nm")):
        assert "c d" in text
        assert "a b" in text
        assert "n m" in text


def test_a_row_cannot_belong_to_the_end_of_the_last_one():
    cells = [scored(70.0), scored(60.0)]
    rows = latex_rows(formats.table_latex(drawn([line(cells, label=f"{c}x") for c in "*["]), None))
    assert [row[0] for row in rows[1:]] == ["{*}x", "{}[x"]


def test_latex_needs_the_packages_that_it_names_and_fits_the_line(whole):
    latex = formats.table_latex(whole, AWKWARD)
    assert_balanced(latex)
    named = latex.splitlines()[0]
    assert named.startswith("% needs")
    assert all(name in named for name in ("booktabs", "caption", "adjustbox"))
    body = re.sub(r"\\\\|\\[&%$#_{}]", "", latex.split("\n", 1)[1])
    allowed = {command for text in COMMANDS.values() for command in text.split()}
    assert set(re.findall(r"\\([A-Za-z]+)", body)) <= allowed
    environments = re.findall(r"\\begin\{([^}]*)\}", latex)
    assert environments == ["table*", "adjustbox", "tabular", "minipage"]
    assert r"\begin{adjustbox}{max width=\linewidth}" in latex
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", latex)
    assert columns
    assert {len(row) for row in latex_rows(latex)} == {len(columns[1])}


def test_latex_leaves_out_what_labels_say():
    cells = [scored(70.0), scored(60.0)]

    def headings(lines):
        return latex_rows(formats.table_latex(drawn(lines), None))[0][0]

    base = line(cells, "base", label="M")
    assert headings([base, line(cells, label="+ FGit")]) == "method"
    assert headings([base, line(cells)]) == "model"
    other = line(cells, label="+ FGit", model="another")
    assert headings([base, other]) == "model"
    assert headings([base, line(cells, "base", label="A", model="another"), other]) == "method"


def test_the_page_stands_alone(whole):
    page = formats.table_html(whole, None)
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    assert {name.split("-")[0] for name in re.findall(r'\bid="([^"]*)"', page)} == {"table"}
    assert html.unescape(page).count("failed: see logs/train/m_d.log") == 1


def test_every_form_is_written(tmp_path, whole):
    formats.write_table(tmp_path, "t", whole, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.html", "t.md", "t.tex"]


def test_two_processes_write_the_same_bytes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.unit.report import test_formats as t\n"
        "from fgit.report.formats import write_table\n"
        "cells = [t.scored(70.0, published=71.0), t.Cell(status='failed', log='l')]\n"
        "rows = [t.line(cells, label=x, group=g) for x, g in ('ab', 'cb', 'dc')]\n"
        "write_table(Path(sys.argv[1]), 't', t.drawn(rows), 'A note')\n"
    )
    run_twice(program, tmp_path)
    for form in ("md", "csv", "tex", "html"):
        first, second = ((tmp_path / seed / f"t.{form}").read_bytes() for seed in "12")
        assert first == second
