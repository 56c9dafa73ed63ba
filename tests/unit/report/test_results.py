"""results.parquet: every number that the tables ask for, and all that they are drawn from."""

import json
import pathlib

import polars as pl
import pytest

from fgit.cli import main
from fgit.common.errors import UserError
from fgit.common.files import write_json, write_parquet, write_text
from fgit.common.lock import Lock
from fgit.common.provenance import provenance_path, read_provenance
from fgit.common.statistics import wilson
from fgit.lineage import Lineage
from fgit.published import read_published
from fgit.report.evaluations import read_evaluations
from fgit.report.places import numbers_folder, report_folder
from fgit.report.results import SCHEMA, read_results, results_frame
from fgit.report.stage import draw_tables, report
from fgit.runs import to_yaml
from tests.results_folder import SHA256, Folder, N, first, make_config
from tests.unit.report.conftest import copied


def frame_of(folder):
    """What a report writes as results.parquet, without the report."""
    config = folder.config
    scores = read_evaluations(config, folder.root)
    return results_frame(config, Lineage(folder.root), scores, read_published(config))


def write_published(path, *rows):
    path.write_text("\n".join(["table,model,dataset,method,column,value", *rows, ""]), "utf-8")
    return str(path)


def test_a_row_for_each_run_benchmark_and_metric(shared_folder):
    frame = frame_of(shared_folder)
    assert dict(frame.schema) == SCHEMA
    low, high = (100 * end for end in wilson(4, N))
    assert frame.row(0, named=True) == {
        "run": "tiny/base",
        "model": "tiny",
        "dataset": None,
        "method": "base",
        "seed": None,
        "benchmark": "easy",
        "metric": "pass@1 base",
        "status": "scored",
        "log": None,
        "value": 40.0,
        "n": N,
        "passed": 4,
        "low": low,
        "high": high,
        "published": None,
        "difference": None,
        "printed": [],
        "solved": first(4),
        "problems": "easy sha256 1a2b3c4d…",
        "problems_sha256": SHA256,
        "sandbox": "bwrap",
        "precision": dict.fromkeys(["generate", "train", "evaluate"]),
        "provenance": Lineage(shared_folder.root).identity("tiny/base", "easy"),
    }
    assert frame.row(3, named=True)["run"] == "tiny/tasks/sft/seed-0"
    assert frame["metric"].to_list() == ["pass@1 base", "pass@1 plus"] * 5


def test_what_is_not_scored_is_a_row_too(folder):
    name = "tiny/tasks/fgit/seed-0"
    folder.path("score", name, "easy", "summary.json").unlink()
    folder.path("evaluate", name, "easy", "samples.jsonl").unlink()
    log = folder.path("logs", "evaluate", name, "easy.log")
    log.parent.mkdir(parents=True)
    log.write_text("fgit evaluate: error: the disk is full\n", "utf-8")
    frame = frame_of(folder)
    assert frame.height == 5 * 2
    assert frame.filter(run=name).select("metric", "status", "log", "value").rows() == [
        ("pass@1 base", "failed", f"logs/evaluate/{name}/easy.log", None),
        ("pass@1 plus", "failed", f"logs/evaluate/{name}/easy.log", None),
    ]
    with Lock(folder.path("evaluate", name, "easy", "samples.jsonl")):  # it was started again
        assert set(frame_of(folder).filter(run=name)["status"]) == {"pending"}


