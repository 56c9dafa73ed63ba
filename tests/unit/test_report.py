"""Report: tables, results.parquet and the page, on a made-up results folder."""

import csv
import dataclasses
import datetime
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgit.annotate import segments
from fgit.config import parse_config
from fgit.errors import UserError
from fgit.files import write_json, write_jsonl, write_parquet, write_text
from fgit.provenance import write_provenance
from fgit.report import report
from fgit.report.facts import Facts
from fgit.report.scores import SCHEMA, short_names
from fgit.report.segments import code_lines, side_by_side
from fgit.report.tables import grid
from fgit.runs import all_runs, evaluations
from fgit.statistics import paired, wilson

RESPONSE = "Use this:\n```python\ndef add(a, b):\n    return a + b\n```\n"
EVIL = "<script>alert('x')</script>"
STARTED = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
N = 10
DIFFERENCE = ("difference", "low", "high", "p")
SHA256 = "1a2b3c4d" * 8


def make_config(**changes):
    values = {
        "name": "made-up",
        "note": "Stand-ins throughout.",
        "models": {"tiny": {"path": "somewhere/tiny"}},
        "datasets": {"tasks": {"path": "tasks.jsonl"}},
        "benchmarks": {"easy": {"kind": "humaneval", "problems": "easy.jsonl"}},
        "decontaminate": {"against": ["easy"]},
        "methods": {
            "sft": {"objective": "fixed"},
            "fgit": {},
            "dpo": {"objective": "dpo"},
            "mutation": {"extends": "fgit", "variants": "mutate"},
        },
        "tables": {
            "main": {
                "caption": "All methods",
                "columns": ["easy", "easy+"],
                "rows": [
                    {"label": "untrained", "model": "tiny", "method": "base"},
                    *(
                        {"model": "tiny", "dataset": "tasks", "method": method}
                        for method in ("sft", "fgit", "dpo", "mutation")
                    ),
                ],
            }
        },
    }
    return parse_config(values | changes)


def first(count, n=N):
    """Outcomes in which the first problems are solved."""
    return [number < count for number in range(n)]


