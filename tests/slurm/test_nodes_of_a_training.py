"""Training on two nodes of the cluster (gloo): as on one, and ended and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fgit.config import Launch
from fgit.runs import launcher
from tests.conftest import REPOSITORY, annotated, sums

pytestmark = pytest.mark.slurm

# 19 samples to train on, 6 a step: the last step of an epoch has one, so processes have no row.
FLAGS = (
    "--precision fp32 --batch-size 6 --learning-rate 1e-3 --max-length 64 --held-out 4 "
    "--save-dtype float32 --threads 1 --token-budget 400"
)
# As in a job of Snakemake's plugin, which takes SLURM's variables away, and as the rule starts it.
SCRIPT = """#!/bin/bash
for name in ${{!SLURM_*}}; do [ $name = SLURM_JOB_ID ] || unset $name; done
export PYTHONPATH={package} ACCELERATE_USE_CPU=true CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
trap : TERM; export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600
{python} {launcher} -m fgit train --model {model} --spans {spans} {flags} --out {out} 2>&1 \\
| (trap '' TERM; exec tee -a {out}.log)
"""


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("spans"), sums(23, lines=5, alone=3))


class Job:
    """One training as a job on some nodes."""

    def __init__(self, cluster, out, model, spans, *, nodes, processes, flags=""):
        self.cluster, self.out = cluster, out
        launch = launcher(Launch(accelerate="ddp", processes=processes, nodes=nodes))
        script = out.with_suffix(".sh")
        script.write_text(
            SCRIPT.format(
                package=REPOSITORY / "workflow",
                python=sys.executable,
                launcher=launch if nodes * processes > 1 else "",
                model=model,
                spans=spans,
                flags=f"{FLAGS} {flags}",
                out=out,
            )
        )
        wanted = f"--nodes={nodes} --ntasks={nodes} --cpus-per-task=2 --mem=3000 --gres=gpu:1"
        self.id = cluster.run(
            *("sbatch", "--parsable", "--partition=gpu", "--signal=TERM@60", *wanted.split()),
            *(f"--output={out}.slurm", str(script)),
        ).strip()

    @property
    def log(self):
        file = self.out.with_name(f"{self.out.name}.log")
        return file.read_text() if file.exists() else ""

    def state(self):
        return self.cluster.jobs()[self.id][0]

    def ends(self, state):
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        self.cluster.wait(lambda: self.state() not in going, "the training to end", 180)
        slurm = self.out.with_name(f"{self.out.name}.slurm").read_text()
        assert self.state() == state, self.log + slurm

    def steps(self):
        lines = (self.out / "steps.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def assert_alike(ours, theirs):
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert one["tokens"] == other["tokens"]
        for name in ("loss", "nll", "grad_norm", "weight", "p_response"):
            if other[name] is not None:
                assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


def test_two_nodes_equal_one_and_a_training_there_goes_on(tmp_path, tiny_model, spans, cluster):
    """Cancelled in the middle, on 2 × 2 processes; gone on with on 2 × 1."""
    common = (tiny_model, spans)
    flags = "--epochs 20 --checkpoint-minutes 15"
    one = Job(cluster, tmp_path / "one", *common, nodes=1, processes=1, flags=flags)
    one.ends("COMPLETED")
    job = Job(cluster, tmp_path / "many", *common, nodes=2, processes=2, flags=flags)
    cluster.wait(lambda: "step 5/80" in job.log, "five steps", 120)
    lock = json.loads((tmp_path / "many" / ".state.lock").read_text())
    assert lock["job"] == job.id
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "fgit", "train", "--model", str(tiny_model)),
            *("--spans", str(spans), *FLAGS.split(), "--out", str(tmp_path / "many")),
        ],
        env=cluster.environment | {"PYTHONPATH": str(REPOSITORY / "workflow")},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert f"SLURM job {job.id}, since" in refused.stderr
    cluster.run("scancel", job.id)
    job.ends("CANCELLED")
    assert "fgit train: error: stopped by SIGTERM in step " in job.log
    saved = [path.name for path in (tmp_path / "many" / "state").iterdir()]
    assert len(saved) == 1
    again = Job(cluster, tmp_path / "many", *common, nodes=2, processes=1, flags=flags)
    again.ends("COMPLETED")
    assert f"going on after step {int(saved[0].removeprefix('step-'))}, from" in again.log
    assert_alike(again.steps(), one.steps())
    assert not (tmp_path / "many" / "state").exists()
