"""What SLURM says of its nodes, and whether a job fits there."""

from __future__ import annotations

import dataclasses

import pytest

from fgit.cluster import partitions
from fgit.cluster.partitions import Ask
from fgit.common.errors import UserError

PARTITIONS = """\
PartitionName=main AllowGroups=ALL Default=YES MaxTime=UNLIMITED Nodes=n[1-2] State=UP
PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=1-00:00:00 Nodes=g[1-2] State=UP
PartitionName=old Default=NO MaxTime=UNLIMITED Nodes=n1 State=DOWN
"""
NODES = """\
NodeName=n1 CPUAlloc=0 CPUEfctv=16 CPUTot=16 Gres=(null) OS=Linux 6.1 #1 SMP RealMemory=64000 \
State=IDLE Partitions=main,old
NodeName=n2 CPUTot=32 RealMemory=32000 State=DOWN+DRAIN Partitions=main Reason=fan State=UP
NodeName=g1 CPUTot=64 Gres=gpu:a100:4(S:0-1) RealMemory=500000 State=MIXED Partitions=gpu
NodeName=g2 CPUTot=64 Gres=gpu:h100:8 RealMemory=250000 State=ALLOCATED Partitions=gpu
"""
CLUSTER = partitions.cluster_of(PARTITIONS, NODES)


def why(**asked):
    return " ".join(says for says, _ in partitions.misfits(Ask("train", **asked), CLUSTER))


def test_what_slurm_says_is_read():
    n1, n2, g1, g2 = CLUSTER.nodes
    assert (n1.cpus, n1.memory_mb, n1.gpus, n1.runs) == (16, 64000, {}, True)
    assert not n2.runs
    assert g1.gpus == {"a100": 4} and g2.gpus_like("H100") == 8 and g1.gpus_like("h100") == 0
    assert CLUSTER.partitions["gpu"].minutes == 24 * 60
    assert CLUSTER.partitions["main"].minutes is None


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:a100:4(S:0-1),gpu:h100:2,nvme:1", {"a100": 4, "h100": 2}),
        ("nvme:1", {}),
        ("(null)", {}),
    ],
)
def test_gpus_of_a_node(gres, gpus):
    assert partitions.gpus_of(gres) == gpus


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"gpu": 8, "mem_mb": 10, "runtime": 5}, (8, "", 1, 10, 5)),
        ({"gpu_model": "a100"}, (1, "a100", 1, 0, 0)),
        ({"gres": "gpu:a100:8", "nodes": 2, "mem_mb": "<TBD>"}, (8, "a100", 2, 0, 0)),
        ({"gpu": 8, "nodes": 2}, (4, "", 2, 0, 0)),
    ],
)
def test_what_a_job_asks_for(resources, asked):
    found = Ask.of("train", 8, resources)
    told = found.gpus, found.gpu_type, found.nodes, found.memory_mb, found.minutes
    assert told == asked and found.cpus == 8


def test_a_job_that_fits():
    assert why(partition="gpu", gpus=4, gpu_type="a100", memory_mb=500_000, cpus=64) == ""
    assert why(partition="main", cpus=16) == ""
    assert why(cpus=16) == ""  # the default partition
    assert why(partition="main,gpu", gpus=8) == ""  # one of them takes it


def test_a_partition_that_does_not_exist():
    assert why(partition="gpus") == "partition 'gpus' does not exist (there are: main, gpu, old)"
    assert "is DOWN" in why(partition="old")
    nothing = dataclasses.replace(CLUSTER, partitions={"gpu": CLUSTER.partitions["gpu"]})
    (misfit,) = partitions.misfits(Ask("train"), nothing)
    assert "no default" in misfit[0]


def test_more_than_a_node_has():
    assert "asks for 16 GPUs on a node, but" in why(partition="gpu", gpus=16)
    assert "have at most 8" in why(partition="gpu", gpus=16)
    typed = why(partition="gpu", gpus=8, gpu_type="a100")
    assert "8 GPUs of type 'a100'" in typed and "at most 4 (types: a100, h100)" in typed
    both = why(partition="main", cpus=64, memory_mb=10**6)
    assert "64 CPUs, 1000000 MB of memory" in both and "at most 32, 64000" in both
    assert "allows 1440" in why(partition="gpu", minutes=2000)


def test_no_one_node_has_all_of_it():
    assert "has 0" in why(partition="gpu", gpus=8, memory_mb=400_000)
    assert "asks for 3 nodes" in why(partition="gpu", gpus=4, nodes=3)


def test_a_partition_of_which_no_node_runs():
    dead = tuple(dataclasses.replace(node, runs=False) for node in CLUSTER.nodes)
    ask = Ask("train", partition="gpu")
    assert partitions.not_running(ask, CLUSTER) == []
    assert partitions.not_running(ask, dataclasses.replace(CLUSTER, nodes=dead)) == ["gpu"]


def test_a_command_that_is_not_there_or_fails():
    with pytest.raises(UserError, match="no-such-command: no such command on this machine"):
        partitions.ask_slurm("no-such-command")
    with pytest.raises(UserError, match="false: failed with 1"):
        partitions.ask_slurm("false")
    with pytest.raises(UserError, match=r"sleep 5: no answer in 0\.1 s"):
        partitions.ask_slurm("sleep", "5", timeout=0.1)
