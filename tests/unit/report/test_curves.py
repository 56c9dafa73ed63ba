"""Tables drawn as curves."""

import pytest

from fgit.config import Figure, Row, Table
from fgit.report import curves
from fgit.report.tables import Cell, Column, Drawn, Line
from fgit.scores import Score
from tests.conftest import run_twice

COLUMNS = [
    Column("base", "humaneval", "base", "humaneval"),
    Column("plus", "humaneval", "plus", "humaneval"),
]
PENDING = Cell(status="pending")


def scored(value, *ends):
    """A cell with an interval in percent for each seed; by default of one, 5 to each side."""
    ends = ends or ((value - 5, value + 5),)
    scores = [(i, Score(100, round(value), a / 100, b / 100)) for i, (a, b) in enumerate(ends)]
    return Cell(mean=value, scores=scores, status="scored")


def table(rows, *, optimum=2.0, columns=COLUMNS):
    """A table of rows (label, x, cells)."""
    lines = [
        Line("", Row(label=label, model="m", dataset="d", method=f"r{i}", x=x), cells, {}, "1")
        for i, (label, x, cells) in enumerate(rows)
    ]
    settings = Table(
        caption="Figure & <6> $x$",
        columns=["humaneval", "humaneval+"],
        rows=[line.row for line in lines],
        figure=Figure(x="fixed weight", optimum=optimum),
    )
    return Drawn(settings, list(columns), lines, False, [], [], [])


@pytest.fixture
def weights():
    return table(
        [
            ("fixed 4", 4, [scored(74.0), scored(68.0)]),
            ("fixed 1", 1, [scored(70.0), scored(65.0)]),
            ("fixed 1.5", 1.5, [PENDING, Cell(status="failed", log="l")]),
            ("fixed 3", 3, [scored(71.0), PENDING]),
            ("fixed 5", 5, [PENDING, PENDING]),
            ("dynamic", None, [scored(76.0), scored(72.0)]),
        ]
    )


def parts(figure):
    """The curves (x, y and ends of the intervals), level lines, and the optimum's line."""
    axes = figure.axes[0]
    curves_drawn = []
    for bars in axes.containers:
        points, _, (intervals,) = bars.lines
        ends = [[y for _, y in segment] for segment in intervals.get_segments()]
        x, y = (list(values) for values in points.get_data())
        curves_drawn.append((bars.get_label(), x, y, ends))
    labelled = {str(entry.get_label()): entry for entry in axes.get_lines()}
    levels = {label: entry.get_ydata()[0] for label, entry in labelled.items() if ", " in label}
    optimum = [entry.get_xdata()[0] for label, entry in labelled.items() if "optimum" in label]
    return curves_drawn, levels, optimum


