"""Snakemake's profiles, found and read as Snakemake does."""

import os
import re
import subprocess
import sys

import pytest

from fgit.cluster.profiles import check_arguments, profile_file, read_profile
from fgit.common.errors import UserError
from tests.conftest import REPOSITORY


def test_a_profile_is_read_as_snakemake_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="profile 'prof': no folder of this name"):
        read_profile("prof")
    (tmp_path / "prof").mkdir()
    file = tmp_path / "prof" / "config.yaml"
    file.write_text("__use_yte__: true\n__variables__:\n  n: 3\njobs: ?n + 1\n")
    assert read_profile("prof")[1] == {"jobs": 4}
    file.write_text("__use_yte__: true\njobs: ?nonesuch\n")
    with pytest.raises(UserError, match=r"config\.yaml: not readable"):
        read_profile("prof")


TWICE = "jobs: 1\nset-resources:\n  train:\n    gpu: 1\n    mem_mb: 2\n    gpu: 4\n"


@pytest.mark.parametrize(
    ("place", "arguments", "variable"),
    [
        ("prof/config.yaml", ["--profile", "prof"], None),
        ("prof/config.yaml", ["--cores", "2", "--profile=prof", "all", "-n"], None),
        ("prof/config.yaml", ["--profile", "other", "--profile", "prof"], None),
        ("prof/profile.yaml", ["--profile", "prof"], None),
        ("prof/config.v9+.yaml", ["--profile", "prof"], None),
        ("prof.yaml", ["--profile", "prof.yaml"], None),
        ("home/snakemake/prof/config.yaml", ["--profile", "prof"], None),
        ("prof/config.yaml", ["-n"], "prof"),
        ("prof/config.yaml", ["--workflow-profile", "prof"], None),
        ("profiles/prof/config.yaml", ["--workflow-profile", "prof"], None),
        ("profiles/default/config.yaml", ["--profile", "other"], None),
        ("flow/profiles/default/config.yaml", [], None),
    ],
)
def test_a_key_that_stands_twice(tmp_path, monkeypatch, place, arguments, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    if variable:
        monkeypatch.setenv("SNAKEMAKE_PROFILE", variable)
    check_arguments(arguments, str(tmp_path / "flow"))
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TWICE)
    with pytest.raises(
        UserError, match=r"line 6: the key 'set-resources\.train\.gpu' .* in line 4"
    ):
        check_arguments(arguments, str(tmp_path / "flow"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "name=x", "seeds=[1]", "name=y"], "'name' stands twice (x, y)"),
        (["-C", "train={epochs: 1, epochs: 2}", "-n"], "--config train, line 1: the key 'epochs'"),
        (["--config", "name=x", "-n", "-C", "seeds=[1]"], "once, with all that follows: --config"),
        (["--configfile", "a", "--configfiles", "b"], "--configfile stands 2 times"),
    ],
)
def test_an_argument_that_stands_twice(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_arguments(["-c2", *arguments], ".")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "name=x", "note=a: b: c", "train={epochs: 2}", "seeds=[1]", "published="],
        ["-C", "train={epochs: 2}", "train={max_length: 256}"],  # Snakemake joins them
        ["--configfile", "a", "b", "--cores", "2", "-C", "name=x", "--config-help"],
    ],
)
def test_arguments_of_which_all_count(arguments):
    check_arguments(arguments, ".")


def test_the_profiles_that_are_shipped():
    for name in ("local", "slurm"):
        check_arguments(["--profile", str(REPOSITORY / name)], str(REPOSITORY))
        assert profile_file(str(REPOSITORY / name)) == REPOSITORY / name / "config.yaml"


def test_snakemake_does_not_start_with_one(tmp_path):
    """Through Snakemake, whose own loader takes the last one: in the profile and in the config."""
    profile, config = tmp_path / "config.yaml", tmp_path / "c.yaml"
    quickstart = (REPOSITORY / "workflow/quickstart/config.yaml").read_text()
    for keys, text, key in [
        ("cores: 1\ncores: 2\n", quickstart, "cores"),
        ("cores: 1\n", f"{quickstart}\ntrain: {{max_length: 256}}\n", "train"),
    ]:
        profile.write_text(keys)
        config.write_text(text)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "-n", "--profile", str(tmp_path)),
                *("--configfile", str(config)),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and f"the key {key!r} stands twice" in done.stderr + done.stdout
