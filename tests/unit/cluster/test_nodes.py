import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.cluster import nodes
from fgit.common.errors import UserError

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NODEID": "1",
}
ANSWERS = {
    ("hostnames", "gpu[07-08]"): "gpu07\ngpu08\n",
    ("node", "gpu07", "--oneliner"): "NodeName=gpu07 NodeAddr=10.0.0.7 NodeHostName=gpu07\n",
}
LAUNCH = ["--config_file", "ddp.yaml", "--num_processes", "16", "-m", "fgit", "train", "--out", "o"]


@pytest.fixture
def scontrol(monkeypatch):
    def run(command, **options):
        assert command[:2] == ("scontrol", "show")
        return SimpleNamespace(stdout=ANSWERS[command[2:]], returncode=0)

    monkeypatch.setattr(subprocess, "run", run)


def test_the_first_process_becomes_srun(monkeypatch):
    became = []
    monkeypatch.setattr(os, "execvp", lambda file, command: became.append(command))
    nodes.main(["2", *LAUNCH])
    command = became[0]
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    joined = [sys.executable, "-m", "fgit.cluster.nodes", "join", *LAUNCH]
    assert command[-len(joined) :] == joined


def test_each_node_finds_its_place(scontrol):
    from accelerate.commands.launch import launch_command_parser

    command = nodes.join(LAUNCH, STEP)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    launched = launch_command_parser().parse_args(command[3:])
    assert (launched.num_machines, launched.machine_rank, launched.num_processes) == (2, 1, 16)
    assert (launched.main_process_ip, launched.main_process_port) == ("10.0.0.7", 14711)
    assert launched.training_script_args == ["train", "--out", "o"]


def test_outside_a_job():
    with pytest.raises(UserError, match=r"SLURM_JOB_ID is not set.*launch\.nodes"):
        nodes.join(LAUNCH, {})


@given(st.integers(1, 2**26))
def test_ports_are_free_for_all_and_differ(job):
    assert 10000 <= nodes.port(job) < 30000
    assert nodes.port(job) != nodes.port(job + 1)
