"""The paper's whole matrix, with a random tiny model in place of every model.

The config is ``config.yaml`` itself; only what costs is replaced: models, data, problems, and how
long trainings and answers are. It takes a quarter of an hour on two cores, so it is no part of
``make test-all``: ``make test-matrix``.
"""

from __future__ import annotations

import csv
import json

import polars as pl
import pytest
import yaml

from fgit.config import read_config
from fgit.published import read_published
from fgit.runs import all_runs, evaluations
from tests.conftest import REPOSITORY
from tests.project import Project, problem, running_teacher

pytestmark = pytest.mark.matrix

NAMES = ["third_power", "one_less", "twice_less_one", "half_or_none", "sign_of"]
BODIES = [
    "    cube = x * x * x\n    return cube if x else 0 * x\n",
    "    return x - 1\n",
    "    return 2 * x - 1\n",
    "    return None if x % 2 else x // 2\n",
    "    return (x > 0) - (x < 0)\n",
]


def solved(number, name, body):
    """One problem in the format of each benchmark."""
    plain = problem(number, name, body)
    code = plain["prompt"] + body
    checks = "".join(
        f"        self.assertEqual({name}({x}), solution({x}))\n" for x in (-3, 0, 1, 2)
    )
    test = (
        "import unittest\n\n\ndef solution(x):\n"
        + body
        + "\n\nclass TestCases(unittest.TestCase):\n    def test_all(self):\n"
        + checks
    )
    return {
        "humaneval": plain,
        "mbpp": plain
        | {"task_id": f"Mbpp/{90000 + number}", "prompt": f'"""\n{name} of x\nassert True\n"""\n'}
        | {"canonical_solution": f"def {name}(x):\n{body}"},
        "bigcodebench": {
            "task_id": f"BigCodeBench/{number}",
            "complete_prompt": plain["prompt"],
            "instruct_prompt": f"Write {name}(x).",
            "canonical_solution": body,
            "code_prompt": f"def {name}(x):\n",
            "test": test,
            "entry_point": name,
        },
        "pairs": {
            "task_id": f"Pair/{number}",
            "prompt": plain["prompt"],
            "correct": code,
            "incorrect": plain["prompt"] + body.replace("x", "(x + 1)", 1),
        },
    }


def matrix_project(folder, model, url):
    """The paper's config with all that costs replaced, in a folder of its own."""
    project = Project(folder, model, url)
    formats = [solved(number, *item) for number, item in enumerate(zip(NAMES, BODIES, strict=True))]
    for kind in formats[0]:
        project.write_jsonl(f"{kind}.jsonl", [row[kind] for row in formats])
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    for entry in config["models"].values():
        entry.clear()
        entry["path"] = str(model)
    for entry in config["datasets"].values():
        entry.clear()
        entry["path"] = "data.jsonl"
    for entry in config["benchmarks"].values():
        entry.pop("sha256", None)
        entry["problems"] = f"{entry['kind']}.jsonl"
    replaced = project.config
    project.config = config | {
        "name": "matrix",
        "note": "Stand-ins throughout: a random model, five problems a benchmark.",
        "launch": {},
        "generate": replaced["generate"],
        "select": replaced["select"],
        "train": replaced["train"] | {"held_out": 0},
        "evaluate": {"max_new_tokens": 8},
        "audit": {"benchmarks": ["humaneval"], "sheet": 3},
        "keep_models": "none",
    }
    project.write_config()
    return project


ONE_THREAD = [f"{rule}=1" for rule in ("train_temporary", "evaluate", "score", "annotate")]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory, tiny_model):
    with running_teacher() as teacher:
        project = matrix_project(tmp_path_factory.mktemp("matrix"), tiny_model, teacher.url)
        project.snakemake("--set-threads", *ONE_THREAD, "--", "all", timeout=2400)
        yield project


def test_it_ends_with_every_table_figure_and_the_report(matrix):
    results = matrix.folder / "results/matrix"
    config = read_config(results / "config.yaml")
    for name, table in config.tables.items():
        for suffix in ("md", "csv", "tex", "html", *(("svg", "png") if table.figure else ())):
            assert (results / f"tables/{name}.{suffix}").stat().st_size > 100, (name, suffix)
        text = (results / f"tables/{name}.md").read_text(encoding="utf-8")
        assert "pending" not in text and "failed" not in text
    assert "<html" in (results / "report.html").read_text(encoding="utf-8")
    with open(results / "tables/claims.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(config.claims) == 15


def test_every_evaluation_of_the_paper_has_its_rows(matrix):
    results = matrix.folder / "results/matrix"
    config = read_config(results / "config.yaml")
    frame = pl.read_parquet(results / "results.parquet")
    scored = frame.filter(pl.col("status") == "scored")
    asked = evaluations(config, config.tables)
    assert set(scored.select("run", "benchmark").iter_rows()) == set(asked)
    assert len(asked) == 175 and len(all_runs(config)) == 48
    assert frame.filter(pl.col("metric").str.starts_with("pass@1") & (pl.col("n") != 5)).height == 0
    # Beside each number what the paper prints.
    printed = read_published(config)
    shown = {
        (item["table"], row["run"], row["benchmark"])
        for row in frame.filter(pl.col("printed").is_not_null()).iter_rows(named=True)
        for item in row["printed"]
    }
    assert {table for table, _, _ in shown} == {table for table, _, _ in printed}


def test_a_part_of_a_benchmark_is_scored_from_the_whole(matrix):
    results = matrix.folder / "results/matrix"
    summary = json.loads(
        (results / "score/semcoder-s/base/bigcodebench-hard/summary.json").read_text()
    )
    assert summary["part_of"]["folder"].endswith("bigcodebench-full")
    assert not (results / "evaluate/semcoder-s/base/bigcodebench-hard").exists()


def test_nothing_is_left_to_do(matrix):
    assert matrix.planned() == {}