def test_published_numbers_stand_beside_ours(shared_folder, tmp_path):
    config = make_config()
    rows = [row.model_dump() for row in config.tables["main"].rows]
    table = config.tables["main"].model_dump()
    quoted = {"label": "Huge", "model": "huge", "method": "published"}
    config = make_config(
        published=write_published(
            tmp_path / "published.csv",
            "main,tiny,tasks,fgit,easy,50.5",
            "again,tiny,tasks,fgit,easy,49.0",
            "main,huge,,published,easy+,88.0",
        ),
        tables={"main": table | {"rows": [*rows, quoted]}, "again": table},
    )
    frame = frame_of(copied(shared_folder, tmp_path / "results", config))
    fgit = frame.filter(method="fgit", metric="pass@1 base").row(0, named=True)
    assert (fgit["value"], fgit["published"], fgit["difference"]) == (60.0, 50.5, 9.5)
    assert fgit["printed"] == [{"table": "main", "value": 50.5}, {"table": "again", "value": 49.0}]
    huge = frame.filter(model="huge").select("run", "metric", "status", "value", "published")
    assert huge.rows() == [
        ("huge/published", "pass@1 base", "quoted", None, None),
        ("huge/published", "pass@1 plus", "quoted", None, 88.0),
    ]


def test_a_second_score_with_one_bos_is_among_the_results(folder):
    again = {"pass@1": {"base": 0.5, "plus": 0.2}}
    again["interval"] = {"base": list(wilson(5, N)), "plus": list(wilson(2, N))}
    folder.score("tiny/base", "easy", first(4), one_bos=again)
    frame = frame_of(folder).filter(method="base")
    assert dict(frame.select("metric", "value").iter_rows()) == {
        "pass@1 base": 40.0,
        "pass@1 plus": 30.0,
        "pass@1 base, one BOS": 50.0,
        "pass@1 plus, one BOS": 20.0,
    }


def with_pairs():
    rows = [{"model": "tiny", "method": "base"}]
    table = make_config().tables["main"].model_dump() | {"columns": ["sides"], "rows": rows}
    benchmarks = {
        "easy": {"kind": "humaneval", "problems": "easy.jsonl"},
        "sides": {"kind": "pairs", "problems": "sides.jsonl"},
    }
    return make_config(benchmarks=benchmarks, tables={"main": table})


def test_pairs_are_a_preference_and_a_gap(tmp_path):
    folder = Folder(tmp_path / "results", with_pairs())
    base = frame_of(folder).filter(method="base")
    low, high = (100 * end for end in wilson(4, N))
    assert base.select("metric", "value", "n", "passed", "low", "high", "sandbox").rows() == [
        ("preference", 40.0, N, 4, low, high, None),
        ("gap", 0.125, N - 1, None, -0.0625, 0.25, None),
    ]
    # Pairs that could not be compared have none.
    folder.score("tiny/base", "sides", first(0), gap=None)
    assert frame_of(folder).filter(method="base")["metric"].to_list() == ["preference"]


def test_an_empty_folder_gives_pending_rows(tmp_path, caplog):
    report(make_config(), tmp_path)
    frame = read_results(tmp_path / "partial/results.parquet")
    assert frame["status"].to_list() == ["pending"] * 10
    assert "easy has no results yet: run `snakemake main`" in caplog.text


def test_the_numbers_of_one_table(folder, tmp_path):
    """They need its own scores and nothing else's; what is not whole goes elsewhere."""
    rows = [row.model_dump() for row in folder.config.tables["main"].rows]
    one = {"caption": "One", "columns": ["easy"], "rows": rows[:1]}
    folder.config = make_config(
        tables={"one": one, "main": folder.config.tables["main"].model_dump()}
    )
    folder.path("score", "tiny/tasks/dpo/seed-0", "easy", "summary.json").unlink()
    folder.gather()
    assert folder.path("results", "one.parquet").exists()
    assert not folder.path("results", "main.parquet").exists()
    assert read_results(folder.path("partial", "results", "main.parquet")).height == 5 * 2
    draw_tables(folder.config, folder.path("results", "one.parquet"), tmp_path / "drawn", "one")
    written = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert written == {f"one.{kind}" for kind in ("md", "csv", "tex", "html")}
    with pytest.raises(UserError, match="no table is called 'mian'; known: one, main"):
        numbers_folder(folder.config, folder.root, "mian")
    with pytest.raises(
        UserError, match=r"tables\.main: the results know nothing of tiny/tasks/sft"
    ):
        draw_tables(folder.config, folder.path("results", "one.parquet"), tmp_path / "drawn")


