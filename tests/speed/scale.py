"""What grows with the data and the runs: Snakemake's DAG, files, and a simulated schedule.

    python tests/speed/scale.py --json scale.json

Measured: dry runs of config.yaml with more shards and with more seeds, each a whole command in a
copy of the workflow: seconds, peak memory, jobs, and the files
that these write (beside a log and a benchmark each). Simulated (`simulate`): the jobs
of `fgit plan` on GPU nodes of eight, with preemptions, a time limit and the polling of Snakemake's
SLURM executor. The simulation rests on the plan's figures, most of which are assumptions; it says
what follows from them, no more.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgit.common.files import write_json
from fgit.common.provenance import code_version, hardware, package_versions
from fgit.config import Config, read_config
from fgit.plan.costs import Job, Plan, plan_of
from fgit.runs import Run, all_runs, train_settings
from tests.conftest import REPOSITORY
from tests.project import Project

NOWHERE = Path("nowhere")  # no results: every job of a plan is to do
NODE = 8  # GPUs
SHARD_HOURS = 4.0  # a simulated teacher's shard at most, so that a time limit seldom meets it
# The SLURM executor asks for the states of all its jobs at once, after 40 s; each time that none
# has ended it waits 10 s longer, up to 180 s.
FIRST_POLL, LATER_POLL, LAST_POLL = 40 / 3600, 10 / 3600, 180 / 3600
RESUMING = ("generate", "train", "score")  # what goes on where it was when it was stopped


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config.yaml")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 100, 1000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 30], help="of the dry runs")
    parser.add_argument("--data", type=int, nargs="*", default=[1, 10, 100, 1000], help="factors")
    parser.add_argument("--gpus", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--runs-a-day", type=int, default=100)
    parser.add_argument("--days", type=int, default=7, help="for so long, the runs of a day")
    parser.add_argument("--jobs", type=int, default=50, help="as in slurm/config.yaml")
    parser.add_argument("--trainings", type=int, default=4, help="at once, likewise")
    parser.add_argument("--limit", type=float, default=24, help="hours, of a job")
    parser.add_argument("--preemptions", type=float, default=1, help="of a GPU job, in a day")
    given = parser.parse_args(argv)
    config = read_config(given.config)

    dags = [dag(config, shards, 1) for shards in given.shards]
    dags += [dag(config, 1, seeds) for seeds in given.seeds]
    schedules = []
    for factor, gpus in itertools.product(given.data, given.gpus):
        for at_once in dict.fromkeys([(given.jobs, given.trainings), (gpus, gpus)]):
            schedules.append(
                {"data": factor}
                | scheduled(scaled(config, factor), gpus, *at_once, given.limit, given.preemptions)
            )
            print(schedules[-1], flush=True)
    if given.days:
        many = with_runs(config, given.runs_a_day * given.days)
        for gpus in given.gpus:
            schedules.append(
                {"data": 1, "wanted_runs_a_day": given.runs_a_day}
                | scheduled(many, gpus, gpus, gpus, given.limit, given.preemptions)
            )
            print(schedules[-1], flush=True)
    result = {
        "dag": dags,
        "schedules": schedules,
        "assumed": {
            name: estimate.value
            for name, estimate in plan_of(config, NOWHERE).used().items()
            if estimate.basis == "assumed"
        },
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "command": sys.argv,
    }
    write_json(given.json, result)
    return 0


# ------------------------------------------------------------------ the config, larger


def scaled(config: Config, factor: int) -> Config:
    """The config with so many times the data, and more shards for it."""
    datasets = {
        name: entry.model_copy(update={"samples": factor * (entry.samples or 0)})
        for name, entry in config.datasets.items()
    }
    return in_shards(config.model_copy(update={"datasets": datasets}))


def in_shards(config: Config) -> Config:
    """The config with so many shards that none of the teacher's takes more than SHARD_HOURS."""
    whole = config.model_copy(update={"generate": config.generate.model_copy(update={"shards": 1})})
    longest = max(job.hours for job in plan_of(whole, NOWHERE).jobs if job.stage == "generate")
    shards = math.ceil(longest / SHARD_HOURS)
    generate = config.generate.model_copy(update={"shards": shards})
    return config.model_copy(update={"generate": generate})


