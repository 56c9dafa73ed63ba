"""The choice of strength."""

from __future__ import annotations

import pytest

from fgit.common.errors import UserError
from fgit.sandbox import strength
from fgit.sandbox.strength import choose, why_not_bwrap


@pytest.fixture
def another_bwrap(tmp_path, monkeypatch):
    """A program in bubblewrap's place on the PATH."""
    why_not_bwrap.cache_clear()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(text: str) -> None:
        path = tmp_path / "bwrap"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    yield make
    why_not_bwrap.cache_clear()


def test_no_bwrap(monkeypatch, tmp_path, caplog):
    why_not_bwrap.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        assert "apt install bubblewrap" in why_not_bwrap()
        with pytest.raises(UserError, match="sandbox: bwrap: bubblewrap is not installed"):
            choose("bwrap")
        assert choose("auto") == "rlimits"
        assert "accidents, not attacks" in caplog.text
    finally:
        why_not_bwrap.cache_clear()


def test_rlimits_asks_for_no_bwrap(monkeypatch):
    monkeypatch.setattr(strength, "why_not_bwrap", lambda: pytest.fail("asked"))
    assert choose("rlimits") == "rlimits"


def test_an_old_bwrap(another_bwrap):
    another_bwrap("echo bubblewrap 0.4.1")
    assert "is version 0.4, which cannot limit" in why_not_bwrap()


def test_a_bwrap_without_namespaces(another_bwrap):
    another_bwrap(
        'if [ "$1" = --version ]; then echo bubblewrap 0.8.0; exit; fi\n'
        "echo bwrap: No permissions to create a new namespace >&2; exit 1"
    )
    reason = why_not_bwrap()
    assert "No permissions to create a new namespace" in reason
    assert "user namespaces" in reason


def test_bwrap_is_chosen_where_it_works():
    if reason := why_not_bwrap():
        pytest.skip(f"not run: bubblewrap does not work here: {reason}")
    assert choose("auto") == choose("bwrap") == "bwrap"