def test_the_report_joins_the_numbers_of_the_tables(folder, no_figures):
    main = folder.config.tables["main"].model_dump()
    first_rows = main | {"rows": main["rows"][2:], "columns": ["easy"]}
    folder.config = make_config(tables={"again": first_rows, "main": main})
    folder.gather()
    report(folder.config, folder.root)
    assert read_results(folder.path("results.parquet")).equals(frame_of(folder))
    assert folder.path("report.html").exists() and not folder.path("partial").exists()
    # A table's files have another writer.
    assert {path.name for path in folder.path("tables").iterdir()} == {"funnel.md", "funnel.csv"}


def test_a_report_is_whole_once_all_is_there(folder, no_figures):
    report(folder.config, folder.root)
    assert folder.path("partial", "report.html").exists()
    assert not folder.path("report.html").exists()
    folder.gather()
    assert report_folder(folder.config, folder.root) == folder.root
    report(folder.config, folder.root)
    assert folder.path("report.html").exists() and not folder.path("partial").exists()


def test_numbers_of_other_scores_or_published_ones_are_refused(folder, tmp_path, no_figures):
    folder.gather()
    folder.score("tiny/base", "easy", first(4)[::-1])
    message = r"main\.parquet: tiny/base on easy has another score now, or another published number"
    with pytest.raises(UserError, match=message):
        report(folder.config, folder.root)
    folder.gather()
    report(folder.config, folder.root)
    path = write_published(tmp_path / "published.csv", "main,tiny,,base,easy,50.5")
    folder.config = make_config(published=path)
    with pytest.raises(UserError, match=message):
        report(folder.config, folder.root)
    folder.gather()
    report(folder.config, folder.root)


def test_each_file_has_a_writer_who_holds_its_lock_and_leaves_provenance(folder, no_figures):
    write_text(folder.path("config.yaml"), to_yaml(folder.config))
    common = ["--config", str(folder.path("config.yaml"))]
    here = [*common, "--results", str(folder.root)]
    numbers, tables = folder.path("results", "main.parquet"), folder.path("tables")
    drawing = [*common, "--from", str(numbers), "--table", "main", "--out", str(tables)]
    for words, target, files in (
        (["results", *here, "--table", "main"], numbers, ["main.parquet"]),
        (["table", *drawing], tables / "main.md", ["main.csv", "main.html", "main.md", "main.tex"]),
        (
            ["report", *here, "--ended"],
            folder.path("report.html"),
            ["funnel.csv", "funnel.md", "report.html", "results.parquet"],
        ),
    ):
        with Lock(target):
            assert main(words) == 1
        assert not target.exists()
        assert main(words) == 0
        record = read_provenance(provenance_path(target))
        assert record.stage == words[0]
        assert sorted(pathlib.Path(path).name for path in record.outputs) == files
    assert [*record.inputs] == ["config", "numbers main"]
    assert record.arguments == {"ended": True}
    folder.path("score", "tiny/base", "easy", "summary.json").unlink()
    assert main(["report", *here]) == 0
    record = read_provenance(provenance_path(folder.path("partial", "report.html")))
    assert [*record.inputs] == ["config"]


