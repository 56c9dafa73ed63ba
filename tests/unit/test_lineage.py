"""Where a number comes from: the chain by the provenance files, its id, and what changed since."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest

from fgit import lineage
from fgit.common import provenance
from fgit.common.errors import UserError
from fgit.common.files import sha256, write_text
from fgit.common.provenance import digest, provenance_path
from fgit.config import GenerateSettings, SelectSettings
from tests.chained_stages import NAMES, RUN, Workflow


def steps_of(workflow, hashes=False):
    steps = lineage.Lineage(workflow.results, hashes).behind(RUN, "mbpp")
    return {step.name: step for step in steps}


def identity(workflow, run=RUN):
    return lineage.Lineage(workflow.results).identity(run, "mbpp")


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
    with pytest.raises(UserError, match=re.escape(f"{path}, key 'inputs': missing")):
        steps_of(workflow)


def test_files_are_read_once_for_all_numbers(workflow, monkeypatch):
    runs = [f"tiny/data/fgit-{number}/seed-0" for number in range(5)]
    for run in runs:
        workflow.train(run)
        workflow.evaluate(run)
        workflow.score(run)
    read = []
    monkeypatch.setattr(
        lineage,
        "read_provenance",
        lambda path: read.append(path) or provenance.read_provenance(path),
    )
    monkeypatch.setattr(lineage, "digest", lambda path, again: read.append(path) or digest(path))
    chains = lineage.Lineage(workflow.results, hashes=False)
    for run in runs:
        chains.behind(run, "mbpp")
        chains.identity(run, "mbpp")
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
    for module in (lineage, provenance):
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
    found = identity(workflow)
    assert re.fullmatch("[0-9a-f]{12}", found)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setattr("sys.argv", ["elsewhere"])
    again = Workflow(tmp_path / "other", "second").all()
    again.score(seconds=2.0)
    assert identity(again) == found


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
    before = identity(workflow)
    change(workflow)
    assert identity(workflow) != before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("packages", {"torch": "0"}),
        ("code", {"sources_sha256": "0"}),
        ("models", {"org/base": {"commit": "def"}}),
    ],
)
def test_versions_make_another_id(workflow, key, value):
    before = identity(workflow)
    file = workflow.results / f"train/{RUN}/provenance.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {key: value}))
    assert identity(workflow) != before


def test_no_id_without_provenance(workflow):
    (workflow.results / f"score/{RUN}/mbpp/provenance.json").unlink()
    assert identity(workflow) == ""
    assert identity(workflow, "none") == ""


def test_an_id_does_not_ask_what_is_on_disk(workflow):
    before = identity(workflow)
    workflow.file(NAMES[2], "changed")
    shutil.rmtree(workflow.results / f"train/{RUN}/model")
    assert identity(workflow) == before
