"""The real vLLM as the teacher, on the CPU: `python -m fgit generate` with SmolLM2."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from fgit.common.files import read_json
from fgit.variants import seed_of
from tests.conftest import REPOSITORY, SMOLLM2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Long enough that prompts have whole blocks of vLLM's cache in common (128 tokens on a CPU).
CODE = """\
def total_{n}(values):
    \"\"\"Return the sum of all values that are above {n}, and 0 if there are none.\"\"\"
    total = 0
    for index, value in enumerate(values):
        if value > {n}:
            total = total + value
        elif value == {n} and index > 0:
            total = total - 1
    return total
"""
RECORDS = 6
VARIANTS = 3


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the vLLM environment."""
    named = os.environ.get("FGIT_VLLM_PYTHON", str(REPOSITORY / ".venv-vllm/bin/python"))
    if not Path(named).is_file():
        pytest.skip(
            f"not run: no vLLM environment at {named}; `make .venv-vllm` makes it, or name its "
            "interpreter in FGIT_VLLM_PYTHON"
        )
    return named


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """SmolLM2 as a folder."""
    folder = tmp_path_factory.mktemp("teacher") / "smollm2"
    command = [sys.executable, "-m", "fgit", "fetch", "--model", SMOLLM2, "--out", str(folder)]
    subprocess.run(command, check=True, env=environment())
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.parquet"
    rows = [
        {
            "id": f"s{n}",
            "instruction": f"Write a Python function that sums the values above {n}.",
            "response": f"```python\n{CODE.format(n=n)}```\n",
            "language": "python",
            "tests": None,
        }
        for n in range(RECORDS)
    ]
    schema = dict.fromkeys(["id", "instruction", "response", "language", "tests"], pl.String)
    pl.DataFrame(rows, schema=schema).write_parquet(path)
    return path


def environment() -> dict[str, str]:
    package = str(REPOSITORY / "workflow")
    return {**os.environ, "PYTHONPATH": package, "HF_HUB_OFFLINE": "1"}


def command(python: str, records: Path, teacher: Path, folder: Path, *flags: str) -> list[str]:
    return [
        *(python, "-m", "fgit", "generate", "--records", str(records), "--backend", "vllm"),
        *("--teacher", str(teacher), "--variants", str(VARIANTS), "--max-new-tokens", "160"),
        *("--out", str(folder / "variants.parquet"), "--report", str(folder / "report.json")),
        *flags,
    ]


def generate(python: str, records: Path, teacher: Path, folder: Path, *flags: str):
    """What was written: the variants, the report, and what was logged."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command(python, records, teacher, folder, *flags),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    frame = pl.read_parquet(folder / "variants.parquet")
    return frame, read_json(folder / "report.json"), done.stderr


@pytest.fixture(scope="module")
def whole(python, records, teacher, tmp_path_factory):
    """All answers in one go."""
    return generate(python, records, teacher, tmp_path_factory.mktemp("whole"))


def asked(frame: pl.DataFrame) -> list[tuple]:
    return frame.select("id", "k", "seed").rows()


@pytest.mark.promise
def test_vllm_answers_every_request(whole):
    frame, report, _ = whole
    assert asked(frame) == [
        (f"s{n}", k, seed_of(0, f"s{n}", k)) for n in range(RECORDS) for k in range(VARIANTS)
    ]
    assert frame["answer"].str.len_chars().min() > 0
    assert frame["tokens"].is_between(1, 160).all()
    # Each request has a seed of its own, so that one prompt's answers differ.
    assert frame["answer"].n_unique() > RECORDS
    assert report["answers"] == RECORDS * VARIANTS and report["usable"] > 0
    assert report["tokens"] == frame["tokens"].sum() and report["tokens_per_second"] > 0
    assert report["backend"] == "vllm" and report["same_text"] in ("none", "batch_invariant")


def test_the_answers_to_one_prompt_share_its_computation(whole):
    read, cached = map(int, re.search(r"Of (\d+) prompt tokens, (\d+) were not", whole[2]).groups())
    assert cached >= RECORDS * (VARIANTS - 1) * 128 and cached < read


def test_a_shard_asks_what_the_whole_asks(whole, python, records, teacher, tmp_path):
    frame, report, _ = whole
    flags = ("--shard", "2", "--shards", "3")
    part, part_report, _ = generate(python, records, teacher, tmp_path, *flags)
    assert asked(part) == asked(frame)[6:12]
    assert part_report["same_text"] == report["same_text"]
    if report["same_text"] == "batch_invariant":
        assert part["answer"].to_list() == frame["answer"].to_list()[6:12]


def test_what_is_killed_goes_on(whole, python, records, teacher, tmp_path):
    """After a SIGKILL and a SIGTERM, each answer was had once, and nothing is missing."""
    frame, report, _ = whole
    count = RECORDS * 24
    flags = ("--variants", "24")
    journal = tmp_path / "state" / "variants" / "answers.jsonl"
    kept: list[str] = []
    for sent, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            command(python, records, teacher, tmp_path, *flags),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 300
            while len(answered(journal)) <= len(kept):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            process.send_signal(sent)
            assert process.wait(60) == code
        finally:
            process.kill()
            process.wait()
        assert answered(journal)[: len(kept)] == kept  # nothing is asked twice
        kept = answered(journal)
        assert 0 < len(kept) < count
        assert not (tmp_path / "variants.parquet").exists()
    resumed, resumed_report, log = generate(python, records, teacher, tmp_path, *flags)
    assert f"{len(kept)} of {count} answers are there already" in log
    assert resumed_report["answers"] == count
    assert asked(resumed.filter(pl.col("k") < VARIANTS)) == asked(frame)
    assert resumed_report["same_text"] == report["same_text"]
    assert len(answered(journal)) == count


def answered(journal: Path) -> list[str]:
    """The whole lines of the journal."""
    return journal.read_text().split("\n")[:-1] if journal.exists() else []
