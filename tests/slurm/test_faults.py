"""What a cluster does to jobs, done on purpose: no work is lost, and no number is wrong.

Each test starts from a copy of a project whose pairs are annotated, and most train one run, which
is compared with the same run trained without a disturbance.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest

from tests.project import FUNCTIONS
from tests.slurm.conftest import ClusterProject

pytestmark = pytest.mark.slurm

RUN = "tiny/tiny/fgit/seed-0"
TRAINED = f"results/tiny/train/{RUN}/metrics.json"
SPANS = "results/tiny/annotate/tiny/generate/spans.parquet"
VARIANTS = "results/tiny/generate/tiny/variants.parquet"
# So many steps that a training can be hit in the middle; a checkpoint after each.
LONG = {"epochs": 40, "checkpoint_minutes": 0}
STEPS = 80


@pytest.fixture(scope="session")  # once in a process, in whatever order it runs its tests
def prepared(tmp_path_factory, tiny_model, teacher, cluster):
    """A project with annotated pairs, and an undisturbed training beside them."""
    project = ClusterProject(tmp_path_factory.mktemp("prepared"), tiny_model, teacher.url, cluster)
    project.config["train"] |= LONG
    project.write_config()
    project.here(SPANS)
    project.undisturbed = project.folder.with_name("undisturbed")
    shutil.copytree(project.folder, project.undisturbed)
    project.at(project.undisturbed).here(TRAINED)
    return project


@pytest.fixture
def project(prepared, tmp_path, teacher, cluster):
    """A copy of it, of this test's own."""
    teacher.reset()
    folder = tmp_path / "project"
    shutil.copytree(prepared.folder, folder, symlinks=True)
    found = prepared.at(folder)
    yield found
    found.stop()


def digests(folder: Path) -> dict[str, str]:
    """What a training made: its weights, and what it noted of each sample."""
    files = [folder / "model" / "model.safetensors", folder / "samples.parquet"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def assert_as_undisturbed(project: ClusterProject) -> None:
    trained, expected = (
        folder / "results/tiny/train" / RUN for folder in (project.folder, project.undisturbed)
    )
    assert digests(trained) == digests(expected)
    assert len((trained / "steps.jsonl").read_text().splitlines()) == STEPS
    assert not (trained / "state").exists()


def running(project: ClusterProject, rule: str) -> str:
    """Wait for a job of a rule to run; its id."""
    found: list[str] = []

    def look() -> bool:
        jobs = project.cluster.jobs("RUNNING")
        found[:] = [job for job, (_, comment) in jobs.items() if f"rule_{rule}_" in comment]
        return bool(found)

    project.cluster.wait(look, f"a job of {rule}", 60)
    return found[0]


def trained_steps(project: ClusterProject, steps: int) -> None:
    """Wait until a training has saved so many steps."""
    state = project.results / "train" / RUN / "state"
    project.cluster.wait(
        lambda: any(int(path.name[5:]) >= steps for path in state.glob("step-*")),
        f"{steps} steps",
        90,
    )


def ended(snakemake, seconds: float = 240) -> int:
    return snakemake.wait(timeout=seconds)


def output(project: ClusterProject) -> str:
    return (project.folder / "snakemake.log").read_text()


def submitted(project: ClusterProject, rule: str) -> int:
    """How many jobs of a rule went to SLURM in this test."""
    log = output(project)
    numbers = re.findall(r"SLURM jobid (\S+) \(log: \S+/rule_(\w+?)/", log)
    return sum(name == rule for _, name in numbers)


# ------------------------------------------------------------------ the job


@pytest.mark.promise
def test_a_training_that_is_cancelled_goes_on_in_the_next_job(project, cluster):
    snakemake = project.start(TRAINED)
    job = running(project, "train")
    trained_steps(project, 5)
    cluster.run("scancel", job)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert submitted(project, "train") == 2
    assert_as_undisturbed(project)


def test_a_training_that_is_preempted_is_requeued_and_goes_on(project, cluster):
    snakemake = project.start(TRAINED)
    job = running(project, "train")
    trained_steps(project, 5)
    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--exclusive", "--time=1"),
        *("--output=/dev/null", "--wrap", "sleep 5"),
    ).strip()
    cluster.wait(lambda: cluster.jobs()[urgent][0] == "COMPLETED", "the urgent job", 60)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert submitted(project, "train") == 1  # SLURM itself started it again
    assert cluster.restarts(job) == 1
    assert_as_undisturbed(project)


