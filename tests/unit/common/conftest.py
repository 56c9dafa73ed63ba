import shutil

import pytest


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of the tiny model that a test may damage."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    return folder
