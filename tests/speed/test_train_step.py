"""The benchmark of the training step runs, on a tiny model, and gives what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fgit.train.examples import Example
from tests.speed.pairs import humanevalpack
from tests.speed.train_step import batchings, deal, length, main

SCRIPT = Path(__file__).with_name("train_step.py")
RATIOS = ["fgit_over_sft", "two_pass_over_fgit", "fgit_over_trl_sft", "fgit_memory_over_sft"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {
            "id": str(number),
            "instruction": f"Add {number} to a.",
            "response": f"def f(a):\n    return a + {number}\n" + "# ok\n" * number,
            "variant": f"def f(a):\n    return a - {number}\n",
        }
        for number in range(8)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(tiny_model, pairs, folder, *options):
    """The command as a user gives it, from another folder."""
    out = folder / "step.json"
    paths = ["--model", tiny_model, "--pairs", pairs, "--json", out]
    done = subprocess.run(
        [sys.executable, SCRIPT, *paths, "--dtype", "fp32", *options],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def check(result, contenders, blocks):
    assert list(result["contenders"]) == contenders
    for found in result["contenders"].values():
        assert len(found["seconds_per_step_by_block"]) == blocks
        assert found["seconds_per_step"] > 0
        assert found["tokens_per_second"] > 0
        assert 0 < found["loaded_memory_gb"] <= found["peak_memory_gb"]
    # TRL is given exactly our ids, and takes the same mean of the same loss.
    losses = {name: found["first_loss"] for name, found in result["contenders"].items()}
    assert losses["trl_sft"] == pytest.approx(losses["sft"], rel=1e-5)
    assert losses["two_pass_fgit"] == pytest.approx(losses["fgit"], rel=1e-5)
    assert losses["fgit"] > losses["sft"]
    for key in RATIOS:
        assert result[key] > 0
    assert result["max_rel_loss_diff"] < 1e-5
    assert result["rel_grad_diff"] < 1e-5


@pytest.mark.slow
def test_train_step(tiny_model, pairs, tmp_path):
    contenders = ["sft", "fgit", "two_pass_fgit", "trl_sft"]
    result, printed = run(
        tiny_model,
        pairs,
        tmp_path,
        *("--contenders", ",".join(contenders), "--exact", "2"),
        *("--samples-per-step", "1", "--blocks", "2", "--steps-per-block", "2"),
        *("--chart", "step.svg"),
    )
    check(result, contenders, blocks=2)
    assert result["contenders"]["fgit"]["tokens_processed_over_sft"] < 1.5
    assert result["contenders"]["two_pass_fgit"]["tokens_processed_over_sft"] > 1.5
    assert result["samples"]["paired"] == result["samples"]["measured"] == 4
    assert "fgit_over_sft" in printed
    assert (tmp_path / "step.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.slow
def test_every_contender_in_every_batching(tiny_model, pairs, tmp_path):
    contenders = ["sft", "fgit", "two_pass_fgit", "trl_sft", "trl_dpo"]
    result, _ = run(
        tiny_model,
        pairs,
        tmp_path,
        *("--samples-per-step", "4", "--blocks", "1", "--steps-per-block", "1"),
    )
    check(result, contenders, blocks=1)
    found = result["contenders"]
    assert found["trl_dpo"]["first_loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert [len(found[name]["trials"]) for name in contenders] == [1, 1, 2, 5, 2]


def test_batchings():
    assert [str(batching) for batching in batchings("trl_sft", 8)] == [
        "sample by sample",
        "4 samples at a time, in one row",
        "sample by sample, transformers' loss",
        "4 samples at a time, of similar length, padded, transformers' loss",
        "4 samples at a time, in one row, transformers' loss",
        "8 samples at a time, in one row, transformers' loss",
    ]
    assert [batching.samples for batching in batchings("two_pass_fgit", 6)] == [1, 2]
    assert [batching.samples for batching in batchings("two_pass_fgit", 3)] == [1]
    assert [batching.samples for batching in batchings("trl_dpo", 8)] == [1, 2]
    assert [batching.samples for batching in batchings("trl_sft", 1)] == [1, 1]


def test_every_step_has_samples_of_all_lengths():
    none = np.zeros(0, dtype=np.int64)
    samples = [Example(str(n), np.arange(n), none, none, none, none) for n in range(1, 101)]
    steps = deal(samples, 4, 30)
    assert [len(step) for step in steps] == [4] * 30
    assert len({sample.id for step in steps[:25] for sample in step}) == 100
    assert steps[25:] == steps[:5]
    for step in steps:
        assert [(length(e) - 1) // 25 for e in sorted(step, key=length)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--contenders", "sft,trl"], "name each once, out of sft, fgit"),
        (["--samples-per-step", "9"], "8 of its 8 pairs .* a step takes 9"),
        (["--json", "nowhere/step.json"], "there is no folder nowhere"),
    ],
)
def test_errors(tiny_model, pairs, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    given = ["--model", str(tiny_model), "--pairs", str(pairs), "--json", "step.json", *changes]
    assert main(given) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "step.json").exists()


def test_humanevalpack(shared_data):
    rows = humanevalpack(shared_data / "pairs" / "humanevalpack-python.jsonl.gz")
    assert len(rows) == 164
    for row in rows:
        compile(row["response"], row["id"], "exec")
        assert row["response"] != row["variant"]