class Folder:
    """A results folder as the stages leave it, in little."""

    def __init__(self, root: Path, config, *, response=RESPONSE) -> None:
        self.root = root
        self.config = config
        self.response = response
        root.mkdir()
        for dataset in config.datasets:
            self.data(dataset)
        for number, (name, run) in enumerate(all_runs(config).items()):
            if run.dataset is not None:
                self.train(name, number)
        for number, (run, benchmark) in enumerate(evaluations(config, config.tables)):
            self.score(run, benchmark, first(4 + number % 5))

    def provenance(self, out, stage):
        write_provenance(out, stage=stage, settings=None, inputs={}, outputs=[out], started=STARTED)

    def data(self, dataset):
        write_json(
            self.root / "decontaminate" / dataset / "report.json",
            {
                "samples": 13,
                "bad_rows": [],
                "bad_row_count": 0,
                "removed": [
                    {
                        "id": "sample-3",
                        "row": 3,
                        "benchmark": "easy",
                        "task_id": "Easy/1",
                        "what": "description",
                        "field": "instruction",
                        "text": f"Add two numbers. {EVIL}",
                        "position": 0,
                    }
                ],
                "removed_count": 1,
                "over_limit": 0,
                "kept": 12,
                "duplicates": 0,
                "exempt_texts": 2,
                "benchmarks": {"easy": {"problems": N, "texts": 18, "sha256": "0" * 64}},
                "rule": "A sample is removed if it holds a problem's text.",
            },
        )
        common = {"samples": 12, "without_code": 0, "samples_with_variant": 12, "seconds": 1.5}
        reports = {
            "generate": common
            | {"answers": 36, "usable": 20, "refused": {"same_code": 12, "no_code": 4}}
            | {"teacher": "tiny-teacher", "backend": "transformers", "temperature": 0.8},
            "mutate": common
            | {"mutants_tried": 60, "usable": 36, "refused": {"invalid": 20, "duplicate": 4}},
        }
        for source, made in reports.items():
            write_json(self.root / source / dataset / "report.json", made)
            write_json(
                self.root / "select" / dataset / source / "report.json",
                {
                    "samples": 12,
                    "with_variant": 12,
                    "without_variant": 0,
                    "similarity": {"mean": 0.9, "median": 0.91, "min": 0.8},
                    "embedder": "tiny-embedder",
                },
            )
            folder = self.root / "annotate" / dataset / source
            write_json(
                folder / "report.json",
                {
                    "samples": 12,
                    "pairs": 12,
                    "without_marked_response": 0,
                    "without_marked_variant": 1,
                    "changed_characters": {"response": 4.5, "variant": 5.0},
                    "changed_lines": {"response": 1.5, "variant": 1.25},
                },
            )
            write_parquet(folder / "spans.parquet", self.pairs())
            self.provenance(folder / "spans.parquet", "annotate")

    def pairs(self):
        variant = self.response.replace("a + b", "a - b")
        rows = [
            {
                "id": f"sample-{number}",
                "instruction": "Add two numbers.",
                "response": self.response,
                "variant": variant,
                "similarity": 0.8 + number / 60,
            }
            | dataclasses.asdict(segments(self.response, variant))
            for number in range(12)
        ]
        return pl.DataFrame(rows)

    def train(self, run, number):
        folder = self.root / "train" / run
        method = self.config.resolve(run.split("/")[2])
        steps = [
            {"step": step, "loss": 1 / step + number / 10, "nll": 0.9 / step, "p_response": None}
            | {"weight": None, "weighted_tokens": 0.0, "tokens_per_second": 1000.0 + step}
            for step in range(1, 9)
        ]
        if method.objective == "fgit":
            for step in steps:
                step |= {"p_response": 0.5 + step["step"] / 50, "p_variant": 0.4, "weight": 1.9}
                step |= {"weighted_tokens": 0.1, "mfu": 0.45}
        if method.objective == "dpo":
            steps = [{"step": s["step"], "loss": 0.69, "rewards/margins": 0.1} for s in steps]
        write_jsonl(folder / "steps.jsonl", steps)
        figures = {
            "p_response": 0.6,
            "p_variant": 0.5,
            "prefers_response": 0.75,
            "weight": 1.8,
        }
        write_json(
            folder / "metrics.json",
            {
                "counts": {"samples": 64, "paired": 60, "no_variant": 4},
                "held_out_counts": {"samples": 16},
                "held_out_before": {"nll": 1.25} | figures,
                "held_out_after": {"nll": 1.0 + number / 8} | figures | {"p_response": 0.7},
                "steps": 8,
                "seconds": 100.0 + number,
                "peak_memory_gb": 2.5,
                "relative_update": 1.5e-3,
            },
        )
        text = yaml.safe_dump({"model": "tiny", "train": method.model_dump()})
        write_text(folder / "run.yaml", text)
        self.provenance(folder, "train")

    def score(self, run, benchmark, passes, **changes):
        """Outcomes with these base passes; the plus tests fail the last of them too."""
        folder = self.root / "score" / run / benchmark
        kind = self.config.benchmarks[benchmark].kind
        n, passed = len(passes), {"base": sum(passes), "plus": None}
        rows = {
            "task_id": [f"Easy/{number}" for number in range(n)],
            "base_pass": passes,
            "plus_pass": [None] * n,
            "solution": ["pass"] * n,
        }
        more = {}
        if kind in ("humaneval", "mbpp"):
            passed["plus"] = max(0, passed["base"] - 1)
            last = max((number for number in range(n) if passes[number]), default=None)
            rows["plus_pass"] = [passes[number] and number != last for number in range(n)]
        if kind == "pairs":
            rows["p_correct"] = [0.75 if passes[number] else 0.25 for number in range(n)]
            rows["p_incorrect"] = [0.5] * n
            more["gap"] = {"mean": 0.125, "interval": [-0.0625, 0.25], "n": n - 1}
        schema = {"plus_pass": pl.Boolean}
        write_parquet(folder / "outcomes.parquet", pl.DataFrame(rows, schema_overrides=schema))
        summary = {
            "benchmark": kind,
            "n": n,
            "pass@1": {k: None if v is None else v / n for k, v in passed.items()},
            "interval": {k: None if v is None else wilson(v, n) for k, v in passed.items()},
            "one_bos": None,
            "problems_sha256": SHA256,
            "sandbox": None if kind == "pairs" else "bwrap",
        }
        write_json(folder / "summary.json", summary | more | changes)
        samples = [
            {"task_id": f"Easy/{number}", "solution": "pass", "tokens": 10, "truncated": False}
            for number in range(n)
        ]
        write_jsonl(self.root / "evaluate" / run / benchmark / "samples.jsonl", samples)

    def path(self, *parts):
        return self.root.joinpath(*parts)

    def table(self, name="main"):
        text = self.path("tables", f"{name}.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines()))

    def html(self):
        return self.path("report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results", make_config())


# ------------------------------------------------------------------ results.parquet and tables


def test_results_have_a_row_per_run_benchmark_and_metric(folder):
    report(folder.config, folder.root)
    frame = pl.read_parquet(folder.path("results.parquet"))
    assert dict(frame.schema) == SCHEMA
    assert frame.height == 5 * 2
    first = frame.row(0, named=True)
    low, high = (100 * end for end in wilson(4, N))
    assert first == {
        "run": "tiny/base",
        "model": "tiny",
        "dataset": None,
        "method": "base",
        "seed": None,
        "benchmark": "easy",
        "metric": "pass@1 base",
        "value": 40.0,
        "n": N,
        "passed": 4,
        "low": low,
        "high": high,
        "problems_sha256": SHA256,
        "sandbox": "bwrap",
    }
    assert frame.row(3, named=True)["run"] == "tiny/tasks/sft/seed-0"
    assert frame["metric"].to_list() == ["pass@1 base", "pass@1 plus"] * 5


def test_one_benchmark_gives_columns_base_and_plus(folder):
    report(folder.config, folder.root)
    rows = folder.table()
    assert rows[0] == {
        "model": "tiny",
        "dataset": "",
        "method": "untrained",
        "base": "40.0",
        **dict.fromkeys(("base difference", "base low", "base high", "base p"), ""),
        "plus": "30.0",
        **dict.fromkeys(("plus difference", "plus low", "plus high", "plus p"), ""),
        "n": "10",
        "held_out_nll_before": "",
        "held_out_nll_after": "",
    }
    assert [row["method"] for row in rows[1:]] == ["sft", "fgit", "dpo", "mutation"]
    assert rows[1]["held_out_nll_before"] == "1.2500"


def test_markdown_has_caption_note_table_and_reading(folder):
    report(folder.config, folder.root)
    parts = folder.path("tables", "main.md").read_text(encoding="utf-8").split("\n\n")
    assert parts[:2] == ["All methods", "Stand-ins throughout."]
    lines = parts[2].splitlines()
    assert re.split(r"\s*\|\s*", lines[0])[1:-1] == [
        *("model", "dataset", "method", "base", "plus", "n")
    ]
    assert re.split(r"\s*\|\s*", lines[2])[1:-1] == ["tiny", "–", "untrained", "40.0", "30.0", "10"]
    assert len({len(line) for line in lines}) == 1
    assert "greedy" in parts[3] and "results.parquet" in parts[3]
    assert len(parts) == 4 and parts[3].count("\n") == 1


def test_markdown_cells_escape_bars_and_line_breaks():
    assert grid(["a"], [["x|y\nz"]], 1).splitlines()[2] == "| x\\|y z |"


def test_missing_scores_are_pending(folder):
    name = "tiny/tasks/fgit/seed-0"
    folder.path("score", name, "easy", "summary.json").unlink()
    folder.path("train", name, "metrics.json").unlink()
    report(folder.config, folder.root)
    row = folder.table()[2]
    assert (row["method"], row["base"], row["plus"], row["n"]) == ("fgit", "pending", "pending", "")
    assert "pending: not scored yet" in folder.path("tables", "main.md").read_text("utf-8")
    assert f"Not trained yet: {name}." in folder.html()
    assert pl.read_parquet(folder.path("results.parquet")).height == 4 * 2


def test_an_empty_folder_gives_a_report_of_pending_things(tmp_path):
    config = make_config()
    report(config, tmp_path)
    frame = pl.read_parquet(tmp_path / "results.parquet")
    assert frame.is_empty() and dict(frame.schema) == SCHEMA
    assert "0 of 5 evaluations are scored" in (tmp_path / "report.html").read_text("utf-8")


def test_two_seeds_give_mean_and_standard_deviation(tmp_path):
    config = make_config(seeds=[1, 2])
    folder = Folder(tmp_path / "results", config)
    for seed, passed in [(1, 4), (2, 6)]:
        folder.score(f"tiny/tasks/sft/seed-{seed}", "easy", first(passed))
    folder.path("score", "tiny/tasks/dpo/seed-2", "easy", "summary.json").unlink()
    report(config, folder.root)
    base, sft, _, dpo, _ = folder.table()
    assert (base["seeds"], base["base sd"]) == ("", "")
    assert (sft["base"], sft["base sd"], sft["seeds"]) == ("50.0", "14.14", "2")
    assert (dpo["seeds"], dpo["base sd"]) == ("1 of 2", "")
    assert pl.read_parquet(folder.path("results.parquet"))["seed"].unique().to_list()
    html = folder.html()
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
    report(config, folder.root)
    rows = folder.table("wide")
    assert [name for name in rows[0] if name.split(" ")[-1] not in DIFFERENCE][:9] == [
        *("group", "model", "dataset", "method", "easy", "easy+", "hard", "n easy", "n hard")
    ]
    assert [row["group"] for row in rows] == ["Tiny", "Tiny"]
    lines = folder.path("tables", "wide.md").read_text("utf-8").splitlines()
    assert "10 / 10" in lines[6] and lines[7].startswith("|       |")
    metrics = pl.read_parquet(folder.path("results.parquet")).filter(benchmark="hard")["metric"]
    assert metrics.unique().to_list() == ["pass@1 base"]


# ------------------------------------------------------------------ what differs

BEFORE = first(2, 20)
AFTER = first(9, 20)  # seven more: McNemar's p is 2 / 2**7


@pytest.fixture
def better(folder):
    """A folder in which FGit solves seven problems more than the base model."""
    scores = {"tiny/base": BEFORE, "tiny/tasks/fgit/seed-0": AFTER}
    for run in all_runs(folder.config):
        folder.score(run, "easy", scores.get(run, BEFORE))
    return folder


def test_a_run_is_compared_with_its_base_model(better):
    report(better.config, better.root)
    base, sft, fgit, *_ = better.table()
    found = paired([AFTER], [BEFORE])
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
    report(better.config, better.root)
    text = better.path("tables", "main.md").read_text("utf-8")
    assert re.search(r"\| fgit +\| 45\.0\* \| 40\.0\* \|", text)
    assert text.count("*") == 3 and "*: differs from the base row of its model at 95 %" in text
    assert "exact McNemar test, p < 0.05; not corrected" in text
    assert ">45.0*<small>" in better.html() and ">10.0<small>" in better.html()


def test_the_pointer_shows_all_pairs(better):
    report(better.config, better.root)
    found = paired([AFTER], [BEFORE])
    end = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    html = better.html()
    assert f"against its base model: +35.0 points ({end}), p 0.016" in html
    assert f"against sft on tasks: +35.0 points ({end}), p 0.016" in html
    assert "against fgit on tasks: -35.0 points" in html
    assert "against its base model: +0.0 points (+0.0 to +0.0), p 1" in html


def test_several_seeds_are_compared_by_their_mean(tmp_path):
    config = make_config(seeds=[1, 2])
    folder = Folder(tmp_path / "results", config)
    for run in all_runs(config):
        folder.score(run, "easy", BEFORE)
    folder.score("tiny/tasks/fgit/seed-1", "easy", AFTER)
    folder.score("tiny/tasks/fgit/seed-2", "easy", first(11, 20))
    report(config, folder.root)
    fgit = folder.table()[2]
    p = f"{paired([AFTER, first(11, 20)], [BEFORE]).p:.4g}"
    assert (fgit["base"], fgit["base difference"], fgit["base p"]) == ("50.0", "40.00", p)
    text = folder.path("tables", "main.md").read_text("utf-8")
    assert "| 50.0* |" in text
    assert "exact sign-flip test of the problems' means over the seeds, p < 0.05" in text
    assert f"p {paired([AFTER, first(11, 20)], [BEFORE, BEFORE]).p:.2g}" in folder.html()


def test_a_table_without_base_rows_compares_nothing(tmp_path):
    rows = [{"model": "tiny", "dataset": "tasks", "method": m} for m in ("sft", "fgit")]
    config = make_config(tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}})
    folder = Folder(tmp_path / "results", config)
    report(config, folder.root)
    assert "easy difference" not in folder.table()[0]
    assert "*" not in folder.path("tables", "main.md").read_text("utf-8")
    assert "against fgit on tasks" in folder.html()  # the pairs of rows are there all the same


