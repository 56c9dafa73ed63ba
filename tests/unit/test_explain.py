"""Where a number comes from: the chain by the provenance files, its id, and what changed since."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import shutil

import pytest

from fgit import cli, explain
from fgit.common import provenance
from fgit.common.errors import UserError
from fgit.common.files import sha256, write_json, write_text
from fgit.common.provenance import provenance_path, write_provenance
from fgit.config import (
    DecontaminateSettings,
    EvaluateSettings,
    GenerateSettings,
    ScoreSettings,
    SelectSettings,
    TrainSettings,
)

STARTED = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
RUN = "tiny/data/fgit/seed-0"
NAMES = [
    "decontaminate/data/records.parquet",
    "generate/data/variants.parquet",
    "select/data/generate/pairs.parquet",
    "annotate/data/generate/spans.parquet",
    f"train/{RUN}",
    f"evaluate/{RUN}/mbpp/samples.jsonl",
    f"score/{RUN}/mbpp",
]


class Workflow:
    """Stages that write what they read, with provenance, as the workflow runs them."""

    def __init__(self, folder, name="paper"):
        self.folder = folder
        self.results = folder / "results" / name
        self.as_named = pathlib.Path("results") / name
        self.minute = 0

    def file(self, place, text=None):
        write_text(self.results / place, text or place)
        return self.as_named / place

    def stage(self, stage, out, inputs, settings=None, outputs=(), arguments=None):
        self.minute += 1
        write_provenance(
            self.as_named / out,
            stage=stage,
            settings=settings,
            arguments=arguments or {},
            inputs={
                name: pathlib.Path(path) if path.count("/") < 2 else self.as_named / path
                for name, path in inputs.items()
            },
            outputs=[self.as_named / place for place in (out, *outputs)],
            started=STARTED + datetime.timedelta(minutes=self.minute),
        )

    def data(self):
        self.file(NAMES[0])
        self.file("decontaminate/data/report.json")
        self.stage(
            "decontaminate",
            NAMES[0],
            {"data": "data.jsonl", "benchmark mbpp": "mbpp.jsonl"},
            DecontaminateSettings(),
            ["decontaminate/data/report.json"],
            {"split": "train", "limit": 80},
        )
        self.file(NAMES[1])
        teacher = GenerateSettings(teacher="teacher.gguf", seed=7)
        self.stage("generate", NAMES[1], {"records": NAMES[0], "teacher": "teacher.gguf"}, teacher)
        self.file(NAMES[2])
        self.stage(
            "select", NAMES[2], {"records": NAMES[0], "variants": NAMES[1]}, SelectSettings()
        )
        self.file(NAMES[3])
        self.stage("annotate", NAMES[3], {"pairs": NAMES[2]})

    def train(self, run=RUN, weights="weights", **settings):
        for name in ("config.json", "model.safetensors"):
            self.file(f"train/{run}/model/{name}", weights)
        self.file(f"train/{run}/run.yaml")
        self.stage(
            "train",
            f"train/{run}",
            {"model": "org/base", "template": "own", "spans": NAMES[3]},
            TrainSettings(**settings),
        )

    def evaluate(self, run=RUN, benchmark="mbpp"):
        place = f"evaluate/{run}/{benchmark}"
        self.file(f"{place}/samples.jsonl")
        self.file(f"{place}/samples_one_bos.jsonl")
        self.stage(
            "evaluate",
            f"{place}/samples.jsonl",
            {"model": f"train/{run}/model", "problems": "mbpp.jsonl"},
            EvaluateSettings(),
            [f"{place}/samples_one_bos.jsonl"],
            {"mode": "chat", "benchmark": "mbpp"},
        )

    def score(self, run=RUN, benchmark="mbpp", seconds=1.0):
        summary = {"seconds": seconds, "versions": {"fgit": "0", "python": "3.10.1", "numpy": "1"}}
        for place, read in {
            f"score/canonical/{benchmark}": {},
            f"score/{run}/{benchmark}": {
                "samples": f"evaluate/{run}/{benchmark}/samples.jsonl",
                "one_bos": f"evaluate/{run}/{benchmark}/samples_one_bos.jsonl",
                "ground_truth": f"score/canonical/{benchmark}/summary.json",
            },
        }.items():
            write_json(self.results / place / "summary.json", summary)
            self.file(f"{place}/outcomes.parquet")
            self.stage("score", place, {"problems": "mbpp.jsonl"} | read, ScoreSettings())

    def all(self):
        for name in ("data.jsonl", "mbpp.jsonl", "teacher.gguf"):
            write_text(self.folder / name, name)
        self.data()
        self.train()
        self.evaluate()
        self.score()
        return self


def loaded(*_):
    return {"org/base": {"revision": "main", "commit": "abc"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(provenance, "loaded", loaded)
        return Workflow(folder).all()


@pytest.fixture
def workflow(made, tmp_path, monkeypatch):
    """What was made once, as if it had been made here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "loaded", loaded)
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*provenance.json"):
        path.write_text(path.read_text().replace(str(made.folder), str(tmp_path)))
    found = Workflow(tmp_path)
    found.minute = made.minute
    return found


