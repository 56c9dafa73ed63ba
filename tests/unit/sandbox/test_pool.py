"""Running many programs: the journal, the order, the second look, limits on workers."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.common.journal import checked
from fgit.config import ScoreSettings
from fgit.sandbox import pool as workers
from fgit.sandbox.pool import (
    Submission,
    Verdict,
    VerdictJournal,
    allowed,
    check_programs,
    fingerprint_of,
    interpreter_of,
    may_take_long,
    second_look,
    second_looks,
    suspect,
)

PROBLEM = {
    "task_id": "T/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "contract": "",
    "canonical_solution": "    return 2 * x\n",
    "base_input": [[1]],
    "plus_input": [[-1]],
    "atol": 0,
}
RIGHT = "def f(x):\n    return 2 * x\n"
GOOD = Verdict("pass", "pass", 0.1, 3.0, 0.01)
BAD = Verdict("fail", "fail", 1.2, 3.0, 0.01)
QUICK = ScoreSettings()

# ------------------------------------------------------------------ the journal

statuses = st.sampled_from(["pass", "fail", "timeout", "crashed", "forged"])
verdicts = st.builds(
    Verdict, statuses, st.none() | statuses, st.floats(0, 300), st.none() | st.floats(0, 300)
)


@given(st.dictionaries(st.text(max_size=5), verdicts, max_size=5), st.integers(0, 40))
def test_a_journal_that_was_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, found, cut):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with VerdictJournal(path, "this") as journal:
        for key, verdict in found.items():
            journal.add(key, verdict)
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    whole = data[: max(0, len(data) - cut) + 1].count(b"\n")  # the last one may lack its newline
    with VerdictJournal(path, "this") as again:
        assert again.verdicts == dict(list(found.items())[:whole])
        again.add("later", GOOD)
    with VerdictJournal(path, "this") as third:
        assert third.verdicts == again.verdicts
        assert third.verdicts["later"] == GOOD


def test_a_verdict_of_another_scoring_is_not_used(tmp_path):
    path = tmp_path / "journal.jsonl"
    with VerdictJournal(path, "one") as journal:
        journal.add("T/0", GOOD)
    with VerdictJournal(path, "two") as journal:
        assert journal.verdicts == {}
        journal.add("T/0", BAD)
    with VerdictJournal(path, "one") as journal:
        assert journal.verdicts == {"T/0": GOOD}


@pytest.mark.parametrize(
    "verdict",
    [
        None,
        [1],
        {},
        {"base": "pass"},
        {"base": None, "plus": None},
        {"base": 1, "plus": None},
        {"base": "pass", "plus": True},
        {"base": "pass", "plus": None, "seconds": "0.1"},
        {"base": "pass", "plus": None, "seconds": math.nan},
        {"base": "pass", "plus": None, "limit": math.inf},
        {"base": "pass", "plus": None, "more": 1},
    ],
)
def test_a_row_without_its_verdict_is_not_used(tmp_path, caplog, verdict):
    """Even where its checksum is right."""
    path = tmp_path / "journal.jsonl"
    with VerdictJournal(path, "one") as journal:
        journal.add("T/0", GOOD)
    rest = json.dumps({"of": journal.of, "key": "T/0", "verdict": verdict}).encode()[1:]
    with path.open("ab") as file:
        file.write(checked(rest) + rest + b"\n")
    with VerdictJournal(path, "one") as journal:
        assert journal.verdicts == {"T/0": GOOD}
    assert "not used: 1" in caplog.text


def test_two_scorings_do_not_write_one_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    with (
        VerdictJournal(path, "one"),
        pytest.raises(UserError, match="another fgit score writes there"),
    ):
        VerdictJournal(path, "one").__enter__()
    with VerdictJournal(path, "one"):
        pass


# ------------------------------------------------------------------ what runs, and when


def test_what_is_known_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "Pool", None)  # nothing may be started
    with VerdictJournal(tmp_path / "journal.jsonl", "one") as journal:
        journal.add("a", GOOD)
        submissions = {"b": Submission(PROBLEM, " \n"), "a": Submission(PROBLEM, RIGHT)}
        found = check_programs(
            "humaneval", submissions, ScoreSettings(), threads=1, where="p", journal=journal
        )
    assert found == {"b": Verdict("empty", "empty"), "a": GOOD}
    assert list(found) == ["b", "a"]


def test_one_problem_may_come_in_several_jobs(caplog):
    submissions = {
        "right": Submission(PROBLEM, RIGHT),
        "wrong": Submission(PROBLEM, "def f(x):\n    return x\n"),
        "long": Submission(PROBLEM, RIGHT + "# " + "x" * 1_000_000),
    }
    found = check_programs("humaneval", submissions, ScoreSettings(), threads=1, where="p.jsonl")
    assert {key: verdict.base for key, verdict in found.items()} == {
        "right": "pass",
        "wrong": "fail",
        "long": "pass",
    }
    assert "1 solutions have more than 100000 characters" in caplog.text and "long" in caplog.text


def test_programs_that_may_take_long_begin_first():
    heavy = PROBLEM | {"plus_input": [[list(range(1000))]]}
    submissions = {
        "light": Submission(PROBLEM, RIGHT),
        "heavy": Submission(heavy, RIGHT),
        "loop": Submission(PROBLEM, "def f(x):\n    while x: pass\n"),
    }
    order = sorted(
        submissions, key=lambda key: may_take_long("humaneval", submissions[key]), reverse=True
    )
    assert order == ["loop", "heavy", "light"]


def test_no_more_workers_than_cpus(monkeypatch, caplog):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert allowed(2) == 2 and not caplog.text
    assert allowed(64) == 2
    assert "64 threads were asked for, but this process may use 2 CPUs" in caplog.text


def test_an_interpreter_that_is_not_there():
    with pytest.raises(UserError, match=r"/no/such/python: there is no such interpreter"):
        interpreter_of("/no/such/python")


def test_an_interpreter_named_from_here_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert interpreter_of("venv/python") == str(tmp_path / "venv" / "python")


# ------------------------------------------------------------------ the second look


class FakePool:
    """Gives these verdicts, in order."""

    kind = "humaneval"

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)
        self.asked = []

    def alone(self, submission):
        self.asked.append(submission.solution)
        return self.verdicts.pop(0)


@pytest.mark.parametrize(
    ("kind", "verdict", "expected"),
    [
        ("humaneval", BAD, True),
        ("humaneval", Verdict("timeout", "timeout", 62.0), True),
        ("humaneval", Verdict("pass", "timeout", 62.0), True),
        ("humaneval", Verdict("fail", "fail", 0.2), False),
        ("humaneval", Verdict("pass", "pass", 62.0), False),
        ("humaneval", Verdict("empty", "empty", 0.0), False),
        ("bigcodebench", Verdict("timeout", None, 243.0), False),
    ],
)
def test_only_what_time_may_have_decided_is_looked_at_again(kind, verdict, expected):
    assert suspect(kind, verdict, ScoreSettings()) is expected


def test_alone_counts():
    pool = FakePool(GOOD, GOOD)
    assert second_look(pool, Submission(PROBLEM, "slow"), BAD, ScoreSettings(), "p") == GOOD
    assert pool.asked == [RIGHT, "slow"]  # the canonical solution first


def test_a_machine_too_slow_for_the_canonical_solution_gives_no_score():
    pool = FakePool(Verdict("timeout", "timeout", 62.0))
    with pytest.raises(UserError, match=r"p\.jsonl, T/0: the canonical .* too slow or too busy"):
        second_look(pool, Submission(PROBLEM, "slow"), BAD, ScoreSettings(), "p.jsonl")


class Machine:
    """A pool in which each program has these verdicts, the last of them for good."""

    kind = "mbpp"

    def __init__(self, programs):
        self.programs = programs
        self.ran = []

    def __call__(self, *arguments):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, submissions):
        return ((key, self.alone(submission)) for key, submission in submissions.items())

    def alone(self, submission):
        key = submission.problem["task_id"], submission.solution
        self.ran.append(key)
        verdicts = self.programs[key]
        return verdicts.pop(0) if len(verdicts) > 1 else verdicts[0]


def submission(number, solution="slow"):
    return Submission(PROBLEM | {"task_id": f"Mbpp/{number}"}, solution)


LATE = Verdict("pass", "timeout", 62.1, 67.0, 71.4)  # as Mbpp/599 on a slow machine
FINE = Verdict("pass", "pass", 50.0, 67.0, 48.0)


def test_a_slow_problem_waits_for_the_others_and_is_tried_again(monkeypatch, tmp_path, caplog):
    machine = Machine(
        {
            ("Mbpp/599", "slow"): [LATE, FINE],
            ("Mbpp/599", RIGHT): [LATE, FINE],  # the canonical one: late at its first try
            ("Mbpp/3", "slow"): [BAD],
            ("Mbpp/3", RIGHT): [GOOD],
            ("Mbpp/2", "quick"): [GOOD],
        }
    )
    monkeypatch.setattr(workers, "Pool", machine)
    submissions = {"a": submission(599), "b": submission(3), "c": submission(2, "quick")}
    with VerdictJournal(tmp_path / "journal.jsonl", "one") as journal:
        found = check_programs(
            "mbpp", submissions, ScoreSettings(), threads=1, where="p", journal=journal
        )
        assert found == {"a": FINE, "b": BAD, "c": GOOD}
        assert list(journal.verdicts) == ["c", "b", "a"]
    assert machine.ran[3:] == [
        ("Mbpp/599", RIGHT),
        *(("Mbpp/3", RIGHT), ("Mbpp/3", "slow")),
        *(("Mbpp/599", RIGHT), ("Mbpp/599", "slow")),
    ]
    at_once, again = caplog.messages
    assert at_once.startswith("Mbpp/599: no pass within 67 s, the most that EvalPlus allows (its")
    assert "it takes 71 s here, of at most 67), so this machine is too slow" in again
    assert again.endswith("It is tried once more, behind the others")


@pytest.mark.parametrize(
    ("canonical", "advice", "not_advised"),
    [
        (
            LATE,
            "use a quieter or faster one, since no setting allows a program more",
            "min-time-limit",
        ),
        (BAD, "or raise --min-time-limit (now 1 s) and say so", "faster"),
    ],
)
def test_a_problem_that_stays_slow_costs_no_other_its_verdict(
    monkeypatch, tmp_path, canonical, advice, not_advised
):
    slow = {("Mbpp/599", "slow"): [LATE], ("Mbpp/599", RIGHT): [canonical]}
    slow[("Mbpp/599", "loops")] = [BAD]
    others = {("Mbpp/3", "slow"): [BAD], ("Mbpp/3", RIGHT): [GOOD]}
    submissions = {"a": submission(599), "b": submission(599, "loops"), "c": submission(3)}
    machine = Machine(slow | others)
    monkeypatch.setattr(workers, "Pool", machine)
    with (
        VerdictJournal(tmp_path / "journal.jsonl", "one") as journal,
        pytest.raises(UserError) as refused,
    ):
        check_programs("mbpp", submissions, ScoreSettings(), threads=1, where="p", journal=journal)
    said = str(refused.value)
    assert said.startswith("p, Mbpp/599: the canonical solution, run alone, does not pass")
    assert advice in said and not_advised not in said
    assert "The other verdicts are kept: started again, only what has none is run" in said
    assert machine.ran.count(("Mbpp/599", RIGHT)) == 2  # not for each of its programs
    machine = Machine({("Mbpp/599", "slow"): [FINE], ("Mbpp/599", "loops"): [FINE]})
    monkeypatch.setattr(workers, "Pool", machine)
    with VerdictJournal(tmp_path / "journal.jsonl", "one") as journal:
        found = check_programs(
            "mbpp", submissions, ScoreSettings(), threads=1, where="p", journal=journal
        )
    assert found == {"a": FINE, "b": FINE, "c": BAD} and len(machine.ran) == 2


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_all_that_can_be_judged_has_its_verdict(slow_once, slow_for_good):
    """Whatever is slow, unless so much is that it is the machine."""
    programs = {}
    for number in range(10):
        tries = [LATE] if number in slow_for_good else [GOOD]
        programs[f"Mbpp/{number}", RIGHT] = [LATE, *tries] if number in slow_once else tries
        programs[f"Mbpp/{number}", "slow"] = [BAD]
    suspects = {str(number): submission(number) for number in range(10)}
    found = {}
    looks = second_looks(Machine(programs), suspects, dict.fromkeys(suspects, BAD), QUICK, "p")
    try:
        for key, verdict in looks:
            assert key not in found
            found[key] = verdict
    except UserError as error:
        refused = str(error)
    else:
        refused = ""
    if len(slow_once | slow_for_good) <= workers.SLOW_PROBLEMS:
        assert set(found) == {key for key in suspects if int(key) not in slow_for_good}
        assert all(f"Mbpp/{number}" in refused for number in slow_for_good)
        assert bool(refused) == bool(slow_for_good)
    else:
        assert refused
    assert set(found.values()) <= {BAD}


def test_a_canonical_solution_that_does_not_end_is_no_end_of_the_others(monkeypatch):
    def receive(process, what, seconds=0.0):
        raise workers.WorkerLost(what, timed_out=True)

    worker = workers.Worker("humaneval", None)
    monkeypatch.setattr(worker, "running", lambda: types.SimpleNamespace(stdin=io.BytesIO()))
    monkeypatch.setattr(worker, "receive", receive)
    verdict = worker.check(submission(599), QUICK, "p")
    assert verdict == Verdict("timeout", "timeout", workers.STEP_LIMIT)
    assert suspect("humaneval", verdict, QUICK)  # so it does not count


def test_a_slow_machine_in_earnest(tmp_path):
    """With limits of a tenth of its own time, the canonical solution cannot pass. Of the other
    problem it can, so that there is a verdict.
    """
    sleeps = "    import time; time.sleep(0.7); return 2 * x\n"
    slow = Submission(PROBLEM | {"canonical_solution": sleeps}, f"def f(x):\n{sleeps}")
    settings = ScoreSettings(min_time_limit=0.3, gt_time_limit_factor=0.1)
    submissions = {
        "T/0": slow,
        "T/1": Submission(PROBLEM | {"task_id": "T/1"}, "def f(x):\n    while True: pass\n"),
    }
    with (
        VerdictJournal(tmp_path / "journal.jsonl", "one") as journal,
        pytest.raises(UserError, match=r"p\.jsonl, T/0: .* too slow or too busy"),
    ):
        check_programs(
            "humaneval", submissions, settings, threads=1, where="p.jsonl", journal=journal
        )
    assert list(journal.verdicts) == ["T/1"] and journal.verdicts["T/1"].base == "fail"


# ------------------------------------------------------------------ one program after the other

HURTS = {
    "limits": "R = (ctypes.c_ulong * 2)(600 << 20, 600 << 20)\nlibc.prlimit(1, 9, R, None)\n"
    "libc.prlimit(os.getppid(), 9, R, None)\n",
    "priority": "libc.setpriority(0, os.getppid(), 19)\n",
    "processors": "mask = (ctypes.c_ulong * 16)(1)\n"
    "libc.sched_setaffinity(os.getppid(), 128, mask)\n",
    "folders": "libc.chmod(b'/tmp', 0o500)\nlibc.chmod(b'/dev/shm', 0o500)\n",
}


def test_no_program_hurts_the_next():
    """A worker whose limits a program has changed is not used again."""
    honest = (
        "import os\ndef f(x):\n    data = bytearray(600 << 20)\n"
        f"    assert os.getpriority(0, 0) == {os.getpriority(0, 0)}\n"
        f"    assert len(os.sched_getaffinity(0)) == {len(os.sched_getaffinity(0))}\n"
        "    return 2 * x\n"
    )
    problem = PROBLEM | {"plus_input": []}  # each part is looked at more closely
    with workers.Pool("humaneval", ScoreSettings(min_time_limit=5.0), 1, "p") as pool:
        for name, statements in HURTS.items():
            hostile = f"import ctypes, os\nlibc = ctypes.CDLL(None)\n{statements}{RIGHT}"
            pool.alone(Submission(problem, hostile))
            assert pool.alone(Submission(problem, honest)).passed, name


@pytest.mark.parametrize("name", ScoreSettings.model_fields)
def test_verdicts_hang_on_all_settings_but_those_of_speed(name):
    before = ScoreSettings()
    settings = [before, before.model_copy(update={name: 0})]
    conditions = [{"settings": one.model_dump(), "sandbox": "rlimits"} for one in settings]
    prints = [fingerprint_of("mbpp", one, "digest of the solutions") for one in conditions]
    assert (prints[0] == prints[1]) == (name in ScoreSettings.speed_fields())
