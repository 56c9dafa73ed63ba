"""What holds for all engines."""

import pytest

from fgit.config import GenerateSettings
from fgit.inference import engines
from tests.requests import tiny_settings


@pytest.mark.parametrize(("batch_size", "promise"), [(1, "batch_1"), (2, "none")])
def test_transformers_promises_equal_texts_one_at_a_time(tiny, batch_size, promise):
    assert engines.promise(tiny_settings(tiny, batch_size=batch_size)) == promise


def test_a_server_has_its_own_dtype():
    chosen = GenerateSettings(backend="openai", teacher="t", url="http://localhost:1/v1")
    assert engines.with_dtype(chosen) is chosen


def test_an_endpoint_promises_nothing():
    settings = GenerateSettings(
        backend="openai", teacher="t", url="http://localhost/v1", batch_size=1
    )
    assert engines.promise(settings) == "none"