def test_a_training_that_reaches_its_time_limit_saves_before_it(project, cluster):
    limits = ("--set-resources", "train:runtime=60", "train:slurm_extra='--signal=TERM@150'")
    project.write_site()
    project.config["train"] |= {"epochs": 600}  # minutes of work
    project.write_config()
    snakemake = project.start(TRAINED, *limits)
    job = running(project, "train")
    trained_steps(project, 1)
    # Only now, since SLURM warns once: a warning before there is a training would be lost.
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=3")
    going = ("RUNNING", "COMPLETING")
    cluster.wait(lambda: cluster.jobs()[job][0] not in going, "the time limit", 120)
    state = project.results / "train" / RUN / "state"
    log = project.results / "logs" / "train" / f"{RUN}.log"
    # What the training wrote last may still be on its way through tee when SLURM calls it ended.
    cluster.wait(lambda: "stopped by SIGTERM" in log.read_text(), "the message", 60)
    assert any(state.glob("step-*"))
    snakemake.send_signal(signal.SIGINT)
    ended(snakemake)


def test_a_job_that_takes_too_much_memory_gets_more(project, cluster):
    (project.folder / SPANS).unlink()
    rule = project.folder / "workflow/rules/annotate.smk"
    assert "mem_mb=growing(4000)" in rule.read_text()
    rule.write_text(rule.read_text().replace("growing(4000)", "growing(220)"))  # too little
    snakemake = project.start(SPANS)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert 2 <= submitted(project, "annotate") <= 4
    same = project.undisturbed / SPANS
    assert (project.folder / SPANS).read_bytes() == same.read_bytes()


