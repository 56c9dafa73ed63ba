"""Snakemake's profiles: where their file lies, and what it says."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgit.common.errors import UserError
from fgit.config import check_yaml


def read_profile(profile: str) -> tuple[Path, dict[str, Any]]:
    """A profile's file and options, as Snakemake reads them.

    Raises:
        UserError: if there is none, or it is not readable.
    """
    import yte

    path = profile_file(profile)
    if path is None:
        raise UserError(
            f"profile {profile!r}: no folder of this name with a config.yaml (from {os.getcwd()}); "
            "name the one that snakemake --profile gets"
        )
    check_yaml(path, numbers=False)
    try:
        with open(path, encoding="utf-8") as file:
            options = yte.process_yaml(file, require_use_yte=True)
    except Exception as error:  # yte passes on whatever an expression of the profile raises
        raise UserError(f"{path}: not readable: {type(error).__name__}: {error}") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: a profile is a mapping of options to values")
    return path, options


def profile_file(profile: str) -> Path | None:
    """The file of a profile, where Snakemake looks for it."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    for place in ["", f"{home}/snakemake", "/etc/xdg/snakemake"]:
        folder = Path(place, profile).expanduser()
        if folder.is_file():
            return folder
        names = [path for path in folder.glob("*.yaml") if path.stem in ("config", "profile")]
        names += [*folder.glob("config.v*+.yaml"), *folder.glob("profile.v*+.yaml")]
        if names:
            return max(names)
    return None


def check_profiles(arguments: Sequence[str], folder: str) -> None:
    """Refuse profiles, of those that Snakemake was started with, in which a key stands twice.

    Args:
        arguments: Snakemake's.
        folder: where the Snakefile lies, beside which a profile may lie that nobody names.

    Raises:
        UserError: naming file, key and lines.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--profile", action="append")
    parser.add_argument("--workflow-profile", default="default")
    named, _ = parser.parse_known_args(arguments)
    names = named.profile or [os.environ.get("SNAKEMAKE_PROFILE", "none")]
    for place in [Path(), Path("profiles"), Path(folder, "profiles")]:
        names.append(str(place / named.workflow_profile))
    for file in filter(None, map(profile_file, names)):
        check_yaml(file, numbers=False)
