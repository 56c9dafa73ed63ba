"""What the report's tests share."""

import copy
import shutil

import pytest
from markupsafe import Markup, escape

from fgit.report import curves, figures
from tests.results_folder import Folder, make_config


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A results folder; for tests that only read it."""
    return Folder(tmp_path_factory.mktemp("made") / "results", make_config())


def copied(made, root, config=None):
    """A copy of a results folder, to change: making one takes a second."""
    found = copy.copy(made)
    found.root = shutil.copytree(made.root, root)
    found.config = config or made.config
    return found


@pytest.fixture
def folder(made, tmp_path):
    return copied(made, tmp_path / "results")


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are labels alone: drawing them is most of what a report takes."""

    def label_alone(_, label):
        return Markup(f'<svg aria-label="{escape(label)}"></svg>')

    monkeypatch.setattr(figures, "svg", label_alone)
    monkeypatch.setattr(curves, "svg", label_alone)
