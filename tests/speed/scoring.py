"""What scoring costs: `fgit score` in its sandbox beside `evalplus.evaluate` called directly.

    python tests/speed/scoring.py --benchmark humaneval --problems HumanEvalPlus.jsonl.gz \\
        --samples samples.jsonl --json scoring.json

Both score the same samples with as many workers, in turns, each turn with a fresh folder and cache
and timed as a whole command. Written: seconds of each turn, their medians, `fgit_over_evalplus`
(the ratio of the medians), and the tasks on which the two disagree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from fgit.benchmarks.problems import problem_rows
from fgit.common.files import read_json, read_objects, write_json, write_jsonl
from fgit.common.provenance import code_version, hardware, package_versions

Verdicts = dict[str, tuple[bool, bool]]  # by task_id: base; base and plus


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", choices=["humaneval", "mbpp"], required=True)
    parser.add_argument("--problems", type=Path, required=True, help="in EvalPlus's format")
    parser.add_argument("--samples", type=Path, required=True, help="one for each problem (JSONL)")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {"evalplus": [], "fgit": []}
    verdicts: dict[str, Verdicts] = {}
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"  # EvalPlus reads no compressed file here
        write_jsonl(problems, (row for _, row in problem_rows(given.problems)))
        for turn in range(given.turns):
            for name, contender in {"evalplus": evalplus, "fgit": fgit}.items():
                mine = Path(folder) / f"{name}-{turn}"
                mine.mkdir()
                write_jsonl(mine / "samples.jsonl", (row for _, row in read_objects(given.samples)))
                started = time.perf_counter()
                contender(given.benchmark, problems, mine, given.workers)
                seconds[name].append(round(time.perf_counter() - started, 2))
                verdicts[name] = VERDICTS[name](mine)
                print(f"turn {turn + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result: dict[str, Any] = {
        "seconds": seconds,
        "medians": medians,
        "fgit_over_evalplus": medians["fgit"] / medians["evalplus"],
        "workers": given.workers,
        "problems": len(verdicts["fgit"]),
        "pass@1": {
            name: [sum(passed) / len(found) for passed in zip(*found.values(), strict=True)]
            for name, found in verdicts.items()
        },
        "differing": [
            task_id
            for task_id, passed in verdicts["fgit"].items()
            if verdicts["evalplus"][task_id] != passed
        ],
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "command": sys.argv,
    }
    write_json(given.json, result)
    print(
        f"fgit_over_evalplus {result['fgit_over_evalplus']:.2f}; differing: {result['differing']}"
    )
    return 0


def evalplus(benchmark: str, problems: Path, folder: Path, workers: int) -> None:
    variable = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}[benchmark]
    command = [sys.executable, "-m", "evalplus.evaluate", "--dataset", benchmark]
    command += ["--samples", str(folder / "samples.jsonl"), "--parallel", str(workers)]
    environment = {variable: str(problems), "XDG_CACHE_HOME": str(folder / "cache")}
    run(command, folder, os.environ | environment)


def fgit(benchmark: str, problems: Path, folder: Path, workers: int) -> None:
    command = [sys.executable, "-m", "fgit", "score", "--benchmark", benchmark]
    command += ["--problems", str(problems), "--samples", str(folder / "samples.jsonl")]
    command += ["--threads", str(workers), "--out", str(folder)]
    run(command, folder, os.environ)


def run(command: list[str], folder: Path, environment: Any) -> None:
    with open(folder / "log", "wb") as log:
        subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )


def evalplus_verdicts(folder: Path) -> Verdicts:
    found = read_json(folder / "samples_eval_results.json")["eval"]
    return {
        task_id: (row["base_status"] == "pass", row["base_status"] == row["plus_status"] == "pass")
        for task_id, [row] in found.items()
    }


def fgit_verdicts(folder: Path) -> Verdicts:
    frame = pl.read_parquet(folder / "outcomes.parquet")
    return {row["task_id"]: (row["base_pass"], row["plus_pass"]) for row in frame.to_dicts()}


VERDICTS = {"evalplus": evalplus_verdicts, "fgit": fgit_verdicts}


if __name__ == "__main__":
    sys.exit(main())