def with_runs(config: Config, count: int) -> Config:
    """The config with so many seeds that its tables ask for at least ``count`` trainings."""
    trainings = sum(job.stage == "train" for job in plan_of(config, NOWHERE).jobs)
    return in_shards(config.model_copy(update={"seeds": list(range(-(-count // trainings)))}))


# ------------------------------------------------------------------ measured: the DAG


def dag(config: Config, shards: int, seeds: int) -> dict[str, Any]:
    """A dry run of everything, as a whole command."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), "unused", "unused")
        project.config = config.model_dump(mode="json", exclude_unset=True)
        project.config["generate"]["shards"] = shards
        project.config["seeds"] = list(range(seeds))
        project.write_config()
        seconds, peak, text = timed(project, "--dry-run")
        # The dry run names no files where a rule has a message.
        _, _, summary = timed(project, "--summary")
    jobs = {rule: int(n) for rule, n in re.findall(r"^([a-z_]+) +(\d+)$", text, re.M)}
    found = {
        "shards": shards,
        "seeds": seeds,
        "jobs": jobs["total"],
        "generate_jobs": jobs.get("generate", 0),
        "trainings": sum(count for rule, count in jobs.items() if rule.startswith("train")),
        "files": sum(line.startswith("results/") for line in summary.splitlines()),
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e3),
    }
    print(found, flush=True)
    return found


def timed(project: Project, how: str) -> tuple[float, int, str]:
    """Seconds of a whole command, its peak memory in kB, and what it printed."""
    log = project.folder / "log"
    started = time.perf_counter()
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            project.command(how, "all"),
            cwd=project.folder,
            env=project.environment,
            stdout=stream,
            stderr=stream,
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here
    if process.returncode:
        raise RuntimeError(f"snakemake {how} failed:\n{log.read_text()[-3000:]}")
    return seconds, usage.ru_maxrss, log.read_text()


# ------------------------------------------------------------------ simulated: the schedule


@dataclasses.dataclass(frozen=True)
class Task:
    """A job of the cluster.

    Attributes:
        gpus: of one node.
        start: hours before the work, paid at every attempt; work: hours of the work.
        after: the names of the tasks whose outputs it reads.
    """

    name: str
    stage: str
    gpus: int
    start: float
    work: float
    after: tuple[str, ...] = ()


def tasks_of(config: Config, plan: Plan) -> list[Task]:
    """The plan's jobs with what each waits for."""
    jobs = [job for job in plan.jobs if job.count]
    runs = all_runs(config)
    fetched = [f"fetch/{job.name}" for job in jobs if job.stage == "fetch"]
    names = {f"{job.stage}/{job.name}" for job in jobs}
    start = config.plan.start_seconds.value / 3600
    found: list[Task] = []
    for job in jobs:
        gpus = round(job.gpu_hours / job.hours) if job.gpu_hours else 0
        begin = start if gpus else 0.0
        before = [name for name in after(job, jobs, runs, config) if name in names]
        if not before and job.stage != "fetch":
            before = fetched
        work = max(job.hours - begin, 0)
        name = f"{job.stage}/{job.name}"
        found.append(Task(name, job.stage, gpus, begin, work, tuple(before)))
    return found


def after(job: Job, jobs: Sequence[Job], runs: Mapping[str, Run], config: Config) -> Iterable[str]:
    """The jobs before, of the same dataset, source or run, as the rules' inputs have it."""
    first, _, second = job.name.partition(", ")
    match job.stage:
        case "gather":
            shards = range(1, config.generate.shards + 1)
            return tuple(
                f"generate/{first}, shard {number} of {config.generate.shards}" for number in shards
            )
        case "generate" | "mutate":
            return (f"decontaminate/{first}",)
        case "verify" | "select" if second == "generate":
            return (f"gather/{first}",)
        case "verify" | "select":
            return (f"mutate/{first}",)
        case "annotate":
            return (f"select/{job.name}",)
        case "train":
            run = runs[job.name]
            return (f"annotate/{run.dataset}, {train_settings(config, run).variants}",)
        case "evaluate":
            return (f"train/{first}",)
        case "score" if config.benchmarks[second].part_of:
            return (f"score/{first}, {config.benchmarks[second].part_of}",)
        case "score" if first != "canonical":
            return (f"evaluate/{job.name}", f"score/canonical, {second}")
        case "audit" if second == "variants":
            return (f"audit/{first}, generate",)
        case "report":
            return (f"score/{job.name}" for job in jobs if job.stage == "score")
    return ()


def scheduled(
    config: Config, gpus: int, jobs: int, trainings: int, limit: float, preemptions: float
) -> dict[str, Any]:
    """What one simulated run of a config takes, and what the plan says of it."""
    plan = plan_of(config, NOWHERE)
    tasks = tasks_of(config, plan)
    stages = {stage.name: stage for stage in plan.stages}
    return {
        "gpus": gpus,
        "jobs_at_once": jobs,
        "trainings_at_once": trainings,
        "teacher_gpu_hours": round(stages["generate"].gpu_hours),
        "shards": config.generate.shards,
        "kept_tb": round(plan.total.kept / 1e12, 3),
        "longer_than_limit": dict(Counter(task.stage for task in tasks if endless(task, limit))),
        "longest_training_hours": round(stages["train"].longest, 1),
        **simulate(tasks, gpus, jobs, trainings, limit, preemptions / 24),
    }


def simulate(
    tasks: Sequence[Task],
    gpus: int,
    jobs: int,
    trainings: int,
    limit: float,
    preemptions: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Run tasks on ``gpus`` GPUs, event by event.

    Snakemake submits what is ready, in the order of ``tasks``, at most ``jobs`` at a time and
    ``trainings`` of them trainings; it learns of an end at its next poll. SLURM starts the first
    of the queue that fits on a node; CPUs are never short. A preempted GPU job goes back into the
    queue by itself, and one at its time limit is submitted again; those of RESUMING keep their
    work, others begin anew. One that would never end so (:func:`endless`) is left undisturbed.

    Args:
        limit: hours that a job may run; preemptions: of a running GPU job, an hour.
    """
    chance = random.Random(seed)
    by_name = {task.name: task for task in tasks}
    order = {task.name: number for number, task in enumerate(tasks)}
    waits = {task.name: len(set(task.after)) for task in tasks}
    leads = defaultdict(list)
    for task in tasks:
        for name in set(task.after):
            leads[name].append(task.name)
    ready = [(order[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    left = {task.name: task.work for task in tasks}
    free = [NODE] * (gpus // NODE)
    queue: list[str] = []
    running: list[tuple[float, int, str, float, str]] = []  # end, tie, name, hours, how it ends
    places: dict[str, int] = {}
    unseen: list[tuple[str, bool]] = []  # ended since the last poll, and whether with success
    submitted = training = 0
    now, poll, pause = 0.0, 0.0, FIRST_POLL
    count: Counter[str] = Counter()
    used = wasted = finished = 0.0
    ties = itertools.count()
    while ready or queue or running or unseen:
        if running and running[0][0] <= poll:
            now, _, name, hours, how = heapq.heappop(running)
            task = by_name[name]
            used += hours * task.gpus
            done = max(hours - task.start, 0) if task.stage in RESUMING else 0
            left[name] -= done if how != "done" else left[name]
            if how != "done":
                wasted += (hours - done) * task.gpus
                count[how] += 1
            if task.gpus:
                free[places.pop(name)] += task.gpus
            if how == "preempted":
                queue.append(name)
            else:
                unseen.append((name, how == "done"))
                finished = now
        else:
            now = poll
            if submitted:
                count["polls"] += 1
            pause = FIRST_POLL if unseen else min(pause + LATER_POLL, LAST_POLL)
            for name, whole in unseen:
                submitted -= 1
                training -= by_name[name].stage == "train"
                if not whole:
                    heapq.heappush(ready, (order[name], name))
                for follower in leads[name] if whole else ():
                    waits[follower] -= 1
                    if not waits[follower]:
                        heapq.heappush(ready, (order[follower], follower))
            unseen.clear()
            held = []
            while ready and submitted < jobs:
                place, name = heapq.heappop(ready)
                is_training = by_name[name].stage == "train"
                if is_training and training == trainings:
                    held.append((place, name))
                    continue
                submitted += 1
                training += is_training
                count["sbatch"] += 1
                queue.append(name)
            for item in held:
                heapq.heappush(ready, item)
            poll = now + pause
        waiting = []
        full: set[int] = set()  # sizes that do not fit at present
        for name in queue:
            task = by_name[name]
            node = None if task.gpus in full else place_of(free, task.gpus)
            if node is None:
                full.add(task.gpus)
                waiting.append(name)
                continue
            if task.gpus:
                free[node] -= task.gpus
                places[name] = node
            hours, how = task.start + left[name], "done"
            if hours > limit and not endless(task, limit):
                hours, how = limit, "time_limit"
            if task.gpus and preemptions and not endless(task, limit):
                away = chance.expovariate(preemptions)
                if away < hours:
                    hours, how = away, "preempted"
            heapq.heappush(running, (now + hours, next(ties), name, hours, how))
        queue = waiting
    days = max(finished / 24, 1e-9)
    ends = sum(task.stage == "train" for task in tasks)
    return {
        "hours": round(finished, 1),
        "tasks": len(tasks),
        "sbatch": count["sbatch"],
        "sbatch_a_day": round(count["sbatch"] / days),
        "polls": count["polls"],
        "polls_a_minute": round(count["polls"] / (days * 1440), 2),
        "preempted": count["preempted"],
        "at_time_limit": count["time_limit"],
        "gpu_hours": round(used),
        "gpu_hours_lost": round(wasted),
        "gpus_busy": round(used / (gpus * max(finished, 1e-9)), 3),
        "runs_a_day": round(ends / days, 1),
    }


def endless(task: Task, limit: float) -> bool:
    """Whether a job is longer than it may run, and begins anew each time."""
    return task.stage not in RESUMING and task.start + task.work > limit


def place_of(free: Iterable[int], gpus: int) -> int | None:
    """The fullest node on which a job fits."""
    fitting = [(left, node) for node, left in enumerate(free) if left >= gpus]
    return min(fitting)[1] if fitting else None


if __name__ == "__main__":
    sys.exit(main())
