"""Where the releases of benchmarks lie."""

import dataclasses

RELEASE_PREFIX = "release:"


@dataclasses.dataclass(frozen=True)
class EvalPlusFile:
    """A release that EvalPlus's own code downloads."""

    name: str
    version: str


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """A release that is a dataset on the hub."""

    name: str
    subset: str | None
    revision: str | None
    split: str
