"""The whole workflow, end to end, on a random model of under a million parameters."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time

import polars as pl
import psutil
import pytest

from fgit.config import Config, TrainSettings
from fgit.runs import speed_flags
from tests.project import FUNCTIONS, PROBLEMS, Project, running_teacher


@pytest.fixture(scope="module")
def teacher():
    with running_teacher() as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model, teacher):
    project = Project(tmp_path_factory.mktemp("project"), tiny_model, teacher.url)
    project.snakemake()
    return project


def test_every_stage_leaves_its_result(project):
    results = project.folder / "results" / "tiny"
    assert (
        json.loads((results / "decontaminate/tiny/report.json").read_text())["removed_count"] == 1
    )
    pairs = pl.read_parquet(results / "select/tiny/generate/pairs.parquet")
    assert pairs["variant"].null_count() == 0
    assert "1 + " in pairs["variant"][0]
    mutants = pl.read_parquet(results / "select/tiny/mutate/pairs.parquet")
    assert mutants["variant"].null_count() < mutants.height
    table = (results / "tables/tiny.csv").read_text().splitlines()
    assert len(table) == 6
    frame = pl.read_parquet(results / "results.parquet")
    assert frame["run"].n_unique() == 5
    assert frame.height == 10
    assert "<html" in (results / "report.html").read_text()
    for run in ("sft", "fgit", "dpo", "mutation"):
        folder = results / "train/tiny/tiny" / run / "seed-0"
        assert (folder / "model/model.safetensors").is_file()
        assert json.loads((folder / "metrics.json").read_text())["relative_update"] > 0
        assert json.loads((folder / "provenance.json").read_text())["stage"] == "train"


def test_the_variants_are_audited(project):
    folder = project.folder / "results/tiny/audit"
    audit = json.loads((folder / "tiny/audit.json").read_text())
    assert audit["problems"] == audit["with_variant"] == 2
    assert audit["incorrect"]["base"]["selected"]["fail"] == 2  # 1 + is wrong on both
    assert (folder / "sheets/tiny/sheet.html").is_file()
    readers = [(folder / f"sheets/tiny/reader-{n}.csv").read_text() for n in (1, 2)]
    assert readers[0] == readers[1] and len(readers[0].splitlines()) == 4
    assert "Audit of the variants" in (project.folder / "results/tiny/report.html").read_text()


def test_what_the_readers_said_comes_into_the_report(project):
    path = project.folder / "results/tiny/audit/sheets/tiny/kappa.json"
    assert f"--out {path.relative_to(project.folder)}" in (path.parent / "sheet.html").read_text()
    path.write_text("{}")
    try:
        assert project.planned().keys() == {"report"}
    finally:
        path.unlink()
    assert project.planned() == {}


def test_variants_that_must_be_wrong_are_tested_first(project):
    project.write_config(select=project.config["select"] | {"verified_variants": True})
    try:
        planned = project.planned()
        assert planned["verify"] == planned["select"] == 2
        assert "generate" not in planned and "audit_variants" not in planned
    finally:
        project.write_config()


def test_a_second_run_does_nothing(project):
    _, output = project.snakemake()
    assert "Nothing to be done" in output


def test_snakemakes_own_report_is_made_without_a_network(project):
    """With the tables and the report, which its rule marks for it."""
    _, output = project.snakemake("--report", "snakemake.html")
    assert "Report created" in output and "Missing metadata" not in output
    assert "report.html" in (project.folder / "snakemake.html").read_text()


def test_an_edit_of_a_comment_retrains_nothing(project):
    source = project.folder / "workflow/fgit/train/loop.py"
    text = source.read_text()
    source.write_text("# A comment.\n" + text)
    try:
        assert project.planned() == {}
    finally:
        source.write_text(text)


def test_one_changed_response_runs_what_depends_on_it(project):
    data = project.folder / "data.jsonl"
    text = data.read_text()
    data.write_text(text.replace("x * x", "x ** 2"))
    try:
        planned = project.planned()
        assert planned["decontaminate"] == 1
        assert planned["train"] == 4
        assert planned["evaluate"] == planned["score"] == 4  # not the base model's
    finally:
        data.write_text(text)


def test_a_changed_setting_runs_one_training_and_says_why(project):
    methods = {**project.config["methods"], "fgit": {"objective": "fgit", "alpha": 3.0}}
    project.write_config(methods=methods)
    try:
        planned = project.planned()
        assert planned["train"] == 2  # fgit, and mutation, which extends it
        assert planned["evaluate"] == planned["score"] == 2
        assert "generate" not in planned
        _, output = project.snakemake("-n")
        assert "Params have changed since last execution" in output
        assert "alpha 3.0" in output
    finally:
        project.write_config()


@pytest.mark.slow
def test_a_killed_training_is_run_again(project):
    """SIGKILL of a stage: nothing half-written is left, and the next run completes it."""
    out = project.folder / "results/tiny/train/tiny/tiny/sft/seed-0"
    methods = {**project.config["methods"], "sft": {"objective": "fixed", "epochs": 4000}}
    project.write_config(methods=methods)
    target = "results/tiny/train/tiny/tiny/sft/seed-0/metrics.json"
    running = subprocess.Popen(
        project.command(target), cwd=project.folder, env=project.environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (found := processes("fgit", "train", "4000")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(5)  # into the training
        assert found, "the training did not start"
        for process in found:
            process.kill()
        assert running.wait(timeout=120) != 0
        assert not (out / "model").exists()
        assert not (out / "metrics.json").exists()
    finally:
        project.write_config()
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    project.snakemake()
    assert (out / "model/model.safetensors").is_file()
    assert project.planned() == {}


SPEED = {
    "generate": {
        "batch_size": 5,
        "tensor_parallel": 4,
        "requests_per_minute": 60.0,
        "tokens_per_minute": 1e5,
        "max_spend": 2.0,
        "price_per_million_input": 1.0,
        "price_per_million_output": 3.0,
    },
    "select": {"batch_size": 7},
    "train": {
        "token_budget": 512,
        "attention": "sdpa",
        "gradient_checkpointing": True,
        "checkpoint_minutes": 1.0,
        "min_share": 0.05,
    },
    "evaluate": {"batch_size": 3},
    "score": {"memory_mb": 7000},
}
RESULT = {
    "decontaminate": ({"ngram_size": 9}, {"decontaminate"}),
    "generate": ({"temperature": 0.5}, {"generate", "audit_generate"}),
    "mutate": ({"seed": 5}, {"mutate"}),
    "select": ({"max_length": 64}, {"select", "audit_variants"}),
    "train": ({"epochs": 2}, {"train"}),
    "evaluate": ({"max_new_tokens": 9}, {"evaluate"}),
    "score": ({"min_time_limit": 2.0}, {"score", "audit_variants"}),
}


def with_values(project, sections):
    """Sections of the project's config with other values."""
    return {name: project.config.get(name, {}) | values for name, values in sections.items()}


