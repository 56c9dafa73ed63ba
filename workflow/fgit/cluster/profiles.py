"""Snakemake's profiles: where their file lies, and what it says; and its own arguments."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fgit.common.errors import UserError
from fgit.config import check_text, check_yaml


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


def check_arguments(arguments: Sequence[str], folder: str) -> None:
    """Refuse to start where something stands twice of which only the last would count: a key in a
    profile, or what follows ``--config`` and ``--configfile``.

    Args:
        arguments: Snakemake's.
        folder: where the Snakefile lies, beside which a profile may lie that nobody names.

    Raises:
        UserError: naming file, key and lines, or the argument.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--profile", action="append")
    parser.add_argument("--workflow-profile", default="default")
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="append", default=[])
    named, _ = parser.parse_known_args(arguments)
    names = named.profile or [os.environ.get("SNAKEMAKE_PROFILE", "none")]
    for place in [Path(), Path("profiles"), Path(folder, "profiles")]:
        names.append(str(place / named.workflow_profile))
    for file in filter(None, map(profile_file, names)):
        check_yaml(file, numbers=False)
    for flag, given in [("--config", named.config), ("--configfile", named.configfile)]:
        words = [word for part in given for word in part]
        if len(given) > 1:
            raise UserError(
                f"{flag} stands {len(given)} times, and only the last would count; write it once, "
                f"with all that follows: {flag} {shlex.join(words)}"
            )
    check_entries(*named.config)


def check_entries(entries: Sequence[str] = ()) -> None:
    """Refuse a key that stands twice among ``--config KEY=VALUE ...``, or in one of the values.

    Raises:
        UserError: naming the key.
    """
    values: dict[str, str] = {}
    for key, _, value in (entry.partition("=") for entry in entries):
        mappings = value.startswith("{") and values.get(key, "").startswith("{")  # joined
        if key in values and not mappings:
            raise UserError(
                f"--config: the key {key!r} stands twice ({values[key]}, {value}), and only the "
                "last would count; remove one"
            )
        values[key] = value
        with contextlib.suppress(yaml.YAMLError):  # then it is text
            check_text(value.strip("'\""), f"--config {key}", numbers=False)
