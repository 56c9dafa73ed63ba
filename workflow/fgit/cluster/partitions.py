"""What SLURM's nodes and partitions have, and whether a job that the rules ask for fits there."""

from __future__ import annotations

import dataclasses
import getpass
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fgit.common.errors import UserError

NOT_RUNNING = ("DOWN", "DRAIN", "FAIL", "MAINT", "NOT_RESPONDING", "POWERED_DOWN", "FUTURE")
Misfit = tuple[str, str]  # why a job does not fit, and what to do


@dataclasses.dataclass(frozen=True, order=True)
class Ask:
    """What a job of a rule asks for, as the profile and the rule together say.

    Attributes:
        partition: one, or several with commas; empty is SLURM's default.
        gpus: of one node.
        memory_mb: of one node, in MB; minutes: the time limit; 0 is not said.
    """

    rule: str
    partition: str = ""
    account: str = ""
    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    gpu_type: str = ""
    memory_mb: int = 0
    minutes: int = 0

    @property
    def partitions(self) -> list[str]:
        return [name for name in re.split(r"[,\s]+", self.partition) if name]

    @classmethod
    def of(cls, rule: str, threads: int, resources: Mapping[str, Any]) -> Ask:
        """From a job's resources, as Snakemake's SLURM executor understands them."""

        def number(name: str, default: int = 0) -> int:
            value = resources.get(name, default)
            return value if isinstance(value, int) else default  # not known before there is input

        nodes = max(number("nodes", 1), 1)
        gpus, gpu_type = -(-number("gpu") // nodes), str(resources.get("gpu_model") or "")
        if gpu_type and not gpus:
            gpus = 1
        for kind, count in gpus_of(str(resources.get("gres") or "")).items():
            gpus, gpu_type = count, kind
        return cls(
            rule,
            partition=str(resources.get("slurm_partition") or ""),
            account=str(resources.get("slurm_account") or ""),
            nodes=nodes,
            cpus=number("cpus_per_task", threads),
            gpus=gpus,
            gpu_type=gpu_type,
            memory_mb=number("mem_mb"),
            minutes=number("runtime"),
        )


@dataclasses.dataclass(frozen=True)
class Node:
    """A node: its GPUs by type ('' is one without a name), its memory in MB."""

    name: str
    cpus: int
    memory_mb: int
    gpus: Mapping[str, int]
    runs: bool
    partitions: frozenset[str]

    def gpus_like(self, wanted: str) -> int:
        kinds = [kind for kind in self.gpus if not wanted or kind.lower() == wanted.lower()]
        return sum(self.gpus[kind] for kind in kinds)


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition: minutes is its longest time limit, None without one."""

    name: str
    state: str
    minutes: int | None
    default: bool


@dataclasses.dataclass(frozen=True)
class Cluster:
    partitions: Mapping[str, Partition]
    nodes: tuple[Node, ...]


# ------------------------------------------------------------------ what SLURM says


def ask_slurm(*command: str, timeout: float = 10) -> str:
    """The output of a SLURM command.

    Raises:
        UserError: if the command is not there, fails, or does not answer in time (seconds).
    """
    words = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: no such command on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words}: no answer in {timeout:g} s") from error
    except OSError as error:
        raise UserError(f"{words}: {error.strerror}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(f"{words}: {lines[0] if lines else f'failed with {done.returncode}'}")
    return done.stdout


def read_cluster(timeout: float = 10) -> Cluster:
    """Every partition and node.

    Raises:
        UserError: as :func:`ask_slurm`.
    """
    return cluster_of(
        ask_slurm("scontrol", "show", "partition", "--oneliner", timeout=timeout),
        ask_slurm("scontrol", "show", "node", "--oneliner", timeout=timeout),
    )


def cluster_of(partitions: str, nodes: str) -> Cluster:
    """From what ``scontrol show partition`` and ``... node`` print with ``--oneliner``."""
    return Cluster(
        {
            entry["PartitionName"]: Partition(
                name=entry["PartitionName"],
                state=entry.get("State", "UP"),
                minutes=minutes_of(entry.get("MaxTime", "UNLIMITED")),
                default=entry.get("Default") == "YES",
            )
            for entry in map(slurm_values, partitions.splitlines())
            if "PartitionName" in entry
        },
        tuple(
            Node(
                name=entry["NodeName"],
                cpus=int(entry.get("CPUEfctv") or entry.get("CPUTot") or 0),
                memory_mb=int(entry.get("RealMemory") or 0),
                gpus=gpus_of(entry.get("Gres", "")),
                runs=not any(word in entry.get("State", "") for word in NOT_RUNNING),
                partitions=frozenset(entry.get("Partitions", "").split(",")),
            )
            for entry in map(slurm_values, nodes.splitlines())
            if "NodeName" in entry
        ),
    )


def slurm_values(line: str) -> dict[str, str]:
    """``KEY=VALUE`` words; of a key that comes twice, the first."""
    return dict(reversed(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", line)))


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs by type: ``gpu:a100:4(S:0-1),gpu:2`` is ``{"a100": 4, "": 2}``."""
    counts: Counter[str] = Counter()
    for kind, count in re.findall(r"(?:^|,)gpu(?::([A-Za-z_][^:,(]*))?(?::(\d+))?", gres):
        counts[kind] += int(count or 1)
    return counts


def minutes_of(limit: str) -> int | None:
    """``2-03:00:00`` in minutes; None for UNLIMITED and whatever is no time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", limit)
    if not match:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return (24 * days + hours) * 60 + minutes


def accounts_of_user(timeout: float = 10) -> list[str]:
    """The accounts of this user; empty where the cluster keeps none, or does not say."""
    command = ("sacctmgr", "--noheader", "--parsable2", "list", "associations")
    try:
        text = ask_slurm(*command, f"user={getpass.getuser()}", "format=account", timeout=timeout)
    except (UserError, KeyError, OSError):
        return []
    return sorted({line.strip().lower() for line in text.splitlines() if line.strip()})


# ------------------------------------------------------------------ does a job fit


def misfits(ask: Ask, cluster: Cluster) -> list[Misfit]:
    """Why a job would be refused, or wait for ever: nothing, if some partition takes it."""
    there = f"(there are: {', '.join(cluster.partitions) or 'none'})"
    for name in ask.partitions:
        if name not in cluster.partitions:
            says = f"partition {name!r} does not exist {there}"
            return [(says, "name one of them at the top of the profile")]
    defaults = [name for name, partition in cluster.partitions.items() if partition.default]
    names = ask.partitions or defaults
    if not names:
        says = f"no partition is named, and the cluster has no default {there}"
        return [(says, "set slurm_partition in the profile")]
    reasons = [misfit(ask, cluster.partitions[name], cluster.nodes) for name in names]
    return [] if None in reasons else [reason for reason in reasons if reason]


def misfit(ask: Ask, partition: Partition, nodes: tuple[Node, ...]) -> Misfit | None:
    """Why a job does not fit in a partition; None if it does."""
    where = f"partition {partition.name!r}"
    if partition.state != "UP":
        return f"{where} is {partition.state}", "name another partition, or ask the administrators"
    if partition.minutes is not None and ask.minutes > partition.minutes:
        return (
            f"it asks for {ask.minutes} minutes, but {where} allows {partition.minutes}",
            "lower the time limit at the top of the profile: what is longer goes on in a new job",
        )
    members = [node for node in nodes if partition.name in node.partitions]
    if not members:
        return f"{where} has no nodes", "name another partition"
    kinds = sorted({kind for node in members for kind in node.gpus if kind})
    of_type = f" of type {ask.gpu_type!r}" if ask.gpu_type else ""
    types = f" (types: {', '.join(kinds)})" if kinds else ""
    sizes: list[tuple[str, int, Callable[[Node], int]]] = [
        (f"GPUs{of_type}", ask.gpus, lambda node: node.gpus_like(ask.gpu_type)),
        ("CPUs", ask.cpus, lambda node: node.cpus),
        ("MB of memory", ask.memory_mb, lambda node: node.memory_mb),
    ]
    lacking = [
        (f"{wanted} {what}", f"{most}{types if what.startswith('GPUs of') else ''}")
        for what, wanted, has in sizes
        if wanted > (most := max(map(has, members)))
    ]
    if lacking:
        return (
            f"it asks for {', '.join(wanted for wanted, _ in lacking)} on a node, but the nodes of "
            f"{where} have at most {', '.join(most for _, most in lacking)}",
            "ask for less at the top of the profile (of GPUs: in the config, launch and "
            "generate.tensor_parallel), or name another partition",
        )
    fitting = [node for node in members if all(has(node) >= n for _, n, has in sizes)]
    if len(fitting) < ask.nodes:
        return (
            f"it asks for {ask.nodes} node{'s' * (ask.nodes > 1)} with {ask.gpus} GPUs{of_type}, "
            f"{ask.cpus} CPUs and {ask.memory_mb} MB each, but {where} has {len(fitting)}",
            "ask for less at the top of the profile (of nodes and GPUs: in the config, launch), or "
            "name another partition",
        )
    return None


def not_running(ask: Ask, cluster: Cluster) -> list[str]:
    """The partitions of a job in which no node runs now."""
    alive = {name for node in cluster.nodes if node.runs for name in node.partitions}
    return [name for name in ask.partitions if name in cluster.partitions and name not in alive]