def test_what_changes_the_speed_only_runs_nothing_again(project):
    settings = {name: field.annotation for name, field in Config.model_fields.items()}
    settings["train"] = TrainSettings
    assert {name: set(values) for name, values in SPEED.items()} == {
        name: settings[name].speed_fields() for name in SPEED
    }
    launch = {"accelerate": "ddp", "processes": 2}
    project.write_config(**with_values(project, SPEED), launch=launch, keep_models=["fgit"])
    try:
        assert project.planned().keys() == {"config", "results", "table", "report"}
        _, output = project.snakemake("-n", "-p", "--forceall")
        for name, values in SPEED.items():
            assert speed_flags(settings[name](**values)) in output, name
    finally:
        project.write_config()


@pytest.mark.parametrize("section", RESULT)
def test_what_changes_the_result_runs_the_stage_again(project, section):
    values, rules = RESULT[section]
    project.write_config(**with_values(project, {section: values}))
    try:
        planned = project.planned().keys()
        assert rules <= planned
        assert section == "decontaminate" or "decontaminate" not in planned
    finally:
        project.write_config()


@pytest.mark.slow
def test_weights_that_need_not_stay_are_gone_and_nothing_is_trained_again(project):
    table = project.config["tables"]["tiny"]
    rows = [row for row in table["rows"] if row["method"] in ("sft", "fgit")]
    changes = {"name": "kept", "tables": {"tiny": table | {"rows": rows}}}
    project.write_config(**changes, keep_models=["fgit"])
    results = project.folder / "results/kept"
    try:
        project.snakemake()
        kept, gone = (results / "train/tiny/tiny" / run / "seed-0" for run in ("fgit", "sft"))
        assert (kept / "model/model.safetensors").is_file()
        assert not (gone / "model").exists()
        for file in ("metrics.json", "steps.jsonl", "run.yaml", "provenance.json"):
            assert (gone / file).is_file()
        assert (results / "score/tiny/tiny/sft/seed-0/tiny/summary.json").is_file()
        assert "sft" in (results / "tables/tiny.md").read_text()
        assert project.planned() == {}
        # What is gone is not missed if it was to stay after all; only the report shows the config.
        project.write_config(**changes)
        assert project.planned().keys() == {"config", "results", "table", "report"}
    finally:
        project.write_config()


