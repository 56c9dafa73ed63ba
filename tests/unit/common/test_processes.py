"""What this process may use."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgit.common import processes


@pytest.mark.parametrize(
    ("quota", "bound", "expected"),
    [
        ("max 100000\n", {0, 1, 2}, 3),
        ("200000 100000\n", {0, 1, 2}, 2),
        ("150000 100000\n", {0, 1, 2}, 1),
        ("50000 100000\n", {0, 1, 2}, 1),
        ("900000 100000\n", {4}, 1),
        (None, {0, 1}, 2),
    ],
)
def test_cores(tmp_path, monkeypatch, quota, bound, expected):
    monkeypatch.setattr(processes, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert processes.cores() == expected


def square(number):
    return number * number


@pytest.mark.parametrize("count", [1, 2])
def test_each_keeps_the_order(count):
    assert list(processes.each(square, range(50), count)) == [n * n for n in range(50)]


@pytest.mark.parametrize("count", [1, 2])
def test_each_takes_the_work_as_it_is_needed(count):
    taken = []

    def work():
        for number in range(50):
            taken.append(number)
            yield number

    found = processes.each(square, work(), count)
    assert next(found) == 0
    assert len(taken) <= count + 1
    found.close()


def fail(number):
    raise ValueError(number)


def test_each_raises_what_a_worker_raises():
    with pytest.raises(ValueError, match="3"):
        list(processes.each(fail, [3, 4], 2))


def process(_):
    return os.getpid()


def test_one_item_starts_no_process():
    assert list(processes.each(process, [0], 2)) == [os.getpid()]
    assert os.getpid() not in processes.each(process, [0, 0], 2)


WORK = """
import os, sys, time
from pathlib import Path
from fgit.common import processes

def work(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(0.2)

if __name__ == "__main__":
    list(processes.each(work, range(1000), 2))
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "work.py").write_text(WORK)
    command = [sys.executable, str(tmp_path / "work.py"), str(pids)]
    process = subprocess.Popen(command)
    wait_for(lambda: len(list(pids.iterdir())) == 2)
    process.kill()
    process.wait()
    workers = [file.name for file in pids.iterdir()]
    wait_for(lambda: not any(Path("/proc", worker).exists() for worker in workers))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
