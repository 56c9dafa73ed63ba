"""A SLURM cluster on this machine: a real controller and three real nodes with GPUs that are none.

    eval "$(python -m tests.slurm.cluster up)"      start it; PATH then leads to its commands
    python -m tests.slurm.cluster down              stop it, and remove its folder

The daemons run as the user who starts them, on free ports of 127.0.0.1, with all their files in one
folder; nothing outside it is touched. There is no cgroup (memory is watched by polling), no
accounting database (``sacct`` answers nothing) and no GPU behind the GPUs: each is a link to
/dev/null, which SLURM counts and hands out. On Debian and Ubuntu the programs come with

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
COMMANDS = (*PROGRAMS[3:], "sinfo", "sacct", "sacctmgr", "sshare")
NODES = ("n1", "n2", "n3")
CPUS, MEMORY_MB, GPUS = 4, 8000, 2  # of each node, as declared; the machine may have less
SYSTEM = "/usr/sbin:/sbin"

CONFIGURATION = """\
ClusterName=fgit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is requeued waits until its credential expires: 120 seconds, unless told otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
# Any container will do: no cgroups, no binding to cores.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# A job's memory is what its processes hold, looked at every second.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
# A partition of higher priority takes the nodes of the other: the jobs there are requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
# A node that does not answer is given up after ten seconds.
SlurmdTimeout=10
SlurmctldTimeout=60
MessageTimeout=10
KillWait=2
UnkillableStepTimeout=30
OverTimeLimit=0
DefMemPerCPU=500
# Without a database, squeue has to remember the jobs that ended.
MinJobAge=3600
MaxArraySize=10001
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
"""


class Cluster:
    """One cluster in one folder. ``environment`` is what its users' processes need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"

    @staticmethod
    def missing() -> list[str]:
        """The programs that are not installed."""
        path = f"{os.environ['PATH']}:{SYSTEM}"
        return [name for name in PROGRAMS if shutil.which(name, path=path) is None]

    @property
    def environment(self) -> dict[str, str]:
        # SLURM_CONF alone would not do: Snakemake's SLURM plugin takes all SLURM_* variables out of
        # the environment in which a job's steps start.
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}:{SYSTEM}",
        }

    # -------------------------------------------------------------- start

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.configure()
        self.make_commands()
        self.run("munged", *self.munge_options())
        self.run("slurmctld", "-i", "-f", str(self.configuration))
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: len(self.nodes("idle")) == len(NODES), "the nodes to come up", 30)

    def configure(self) -> None:
        for name in ("state", "spool", "gpu"):
            (self.folder / name).mkdir(exist_ok=True)
        ports = free_ports(1 + len(NODES))
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(
            folder=self.folder, user=user.stdout.strip(), host=host, ports=ports
        )
        for node, port in zip(NODES, ports[1:], strict=True):
            (self.folder / "spool" / node).mkdir(exist_ok=True)
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
                f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 "
                f"RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN\n"
            )
        everywhere = f"Nodes={','.join(NODES)} MaxTime=1440 DefaultTime=60 State=UP"
        text += f"PartitionName=cpu {everywhere} Default=YES PriorityTier=1\n"
        text += f"PartitionName=gpu {everywhere} PriorityTier=1\n"
        text += f"PartitionName=urgent {everywhere} PriorityTier=9\n"
        self.configuration.write_text(text)
        files = []
        for number in range(GPUS):
            file = self.folder / "gpu" / str(number)
            if not file.is_symlink():
                file.symlink_to("/dev/null")
            files.append(str(file))
        gpus = f"Name=gpu Type=fake File={','.join(files)}"
        (self.folder / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(NODES)} {gpus}\n"
        )
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))

    def make_commands(self) -> None:
        """Commands of this cluster, whatever the environment says."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in COMMANDS:
            real = shutil.which(name)
            if real is None:
                continue
            script = folder / name
            conf = shlex.quote(str(self.configuration))
            script.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {real} "$@"\n')
            script.chmod(0o755)

    def munge_options(self) -> list[str]:
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        return [
            *(f"--{option}={self.folder}/munge.{name}" for option, name in names.items()),
            f"--seed-file={self.folder}/munge.seed",
        ]

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node, "-f", str(self.configuration))

    def run(self, *command: str) -> str:
        """The output of a command of this cluster."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    # -------------------------------------------------------------- look

    def nodes(self, state: str) -> list[str]:
        """The nodes in a state (idle, mixed, allocated, down ...)."""
        lines = self.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T").splitlines()
        found = dict(line.split() for line in lines)
        return [node for node, now in found.items() if now.rstrip("*") == state]

    def jobs(self, *states: str) -> dict[str, tuple[str, str]]:
        """State and comment (the rule, and its wildcards) of each job, by id."""
        output = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%k")
        rows = [line.split("|", 2) for line in output.splitlines()]
        return {job: (now, comment) for job, now, comment in rows if not states or now in states}

    def gpus(self) -> dict[str, int]:
        """How many GPUs each job asked for, by id."""
        output = self.run("squeue", "-h", "-r", "-t", "all", "-O", "JobArrayID:20,tres-per-job:99")
        rows = [line.split() for line in output.splitlines()]
        # Such as gres:gpu:fake:2, or N/A.
        return {job: int(re.sub(r"\D*(\d*)$", r"\1", asked) or 0) for job, asked in rows}

    @staticmethod
    def wait(condition, what: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(f"waited {seconds} s for {what}")
            time.sleep(0.1)

    # -------------------------------------------------------------- stop

    def kill_node(self, node: str, job: str) -> None:
        """SIGKILL to a node's daemon and to all processes of a job there, as when power fails."""
        os.kill(int((self.folder / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        for process in processes_of(job, node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def restarts(self, job: str) -> int:
        """How often SLURM started a job again."""
        found = re.search(r" Restarts=(\d+)", self.run("scontrol", "show", "job", job))
        assert found
        return int(found[1])

    def cancel_all(self) -> None:
        self.run("scancel", "--user", self.run("id", "-un").strip())
        self.wait(
            lambda: not self.jobs("RUNNING", "PENDING", "COMPLETING"), "jobs to be cancelled", 60
        )

    def stop(self) -> None:
        """Stop the daemons and what they started, and remove the folder."""
        with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.cancel_all()
        for file in [*self.folder.glob("*.pid")]:
            kill(int(file.read_text()))
        shutil.rmtree(self.folder, ignore_errors=True)


def processes_of(job: str, node: str) -> list[int]:
    """The processes of a job's step daemons on a node, and of all that they started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (folder / "environ").read_bytes().split(b"\0")
            inside = {f"SLURM_JOB_ID={job}".encode(), f"SLURMD_NODENAME={node}".encode()}
            if title.startswith(f"slurmstepd: [{job}.") or inside <= set(variables):
                found.append(int(folder.name))
    return found


def kill(process: int) -> None:
    """End a process: SIGTERM, and SIGKILL where that does not do within five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            for _ in range(50):
                os.kill(process, 0)
                time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main() -> None:
    cluster = Cluster(Path(tempfile.gettempdir()) / f"fgit-cluster-{os.getuid()}")
    if sys.argv[1:] == ["up"]:
        missing = Cluster.missing()
        if missing:
            sys.exit(f"{', '.join(missing)}: not installed; {PACKAGES}")
        if not (cluster.folder / "slurmctld.pid").exists():
            cluster.start()
        print(f"export PATH={shlex.quote(cluster.environment['PATH'])}")
    elif sys.argv[1:] == ["down"]:
        cluster.stop()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
