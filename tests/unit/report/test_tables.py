"""The tables: what their cells show, and what stands beside what."""

import csv
import dataclasses
import re

import pytest

from fgit.common.statistics import compare_paired
from fgit.lineage import Lineage, without_provenance
from fgit.published import read_published
from fgit.report.cells import hint
from fgit.report.evaluations import read_evaluations
from fgit.report.formats import table_csv, table_markdown
from fgit.report.results import results_frame
from fgit.report.stage import report
from fgit.report.tables import draw_table
from fgit.runs import all_runs
from tests.results_folder import Folder, first, make_config
from tests.unit.report.conftest import copied

DIFFERENCE = ("difference", "low", "high", "p")


@pytest.fixture(scope="module")
def made_with_seeds(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("seeds") / "results", make_config(seeds=[1, 2]))


@pytest.fixture
def seeds(made_with_seeds, tmp_path):
    """A folder of two seeds, to change."""
    return copied(made_with_seeds, tmp_path / "results")


def frame_of(folder):
    scores = read_evaluations(folder.config, folder.root)
    return results_frame(folder.config, Lineage(folder.root), scores, read_published(folder.config))


def drawn_of(folder, name="main"):
    """The table that a report draws, without the report."""
    return draw_table(folder.config, name, frame_of(folder))


def rows_of(drawn):
    return list(csv.DictReader(table_csv(drawn).splitlines()))


def hints_of(drawn):
    """What the pointer shows over the cells."""
    return "\n".join(hint(cell) for line in drawn.lines for cell in line.cells)


def test_one_benchmark_gives_columns_base_and_plus(shared_folder):
    rows = rows_of(drawn_of(shared_folder))
    assert rows[0] == {
        "model": "tiny",
        "dataset": "",
        "method": "untrained",
        "base": "40.0",
        **dict.fromkeys(("base difference", "base low", "base high", "base p"), ""),
        "plus": "30.0",
        **dict.fromkeys(("plus difference", "plus low", "plus high", "plus p"), ""),
        "n": "10",
    }
    assert [row["method"] for row in rows[1:]] == ["sft", "fgit", "dpo", "mutation"]


def test_markdown_has_caption_note_table_and_reading(shared_folder):
    parts = table_markdown(drawn_of(shared_folder), shared_folder.config.note).split("\n\n")
    assert parts[:2] == ["All methods", "Stand-ins throughout."]
    lines = parts[2].splitlines()
    assert re.split(r"\s*\|\s*", lines[0])[1:-1] == [
        *("model", "dataset", "method", "base", "plus", "n")
    ]
    assert re.split(r"\s*\|\s*", lines[2])[1:-1] == ["tiny", "–", "untrained", "40.0", "30.0", "10"]
    assert len({len(line) for line in lines}) == 1
    assert "greedy" in parts[3] and "results.parquet" in parts[3]
    assert len(parts) == 4 and parts[3].count("\n") == 1


def test_two_seeds_give_mean_and_standard_deviation(seeds, no_figures):
    for seed, passed in [(1, 4), (2, 6)]:
        seeds.score(f"tiny/tasks/sft/seed-{seed}", "easy", first(passed))
    seeds.path("score", "tiny/tasks/dpo/seed-2", "easy", "summary.json").unlink()
    report(seeds.config, seeds.root)
    base, sft, _, dpo, _ = seeds.table()
    assert (base["seeds"], base["base sd"]) == ("", "")
    assert (sft["base"], sft["base sd"], sft["seeds"]) == ("50.0", "14.14", "2")
    assert (dpo["seeds"], dpo["base sd"]) == ("1 of 2", "")
    assert {1, 2} <= set(frame_of(seeds)["seed"])
    html = seeds.html()
    assert "± 14.1" in html
    assert "seed 1: 4 of 10 problems; 95 % interval 16.8 to 68.7" in html


