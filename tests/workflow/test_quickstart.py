"""The real quickstart, in a copy of the repository: SmolLM2-135M on this machine's cores."""

import json
import os
import shutil
import subprocess
import sys

import polars as pl
import pytest
from safetensors import safe_open

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

RUNS = ("sft", "fgit", "dpo", "mutation")


def snakemake(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "local", "all", *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("workflow", "envs", "local"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    snakemake(folder)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return folder / "results" / "quickstart"


def test_exactly_the_planted_samples_are_removed(folder, results):
    planted = json.loads((folder / "workflow/quickstart/contaminated.json").read_text())
    report = json.loads((results / "decontaminate/quickstart/report.json").read_text())
    assert {entry["id"] for entry in report["removed"]} == {entry["id"] for entry in planted}
    assert report["removed_count"] == len(planted) == 10


def test_table(results):
    table = pl.read_csv(results / "tables/quickstart.csv")
    assert table.height == 5
    base = table.row(0, named=True)
    assert base["method"].startswith("base")
    assert 20 <= base["quickstart"] <= 80
    assert 20 <= base["quickstart+"] <= 80
    assert 55 <= base["pairs"] <= 90
    assert table["n quickstart"].unique().to_list() == [40]
    assert table["n pairs"].unique().to_list() == [30]
    assert (results / "tables/quickstart.md").read_text().count("|") > 30


def test_every_trained_model_differs_from_the_base(results):
    with safe_open(results / "fetch/models/smollm2/model.safetensors", "pt") as base:
        name = "model.layers.15.mlp.down_proj.weight"
        before = base.get_tensor(name).bfloat16()
        for run in RUNS:
            trained = results / f"train/smollm2/quickstart/{run}/seed-0"
            with safe_open(trained / "model/model.safetensors", "pt") as file:
                assert not before.equal(file.get_tensor(name))
            metrics = json.loads((trained / "metrics.json").read_text())
            assert metrics["relative_update"] > 0
            assert metrics["held_out_before"]["nll"] != metrics["held_out_after"]["nll"]


def test_training_lowers_the_held_out_loss(results):
    for run in ("sft", "fgit", "mutation"):
        path = results / f"train/smollm2/quickstart/{run}/seed-0/metrics.json"
        metrics = json.loads(path.read_text())
        assert metrics["held_out_after"]["nll"] < metrics["held_out_before"]["nll"]


def test_a_second_run_does_nothing(folder):
    assert "Nothing to be done" in snakemake(folder)
