"""What the report's tests share."""

import copy
import shutil

import pytest
from markupsafe import Markup, escape

from fgit.report import curves, figures
from tests.results_folder import Folder, make_config


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A results folder; for tests that only read it."""
    return Folder(tmp_path_factory.mktemp("shared") / "results", make_config())


def copied(original, root, config=None):
    """A copy of a results folder, to change: making one takes a second."""
    folder = copy.copy(original)
    folder.root = shutil.copytree(original.root, root)
    folder.config = config or original.config
    return folder


@pytest.fixture
def folder(shared_folder, tmp_path):
    return copied(shared_folder, tmp_path / "results")


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are labels alone: drawing them is most of what a report takes."""

    def label_alone(_, label):
        return Markup(f'<svg aria-label="{escape(label)}"></svg>')

    monkeypatch.setattr(figures, "svg", label_alone)
    monkeypatch.setattr(curves, "svg", label_alone)
