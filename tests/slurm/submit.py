"""Snakemake, but that it asks for its jobs' states every second.

The SLURM plugin waits ten seconds longer after each time that no job had ended, up to three
minutes, and no option changes that. It suits jobs of hours, not those of tests.
"""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def one_second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


RemoteExecutor.sleep = one_second  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.argv[0] = "snakemake"
    main()