def test_the_tables_come_from_the_file_alone(folder, tmp_path, no_figures):
    report(folder.config, folder.root)
    assert read_results(folder.drawn("results.parquet")).equals(frame_of(folder))
    draw_tables(folder.config, folder.drawn("results.parquet"), tmp_path / "again")
    drawn = {path.name: path.read_bytes() for path in folder.drawn("tables").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert drawn.keys() - again.keys() == {"funnel.md", "funnel.csv"}  # of the stages before
    assert drawn | again == drawn


def test_same_inputs_give_the_same_bytes(folder):
    def contents():
        report(folder.config, folder.root)
        paths = ["results.parquet", "report.html"]
        paths = [*map(folder.drawn, paths), *folder.drawn("tables").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    assert contents() == contents()


# ------------------------------------------------------------------ bad input


def test_results_of_an_older_layout_are_refused(shared_folder, tmp_path):
    frame = frame_of(shared_folder)
    path = tmp_path / "results.parquet"
    write_parquet(path, frame.drop("status", "solved"))
    with pytest.raises(UserError, match=r"parquet: no column status, solved .*run `fgit res"):
        read_results(path)
    write_parquet(path, frame.with_columns(pl.col("value").cast(pl.String)))
    with pytest.raises(
        UserError, match=r"the column value is of type String, not Float64; run `fgit res"
    ):
        read_results(path)


def test_results_of_another_config_are_refused(shared_folder, tmp_path):
    write_parquet(tmp_path / "results.parquet", frame_of(shared_folder))
    row = {"model": "tiny", "dataset": "tasks", "method": "more"}
    config = make_config(
        methods={"more": {"epochs": 2}},
        tables={"main": {"caption": "c", "columns": ["easy"], "rows": [row]}},
    )
    with pytest.raises(UserError, match=r"tables\.main.*nothing of tiny/tasks/more/seed-0 on easy"):
        draw_tables(config, tmp_path / "results.parquet", tmp_path / "again")


def test_runs_scored_on_other_problems_are_refused(folder):
    path = folder.path("score", "tiny/tasks/dpo/seed-0", "easy", "outcomes.parquet")
    frame = pl.read_parquet(path)
    write_parquet(path, frame.with_columns(task_id=pl.lit("Other/") + pl.col("task_id")))
    with pytest.raises(UserError, match=r"dpo.*not the problems"):
        report(folder.config, folder.root)


def test_runs_scored_on_other_problem_files_are_refused(folder):
    folder.score("tiny/tasks/dpo/seed-0", "easy", first(4), problems_sha256="0" * 64)
    with pytest.raises(UserError, match=r"dpo.*not the problems"):
        report(folder.config, folder.root)


def test_a_missing_results_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        report(make_config(), tmp_path / "nowhere")


def write_summary(folder, **changes):
    path = folder.path("score", "tiny/base", "easy", "summary.json")
    values = json.loads(path.read_text("utf-8")) | changes
    write_json(path, {key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pass@1": None}, "key 'pass@1': missing"),
        ({"n": None}, "key 'n': missing"),
        ({"n": "ten"}, "key 'n': Input should be a valid integer, not 'ten'"),
        ({"n": 0}, "n: no problem was scored"),
        ({"n": 11}, "pass@1.base: 0.4 is not a share of 11 problems"),
        ({"interval": None}, "key 'interval': missing"),
        ({"interval": {"base": [0.1, 0.7]}}, "key 'interval.plus': missing"),
        ({"interval": {"base": 0.1}}, "key 'interval.base': Input should be a valid list, not 0.1"),
        ({"problems_sha256": None}, "key 'problems_sha256': missing"),
        ({"sandbox": 1}, "key 'sandbox': Input should be a valid string, not 1"),
        ({"benchmark": "mbpp"}, "'mbpp', but the config says that easy is 'humaneval'"),
        ({"pass@1": {"base": 0.4}}, "key 'pass@1.plus': missing"),
        ({"pass@1": {"base": 0.4, "plus": None}}, "no pass@1 plus, which a table of the config"),
        (
            {"pass@1": {"base": "many", "plus": 0.3}},
            "key 'pass@1.base': Input should be a valid number, not 'many'",
        ),
        ({"pass@1": {"base": 0.5, "plus": 0.3}}, "says 5 of 10"),
    ],
)
def test_a_broken_summary_is_named(folder, changes, message):
    for run in ("sft", "fgit", "dpo", "mutation"):  # alone, so that nothing disagrees with it
        folder.path("score", f"tiny/tasks/{run}/seed-0", "easy", "summary.json").unlink()
    write_summary(folder, **changes)
    with pytest.raises(UserError, match=r"summary\.json") as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)
    assert not folder.drawn("report.html").exists() and not folder.drawn("tables").exists()
