"""What has become of a number that is not there."""

import pytest

from fgit.common.lock import Lock, live
from fgit.config import read_config
from fgit.report.status import next_steps, score_status, steps_by_file
from fgit.runs import Run
from fgit.steps import steps_to
from tests.conftest import REPOSITORY
from tests.dag import jobs_of, needed_for
from tests.results_folder import make_config

BASE = Run("tiny", None, "base", None)
FGIT = Run("tiny", "tasks", "fgit", 0)
ON_THE_WAY = [*steps_to(make_config(), [(FGIT.name, "easy")])]  # in a row
ERROR = "fgit generate: error: the endpoint does not answer\n"


def put(root, place, text=""):
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def state(root, run=FGIT, config=None, **options):
    steps = steps_by_file(config or make_config(), [(run.name, "easy")])
    status = score_status(steps, root, run.name, "easy", **options)
    return status.state, status.log


def test_a_score_is_scored(tmp_path):
    put(tmp_path, ON_THE_WAY[-1].outputs[0])
    assert state(tmp_path) == ("scored", None)


@pytest.mark.parametrize("number", range(len(ON_THE_WAY)))
def test_the_first_stage_without_its_output_decides(tmp_path, number):
    for step in ON_THE_WAY[:number]:
        put(tmp_path, step.outputs[0])
        put(tmp_path, step.log, ERROR)  # of an earlier try
    assert state(tmp_path, ended=True) == ("pending", None)
    log = ON_THE_WAY[number].log
    put(tmp_path, log, f"working\n{ERROR}")
    assert state(tmp_path) == ("failed", log)


def test_what_earlier_stages_wrote_may_be_gone(tmp_path):
    put(tmp_path, "logs/generate/tasks/1-of-1.log", ERROR)
    put(tmp_path, f"train/{FGIT.name}/metrics.json")
    assert state(tmp_path) == ("pending", None)


BARS = "".join(f"embedding:  {n}%|##   | {n}/100 [00:0{n}<00:11, 3.9it/s]\n" for n in range(5))
STOP = "fgit train: error: stopped by SIGTERM in step 3; start it again to go on\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    f()\n'
LAUNCHER = f"""{TRACEBACK}  File "/env/lib/accelerate/commands/launch.py", line 1281, in launch
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
fgit FAILED
exitcode  : 143 (pid: 7)
"""
KILLED = "/bin/bash: line 1: 12345 Killed                  python -m fgit select\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ERROR, "failed"),
        ("fgit audit variants: error: no\n", "failed"),
        ("fgit train: error: 2 keys:\n  models.a.path: no such folder\n  models.b: no\n", "failed"),
        (f"{TRACEBACK}torch.OutOfMemoryError: CUDA out of mem\n", "failed"),
        (f"{TRACEBACK}RuntimeError: CUDA error\nCUDA kernel errors might be late\n", "failed"),
        ("deep\n" * 10_000 + "torch.OutOfMemoryError: CUDA out of memory\n", "failed"),
        (f"{BARS}{KILLED}", "failed"),
        ("  5%|#   | 1/20\r 10%|##  | 2/20\rKilled", "failed"),
        ("/bin/sh: line 2: 7 Segmentation fault      (core dumped) python\n", "failed"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2024 DUE TO TIME LIMIT ***\n", "failed"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch\n", "failed"),
        ("srun: error: n2: task 1: Killed\n", "failed"),
        ("/bin/bash: line 1: /x/my env/bin/python: No such file or directory\n", "failed"),
        ("/x/python: No module named fgit\n", "failed"),
        (f"[rank1]: {TRACEBACK}[rank1]: torch.distributed.DistBackendError: NCCL\n", "failed"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent first):\n", "failed"),
        ("terminate called after throwing an instance of 'c10::Error'\n", "failed"),
        # A bar that ends with the process writes its last state behind the error.
        (f"{BARS}{ERROR}{BARS.splitlines()[-1]}\n", "failed"),
        (f"{ERROR}/env/resource_tracker.py:254: UserWarning: 1 leaked semaphore\n", "failed"),
        (f"{ERROR}{LAUNCHER}", "failed"),
        # Told to end; the launcher complains of that.
        (STOP, "stopped"),
        ("fgit generate: error: interrupted\n", "stopped"),
        (f"{STOP}{BARS.splitlines()[-1]}\n", "stopped"),
        (f"{STOP}{LAUNCHER}", "stopped"),
        # An earlier try, in the same log.
        (f"{STOP}{BARS}", None),
        (f"{STOP}{BARS}{TRACEBACK}ValueError: no\n", "failed"),
        (f"{STOP}{TRACEBACK}ValueError: no\n", "failed"),
        (f"{ERROR}{BARS}", None),
        (f"{ERROR}{BARS}{STOP}", "stopped"),
        (f"{TRACEBACK}ValueError: tried again\n{BARS}", None),
        (f"{KILLED}{BARS}", None),
        # Words of what works.
        ("", None),
        ("Reading; 3 bad rows, error rate 0.1\n", None),
        ("killed 5 mutants\n", None),
        ("Killed 5 mutants\n", None),
        ("  the answer: fgit train: error: stopped by SIGTERM\n", None),
        ("a bus error in the row's text, core dumped, oom-kill, due to time limit\n", None),
        ("answers: 14% ValueError: no code, 3 Traceback (most recent call last):\n", None),
        ("3 rows: No such file or directory\nNo module named x in the answer\n", None),
        ("mutants of: KeyError, Segmentation fault\n", None),
        ("saved by SIGTERM: the state of step 3\n", None),
    ],
)
def test_what_the_end_of_a_log_says(tmp_path, text, says):
    log = "logs/decontaminate/tasks.log"
    put(tmp_path, log, text)
    failed = ("failed", log)
    assert state(tmp_path) == (failed if says == "failed" else ("pending", None))
    assert state(tmp_path, ended=True) == (("pending", None) if says == "stopped" else failed)


