"""The jobs of the workflow as Snakemake has them: of a dry run, in an empty folder.

python tests/dag.py -n all       prints them as JSON, a line each
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a results folder; places in it are relative to it."""

    rule: str
    wildcards: dict[str, str]
    inputs: frozenset[str]
    outputs: frozenset[str]
    log: str
    times: str | None
    words: frozenset[str]  # of its command


@functools.cache
def jobs_of(config_file: str, results: str) -> dict[str, Job]:
    """The jobs of a results folder, by log, of a dry run of ``all`` and ``pilot``."""

    def inside(places: Iterable[str]) -> frozenset[str]:
        return frozenset(place.removeprefix(f"{results}/") for place in places)

    found: dict[str, Job] = {}
    for line in dry_run(config_file):
        rule, wildcards, inputs, outputs, logs, times, command = json.loads(line[1:])
        if wildcards.pop("results", None) == results:
            (log,) = inside(logs)
            (times,) = inside([times]) if times else [None]
            words = frozenset(shlex.split(command))
            found[log] = Job(rule, wildcards, inside(inputs), inside(outputs), log, times, words)
    return found


def needed_for(jobs: Iterable[Job], places: Iterable[str]) -> list[Job]:
    """The jobs that make places, from nothing."""
    makers = {place: job for job in jobs for place in job.outputs}
    found: dict[str, Job] = {}
    to_do = list(places)
    while to_do:
        job = makers.get(to_do.pop())
        if job is not None and job.log not in found:
            found[job.log] = job
            to_do += job.inputs
    return list(found.values())


@functools.cache
def dry_run(config_file: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Snakefile", "workflow", "config.yaml"):
            Path(folder, name).symlink_to(REPOSITORY / name)
        options = ["-n", "--cores", "1", "--configfile", config_file, "--", "all", "pilot"]
        paths = {"PYTHONPATH": str(REPOSITORY / "workflow"), "XDG_CACHE_HOME": folder}
        done = subprocess.run(
            [sys.executable, __file__, *options],
            cwd=folder,
            env=os.environ | paths,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("@")]


if __name__ == "__main__":
    from snakemake.cli import main
    from snakemake.logging import logger

    def note(record):
        """Print a job that Snakemake tells of; let the record pass."""
        if hasattr(record, "rule_name"):
            names = ("rule_name", "wildcards", "input", "output", "log", "benchmark", "shellcmd")
            print("@" + json.dumps([getattr(record, name) for name in names], default=dict))
        return True

    logger.addFilter(note)
    main()
