"""``launch`` and ``python``: how this site starts a training, and its interpreters."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fgit.config.base import Place, Settings

LAUNCHERS = ("ddp", "fsdp2")  # each a file of workflow/launchers/
Interpreter = Annotated[str, Place("interpreter")]


class Launch(Settings):
    """How a training is started on this site; the result is the same up to rounding."""

    accelerate: Annotated[str | None, Place("launcher")] = Field(
        None,
        description="ddp (each GPU holds the whole model), fsdp2 (the GPUs share it), or the path "
        "of a config file of accelerate; unset is one process without a launcher",
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="processes of one node, one for each of its GPUs, which SLURM is asked for; a "
        "file of accelerate may say it itself, for all nodes, and then SLURM is asked for one GPU",
    )
    nodes: int = Field(1, ge=1, description="nodes of one training, under SLURM only")

    @model_validator(mode="after")
    def values_fit(self) -> Self:
        if self.accelerate is None and max(self.processes or 1, self.nodes) > 1:
            many = f"{self.nodes} nodes" if self.nodes > 1 else f"{self.processes} processes"
            raise ValueError(f"{many} need a launcher: set accelerate to ddp or fsdp2")
        if self.accelerate in LAUNCHERS and self.processes is None:
            raise ValueError(f"{self.accelerate} needs processes, the number of GPUs of a node")
        return self

    @property
    def gpus(self) -> int:
        """Of one training, as far as is known: a file of accelerate may say another number."""
        return self.nodes * (self.processes or 1)


class Pythons(Settings):
    """The interpreter of each environment (see envs/): a path or command, without arguments."""

    main: Interpreter = "python"
    vllm: Interpreter = "python"
    bigcodebench: Interpreter = "python"
