"""The workflow on a real SLURM, with GPUs that are none."""

from __future__ import annotations

import collections
import re

import pytest

pytestmark = pytest.mark.slurm

ON_GPUS = {"generate": 1, "audit_generate": 1, "select": 1, "train": 1, "evaluate": 1}


@pytest.mark.promise
def test_the_whole_workflow_runs_on_the_cluster(project, cluster):
    """The teacher's work in three shards."""
    project.config["generate"]["shards"] = 3
    project.write_config()
    before = cluster.jobs()
    project.snakemake("all")
    table = (project.results / "tables" / "tiny.csv").read_text()
    assert "pending" not in table and "failed" not in table

    jobs = {job: found for job, found in cluster.jobs().items() if job not in before}
    assert {state for state, _ in jobs.values()} == {"COMPLETED"}
    rules = {job: re.match(r"rule_(\w+?)_wildcards", text)[1] for job, (_, text) in jobs.items()}
    count = collections.Counter(rules.values())
    assert (count["generate"], count["train"]) == (3, 4)
    asked = cluster.gpus()
    for job, rule in rules.items():
        assert asked[job] == ON_GPUS.get(rule, 0), rule
    assert project.planned("all") == {}


def test_a_training_on_two_nodes_through_the_profile(project, cluster, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    project.config["launch"] = {"accelerate": "ddp", "processes": 1, "nodes": 2}
    project.config["generate"]["shards"] = 2
    project.write_config()
    metrics = "results/tiny/train/tiny/tiny/fgit/seed-0/metrics.json"
    project.here("results/tiny/annotate/tiny/generate/spans.parquet")
    project.snakemake(metrics)
    assert (project.folder / metrics).exists()  # two of one process each would refuse each other
    job = max(cluster.jobs(), key=int)  # the last; the others are of the test before
    where = cluster.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %D %C").split()
    assert where[:2] == ["COMPLETED", "2"]