def test_a_file_system_that_is_full_costs_the_job_and_nothing_else(project, cluster):
    # What SLURM starts has the limits of what submitted it. Files may have as many bytes as this:
    # enough for all but the model.
    limit = 1_000_000
    model = project.undisturbed / "results/tiny/train" / RUN / "model" / "model.safetensors"
    assert model.stat().st_size > limit

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        snakemake = project.start(TRAINED, "--retries", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended(snakemake) != 0
    trained = project.results / "train" / RUN
    assert not (trained / "model").exists()
    assert not [path for path in trained.rglob("*") if path.name.startswith(".model")]
    snakemake = project.start(TRAINED)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert_as_undisturbed(project)


# ------------------------------------------------------------------ the node


@pytest.mark.promise
def test_a_node_that_dies_costs_the_steps_since_the_last_checkpoint(project, cluster):
    snakemake = project.start(TRAINED)
    job = running(project, "train")
    trained_steps(project, 5)
    node = cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    try:
        cluster.kill_node(node, job)
        assert ended(snakemake) == 0, output(project)[-3000:]
    finally:
        cluster.start_node(node)
    assert submitted(project, "train") == 1
    assert cluster.restarts(job) == 1
    assert_as_undisturbed(project)


# ------------------------------------------------------------------ Snakemake


@pytest.mark.parametrize(
    "orphan_ends", [pytest.param("cancelled", marks=pytest.mark.promise), "by itself"]
)
def test_after_a_kill_of_snakemake_the_next_one_does_not_write_beside_its_jobs(
    project, cluster, orphan_ends
):
    first = project.start(TRAINED)
    orphan = running(project, "train")
    trained_steps(project, 3)
    first.kill()
    first.wait()
    cluster.run("scancel", "--signal=STOP", orphan)  # or it would be done too soon
    code, text = project.snakemake(TRAINED, check=False)
    assert code and "locked" in text  # Snakemake's own lock
    project.snakemake("--unlock")
    code, text = project.snakemake(TRAINED, check=False)
    assert code and f"scancel {orphan}" in text and "fgit doctor" in text
    assert "has been submitted" not in text
    if orphan_ends == "cancelled":
        cluster.run("scancel", orphan)
    else:
        cluster.run("scancel", "--signal=CONT", orphan)
    cluster.wait(lambda: cluster.jobs()[orphan][0] in ("CANCELLED", "COMPLETED"), "its end", 90)
    second = project.start(TRAINED)
    assert ended(second) == 0, output(project)[-3000:]
    assert submitted(project, "train") == (2 if orphan_ends == "cancelled" else 1)
    assert_as_undisturbed(project)


def test_a_second_run_in_the_same_folder_is_refused(project, cluster):
    first = project.start(TRAINED)
    running(project, "train")
    code, text = project.snakemake(TRAINED, check=False)
    assert code and "locked" in text
    assert ended(first) == 0, output(project)[-3000:]
    assert_as_undisturbed(project)


# ------------------------------------------------------------------ the teacher's work


def shards(project: ClusterProject, count: int, variants: int = 2) -> None:
    """Have the teacher asked anew, in so many shards."""
    shutil.rmtree(project.results / "generate")
    project.config["generate"] |= {"shards": count, "batch_size": 1, "variants": variants}
    project.write_config()


def test_a_shard_of_garbage_fails_alone(project, cluster, teacher):
    expected = pl.read_parquet(project.undisturbed / VARIANTS)
    shards(project, 3, variants=4)  # fewer answers would be too few to call garbage
    middle = list(FUNCTIONS)[4]
    teacher.garbage = "|".join(list(FUNCTIONS)[3:6])  # the second shard
    snakemake = project.start(VARIANTS, "--retries", "0")
    assert ended(snakemake) != 0
    assert not (project.folder / VARIANTS).exists()
    assert len(list((project.results / "generate/tiny/shards").glob("*.parquet"))) == 2
    teacher.garbage = None
    snakemake = project.start(VARIANTS)
    assert ended(snakemake) == 0, output(project)[-3000:]
    found = pl.read_parquet(project.folder / VARIANTS)
    assert found.filter(pl.col("k") < 2).equals(expected)
    assert teacher.asked("add_one") == 4  # once for each of its variants, in both runs together
    assert teacher.asked(middle) == 8


def test_a_shard_that_is_cancelled_asks_for_the_rest_only(project, cluster, teacher):
    expected = pl.read_parquet(project.undisturbed / VARIANTS)
    shards(project, 1)
    teacher.delay = 0.5
    snakemake = project.start(VARIANTS)
    job = running(project, "generate")
    cluster.wait(lambda: len(teacher.prompts) >= 6, "some answers", 60)
    cluster.run("scancel", job)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert pl.read_parquet(project.folder / VARIANTS).equals(expected)
    requests = 2 * len(FUNCTIONS)
    assert requests <= len(teacher.prompts) <= requests + 1  # the one that was in flight


# ------------------------------------------------------------------ files


def test_a_damaged_file_is_noticed_and_made_again(project, cluster):
    spans = project.folder / SPANS
    before = spans.stat()
    whole = spans.read_bytes()
    spans.write_bytes(whole[:-200] + bytes(200))
    os.utime(spans, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing else tells
    snakemake = project.start(TRAINED, "--retries", "0")
    assert ended(snakemake) != 0
    log = (project.results / "logs" / "train" / f"{RUN}.log").read_text()
    assert "it is not as fgit annotate wrote it" in log
    snakemake = project.start(TRAINED)
    assert ended(snakemake) == 0, output(project)[-3000:]
    assert spans.read_bytes() == whole
    assert_as_undisturbed(project)


# ------------------------------------------------------------------ before the first job


@pytest.mark.parametrize(
    ("site", "launch", "said"),
    [
        ({"gpu_partition": "gpus"}, {}, "partition 'gpus'"),
        ({}, {"accelerate": "ddp", "processes": 3}, "it asks for 3 GPUs"),
    ],
    ids=["partition", "GPUs"],
)
def test_what_the_cluster_does_not_have_is_said_before_a_job_is_queued(
    project, cluster, site, launch, said
):
    project.write_site(**site)
    project.write_config(launch=launch)
    code, text = project.snakemake(TRAINED, check=False)
    assert code and said in text and "fgit doctor" in text
    assert "has been submitted" not in text