def steps_of(workflow, run=RUN, benchmark="mbpp", **options):
    return {step.name: step for step in explain.chain(workflow.results, run, benchmark, **options)}


def states(workflow, **options):
    """What is not as it was, by its place."""
    return {
        file.path: file.state
        for step in steps_of(workflow, **options).values()
        for file in (*step.inputs, *step.outputs)
        if file.state
    }


# ------------------------------------------------------------------ the chain


def test_every_step_comes_after_those_it_rests_on(workflow):
    steps = steps_of(workflow)
    assert [*steps] == [*NAMES[:6], "score/canonical/mbpp", NAMES[6]]
    seen = set()
    for name, step in steps.items():
        assert {file.step for file in step.inputs} - {None} <= seen
        seen.add(name)
        file = workflow.results / step.provenance
        assert json.loads(file.read_text())["stage"] == step.stage == name.split("/")[0]
    assert not states(workflow)


def test_what_a_step_says(workflow, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    workflow.train(seed=3)
    step = steps_of(workflow)[f"train/{RUN}"]
    assert (step.stage, step.seed, step.settings["objective"]) == ("train", 3, "fgit")
    assert step.models == {"org/base": {"revision": "main", "commit": "abc"}}
    assert (step.started[:10], step.slurm_job) == ("2020-01-02", "4711")
    assert step.seconds > 0 and step.packages["torch"] and step.hardware["cores"]
    spans = workflow.results / NAMES[3]
    assert [dataclasses.astuple(file) for file in step.inputs] == [
        ("model", "org/base", None, "", None),
        ("template", "own", None, "", None),
        ("spans", NAMES[3], sha256(spans), "", NAMES[3]),
    ]
    assert [file.path for file in step.outputs] == [f"train/{RUN}/model", f"train/{RUN}/run.yaml"]
    assert steps_of(workflow)[NAMES[0]].arguments == {"split": "train", "limit": 80}


def test_the_versions_of_the_environment_of_the_tests(workflow):
    steps = steps_of(workflow)
    score = steps[f"score/{RUN}/mbpp"].packages
    assert (score["python"], score["numpy"], "fgit" in score) == ("3.10.1", "1", False)
    assert steps[f"train/{RUN}"].packages["numpy"] != "1"


def test_a_folder_that_was_moved(workflow, tmp_path, monkeypatch):
    workflow.results.rename(tmp_path / "elsewhere")
    workflow.results = tmp_path / "elsewhere"
    monkeypatch.chdir("/")
    assert [*steps_of(workflow)] == [*NAMES[:6], "score/canonical/mbpp", NAMES[6]]
    assert not states(workflow)


def test_how_far_it_is(workflow):
    shutil.rmtree(workflow.results / "score")
    assert [*steps_of(workflow)] == NAMES[:6]
    shutil.rmtree(workflow.results / "evaluate")
    assert [*steps_of(workflow)] == NAMES[:5]
    shutil.rmtree(workflow.results / "train")
    assert steps_of(workflow) == {}


def test_ones_own_samples_have_no_provenance(workflow):
    place = f"evaluate/{RUN}/mbpp/samples.jsonl"
    provenance_path(workflow.results / place).unlink()
    steps = steps_of(workflow)
    # The second samples have lost theirs too: the same file told of both.
    assert [step.name for step in steps.values() if step.provenance is None] == [
        place,
        place.replace("samples", "samples_one_bos"),
    ]
    assert (steps[place].stage, steps[place].inputs) == ("evaluate", ())


def test_what_was_written_over_its_own_input(workflow):
    workflow.stage("annotate", NAMES[3], {"pairs": NAMES[3]})
    step = steps_of(workflow)[NAMES[3]]
    assert [(file.path, file.step) for file in step.inputs] == [(NAMES[3], None)]


def test_the_first_layout(workflow):
    """Its folders' digests cannot be compared; its files' can."""
    for file in workflow.results.rglob("*provenance.json"):
        values = json.loads(file.read_text())
        for key in ("layout", "directory", "arguments", "models"):
            del values[key]
        file.write_text(json.dumps(values))
    model = f"train/{RUN}/model"
    assert states(workflow) == {model: "not checked"}
    workflow.file(NAMES[2], "mended")
    assert states(workflow) == {model: "not checked", NAMES[2]: "changed since"}


def test_a_broken_provenance_file_is_named(workflow):
    path = provenance_path(workflow.results / NAMES[2])
    path.write_text('{"stage": "select"}')
    with pytest.raises(UserError, match=re.escape(f"{path}, inputs: ")):
        steps_of(workflow)


def test_files_are_read_once_for_all_numbers(workflow, monkeypatch):
    runs = [f"tiny/data/fgit-{number}/seed-0" for number in range(5)]
    for run in runs:
        workflow.train(run)
        workflow.evaluate(run)
        workflow.score(run)
    read = []
    monkeypatch.setattr(
        explain,
        "read_provenance",
        lambda path: read.append(path) or provenance.read_provenance(path),
    )
    monkeypatch.setattr(explain, "digest", lambda path, again: read.append(path) or sha256(path))
    for run in runs:
        explain.chain(workflow.results, run, "mbpp")
        explain.identity(workflow.results, run, "mbpp")
    assert len(read) == len(set(read))


# ------------------------------------------------------------------ what is on disk now


@pytest.mark.parametrize("place", [NAMES[0], NAMES[3], NAMES[5], f"{NAMES[6]}/outcomes.parquet"])
def test_a_file_that_changed(workflow, place):
    workflow.file(place, "mended by hand")
    assert states(workflow) == {place: "changed since"}


def test_data_that_changed(workflow, tmp_path):
    write_text(tmp_path / "data.jsonl", "more")
    assert states(workflow) == {"data.jsonl": "changed since"}


def test_a_step_that_was_made_again(workflow):
    workflow.file(NAMES[2], "another choice")
    workflow.stage("select", NAMES[2], {"records": NAMES[0]}, SelectSettings())
    steps = steps_of(workflow)
    assert [f.state for f in steps[NAMES[2]].outputs] == [""]
    assert [f.state for f in steps[NAMES[3]].inputs] == ["changed since"]


def test_weights_that_did_not_stay(workflow):
    model = f"train/{RUN}/model"
    shutil.rmtree(workflow.results / model)
    assert states(workflow) == {model: "gone"}
    workflow.train(weights="others")  # trained again, but not evaluated again
    shutil.rmtree(workflow.results / model)
    steps = steps_of(workflow)
    assert steps[NAMES[5]].inputs[0].state == "changed since"
    assert steps[f"train/{RUN}"].outputs[0].state == "gone"


def test_weights_are_read_only_when_asked(workflow, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (explain, provenance):
        monkeypatch.setattr(module, "LARGE", 1)
    model = f"train/{RUN}/model"
    unchecked = {model: "not checked", "teacher.gguf": "not checked"}
    assert states(workflow) == unchecked
    assert not states(workflow, hashes=True)
    assert not states(workflow)  # their digests are known now
    workflow.file(f"{model}/model.safetensors", "others")
    assert states(workflow) == {model: "not checked"}
    assert states(workflow, hashes=True) == {model: "changed since"}


# ------------------------------------------------------------------ the id


def test_the_same_work_elsewhere_has_the_same_id(workflow, tmp_path, monkeypatch):
    found = explain.identity(workflow.results, RUN, "mbpp")
    assert re.fullmatch("[0-9a-f]{12}", found)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setattr("sys.argv", ["elsewhere"])
    again = Workflow(tmp_path / "other", "second").all()
    again.score(seconds=2.0)
    assert explain.identity(again.results, RUN, "mbpp") == found


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.train(seed=1),
        lambda w: w.train(alpha=3.0),
        lambda w: (w.train(weights="others"), w.evaluate(), w.score()),
        lambda w: (write_text(w.folder / "data.jsonl", "more"), w.data()),
        lambda w: (write_text(w.folder / "teacher.gguf", "another"), w.data()),
        lambda w: w.stage("generate", NAMES[1], {}, GenerateSettings(seed=8)),
        lambda w: w.stage("decontaminate", NAMES[0], {}, None, (), {"limit": 81}),
    ],
)
def test_what_makes_another_id(workflow, change):
    before = explain.identity(workflow.results, RUN, "mbpp")
    change(workflow)
    assert explain.identity(workflow.results, RUN, "mbpp") != before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("packages", {"torch": "0"}),
        ("code", {"sources_sha256": "0"}),
        ("models", {"org/base": {"commit": "def"}}),
    ],
)
def test_versions_make_another_id(workflow, key, value):
    before = explain.identity(workflow.results, RUN, "mbpp")
    file = workflow.results / f"train/{RUN}/provenance.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {key: value}))
    assert explain.identity(workflow.results, RUN, "mbpp") != before