LONG = {"name": "long", "train": {"learning_rate": 1e-4, "batch_size": 4, "max_length": 128}}
LONG["train"] |= {"epochs": 30, "checkpoint_minutes": 1000}


@pytest.mark.slow
@pytest.mark.parametrize("launch", [{}, {"accelerate": "ddp", "processes": 2}], ids=["one", "two"])
def test_a_training_that_is_told_to_end_goes_on_when_started_again(project, launch):
    """SIGTERM to every process of a job, as scancel and a time limit send it."""
    out = project.folder / "results/long/train/tiny/tiny/fgit/seed-0"
    log = project.folder / "results/long/logs/train/tiny/tiny/fgit/seed-0.log"
    shutil.rmtree(project.folder / "results/long", ignore_errors=True)
    project.write_config(**LONG, launch=launch)
    target = "results/long/train/tiny/tiny/fgit/seed-0/metrics.json"
    running = subprocess.Popen(
        project.command(target), cwd=project.folder, env=project.environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not (log.exists() and re.search(r"\bstep \d+/", log.read_text())):
            assert time.monotonic() < deadline and running.poll() is None, "no step was taken"
            time.sleep(0.2)
        os.killpg(running.pid, signal.SIGTERM)
        assert running.wait(timeout=120) != 0
        told = re.search(
            r"stopped by SIGTERM in step (\d+) of \d+; start it again", log.read_text()
        )
        assert told, log.read_text()[-3000:]
        step = int(told[1])
        assert [path.name for path in out.glob("state/step-*")] == [f"step-{step:06d}"]
        assert not (out / "model").exists() and not (out / "metrics.json").exists()
        project.snakemake(target)
        assert f"going on after step {step}," in log.read_text()
        steps = [
            json.loads(line)["step"] for line in (out / "steps.jsonl").read_text().splitlines()
        ]
        assert 0 < step < len(steps)
        assert steps == list(range(1, len(steps) + 1))
        assert (out / "model/model.safetensors").is_file() and not (out / "state").exists()
        assert json.loads((out / "provenance.json").read_text())["stage"] == "train"
    finally:
        project.write_config()
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)