def test_several_benchmarks_keep_their_names_and_groups_their_headings(tmp_path):
    config = make_config(
        benchmarks={
            "easy": {"kind": "mbpp", "problems": "easy.jsonl"},
            "hard": {"kind": "bigcodebench", "problems": "hard.jsonl"},
        },
        tables={
            "wide": {
                "caption": "Two benchmarks",
                "columns": ["easy", "easy+", "hard"],
                "rows": [
                    {"group": "Tiny", "model": "tiny", "method": "base"},
                    {"model": "tiny", "dataset": "tasks", "method": "sft"},
                ],
            }
        },
    )
    folder = Folder(tmp_path / "results", config)
    drawn = drawn_of(folder, "wide")
    rows = rows_of(drawn)
    assert [name for name in rows[0] if name.split(" ")[-1] not in DIFFERENCE][:9] == [
        *("group", "model", "dataset", "method", "easy", "easy+", "hard", "n easy", "n hard")
    ]
    assert [row["group"] for row in rows] == ["Tiny", "Tiny"]
    lines = table_markdown(drawn, config.note).splitlines()
    assert "10 / 10" in lines[6] and lines[7].startswith("|       |")
    metrics = frame_of(folder).filter(benchmark="hard")["metric"]
    assert metrics.unique().to_list() == ["pass@1 base"]


# ------------------------------------------------------------------ what differs

BEFORE = first(2, 20)
AFTER = first(9, 20)  # seven more: McNemar's p is 2 / 2**7


@pytest.fixture
def better(folder):
    """A table in which FGit solves seven problems more than the base model."""
    scores = {"tiny/base": BEFORE, "tiny/tasks/fgit/seed-0": AFTER}
    for run in all_runs(folder.config):
        folder.score(run, "easy", scores.get(run, BEFORE))
    return drawn_of(folder)


def test_a_run_is_compared_with_its_base_model(better):
    base, sft, fgit, *_ = rows_of(better)
    found = compare_paired([AFTER], [BEFORE])
    assert [fgit[f"base {what}"] for what in DIFFERENCE] == [
        "35.00",
        f"{100 * found.low:.2f}",
        f"{100 * found.high:.2f}",
        "0.01562",
    ]
    assert [sft[f"base {what}"] for what in DIFFERENCE] == ["0.00", "0.00", "0.00", "1"]
    assert [base[f"base {what}"] for what in DIFFERENCE] == [""] * 4
    assert fgit["base"] == "45.0"  # a number, without the mark


def test_a_significant_difference_is_marked(better):
    text = table_markdown(better, None)
    assert [cell.marked for cell in better.lines[2].cells] == ["45.0*", "40.0*"]
    assert [cell.marked for cell in better.lines[1].cells] == ["10.0", "5.0"]
    assert "*: differs from the base row of its model at 95 %" in text
    assert "exact McNemar test, p < 0.05; not corrected" in text


def test_the_pointer_shows_all_pairs(better):
    found = compare_paired([AFTER], [BEFORE])
    end = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    hints = hints_of(better)
    assert f"against its base model: +35.0 points ({end}), p 0.016" in hints
    assert f"against sft on tasks: +35.0 points ({end}), p 0.016" in hints
    assert "against fgit on tasks: -35.0 points" in hints
    assert "against its base model: +0.0 points (+0.0 to +0.0), p 1" in hints


def test_several_seeds_are_compared_by_their_mean(seeds):
    scores = {"tiny/tasks/fgit/seed-1": AFTER, "tiny/tasks/fgit/seed-2": first(11, 20)}
    for run in all_runs(seeds.config):
        seeds.score(run, "easy", scores.get(run, BEFORE))
    drawn = drawn_of(seeds)
    fgit = rows_of(drawn)[2]
    p = f"{compare_paired([AFTER, first(11, 20)], [BEFORE]).p:.4g}"
    assert (fgit["base"], fgit["base difference"], fgit["base p"]) == ("50.0", "40.00", p)
    assert drawn.lines[2].cells[0].marked == "50.0*"
    said = "exact sign-flip test of the problems' means over the seeds, p < 0.05"
    assert said in table_markdown(drawn, None)
    assert f"p {compare_paired([AFTER, first(11, 20)], [BEFORE, BEFORE]).p:.2g}" in hints_of(drawn)


