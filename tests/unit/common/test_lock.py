import dataclasses
import errno
import json
import logging
import multiprocessing
import os
import platform
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from fgit import cli
from fgit.common import lock
from fgit.common.errors import UserError
from fgit.common.files import write_text
from fgit.common.lock import Lock

HOLDER = """
    import sys
    from pathlib import Path
    from fgit.common.lock import Lock
    with Lock(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "results" / "out.parquet"


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A squeue that answers as told, and notes how it was asked."""

    def answers(text="", code=0, error=""):
        script = tmp_path / "bin" / "squeue"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
            f"printf '{text}'\nprintf '{error}' >&2\nexit {code}\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return answers


def start_holder(target, **environment):
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert holder.stdout.readline() == "locked\n"
    return holder


def left_by(target, **changes):
    """The file of a lock whose process, on another machine, was killed or does not show here."""
    found = dataclasses.replace(lock.this_process(), process=12, host="n7", job="77")
    found = dataclasses.replace(found, **changes)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f".{target.name}.lock").write_text(json.dumps(dataclasses.asdict(found)))


def test_the_second_is_told_who_holds_it(target, monkeypatch):
    monkeypatch.setattr(lock, "job_state", lambda job: ("RUNNING", None))
    with start_holder(target, SLURM_JOB_ID="77") as holder:
        told = (
            rf"{target}: in use by process {holder.pid} of \w+ on {platform.node()}, SLURM job 77, "
            r"since \d{4}-\d\d-\d\dT.*Wait for that one, or end it \(scancel 77\)"
        )
        with pytest.raises(UserError, match=told), Lock(target):
            pass
        holder.kill()  # the lock goes with the process
    with Lock(target), pytest.raises(UserError, match=f"kill {os.getpid()} on "), Lock(target):
        pass


def test_nothing_is_left(target):
    with pytest.raises(KeyError), Lock(target):
        assert [p.name for p in target.parent.iterdir()] == [".out.parquet.lock"]
        raise KeyError
    assert list(target.parent.iterdir()) == []
    assert lock.HELD == []


def test_a_name_that_cannot_be_read_is_nobody(target):
    target.parent.mkdir()
    target.with_name(".out.parquet.lock").write_text('{"process": 1')
    with Lock(target) as held:
        assert held.ours()


def test_its_file_was_opened_before_the_holder_removed_it(target, monkeypatch):
    holder = Lock(target)
    holder.__enter__()
    flock, calls = lock.fcntl.flock, []

    def late(descriptor, operation):
        if not calls:
            holder.__exit__(None, None, None)
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with Lock(target) as held, pytest.raises(UserError, match="in use"):
        assert held.ours()
        Lock(target).__enter__()
    assert len(calls) == 3


def test_file_system_without_locks(target, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), Lock(target):
        pass
    assert "keeps no locks" in caplog.text


# ------------------------------------------------------------------ between machines


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED"])
def test_a_free_lock_of_a_job_that_runs_elsewhere(target, squeue, state):
    asked = squeue(f"{state}\\n")
    left_by(target)
    with pytest.raises(
        UserError, match=r"process 12 of \w+ on n7, SLURM job 77.*scancel 77.*delet"
    ):
        Lock(target).__enter__()
    assert "--jobs=77" in asked.read_text()


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "CANCELLED\\n"},
        {"text": "PENDING\\n"},  # requeued: its processes are gone
        {"code": 1, "error": "slurm_load_jobs error: Invalid job id specified"},
        {},
    ],
)
def test_a_free_lock_of_a_job_that_ended(target, squeue, caplog, answer):
    squeue(**answer)
    left_by(target)
    with caplog.at_level(logging.WARNING), Lock(target) as held:
        assert held.ours()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "job"),
    [({"job": None}, None), ({}, "77"), ({"host": platform.node()}, None)],
    ids=["no job", "the same job, requeued", "the same machine"],
)
def test_when_the_file_systems_lock_says_all(target, squeue, monkeypatch, changes, job):
    asked = squeue("RUNNING\\n")
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    left_by(target, **changes)
    with Lock(target):
        pass
    assert not asked.exists()


def test_slurm_does_not_answer(target, squeue, caplog):
    squeue(code=1, error="Unable to contact slurm controller")
    left_by(target)
    with caplog.at_level(logging.WARNING), Lock(target):
        pass
    assert "Unable to contact slurm controller" in caplog.text
    assert "taken to have ended" in caplog.text


def test_a_job_that_is_being_ended_is_waited_for(target, squeue, monkeypatch, caplog):
    squeue("COMPLETING\\n")
    monkeypatch.setattr(lock, "POLL", 0.05)
    with start_holder(target, SLURM_JOB_ID="77") as holder:

        def sleep(seconds):
            holder.stdin.close()  # it has saved what it has
            holder.wait()

        monkeypatch.setattr(time, "sleep", sleep)
        with caplog.at_level(logging.INFO), Lock(target) as held:
            assert held.ours()
    assert "waiting for process" in caplog.text
    monkeypatch.setattr(lock, "WAIT", -1.0)
    with start_holder(target, SLURM_JOB_ID="77") as holder:
        with pytest.raises(UserError, match="in use"), Lock(target):
            pass
        holder.kill()


# ------------------------------------------------------------------ lost


def test_who_lost_its_lock_publishes_nothing(target):
    with Lock(target) as first:
        first.path.unlink()
        with pytest.raises(UserError, match="somebody who removed its lock has taken it over"):
            write_text(target, "late")
        with start_holder(target) as second:
            with pytest.raises(UserError, match=f"process {second.pid} of .* has taken it over"):
                write_text(target, "late")
            second.kill()
        left = first.path.stat()
    assert first.path.stat() == left  # another's is not removed
    assert not target.exists()
    write_text(target, "in time")
    assert stat.S_ISREG(target.stat().st_mode)


def test_a_worker_that_outlives_its_parent_keeps_no_lock(target):
    with Lock(target):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with Lock(target):
            pass
        with Lock(target) as held:  # and one that ends does not take its parent's along
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            held.check()
    finally:
        worker.kill()


# ------------------------------------------------------------------ the command line


@pytest.fixture
def annotate(monkeypatch, capsys, tmp_path):
    """``fgit annotate`` that does something else; its exit code and what it said."""

    def run(act):
        changed = cli.VERBS["annotate"]._replace(run=lambda **values: act())
        monkeypatch.setitem(cli.VERBS, "annotate", changed)
        (tmp_path / "p.parquet").touch()
        words = ["--pairs", "p.parquet", "--out", "o.parquet", "--report", "r.json"]
        words = [word if word.startswith("--") else str(tmp_path / word) for word in words]
        code = cli.main(["annotate", *words])
        return code, capsys.readouterr().err

    return run


def test_two_stages_never_write_one_file(tmp_path, annotate):
    ran = []
    with start_holder(tmp_path / "o.parquet") as holder:
        code, told = annotate(lambda: ran.append(1))
        holder.kill()
    assert (code, ran) == (1, [])
    assert f"fgit annotate: error: {tmp_path}/o.parquet: in use by process {holder.pid} of" in told


def test_sigterm_gives_the_lock_back(tmp_path, annotate):
    def act():
        assert (tmp_path / ".o.parquet.lock").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    code, told = annotate(act)
    assert code == 143
    assert told == "fgit annotate: error: stopped by SIGTERM; start it again to go on\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.parquet"]


def test_only_the_first_process_of_a_launcher_locks(tmp_path, annotate, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with start_holder(tmp_path / "o.parquet") as holder:
        assert annotate(lambda: None)[0] == 0
        holder.kill()
