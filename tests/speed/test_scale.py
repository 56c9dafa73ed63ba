"""The benchmark of scale runs, and its simulation does what it says."""

import json

import pytest

from fgit.config import read_config
from fgit.plan.costs import plan_of
from tests.conftest import REPOSITORY
from tests.speed.scale import NOWHERE, Task, main, scaled, simulate, tasks_of


def run(tasks, gpus=8, jobs=50, trainings=50, limit=24.0, preemptions=0.0):
    return simulate(tasks, gpus, jobs, trainings, limit, preemptions)


def test_a_chain_waits_for_polls():
    tasks = [Task("a", "train", 8, 0.5, 1.0), Task("b", "evaluate", 1, 0.0, 1.0, ("a",))]
    found = run(tasks)
    assert found["gpu_hours"] == 8 * 1.5 + 1
    # The last end is at 2.5 hours and what the next poll after the first task was late.
    assert 2.5 <= found["hours"] <= 2.5 + 180 / 3600 + 0.05
    assert found["sbatch"] == 2 and found["runs_a_day"] == pytest.approx(24 / found["hours"], 0.1)


def test_gpus_are_shared_by_node():
    tasks = [Task(str(n), "evaluate", 5, 0.0, 1.0) for n in range(4)]
    assert run(tasks, gpus=16)["hours"] == 2.0  # one of five on each node of eight


def test_submission_and_trainings_are_limited():
    tasks = [Task(str(n), "train", 1, 0.0, 1.0) for n in range(4)]
    assert run(tasks)["hours"] == 1.0
    assert 2.0 <= run(tasks, jobs=2)["hours"] < 2.2
    assert 4.0 <= run(tasks, trainings=1)["hours"] < 4.3


def test_what_resumes_keeps_its_work_at_the_time_limit():
    found = run([Task("a", "train", 8, 0.5, 5.0)], limit=2.0)
    assert found["at_time_limit"] == 3 and found["sbatch"] == 4
    assert found["gpu_hours"] == 8 * (5 + 4 * 0.5) and found["gpu_hours_lost"] == 8 * 3 * 0.5


def test_preemption_costs_a_start_or_all():
    train = [Task(str(n), "train", 8, 0.1, 5.0) for n in range(20)]
    evaluate = [Task(str(n), "evaluate", 8, 0.1, 5.0) for n in range(20)]
    kept, lost = (run(tasks, preemptions=0.2) for tasks in (train, evaluate))
    for found in (kept, lost):
        assert found["preempted"] > 0 and found["sbatch"] == 20
        assert found["gpu_hours"] == pytest.approx(20 * 8 * 5.1 + found["gpu_hours_lost"], abs=1)
    assert kept["gpu_hours_lost"] <= kept["preempted"] * 8 * 0.1 + 1
    assert lost["gpu_hours_lost"] > 5 * kept["gpu_hours_lost"]


def test_what_never_ends_is_left_alone():
    found = run([Task("a", "select", 1, 0.0, 30.0)], preemptions=1.0)
    assert found["hours"] == 30.0 and found["preempted"] == 0


def test_the_paper_s_tasks():
    """Every stage but the first waits for another one, and the shards share the teacher's work."""
    config = scaled(read_config(REPOSITORY / "config.yaml"), 10)
    plan = plan_of(config, NOWHERE)
    tasks = {task.name: task for task in tasks_of(config, plan)}
    assert len(tasks) == sum(job.count for job in plan.jobs)
    assert {task.stage for task in tasks.values() if not task.after} == {"fetch"}
    joined = tasks["gather/evol-instruct"]
    assert len(joined.after) == config.generate.shards > 10
    assert tasks["select/evol-instruct, generate"].after == (joined.name,)
    assert tasks["select/evol-instruct, mutate"].after == ("mutate/evol-instruct",)


@pytest.mark.slow
def test_scale(tmp_path):
    command = ["--json", str(tmp_path / "out.json"), "--shards", "3", "--seeds", "2"]
    assert main([*command, "--data", "10", "--gpus", "64", "--days", "1"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    shards, seeds = found["dag"]
    assert shards["generate_jobs"] == 3 * 3 and seeds["trainings"] == 2 * 36
    assert shards["files"] > shards["jobs"] and shards["seconds"] > 0 < shards["peak_mb"]
    few, as_many_as_fit, a_day = found["schedules"]
    assert few["teacher_gpu_hours"] == as_many_as_fit["teacher_gpu_hours"] > 1000
    assert as_many_as_fit["hours"] <= few["hours"]
    assert a_day["runs_a_day"] > 0 and a_day["gpu_hours_lost"] >= 0