def test_another_models_base_row_is_no_reference(tmp_path):
    rows = [
        {"model": "other", "method": "base"},
        {"model": "tiny", "dataset": "tasks", "method": "sft"},
    ]
    config = make_config(
        models={"tiny": {"path": "a/tiny"}, "other": {"path": "a/other"}},
        tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}},
    )
    folder = Folder(tmp_path / "results", config)
    report(config, folder.root)
    assert "easy difference" not in folder.table()[0]
    assert "against its base model" not in folder.html()


# ------------------------------------------------------------------ what it was scored on


def reading_of(folder, name="main"):
    report(folder.config, folder.root)
    return folder.path("tables", f"{name}.md").read_text("utf-8").split("\n\n")[-1]


def test_the_problems_are_named_with_release_and_digest(tmp_path, folder):
    assert "; problems: easy sha256 1a2b3c4d…." in reading_of(folder)
    config = make_config(
        benchmarks={"easy": {"kind": "humaneval", "problems": "release:v0.1.10"}},
    )
    released = Folder(tmp_path / "released", config)
    assert "; problems: easy v0.1.10 sha256 1a2b3c4d…." in reading_of(released)
    assert "easy v0.1.10 sha256 1a2b3c4d…" in released.html()


def test_a_weak_sandbox_is_said(folder):
    assert "sandbox" not in reading_of(folder)
    folder.score("tiny/tasks/dpo/seed-0", "easy", first(4), sandbox="rlimits")
    assert reading_of(folder).endswith("; scored without a strong sandbox: easy (rlimits).\n")
    frame = pl.read_parquet(folder.path("results.parquet"))
    assert frame.filter(sandbox="rlimits")["method"].unique().to_list() == ["dpo"]