def test_no_id_without_provenance(workflow):
    (workflow.results / f"score/{RUN}/mbpp/provenance.json").unlink()
    assert explain.identity(workflow.results, RUN, "mbpp") == ""
    assert explain.identity(workflow.results, "none", "mbpp") == ""


def test_an_id_does_not_ask_what_is_on_disk(workflow):
    before = explain.identity(workflow.results, RUN, "mbpp")
    workflow.file(NAMES[2], "changed")
    shutil.rmtree(workflow.results / f"train/{RUN}/model")
    assert explain.identity(workflow.results, RUN, "mbpp") == before


# ------------------------------------------------------------------ fgit explain


@pytest.fixture
def told(workflow, capsys):
    def call(*words):
        capsys.readouterr()
        code = cli.main(["explain", *words, "--results", str(workflow.results)])
        return code, *capsys.readouterr()

    return call


def test_the_tree(workflow, told):
    code, text, error = told(RUN)
    assert (code, error) == (0, "")
    lines = text.splitlines()
    assert lines[0] == RUN
    assert f"mbpp  provenance {explain.identity(workflow.results, RUN, 'mbpp')}" in lines
    stages = [line.split(" · ")[0].strip("│ ") for line in lines if " · 2020" in line]
    assert stages == [
        *("score", "evaluate", "train", "annotate", "select", "decontaminate"),
        *("generate", "score"),
    ]
    assert f"│  │     └─ pairs: {NAMES[2]} " in text
    assert text.count("decontaminate: see above") == 1
    assert "│ flags: split train, limit 80" in text
    assert "│ packages: python 3.10.1, numpy 1" in text  # those that differ, of this step alone
    assert text.count("packages: ") == 3  # what the others share, and the two scores
    assert "│ hub: org/base revision main, commit abc" in text
    assert "null" not in text


