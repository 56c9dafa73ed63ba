"""A cluster for the tests of this folder, and a project that runs on it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.project import Project, running_teacher
from tests.slurm.cluster import PACKAGES, Cluster

SITE = {
    "account": "test",
    "cpu_partition": "cpu",
    "gpu_partition": "gpu",
    "gpu_type": "fake",
    "gpu_hours": 1,
    "cpus": 2,
    "training_memory_gb": 3,
    "teacher_memory_gb": 2,
    "model_memory_gb": 2,
    "trainings": 4,
    "notice": 60,
}


class ClusterProject(Project):
    """A copy of the workflow whose jobs go to the cluster, through the profile ``slurm``."""

    def __init__(self, folder: Path, model: Path, url: str, cluster: Cluster) -> None:
        super().__init__(folder, model, url)
        self.cluster = cluster
        self.started: list[subprocess.Popen[bytes]] = []
        (folder / "slurm").mkdir()
        self.write_site()
        self.config["score"] = {"memory_mb": 1024}
        self.write_config()

    def write_site(self, **changes: object) -> None:
        """The profile, with the variables at its top set as a user would set them."""
        text = (REPOSITORY / "slurm" / "config.yaml").read_text()
        site, rest = text.split(" the rest follows")
        for name, value in {**SITE, **changes}.items():
            site, found = re.subn(rf"^  {name}: \S+", f"  {name}: {value}", site, flags=re.M)
            assert found == 1, name
        text = f"{site} the rest follows{rest}"
        # There is no accounting database here.
        text = text.replace("# slurm-status-command:", "slurm-status-command:")
        (self.folder / "slurm" / "config.yaml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, str(Path(__file__).parent / "submit.py"), "--profile", "slurm"),
            *("--configfile", "tiny.yaml", "--latency-wait", "10", *arguments),
            *("--slurm-init-seconds-before-status-checks", "1"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.cluster.environment,
            "PYTHONPATH": str(self.folder / "workflow"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Snakemake in the background; its output is in snakemake.log."""
        with (self.folder / "snakemake.log").open("ab") as log:
            started = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(started)
        return started

    def stop(self) -> None:
        """End what a test left running, jobs too."""
        for snakemake in self.started:
            snakemake.kill()
            snakemake.wait()
        self.cluster.cancel_all()

    def here(self, *arguments: str) -> None:
        """Run a part of the workflow on this machine, without SLURM."""
        done = subprocess.run(
            Project.command(self, *arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def at(self, folder: Path) -> ClusterProject:
        """The same project in a copy of its folder."""
        other = copy.copy(self)
        other.folder, other.config = folder, copy.deepcopy(self.config)
        other.started = []
        return other

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.config["name"]


@pytest.fixture(scope="session")
def cluster():
    missing = Cluster.missing()
    if missing:
        pytest.skip(f"not run: SLURM is not installed ({', '.join(missing)}); {PACKAGES}")
    # munged wants its socket where everybody may go, and pytest's folders are its user's alone.
    started = Cluster(Path(tempfile.mkdtemp(prefix="fgit-cluster-")))
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def teacher():
    with running_teacher() as server:
        yield server


@pytest.fixture
def project(tmp_path, tiny_model, teacher, cluster):
    """A project of its own; whatever it left running is cancelled at the end."""
    teacher.reset()
    found = ClusterProject(tmp_path, tiny_model, teacher.url, cluster)
    yield found
    found.stop()