def test_a_second_score_with_one_bos_is_among_the_results(folder):
    again = {"pass@1": {"base": 0.5, "plus": 0.2}, "interval": dict.fromkeys(("base", "plus"))}
    again["interval"] = {"base": wilson(5, N), "plus": wilson(2, N)}
    folder.score("tiny/base", "easy", first(4), one_bos=again)
    report(folder.config, folder.root)
    frame = pl.read_parquet(folder.path("results.parquet")).filter(method="base")
    assert dict(frame.select("metric", "value").iter_rows()) == {
        "pass@1 base": 40.0,
        "pass@1 plus": 30.0,
        "pass@1 base, one BOS": 50.0,
        "pass@1 plus, one BOS": 20.0,
    }


def with_pairs(columns):
    config = make_config()
    table = config.tables["main"].model_dump() | {"columns": columns}
    benchmarks = {
        "easy": {"kind": "humaneval", "problems": "easy.jsonl"},
        "sides": {"kind": "pairs", "problems": "sides.jsonl"},
    }
    return make_config(benchmarks=benchmarks, tables={"main": table})


def test_pairs_are_a_preference_and_a_gap(tmp_path):
    folder = Folder(tmp_path / "results", with_pairs(["easy", "sides"]))
    text = reading_of(folder)
    assert text.startswith("pass@1 in percent, greedy decoding; base tests; sides: share of pairs")
    assert "the model finds the more probable one, not pass@1; n: problems or pairs (easy" in text
    assert "sides sha256 1a2b3c4d…" in text and "sandbox" not in text
    frame = pl.read_parquet(folder.path("results.parquet"))
    base = frame.filter(method="base", benchmark="sides")
    low, high = (100 * end for end in wilson(5, N))
    assert base.select("metric", "value", "n", "passed", "low", "high", "sandbox").rows() == [
        ("preference", 50.0, N, 5, low, high, None),
        ("gap", 0.125, N - 1, None, -0.0625, 0.25, None),
    ]


