"""``score``: where programs run, and their limits."""

from typing import Literal

from pydantic import Field

from fgit.config.base import Settings, Speed

SandboxChoice = Literal["auto", "bwrap", "rlimits"]


class ScoreSettings(Settings):
    """Where programs run, and EvalPlus's limits for one solution."""

    min_time_limit: float = Field(1.0, gt=0, description="least time limit of a test, seconds")
    gt_time_limit_factor: float = Field(
        4.0, gt=0, description="time limit as a multiple of the canonical solution's time"
    )
    sandbox: SandboxChoice = Field(
        "auto",
        description="auto: bubblewrap where it works, else limits only; bwrap: refuse to run "
        "without bubblewrap; rlimits: limits only",
    )
    # A verdict can hang on it, since a program that takes more crashes. But it is chosen for the
    # machine, and no reason to run every program again; each score's summary names it.
    memory_mb: Speed[int] = Field(
        6144,
        ge=512,
        description="memory of all processes and files of one solution, and its worker, together, "
        "MiB; EvalPlus allows a solution 4096 of it",
    )
    disk_mb: int = Field(512, ge=16, description="a solution's private temporary folder, MiB")
    processes: int = Field(
        256, ge=16, description="processes and threads that a solution may have at once"
    )
    min_ground_truth: float = Field(
        0.99,
        ge=0,
        le=1,
        description="BigCodeBench, and the audit of the variants: refuse to go on where a smaller "
        "share of the canonical solutions passes",
    )