def said(figure):
    """What stands in the legend, and beneath the axis."""
    legend = [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []
    return legend, figure.get_supxlabel()


def test_a_curve_for_each_column_in_the_order_of_x(weights):
    lines, _, _ = parts(curves.curve_of(weights))
    assert [(label, y) for label, _, y, _ in lines] == [
        ("base", [70.0, 71.0, 74.0]),
        ("plus", [65.0, 68.0]),
    ]
    ends = [end for interval in lines[0][3] for end in interval]
    assert ends == pytest.approx([65.0, 75.0, 66.0, 76.0, 69.0, 79.0])
    # The columns stand beside each other, close to their x.
    assert lines[0][1] == pytest.approx([1, 3, 4], abs=0.05)
    assert lines[0][1][0] < 1 < lines[1][1][0]


def test_rows_without_x_are_level_lines_with_their_label(weights):
    figure = curves.curve_of(weights)
    assert parts(figure)[1] == {"base, dynamic": 76.0, "plus, dynamic": 72.0}
    assert said(figure)[0] == [
        "base",
        "plus",
        "base, dynamic",
        "plus, dynamic",
        "published optimum (2)",
    ]


def test_level_lines_of_a_column_are_told_apart_by_their_dashes():
    cells = [scored(70.0), scored(60.0)]
    figure = curves.curve_of(table([("a", 1, cells), ("b", None, cells), ("c", None, cells)]))
    lines = {str(entry.get_label()): entry for entry in figure.legends[0].get_lines()}
    dashes = {label: str(entry._dash_pattern) for label, entry in lines.items() if ", " in label}
    assert dashes["base, b"] == dashes["plus, b"] != dashes["base, c"] == dashes["plus, c"]


def test_the_published_optimum_is_a_line(weights):
    assert parts(curves.curve_of(weights))[2] == [2.0]
    without = table([("a", 1, [scored(70.0), scored(65.0)])], optimum=None)
    assert parts(curves.curve_of(without))[2] == []


def test_what_is_left_out_is_said(weights):
    assert curves.left_out(weights) == [
        "fixed 1.5 (base pending, plus failed)",
        "fixed 3 (plus pending)",
        "fixed 5 (pending)",
    ]
    text = said(curves.curve_of(weights))[1].replace("\n", " ")
    assert text == f"left out: {'; '.join(curves.left_out(weights))}"
    whole = table([("a", 1, [scored(70.0), scored(65.0)])])
    assert said(curves.curve_of(whole))[1] == ""


def test_the_axis_has_each_x_as_it_is_written(weights):
    axes = curves.curve_of(weights).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "1.5", "3", "4", "5"]
    assert axes.get_xlabel() == "fixed weight"
    assert axes.get_ylabel() == "pass@1, percent"


def test_pairs_are_not_called_pass_at_1():
    columns = [Column("humanevalpack", "humanevalpack", "base", "pairs")]
    drawn = table([("a", 1, [scored(70.0)])], columns=columns)
    assert curves.curve_of(drawn).axes[0].get_ylabel() == "percent"


def test_several_seeds_have_the_mean_of_their_intervals():
    assert curves.interval(scored(70.0, (60.0, 78.0), (64.0, 80.0))) == pytest.approx((62.0, 79.0))


def test_an_average_is_not_drawn():
    columns = [*COLUMNS, Column("avg", "", "", "average")]
    cells = [scored(70.0), scored(60.0), Cell(65.0, status="scored")]
    drawn = table([("a", 1, cells), ("b", 2, [*cells[:2], PENDING])], columns=columns)
    figure = curves.curve_of(drawn)
    assert [label for label, *_ in parts(figure)[0]] == ["base", "plus"]
    assert curves.left_out(drawn) == []


def test_nothing_scored_is_drawn_too(tmp_path):
    empty = table([("a", 1, [PENDING, PENDING]), ("b", 2, [PENDING, PENDING])], optimum=None)
    curves.write_curve(empty, tmp_path, "f")
    assert said(curves.curve_of(empty)) == ([], "left out: a (pending); b (pending)")


def test_files_are_light_and_the_page_gives_its_own_colours(tmp_path, weights):
    curves.write_curve(weights, tmp_path, "f")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.png", "f.svg"]
    drawn = (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert "fill: #ffffff" in drawn
    assert "#0102" not in drawn
    assert "<dc:date>" not in drawn
    page = str(curves.in_page(weights))
    assert page.startswith('<svg role="img" aria-label="Figure &amp; &lt;6&gt; $x$"')
    assert "var(--first)" in page
    assert "currentColor" in page
    assert "#0102" not in page


def test_two_processes_write_the_same_bytes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.unit.report import test_curves as t\n"
        "from fgit.report import curves\n"
        "rows = [(x, i, [t.scored(70.0 + i), t.PENDING]) for i, x in enumerate('abc')]\n"
        "drawn = t.table([*rows, ('level', None, [t.scored(75.0), t.scored(60.0)])])\n"
        "curves.write_curve(drawn, Path(sys.argv[1]), 'f')\n"
        "(Path(sys.argv[1]) / 'page.svg').write_text(curves.in_page(drawn), encoding='utf-8')\n"
    )
    run_twice(program, tmp_path)
    for name in ("f.svg", "f.png", "page.svg"):
        first, second = ((tmp_path / seed / name).read_bytes() for seed in "12")
        assert first == second