@pytest.mark.parametrize("number", range(len(ON_THE_WAY)))
def test_what_is_being_written_has_not_failed(tmp_path, number):
    """Whatever its log says: the lock is of the first output, or of its folder."""
    for step in ON_THE_WAY[:number]:
        put(tmp_path, step.outputs[0])
    step = ON_THE_WAY[number]
    put(tmp_path, step.log, ERROR)
    place = tmp_path / step.outputs[0]
    target = place.parent if step.stage in ("train", "score") else place
    with Lock(target):
        written = [path for path, _ in live(tmp_path)]
        assert state(tmp_path, written=written) == ("pending", None)
    written = [path for path, _ in live(tmp_path)]
    assert state(tmp_path, written=written) == ("failed", step.log)


def test_a_base_model_needs_no_data(tmp_path):
    put(tmp_path, "logs/decontaminate/tasks.log", ERROR)
    assert state(tmp_path, BASE) == ("pending", None)
    put(tmp_path, "logs/evaluate/tiny/base/easy.log", ERROR)
    assert state(tmp_path, BASE) == ("failed", "logs/evaluate/tiny/base/easy.log")


def test_ones_own_samples_need_no_evaluation(tmp_path):
    config = make_config(models={"tiny": {"path": "a/tiny", "samples": {"easy": "s.jsonl"}}})
    put(tmp_path, "logs/evaluate/tiny/base/easy.log", ERROR)
    assert state(tmp_path, BASE, config) == ("pending", None)


def test_mutants_and_verified_variants_have_ways_of_their_own(tmp_path):
    config = make_config(select={"verified_variants": True})
    put(tmp_path, "decontaminate/tasks/records.parquet")
    put(tmp_path, "mutate/tasks/variants.parquet")
    put(tmp_path, "logs/verify/tasks.mutate.log", ERROR)
    run = Run("tiny", "tasks", "mutation", 0)
    assert state(tmp_path, run, config) == ("failed", "logs/verify/tasks.mutate.log")
    assert state(tmp_path, FGIT, config) == ("pending", None)


def test_what_is_fetched_first(tmp_path):
    problems = {"kind": "humaneval", "problems": "release:v0.1.10", "limit": 5}
    config = make_config(
        benchmarks={"easy": problems}, models={"tiny": {"path": "package:x/y.gguf"}}
    )
    for output, log in [
        ("fetch/benchmarks/easy.jsonl", "logs/fetch/benchmarks/easy.log"),
        ("fetch/benchmarks/easy.first-5.jsonl", "logs/fetch/benchmarks/easy.first-5.log"),
        ("fetch/models/tiny", "logs/fetch/models/tiny.log"),
    ]:
        put(tmp_path, log, ERROR)
        assert state(tmp_path, BASE, config) == ("failed", log)
        put(tmp_path, output)
    assert state(tmp_path, BASE, config) == ("pending", None)


def test_the_canonical_solutions_and_the_whole_benchmark_come_first(tmp_path):
    benchmarks = {
        "big": {"kind": "bigcodebench", "problems": "big.jsonl"},
        "easy": {"kind": "bigcodebench", "problems": "hard.jsonl", "part_of": "big"},
    }
    table = make_config().tables["main"].model_dump() | {"columns": ["easy"]}
    config = make_config(benchmarks=benchmarks, tables={"main": table})
    put(tmp_path, "logs/score/canonical/big.log", ERROR)
    assert state(tmp_path, BASE, config) == ("failed", "logs/score/canonical/big.log")
    put(tmp_path, "score/tiny/base/big/summary.json")
    assert state(tmp_path, BASE, config) == ("pending", None)


@pytest.mark.parametrize(
    ("file", "run", "benchmark"),
    [
        ("config.yaml", "semcoder-s/evol-instruct/fgit/seed-0", "humaneval"),
        ("config.yaml", "semcoder-s/evol-instruct/mutation/seed-0", "humanevalpack"),
        ("config.yaml", "semcoder/pyx/sft/seed-0", "bigcodebench-hard"),
        ("config.yaml", "codellama-instruct/base", "bigcodebench-full"),
        ("workflow/quickstart/config.yaml", "smollm2/quickstart/dpo/seed-0", "quickstart"),
        ("workflow/quickstart/config.yaml", "smollm2/base", "pairs"),
    ],
)
def test_the_next_steps_are_those_that_snakemake_would_run(tmp_path, file, run, benchmark):
    """From nothing to the score, in as many rounds as it takes."""
    config, score = read_config(REPOSITORY / file), f"score/{run}/{benchmark}/summary.json"
    steps = {place: step for step in steps_to(config, [(run, benchmark)]) for place in step.outputs}
    jobs = needed_for(jobs_of(file, f"results/{config.name}").values(), [score])
    to_do = {job.log: job for job in jobs}
    while to_do:
        missing = {place for job in to_do.values() for place in job.outputs}
        ready = {log for log, job in to_do.items() if missing.isdisjoint(job.inputs)}
        assert {step.log for step in next_steps(steps, tmp_path, score)} == ready
        for log in ready:
            for place in to_do.pop(log).outputs:
                put(tmp_path, place)
    assert next_steps(steps, tmp_path, score) == []