def test_several_benchmarks_share_what_they_rest_on(workflow, told):
    workflow.evaluate(benchmark="mbpp-2")
    workflow.score(benchmark="mbpp-2")
    code, text, _ = told(RUN)
    assert (code, text.count("train · "), text.count("train: see above")) == (0, 1, 1)
    code, text, _ = told(RUN, "--benchmark", "mbpp-2")
    assert (code, "mbpp-2  provenance" in text, "mbpp  provenance" in text) == (0, True, False)


def test_as_json(workflow, told):
    code, text, _ = told(RUN, "--json")
    found = json.loads(text)
    assert (code, found["run"], found["changed"]) == (0, RUN, [])
    steps = found["benchmarks"]["mbpp"]["steps"]
    assert [step["name"] for step in steps] == [*NAMES[:6], "score/canonical/mbpp", NAMES[6]]
    assert found["benchmarks"]["mbpp"]["provenance"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_it_ends_with_1_if_something_changed(workflow, told, words):
    workflow.file(NAMES[3], "mended by hand")
    code, text, error = told(RUN, *words)
    assert code == 1
    assert "changed since" in text
    assert error.startswith(f"fgit explain: error: {NAMES[3]}: changed since ")


def test_weights_that_are_gone_are_no_error(workflow, told):
    shutil.rmtree(workflow.results / f"train/{RUN}/model")
    code, text, _ = told(RUN)
    assert (code, text.count("(gone)")) == (0, 2)


def test_a_step_without_provenance_is_said(workflow, told):
    provenance_path(workflow.results / NAMES[2]).unlink()
    code, text, _ = told(RUN)
    assert code == 0
    assert "select: no provenance; nothing is known of how this was made" in text


def test_a_run_that_is_not_evaluated_yet(workflow, told):
    workflow.train("tiny/data/sft/seed-0")
    code, text, _ = told("tiny/data/sft/seed-0")
    assert code == 0 and "(not evaluated yet)\ntrain · " in text


def test_unknown_runs_and_benchmarks(workflow, told):
    code, text, error = told("tiny/data/fgit")
    assert (code, text) == (1, "")
    assert error == (
        f"fgit explain: error: {workflow.results}: no run 'tiny/data/fgit' in it; it has: {RUN}\n"
    )
    code, _, error = told(RUN, "--benchmark", "humaneval")
    assert (code, error.rstrip()) == (
        1,
        f"fgit explain: error: {workflow.results}: {RUN} was not evaluated on 'humaneval', but on: "
        "mbpp",
    )


def test_hardware_in_words():
    values = {"cpu": "EPYC", "cores": 64, "gpus": ["NVIDIA A800"] * 8, "processes": 8}
    text = explain.hardware_text(values)
    assert text == "EPYC, 64 cores, 8 × NVIDIA A800, 8 processes"