def test_a_table_without_base_rows_compares_nothing(tmp_path):
    rows = [{"model": "tiny", "dataset": "tasks", "method": m} for m in ("sft", "fgit")]
    config = make_config(tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}})
    drawn = drawn_of(Folder(tmp_path / "results", config))
    assert "easy difference" not in rows_of(drawn)[0]
    assert "*: differs" not in table_markdown(drawn, None)
    assert "against fgit on tasks" in hints_of(drawn)  # the pairs of rows are there all the same


def test_another_models_base_row_is_no_reference(tmp_path):
    rows = [
        {"model": "other", "method": "base"},
        {"model": "tiny", "dataset": "tasks", "method": "sft"},
    ]
    config = make_config(
        models={"tiny": {"path": "a/tiny"}, "other": {"path": "a/other"}},
        tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}},
    )
    drawn = drawn_of(Folder(tmp_path / "results", config))
    assert "easy difference" not in rows_of(drawn)[0]
    assert "against its base model" not in hints_of(drawn)


def reading_of(folder):
    return table_markdown(drawn_of(folder), None).split("\n\n")[-1]


def test_the_problems_are_named_with_release_and_digest(tmp_path, shared_folder):
    assert "; problems: easy sha256 1a2b3c4d…." in reading_of(shared_folder)
    config = make_config(
        benchmarks={"easy": {"kind": "humaneval", "problems": "release:v0.1.10"}},
    )
    released = Folder(tmp_path / "released", config)
    assert "; problems: easy v0.1.10 sha256 1a2b3c4d…." in reading_of(released)


def computed_in(folder, monkeypatch, by_run):
    """As if the runs had been trained and evaluated in these precisions."""

    def steps(lineage, run, benchmark):
        train, dtype = by_run.get(run, ("bf16", "bfloat16"))
        computed = {"train": {"precision": train}, "evaluate": {"dtype": dtype}}
        return [
            dataclasses.replace(without_provenance(f"{stage}/{run}", ""), settings=settings)
            for stage, settings in computed.items()
            if stage == "evaluate" or run.count("/") == 3
        ]

    monkeypatch.setattr(Lineage, "behind_score", steps)


def test_rows_that_were_computed_in_different_precisions_are_named(shared_folder, monkeypatch):
    computed_in(shared_folder, monkeypatch, {})
    assert "precision" not in reading_of(shared_folder)
    frame = frame_of(shared_folder)
    assert set(frame["precision"].struct.field("train")) == {None, "bf16"}
    assert set(frame["precision"].struct.field("evaluate")) == {"bf16"}
    computed_in(shared_folder, monkeypatch, {"tiny/tasks/dpo/seed-0": ("fp32", "float32")})
    text = reading_of(shared_folder)
    assert "; computed in different precisions: train bf16 (" in text
    assert "), fp32 (dpo); computed in different precisions: evaluate bf16 (" in text
    assert text.endswith("), fp32 (dpo).\n")


def test_a_stage_in_both_precisions_is_said(shared_folder, monkeypatch):
    def steps(lineage, run, benchmark):
        shards = {"1": "bfloat16", "2": "float32"}
        return [
            dataclasses.replace(
                without_provenance(f"generate/{shard}", ""), settings={"dtype": dtype}
            )
            for shard, dtype in shards.items()
        ]

    monkeypatch.setattr(Lineage, "behind_score", steps)
    assert "different precisions: generate bf16 and fp32 (" in reading_of(shared_folder)


def test_a_weak_sandbox_is_said(folder):
    assert "sandbox" not in reading_of(folder)
    folder.score("tiny/tasks/dpo/seed-0", "easy", first(4), sandbox="rlimits")
    assert reading_of(folder).endswith("; scored without a strong sandbox: easy (rlimits).\n")
    assert frame_of(folder).filter(sandbox="rlimits")["method"].unique().to_list() == ["dpo"]


# ------------------------------------------------------------------ published, best, average


def with_numbers(shared_folder, tmp_path, *numbers, scored=(), average=True):
    """The table drawn with these published numbers, and these runs scored."""
    path = tmp_path / "published.csv"
    path.write_text("\n".join(["table,model,dataset,method,column,value", *numbers]), "utf-8")
    rows = [{"label": "Huge", "model": "huge", "method": "published"}]
    table = make_config().tables["main"].model_dump()
    table |= {"rows": [*rows, *table["rows"]], "average": average}
    config = make_config(published=str(path), tables={"main": table})
    folder = copied(shared_folder, tmp_path / "results", config)
    for run in all_runs(config):
        if run not in scored:
            folder.path("score", run, "easy", "summary.json").unlink()
            folder.path("evaluate", run, "easy", "samples.jsonl").unlink()
    return drawn_of(folder)


