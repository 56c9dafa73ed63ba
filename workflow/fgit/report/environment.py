"""What made the results: the provenance files, and what they have in common."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fgit.common.provenance import Record, code_text, hardware_text
from fgit.config import Config
from fgit.lineage import COMPUTING, SHORT, Lineage
from fgit.report.rendering import distinct
from fgit.steps import steps_of


class RecordedJob(NamedTuple):
    """A result, and what made it."""

    stage: str  # in whose folder it lies
    what: str
    record: Record

    @property
    def precision(self) -> str:
        """What its numbers were computed in, in words; empty if they do not depend on it."""
        name = self.record.settings.get(COMPUTING.get(self.stage, ""))
        return f"{self.stage} in {SHORT[name]}" if name in SHORT else ""


def read_jobs(config: Config, lineage: Lineage) -> Iterator[RecordedJob]:
    """What the config asks for and has a provenance file, in the order of the stages."""
    results = lineage.results
    places = (step.outputs[0] for step in steps_of(config) if step.stage != "report")
    # A model that is fetched is a folder itself.
    folders = (folder for place in places for folder in (place, place.rpartition("/")[0]))
    for folder in dict.fromkeys(folders):
        stage = folder.split("/")[0]
        for path in sorted(results.glob(f"{folder}/*provenance.json")):
            what = str(path.parent.relative_to(results / stage))
            yield RecordedJob(stage, what, lineage.record(path))


def environment_of(jobs: Sequence[RecordedJob]) -> dict[str, list[Any]]:
    """Each package's versions, and the machines and code versions that took part."""
    packages: dict[str, dict[str, None]] = {}
    for job in jobs:
        for name, version in job.record.packages.items():
            packages.setdefault(name, {})[version] = None
    return {
        "packages": [(name, ", ".join(versions)) for name, versions in packages.items()],
        "hardware": distinct(hardware_text(job.record.hardware) for job in jobs),
        "precision": distinct(job.precision for job in jobs),
        "code": distinct(code_text(job.record.code) for job in jobs),
    }