def processes(*words):
    """The running processes whose command line holds all words."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if all(word in command for word in words):
            found.append(process)
    return found


def test_a_teacher_without_a_usable_variant_stops_the_road(project, teacher):
    teacher.garbage = ""  # all
    project.write_config(generate={**project.config["generate"], "seed": 1})
    try:
        variants = "results/tiny/generate/tiny/variants.parquet"
        code, output = project.snakemake(variants, check=False)
        assert code != 0
        assert "no_code" in output
        # The joined file of before stays until there is another.
        assert (
            not (project.folder / variants).with_name("shards").joinpath("1-of-1.parquet").exists()
        )
    finally:
        teacher.garbage = None
        project.write_config()


def test_a_config_with_a_name_is_whole_and_one_without_changes_the_papers(project):
    """Without an option for it, since the jobs of a cluster get the config file only."""
    target = "results/tiny/train/tiny/tiny/sft/seed-0/metrics.json"
    _, output = project.snakemake("-n", "-p", "--forceall", target)
    assert " -m fgit train" in output
    assert "accelerate" not in output and "--gradient-checkpointing" not in output
    config = project.folder / "tiny.yaml"
    try:
        config.write_text("name: part\n")
        code, output = project.snakemake("-n", check=False)
        assert code != 0 and "models: this key is required" in output
        config.write_text("keep_models: none\n")
        _, output = project.snakemake("-n")
        assert re.search(r"^train_temporary +36$", output, re.M)
    finally:
        project.write_config()


def test_a_table_is_a_target_that_needs_its_own_runs_only(project):
    table = project.config["tables"]["tiny"]
    small = table | {"rows": table["rows"][:2]}
    project.write_config(name="targets", tables={"tiny": table, "small": small})
    try:
        planned = project.planned("small")
        assert [planned[name] for name in ("train", "score", "results", "table")] == [1, 2, 1, 1]
        assert "report" not in planned
        assert project.planned("tiny")["train"] == 4
    finally:
        project.write_config()


def test_the_pilot_takes_little_of_everything(project):
    project.write_config(pilot={"samples": 6, "problems": 1})
    results = project.folder / "results/tiny-pilot"
    try:
        planned = project.planned("pilot")
        assert (planned["fetch_first"], planned["train_pilot"], planned["score"]) == (1, 4, 5)
        targets = ("score/tiny/base/tiny/summary.json", "decontaminate/tiny/report.json")
        project.snakemake(*(f"results/tiny-pilot/{target}" for target in targets))
        summary, cleaned = (json.loads((results / target).read_text()) for target in targets)
        assert (summary["n"], cleaned["kept"]) == (1, 6)
        assert cleaned["removed_count"] == 1  # of the second problem's text: all were looked for
    finally:
        project.write_config()


@pytest.mark.slow
def test_ones_own_variants_and_ones_own_solutions(project):
    """Entering half-way: variants without a teacher, and samples without a model."""
    rows = [{"id": name, "variant": f"def {name}(x):\n    return None\n"} for name in FUNCTIONS]
    project.write_jsonl("variants.jsonl", rows)
    solutions = [
        {"task_id": p["task_id"], "solution": p["prompt"] + p["canonical_solution"]}
        for p in PROBLEMS
    ]
    project.write_jsonl("solutions.jsonl", solutions)
    table = project.config["tables"]["tiny"]
    fgit = {"model": "tiny", "dataset": "tiny", "method": "fgit"}
    project.write_config(
        name="own",
        models=project.config["models"]
        | {"theirs": {"path": "nowhere", "samples": {"tiny": "solutions.jsonl"}}},
        datasets={"tiny": {"path": "data.jsonl", "variants": "variants.jsonl"}},
        generate={"backend": "openai", "teacher": "none", "url": "http://127.0.0.1:9/v1"},
        audit={},
        tables={"tiny": table | {"rows": [{"model": "theirs", "method": "base"}, fgit]}},
    )
    try:
        project.snakemake()
        results = project.folder / "results/own"
        made = json.loads((results / "generate/tiny/report.json").read_text())
        assert (made["backend"], made["teacher"]) == ("given", "variants.jsonl")
        assert made["usable"] == made["answers"] == len(FUNCTIONS)
        pairs = pl.read_parquet(results / "select/tiny/generate/pairs.parquet")
        assert all("return None" in variant for variant in pairs["variant"])
        scored = json.loads((results / "score/theirs/base/tiny/summary.json").read_text())
        assert scored["pass@1"] == {"base": 1.0, "plus": 1.0}
        assert not (results / "evaluate/theirs").exists()
    finally:
        project.write_config()


@pytest.mark.slow
def test_when_jobs_fail_the_rest_goes_on_and_the_tables_say_so(project, teacher):
    teacher.garbage = ""  # all
    project.write_config(name="broken")
    results = project.folder / "results/broken"
    try:
        code, _ = project.snakemake("--keep-going", check=False)
        assert code != 0
        table = (results / "partial/tables/tiny.md").read_text()
        rows = {line.split("|")[3].strip(): line for line in table.splitlines() if "| tiny" in line}
        assert rows["fgit"].count("failed") == rows["sft"].count("failed") == 2
        assert "failed" not in rows["base"] + rows["mutation"]
        assert "logs/generate/tiny/1-of-1.log" in table
        assert "logs/generate/tiny/1-of-1.log" in (results / "partial/report.html").read_text()
        assert not (results / "tables/tiny.md").exists()  # under its own name it would be whole
        teacher.garbage = None
        project.snakemake("--keep-going")
        assert "failed" not in (results / "tables/tiny.md").read_text()
        assert not (results / "partial").exists()
    finally:
        teacher.garbage = None
        project.write_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tabels": {}}, "unknown key 'tabels'"),
        ({"methods": {"fgit": {"alpha": 0.5}}}, "alpha"),
        ({"models": {"other": {"path": "x/y"}}}, "no model is called 'tiny'"),
        ({"published": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)
def test_a_bad_config_is_refused_before_the_dag(project, changes, message):
    project.write_config(**changes)
    try:
        code, output = project.snakemake("-n", check=False)
        assert code != 0
        assert message in output
        assert "Traceback" not in output
    finally:
        project.write_config()