HUGE = ("main,huge,,published,easy,90", "main,huge,,published,easy+,80.5")


def test_quoted_rows_have_published_numbers_alone(shared_folder, tmp_path):
    drawn = with_numbers(shared_folder, tmp_path, *HUGE)
    first_line, base = drawn.lines[:2]
    assert [cell.text for cell in first_line.cells] == ["–", "–", "–"]
    assert [cell.published for cell in first_line.cells] == [90, 80.5, 85.25]
    assert {cell.status for cell in first_line.cells} == {"quoted"}
    assert [cell.text for cell in base.cells] == ["pending"] * 3
    assert [column.kind for column in drawn.columns] == ["humaneval", "humaneval", "average"]
    assert drawn.columns[-1].heading == "avg" and drawn.benchmarks == ["easy"]


def test_an_average_needs_all_columns(shared_folder, tmp_path):
    printed = "main,tiny,tasks,fgit,easy,71.0"
    drawn = with_numbers(shared_folder, tmp_path, *HUGE, printed, scored=["tiny/tasks/fgit/seed-0"])
    fgit = drawn.lines[3]
    assert [cell.text for cell in fgit.cells] == ["60.0", "50.0", "55.0"]
    assert [cell.published for cell in fgit.cells] == [71.0, None, None]
    assert not fgit.cells[-1].scores


def test_the_best_of_each_models_rows(shared_folder, tmp_path):
    numbers = [
        f"main,tiny,{dataset},{method},easy,{value}"
        for dataset, method, value in [("", "base", 70), ("tasks", "sft", 71), ("tasks", "dpo", 71)]
    ]
    scored = ["tiny/base", "tiny/tasks/fgit/seed-0"]
    drawn = with_numbers(shared_folder, tmp_path, *HUGE, *numbers, scored=scored)
    assert [[cell.best for cell in line.cells] for line in drawn.lines] == [
        [method == "fgit"] * 3 for method in ("huge", "base", "sft", "fgit", "dpo", "mutation")
    ]
    # The quoted model's number is higher, and it has one row alone.
    best = [line.cells[0].published_best for line in drawn.lines]
    assert best == [False, False, True, False, True, False]


def test_one_number_is_not_the_best(shared_folder, tmp_path):
    drawn = with_numbers(shared_folder, tmp_path, *HUGE, scored=["tiny/base"])
    assert not any(cell.best for line in drawn.lines for cell in line.cells)


def test_an_average_has_the_deviation_of_the_seeds_averages(seeds):
    table = make_config().tables["main"].model_dump() | {"average": True}
    seeds.config = make_config(seeds=[1, 2], tables={"main": table})
    for seed, passed in [(1, 4), (2, 6)]:  # 40 and 30 percent, 60 and 50
        seeds.score(f"tiny/tasks/sft/seed-{seed}", "easy", first(passed))
    sft = drawn_of(seeds).lines[1]
    assert sft.cells[-1].text == "45.0" and sft.seeds == "2"
    assert sft.cells[-1].deviation == pytest.approx(14.142, abs=1e-3)


def test_a_failed_seed_is_named_beside_one_that_is_scored(seeds):
    run = "tiny/tasks/dpo/seed-2"
    seeds.path("score", run, "easy", "summary.json").unlink()
    log = seeds.path("logs", "score", run, "easy.log")
    log.parent.mkdir(parents=True)
    log.write_text("fgit score: error: no\n", encoding="utf-8")
    assert frame_of(seeds).filter(run=run)["status"].to_list() == ["failed"] * 2
    drawn = drawn_of(seeds)
    cell = drawn.lines[3].cells[0]
    assert (cell.status, cell.log) == ("scored", f"logs/score/{run}/easy.log")
    assert drawn.lines[3].seeds == "1 of 2" and drawn.failed == [cell.log]
