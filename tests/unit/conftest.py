"""What the unit tests share."""

import contextlib
import shutil

import hypothesis
import pytest

from fgit.common import provenance
from tests.chained_stages import Workflow, loaded

# How long an example takes only says how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def made_workflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflow")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(provenance, "loaded_from_hub", loaded)
        return Workflow(folder).all()


@pytest.fixture
def workflow(made_workflow, tmp_path, monkeypatch):
    """Stages that ran with provenance, made once, as if they had been made here."""
    made = made_workflow.folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "loaded_from_hub", loaded)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*provenance.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    copy = Workflow(tmp_path)
    copy.minute = made_workflow.minute
    return copy
