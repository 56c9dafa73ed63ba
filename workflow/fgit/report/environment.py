"""What made the results: the provenance files, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fgit.common.provenance import Record, code_text, hardware_text, read_provenance
from fgit.config import Config
from fgit.lineage import COMPUTING, SHORT
from fgit.report.rendering import distinct
from fgit.steps import steps_of


class Made(NamedTuple):
    """A result, and what made it."""

    stage: str  # in whose folder it lies
    what: str
    by: Record

    @property
    def precision(self) -> str:
        """What its numbers were computed in, in words; empty if they do not depend on it."""
        name = self.by.settings.get(COMPUTING.get(self.stage, ""))
        return f"{self.stage} in {SHORT[name]}" if name in SHORT else ""


def all_made(config: Config, results: Path) -> Iterator[Made]:
    """What the config asks for and has a provenance file, in the order of the stages."""
    for stage, pattern in provenance_places(config):
        for path in sorted(results.glob(f"{stage}/{pattern}")):
            what = str(path.parent.relative_to(results / stage))
            yield Made(stage, what, read_provenance(path))


def provenance_places(config: Config) -> Iterator[tuple[str, str]]:
    """The folders of the steps' results, in the order of the steps, by stage and pattern."""
    places = (step.outputs[0] for step in steps_of(config) if step.stage != "report")
    # A model that is fetched is a folder itself.
    folders = (folder for place in places for folder in (place, place.rpartition("/")[0]))
    for folder in dict.fromkeys(folders):
        stage, _, rest = folder.partition("/")
        yield stage, f"{rest}/*provenance.json"


def environment_of(results: list[Made]) -> dict[str, list[Any]]:
    """Each package's versions, and the machines and code versions that took part."""
    packages: dict[str, dict[str, None]] = {}
    for made in results:
        for name, version in made.by.packages.items():
            packages.setdefault(name, {})[version] = None
    return {
        "packages": [(name, ", ".join(versions)) for name, versions in packages.items()],
        "hardware": distinct(hardware_text(made.by.hardware) for made in results),
        "precision": distinct(made.precision for made in results),
        "code": distinct(code_text(made.by.code) for made in results),
    }
