"""Training in two processes gives what training in one gives (gloo, on the CPU)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, annotated, sums

pytestmark = pytest.mark.slow

# 19 samples to train on, 6 a step: the last step has one, so that a process has no row.
FLAGS = [
    *("--precision", "fp32", "--batch-size", "6", "--learning-rate", "1e-3", "--max-length", "64"),
    *("--held-out", "4", "--save-dtype", "float32", "--threads", "1", "--token-budget", "400"),
]


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    return annotated(folder, sums(23, lines=5, alone=3))


def run(arguments, processes=1):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {
        "PYTHONPATH": f"{REPOSITORY / 'workflow'}{os.pathsep}{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return found


def train(model, spans, out, processes, *flags):
    arguments = ["--model", str(model), "--spans", str(spans), "--out", str(out), *FLAGS, *flags]
    module = ["-m", "fgit"] if processes > 1 else ["fgit"]
    found = run([*module, "train", *arguments], processes)
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    return load_file(out / "model" / "model.safetensors"), steps, found.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "fgit"],
        ["--objective", "fgit", "--loss-mean", "samples", "--gradient-checkpointing"],
        ["--objective", "dpo"],
        ["--objective", "fgit", "--lora-rank", "2"],
    ],
    ids=["fgit", "mean over samples, checkpointing", "dpo", "adapters"],
)
def test_two_processes_equal_one(tmp_path, tiny_model, spans, flags):
    """DDP: losses, gradients' norms and final weights within 1e-5."""
    expected, expected_steps, _ = train(tiny_model, spans, tmp_path / "one", 1, *flags)
    found, steps, said = train(tiny_model, spans, tmp_path / "two", 2, *flags)
    assert said.count("held-out loss") == 1  # one process speaks
    assert len(steps) == len(expected_steps) > 1
    for ours, theirs in zip(steps, expected_steps, strict=True):
        assert ours["samples"] == theirs["samples"]
        assert ours["tokens"] == theirs["tokens"]
        for name in ("loss", "nll", "grad_norm", "weight", "p_response", "margin"):
            if theirs[name] is not None:
                # A margin is the small difference of two large sums.
                least = 1e-4 if name == "margin" else 1e-6
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=least), name
    noted = [pl.read_parquet(tmp_path / name / "samples.parquet") for name in ("two", "one")]
    keys = ["id", "epoch", "step", "tokens"]
    assert noted[0].select(keys).equals(noted[1].select(keys))
    for name in ("loss", "nll", "weight", "p_response", "p_variant"):
        for ours, theirs in zip(noted[0][name], noted[1][name], strict=True):
            assert ours == (theirs and pytest.approx(theirs, rel=1e-4, abs=1e-6)), name
    norms = [
        sum(float(value.square().sum()) for value in tensors) ** 0.5
        for tensors in ([found[k] - expected[k] for k in expected], expected.values())
    ]
    assert norms[0] / norms[1] < 1e-5
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two")]
    for when in ("held_out_before", "held_out_after"):
        assert metrics[1][when]["nll"] == pytest.approx(metrics[0][when]["nll"], rel=1e-5)


def test_fsdp2_equals_one_process():
    """Weights in shards, tied and untied, with checkpointing and adapters (tests/sharded.py)."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("not run: this build of torch has no gloo, so FSDP2 was not compared")
    found = run([str(REPOSITORY / "tests" / "sharded.py")], processes=2)
    assert "equal" in found.stdout