def test_a_table_of_pairs_only_says_nothing_of_tests(tmp_path):
    folder = Folder(tmp_path / "results", with_pairs(["sides"]))
    text = reading_of(folder)
    assert text.startswith("sides: share of pairs, in percent, whose correct side")
    assert "greedy" not in text and "tests;" not in text and "; n: pairs; " in text


def test_pairs_that_could_not_be_compared_have_no_gap(tmp_path):
    folder = Folder(tmp_path / "results", with_pairs(["sides"]))
    folder.score("tiny/base", "sides", first(0), gap=None)
    report(folder.config, folder.root)
    frame = pl.read_parquet(folder.path("results.parquet")).filter(method="base")
    assert frame["metric"].to_list() == ["preference"]


# ------------------------------------------------------------------ the page


class Checker(HTMLParser):
    """Collects what a page loads, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "use"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def test_page_loads_nothing_from_elsewhere(folder):
    report(folder.config, folder.root)
    page = checked(folder.html())
    assert all(link.startswith("#") for link in page.links)
    assert "script" not in page.tags and "link" not in page.tags
    urls = re.findall(r"url\(([^)]*)\)", folder.html())
    assert urls and all(url.startswith("#") for url in urls)
    assert "http://" not in folder.html() and "https://" not in folder.html()
    defined = set(re.findall(r'\bid="([^"]*)"', folder.html()))
    assert {link[1:] for link in [*page.links, *urls]} <= defined


def test_page_ids_are_unique(folder):
    report(folder.config, folder.root)
    ids = re.findall(r'\bid="([^"]*)"', folder.html())
    assert len(ids) == len(set(ids))


def test_page_shows_every_part(folder):
    report(folder.config, folder.root)
    page = checked(folder.html())
    text = " ".join(page.text)
    assert page.tags.count("svg") == 5  # loss, weight, held out, similarity by two sources
    for part in [
        *("All methods", "Stand-ins throughout.", "30.0", "16.8 to 68.7", "sample-3", "same code"),
        *(
            "tiny-teacher",
            "tiny-embedder",
            "first 8 of 12 pairs",
            "Easy/9",
            "sandbox bwrap",
            "polars",
        ),
    ]:
        assert part in text, part
    html = folder.html()
    assert html.count('title="Easy/3, ') == 5
    assert "4 of 10 problems; 95 % interval 16.8 to 68.7" in html
    assert html.count("<mark>+</mark>") == 16 and html.count("<mark>-</mark>") == 16


def test_speed_and_share_of_weighted_tokens_are_in_the_table(folder):
    report(folder.config, folder.root)
    rows = re.findall(r"<tr><td title=\"tiny/tasks/(\w+)/.*?</tr>", folder.html(), re.DOTALL)
    assert rows == ["sft", "fgit", "dpo", "mutation"]
    table = folder.html().partition("weighted</th>")[2].partition("</table>")[0]
    cells = [re.findall(r">([^<>]+)</?(?:td|small)", row) for row in table.split("<tr>")[1:]]
    shown = {row[0]: row for row in cells}
    assert "10.0 %" in shown["fgit"] and "1004" in shown["fgit"] and "MFU 45.0 %" in shown["fgit"]
    assert "0.0 %" in shown["sft"] and not [cell for cell in shown["sft"] if "MFU" in cell]


def test_the_curves_of_the_weight_are_of_runs_that_have_one(folder):
    report(folder.config, folder.root)
    figure = folder.html().partition('aria-label="Mean probabilities')[2].partition("</svg>")[0]
    assert all(word in figure for word in ("fgit", "mutation", "mean weight", "p̄′"))
    assert "sft" not in figure and "dpo" not in figure


def test_without_a_dynamic_weight_there_are_no_curves_of_it(tmp_path):
    rows = [{"model": "tiny", "dataset": "tasks", "method": "sft"}]
    config = make_config(tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}})
    folder = Folder(tmp_path / "results", config)
    report(config, folder.root)
    assert "Mean probabilities" not in folder.html() and "Training loss" in folder.html()


def test_what_a_model_wrote_is_escaped(tmp_path):
    config = make_config(note=f"note {EVIL}")
    folder = Folder(tmp_path / "results", config, response=f"{EVIL}\n{RESPONSE}\x00\r\n")
    report(config, folder.root)
    html = folder.html()
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 2 * 16 + 2
    assert "␀␍" in html and "\x00" not in html
    checked(html)


def test_same_inputs_give_the_same_bytes(folder):
    def contents():
        report(folder.config, folder.root)
        names = ["results.parquet", "tables/main.md", "tables/main.csv", "report.html"]
        return {name: folder.path(name).read_bytes() for name in names}

    assert contents() == contents()


def test_tables_hold_no_times(folder):
    report(folder.config, folder.root)
    before = {p: p.read_bytes() for p in folder.path("tables").iterdir()}
    for path in folder.root.glob("**/metrics.json"):
        path.write_text(path.read_text("utf-8").replace('"seconds": 1', '"seconds": 7'), "utf-8")
    report(folder.config, folder.root)
    assert before == {p: p.read_bytes() for p in folder.path("tables").iterdir()}


def test_short_names_leave_out_what_is_shared():
    runs = all_runs(make_config(seeds=[0]))
    assert list(short_names(runs.values()).values()) == ["base", "sft", "fgit", "dpo", "mutation"]
    runs = all_runs(make_config(seeds=[0, 1]))
    assert list(short_names(runs.values()).values())[:3] == ["base", "sft · seed 0", "sft · seed 1"]


# ------------------------------------------------------------------ the segment view


def text_of(line):
    return line.html.replace("<mark>", "[").replace("</mark>", "]").unescape()


def test_marks_follow_the_spans():
    lines = code_lines("a\nbcd\nx < y\n", [(2, 12)], [(3, 7), (8, 9)])
    assert [text_of(line) for line in lines] == ["a", "b[cd↵]", "[x] [<] y"]
    assert [line.changed for line in lines] == [False, True, True]
    assert lines[2].html.endswith("<mark>&lt;</mark> y")


TEXTS = st.text(alphabet="ab<&\n\té", max_size=30)


@given(TEXTS, TEXTS)
def test_side_by_side_keeps_every_line_in_order(response, variant):
    found = segments(response, variant)
    sides = (
        code_lines(response, found.response_lines, found.response_characters),
        code_lines(variant, found.variant_lines, found.variant_characters),
    )
    pairs = side_by_side(*sides)
    for i, (side, text) in enumerate(zip(sides, (response, variant), strict=True)):
        assert [pair[i] for pair in pairs if pair[i]] == side
        shown = [re.sub(r"[\[\]↵]", "", text_of(line)) for line in side]
        assert shown == text.removesuffix("\n").split("\n")[: len(shown)]
    for left, right in pairs[:-1]:  # a last line without a newline may stand alone
        if left and right and not (left.changed or right.changed):
            assert left.html == right.html


# ------------------------------------------------------------------ bad input


def write_summary(folder, **changes):
    path = folder.path("score", "tiny/base", "easy", "summary.json")
    values = json.loads(path.read_text("utf-8")) | changes
    write_json(path, {key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pass@1": None}, "key 'pass@1': missing"),
        ({"n": None}, "key 'n': missing"),
        ({"n": "ten"}, "key 'n': not a count but 'ten'"),
        ({"n": 0}, "key 'n': no problem was scored"),
        ({"n": 11}, "key 'pass@1.base': 0.4 is not a share of 11 problems"),
        ({"interval": None}, "key 'interval': missing"),
        ({"interval": {"base": [0.1, 0.7]}}, "key 'interval.plus': missing"),
        ({"interval": {"base": 0.1}}, "key 'interval.base': not a low and a high end but 0.1"),
        ({"problems_sha256": None}, "key 'problems_sha256': missing"),
        ({"sandbox": 1}, "key 'sandbox': not text but 1"),
        ({"benchmark": "mbpp"}, "'mbpp', but the config says that easy is 'humaneval'"),
        ({"pass@1": {"base": 0.4}}, "key 'pass@1.plus': missing"),
        ({"pass@1": {"base": "many", "plus": 0.3}}, "key 'pass@1.base': not a number"),
        ({"pass@1": {"base": 0.5, "plus": 0.3}}, "says 5 of 10"),
    ],
)
def test_a_broken_summary_is_named(folder, changes, message):
    write_summary(folder, **changes)
    with pytest.raises(UserError, match=r"summary\.json") as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)
    assert not folder.path("report.html").exists() and not folder.path("tables").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("score/tiny/base/easy/summary.json", '{"n":', "not valid JSON"),
        ("score/tiny/base/easy/outcomes.parquet", "no", "not a readable Parquet file"),
        ("train/tiny/tasks/sft/seed-0/metrics.json", "{}", "held_out_before"),
        ("train/tiny/tasks/sft/seed-0/steps.jsonl", '{"step": 1}\n', "row 1: 'loss' is None"),
        ("train/tiny/tasks/sft/seed-0/run.yaml", "a: [", "cannot be read"),
        ("annotate/tasks/generate/spans.parquet", "no", "not a readable Parquet file"),
        ("decontaminate/tasks/report.json", "[]", "not a JSON object"),
        ("generate/tasks/report.json", '{"answers": 3}', "'teacher'"),
        ("evaluate/tiny/base/easy/samples.jsonl", "{}\n", "'tokens'"),
        ("annotate/tasks/generate/spans.parquet.provenance.json", "{}", "'code'"),
    ],
)
def test_a_broken_file_is_named(folder, file, text, message):
    folder.path(file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(file)) as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)


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


def test_facts_name_the_nested_key(tmp_path):
    facts = Facts.of(tmp_path / "x.json", "select", {"similarity": {"mean": True}})
    with pytest.raises(UserError, match=r"x\.json, key 'similarity\.mean': not a number"):
        facts.part("similarity").number("mean")
