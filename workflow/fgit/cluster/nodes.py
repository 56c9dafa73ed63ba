"""One launcher (accelerate) on each node of a SLURM job.

``python -m fgit.cluster.nodes N LAUNCHER ...``

The first process, on the node where the job's script runs, becomes ``srun``, which starts this
module again once on each node. There the module finds its place among the nodes and becomes the
launcher.

The nodes meet at a port of the first one. It follows from the job's id, so that two trainings that
share a node do not meet each other.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from fgit.cluster.partitions import ask_slurm, slurm_values
from fgit.common.errors import UserError

JOIN = "join"
LAUNCHER = ("-m", "accelerate.commands.launch")
# The first node still puts the trained model on disk when the others are through; but when one of
# them fails, the others may wait for it for ever.
WAIT = 1800
ANSWER = 60  # seconds for a busy controller to answer: the whole training waits on it


def start(nodes: int, arguments: Sequence[str]) -> list[str]:
    """The command that starts ``arguments`` on each node of this job."""
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        # Without a number of CPUs, a step has all of the job's; it must not be bound to one.
        *("--cpu-bind=none", f"--wait={WAIT}"),
        *(sys.executable, "-m", "fgit.cluster.nodes", JOIN, *arguments),
    ]


def join(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command of this node's launcher.

    Raises:
        UserError: if this is no step of a SLURM job, or SLURM does not answer.
    """
    try:
        step = {
            name: environment[f"SLURM_{name}"]
            for name in ("JOB_ID", "STEP_NODELIST", "STEP_NUM_NODES", "NODEID")
        }
    except KeyError as error:
        raise UserError(
            f"{error.args[0]} is not set: training on several nodes runs within a SLURM job "
            "(launch.nodes)"
        ) from error
    hosts = ask_slurm("scontrol", "show", "hostnames", step["STEP_NODELIST"], timeout=ANSWER)
    first = hosts.split()[0]
    # Where SLURM itself reaches the node: its name need not be known to the resolver.
    node = slurm_values(ask_slurm("scontrol", "show", "node", first, "--oneliner", timeout=ANSWER))
    return [
        *(sys.executable, *LAUNCHER),
        *("--num_machines", step["STEP_NUM_NODES"], "--machine_rank", step["NODEID"]),
        *("--main_process_ip", node.get("NodeAddr", first)),
        *("--main_process_port", str(port(int(step["JOB_ID"])))),
        *arguments,
    ]


def port(job: int) -> int:
    """From 10000 to 29999: below the ports that Linux gives out by itself."""
    return 10000 + job % 20000


def main(arguments: Sequence[str]) -> None:
    first, *rest = arguments
    command = join(rest, os.environ) if first == JOIN else start(int(first), rest)
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as problem:
        sys.exit(f"fgit.cluster.nodes: error: {problem}")
