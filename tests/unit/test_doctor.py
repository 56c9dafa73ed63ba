"""Whether a config can run here: the checks, with a SLURM that is put in place of a real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file, save_file

from fgit import cli, doctor
from fgit.common.lock import Lock
from fgit.config import parse_config
from fgit.steps import steps_of
from tests.conftest import REPOSITORY
from tests.project import Project
from tests.unit.cluster.test_partitions import NODES, PARTITIONS

SCONTROL = f"""#!/bin/sh
case "$*" in
  *partition*) cat <<'END'
{PARTITIONS}END
  ;;
  *node*) cat <<'END'
{NODES}END
  ;;
  *config*) echo "MinJobAge = 60 sec" ;;
esac
"""


NO_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # as safetensors


def make(folder, name, files=()):
    """A folder with these files, and a config.json."""
    (folder / name).mkdir()
    for file, content in ({"config.json": b"{}"} | dict(files)).items():
        (folder / name / file).write_bytes(content)


@pytest.fixture
def project(tmp_path, tiny_model, monkeypatch):
    """A copy of the workflow whose model is a folder, and in which nothing is run."""
    shutil.copytree(tiny_model, tmp_path / "model")
    found = Project(tmp_path, tmp_path / "model", "http://127.0.0.1:9/v1")
    monkeypatch.chdir(tmp_path)
    # Both are changed by what is tested.
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, found.environment.get(name, ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return found


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM's commands, which answer as scripts say: two GPU nodes; sacct does not work."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "scontrol": SCONTROL,
        "sbatch": "#!/bin/sh\nexit 1\n",
        "squeue": "#!/bin/sh\n",
        "sacct": "#!/bin/sh\necho Slurm accounting storage is disabled >&2; exit 1\n",
        "sacctmgr": "#!/bin/sh\necho ours\n",
    }
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def paths_of(project, **changes):
    """What is said of the paths of a config."""
    config = parse_config(project.config | changes)
    steps = steps_of(config)
    return [*doctor.named_on_disk(config, steps, steps)]


def model(**changes):
    return {"models": {"tiny": {"path": "model"} | changes}}


def dataset(**changes):
    return {"datasets": {"tiny": {"path": "data.jsonl"} | changes}}


def benchmark(**changes):
    return {"benchmarks": {"tiny": {"kind": "humaneval", "problems": "problems.jsonl"} | changes}}


TEACHER = {"backend": "transformers", "teacher": "model"}
FOLDER, FILE = "no such folder", "no such file"


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        (model(path="modle"), "models.tiny.path", FOLDER),
        (model(path="./model2"), "models.tiny.path", FOLDER),
        (model(path="/no/such/model"), "models.tiny.path", FOLDER),
        (model(path="results/paper/train/m"), "models.tiny.path", FOLDER),
        (model(path="a--b/c"), "models.tiny.path", FOLDER),  # no name of the hub's
        (model(path="no.gguf"), "models.tiny.path", FILE),
        (model(path="data.jsonl"), "models.tiny.path", "a file, not a folder"),
        (model(path="workflow"), "models.tiny.path", "no config.json in this folder"),
        (model(path="bare"), "models.tiny.path", "no weights in safetensors in this folder"),
        (model(path="mute"), "models.tiny.path", "no tokenizer in this folder"),
        (model(path="garbled"), "models.tiny.path", "config.json is no JSON object"),
        (model(path="cut"), "models.tiny.path", "model.safetensors is not there, or cut short"),
        (model(path="pointer"), "models.tiny.path", "model.safetensors is not there, or cut"),
        (model(path="part"), "models.tiny.path", "2.safetensors is not there, or cut short"),
        (model(path="~/no/such/model"), "models.tiny.path", FOLDER),
        (model(template="my.jinja"), "models.tiny.template", FILE),
        (model(template="magicodr"), "models.tiny.template", FILE),
        (model(template="workflow"), "models.tiny.template", "a folder, not a file"),
        (model(samples={"tiny": "s.jsonl"}), "models.tiny.samples.tiny", FILE),
        (dataset(path="data.json"), "datasets.tiny.path", FILE),
        (dataset(path="data"), "datasets.tiny.path", FILE),
        (dataset(path="./model"), "datasets.tiny.path", "a folder, not a file"),
        (dataset(path="config.yaml"), "datasets.tiny.path", "no .jsonl, .jsonl.gz, .json or"),
        (dataset(variants="v.parquet"), "datasets.tiny.variants", FILE),
        (benchmark(problems="p.jsonl"), "benchmarks.tiny.problems", FILE),
        (benchmark(problems="bench/problems"), "benchmarks.tiny.problems", FILE),
        ({"generate": TEACHER | {"teacher": "teacher"}}, "generate.teacher", FOLDER),
        ({"generate": TEACHER | {"teacher": "t.gguf"}}, "generate.teacher", FILE),
        ({"select": {"embedder": "emb"}}, "select.embedder", FOLDER),
        ({"select": {"embedder": "/x/y/emb"}}, "select.embedder", FOLDER),
        ({"published": "p.csv"}, "published", FILE),
    ],
)
def test_what_the_config_names_and_is_not_there(project, monkeypatch, changes, key, what):
    monkeypatch.setenv("HOME", str(project.folder))
    weights = {"model.safetensors": NO_WEIGHTS}
    index = b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    make(project.folder, "bare")
    make(project.folder, "mute", weights)
    make(project.folder, "garbled", weights | {"config.json": b'{"model_type": '})
    make(project.folder, "cut", {"model.safetensors": NO_WEIGHTS[:-1]})
    make(
        project.folder,
        "pointer",
        {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"},
    )
    make(
        project.folder, "part", {"1.safetensors": NO_WEIGHTS, "model.safetensors.index.json": index}
    )
    (finding,) = paths_of(project, **changes)
    assert (finding.state, finding.check) == ("wrong", "paths")
    path = finding.says.split("'")[1]
    assert finding.says.startswith(f"{key}: {path!r}: {what}")
    assert finding.says.endswith(f"(from {project.folder})") and finding.fix == f"correct {key}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        model(path="~/model"),
        model(path="org/model", template="semcoder"),
        model(path="adapter"),
        model(template="~/my own.jinja"),
        dataset(path="org/data"),
        dataset(path="~/data.jsonl"),
        benchmark(problems="~/problems.jsonl"),
        benchmark(problems="release:v0.1.10"),
        {"generate": TEACHER},
        {"generate": TEACHER | {"teacher": "~/model"}},
        {"select": {"embedder": "pickled"}},
        # What no job reads.
        {"models": {**model()["models"], "unused": {"path": "no/such/model"}}},
        {**dataset(variants="data.jsonl"), "audit": {}, "generate": {"teacher": "no/such/model"}},
    ],
)
def test_what_is_there_or_on_the_hub(project, monkeypatch, changes):
    monkeypatch.setenv("HOME", str(project.folder))
    make(project.folder, "pickled", {"pytorch_model.bin": b"", "tokenizer.json": b"{}"})
    of_adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": NO_WEIGHTS}
    make(project.folder, "adapter", of_adapter)
    (project.folder / "my own.jinja").touch()
    assert [finding.state for finding in paths_of(project, **changes)] == ["ok"]


def test_a_model_here_that_is_not_what_the_stages_take(project):
    weights = load_file(project.folder / "model" / "model.safetensors")
    renamed = {f"_orig_mod.{key}": value for key, value in weights.items()}
    for name in ("fine", "broken", "adapter"):
        shutil.copytree(project.folder / "model", project.folder / name)
    save_file(renamed, project.folder / "broken" / "model.safetensors", metadata={"format": "pt"})
    (project.folder / "adapter" / "adapter_config.json").write_text("{}")
    (project.folder / "adapter" / "adapter_model.safetensors").write_bytes(NO_WEIGHTS)
    config = project.config | model(path="broken")
    config |= {
        "generate": TEACHER | {"teacher": "adapter"},
        "select": {"embedder": "fine", "prefix": "", "max_length": 64},
    }
    config = parse_config(config)
    teacher, base, *others = doctor.models_here(config, steps_of(config))
    assert not others
    assert teacher.state == base.state == "wrong"
    assert teacher.says.startswith("generate.teacher: adapter") and "adapter" in teacher.says[20:]
    assert base.says.startswith("models.tiny.path: broken") and "_orig_mod." in base.says


def test_an_embedder_that_cannot_take_as_much_is_told_before_the_teacher_works(project):
    changes = {"generate": TEACHER, "select": {"embedder": "model", "max_length": 100_000}}
    config = parse_config(project.config | changes)
    (finding,) = doctor.models_here(config, steps_of(config))
    assert finding.state == "wrong" and finding.says.startswith(
        "select.embedder: max_length 100000"
    )


def test_environment_variables_are_not_read(project, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(project.folder))
    (finding,) = paths_of(project, **model(path="$SCRATCH/model"))
    assert finding.state == "wrong" and "write out what they stand for" in finding.fix


def before_start(config, *files):
    return doctor.before_start(config, [], files, [], slurm=False, conda=True)


def test_only_what_the_jobs_need_is_looked_for_before_the_start(project):
    """But also what those are made of that are there: Snakemake would use them, whatever the
    config names by now."""
    wrong = {**model(path="modle"), "select": {"embedder": "emb"}}
    config = parse_config(project.config | wrong)
    keys = [finding.says.split(":")[0] for finding in before_start(config, *TO_DO.values())]
    assert keys == ["models.tiny.path", "select.embedder"]
    (finding,) = before_start(config, TO_DO["select"])
    assert finding.says.startswith("select.embedder: ")
    assert before_start(config, TO_DO["mutate"]) == []
    (project.folder / "data.jsonl").unlink()
    (finding,) = before_start(config, TO_DO["mutate"])
    assert finding.says.startswith("datasets.tiny.path: 'data.jsonl': no such file")
    assert before_start(config, "results/tiny/config.yaml") == []


TO_DO = {
    "mutate": "results/tiny/mutate/tiny/variants.parquet",
    "select": "results/tiny/select/tiny/mutate/pairs.parquet",
    "train": "results/tiny/train/tiny/tiny/mutation/seed-0/metrics.json",
}


def write_profile(folder, partition="main", gpus=4, **more):
    (folder / "prof").mkdir(exist_ok=True)
    profile = {
        "executor": "slurm",
        "jobs": 4,
        "default-resources": {
            "slurm_account": "'ours'",
            "slurm_partition": f"'{partition}'",
            "mem_mb": 700,
        },
        "set-resources": {"train": {"slurm_partition": "'gpu'", "gpu": gpus}},
        **more,
    }
    (folder / "prof" / "config.yaml").write_text(yaml.safe_dump(profile))


def diagnose(capsys, *arguments):
    code = cli.main(["doctor", "--config", "tiny.yaml", *arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    return code, {(item["state"], item["check"]): item for item in found}


def test_this_machine_without_a_profile(project, capsys):
    code, found = diagnose(capsys)
    assert not [key for key in found if key[0] == "wrong"] and code == 0
    assert ("ok", "config") in found and ("ok", "results") in found and ("ok", "env main") in found
    assert found["ok", "hub"]["says"] == "nothing is needed of it"
    assert not list(project.folder.glob(".fgit-doctor-*"))


def test_where_there_is_no_slurm(project, capsys, monkeypatch):
    write_profile(project.folder)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None if "/" not in name else name)
    code, found = diagnose(capsys, "--profile", "prof")
    assert code == 1
    wrong = found["wrong", "slurm"]
    assert "sbatch: no such command on this machine" in wrong["says"]
    assert "login node" in wrong["fix"] and "--profile local" in wrong["fix"]


def test_a_cluster_that_takes_the_jobs(project, slurm, capsys):
    write_profile(project.folder, **{"slurm-status-command": "squeue"})
    code, found = diagnose(capsys, "--profile", "prof")
    assert code == 0, found
    assert "gpu, main: a node takes what each rule asks for" in found["ok", "partitions"]["says"]
    assert found["ok", "account"]["says"] == "ours"
    assert "MinJobAge" in found["warning", "status"]["says"]


def test_a_wrong_partition_too_many_gpus_and_no_sacct(project, slurm, capsys):
    write_profile(project.folder, partition="mian", gpus=9)
    code = cli.main(["doctor", "--config", "tiny.yaml", "--profile", "prof"])
    printed = capsys.readouterr().out
    assert code == 1
    assert "partition 'mian' does not exist (there are: main, gpu, old)" in printed
    assert "train: it asks for 9 GPUs on a node, but the nodes of partition 'gpu'" in printed
    assert "set slurm-status-command: squeue in the profile" in printed
    assert printed.rstrip().splitlines()[-1].endswith("3 wrong")


def test_the_workflow_is_not_started_where_it_must_fail(project, slurm):
    """Found before the first job is queued: sbatch, which fails here, is never asked."""
    write_profile(project.folder, partition="mian", gpus=9)
    project.write_config(python={"main": "no/such/python"})
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "prof", "--configfile", "tiny.yaml"],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "not started; `fgit doctor` looks at all of it" in said
    assert "partition 'mian' does not exist" in said
    assert "it asks for 9 GPUs on a node" in said
    assert "no/such/python: no such interpreter" in said
    assert "sbatch" not in said and not (project.folder / "results").exists()


@pytest.mark.parametrize(
    ("launch", "gpu_type", "asked"),
    [
        ({}, "", (1, 1, "")),
        ({"accelerate": "ddp", "processes": 8}, "", (1, 8, "")),
        ({"accelerate": "ddp", "processes": 8}, "a100", (1, 8, "a100")),
        ({"accelerate": "fsdp2", "processes": 4, "nodes": 3}, "", (3, 4, "")),
        ({"accelerate": "fsdp2", "processes": 4, "nodes": 3}, "a100", (3, 4, "a100")),
    ],
)
def test_slurm_is_asked_for_what_the_launch_says(project, launch, gpu_type, asked):
    """Through the profile that is shipped, in which the type stands."""
    (project.folder / "slurm").mkdir()
    text = (REPOSITORY / "slurm/config.yaml").read_text()
    text = text.replace('gpu_type: ""', f'gpu_type: "{gpu_type}"')
    (project.folder / "slurm/config.yaml").write_text(text)
    project.write_config(launch=launch)
    asks = {ask.rule: ask for ask in doctor.asks_of("slurm", project.folder / "tiny.yaml")}
    train, generate = asks["train"], asks["generate"]
    assert (train.nodes, train.gpus, train.gpu_type) == asked
    assert (generate.nodes, generate.gpus, generate.gpu_type) == (1, 1, gpu_type)


def test_what_another_snakemake_s_jobs_write_is_named(tmp_path):
    results = tmp_path / "results"
    assert not list(doctor.orphans([results]))
    with Lock(results / "train" / "state"):
        (finding,) = doctor.orphans([results])
    assert finding.state == "wrong" and f"{results}/train/state is being written" in finding.says
    assert f"kill {os.getpid()} on" in finding.fix
    assert not list(doctor.orphans([results]))


def test_an_environment_that_lacks_a_package(tmp_path):
    finding = doctor.check_environment("vllm", sys.executable, pins=True)
    assert finding.state == "wrong" and "has no vllm" in finding.says
    assert "make .venv-vllm" in finding.fix
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho dead >&2; exit 3\n")
    broken.chmod(0o755)
    assert "does not start (dead)" in doctor.check_environment("main", str(broken), pins=True).says


def test_versions_are_compared_with_the_pins(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "REPOSITORY", tmp_path)
    (tmp_path / "envs").mkdir()
    pins = "torch==2.13.0\nnumpy==2.0 ; python_full_version < '3.12'\n# a comment\nPyYAML==6.0\n"
    pins += "colorama==1.0 ; sys_platform == 'win32'\nvision==1.0+cpu\n"
    (tmp_path / "envs" / "main.txt").write_text(pins)
    facts = {"version": "3.11.2", "system": "linux", "machine": "x86_64"}
    packages = {"torch": "2.13.0+cpu", "numpy": "2.1", "vision": "1.0+cpu"}
    assert doctor.differing("main", facts | {"packages": packages}) == [
        "numpy 2.1, not 2.0",
        "PyYAML is not there",
    ]


def test_too_little_space(project, monkeypatch):
    config = parse_config(project.config | {"plan": {"parameters": {"tiny": 7}}})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(10**9))
    results, _ = doctor.space(config, project.folder / "results")
    assert results.state == "wrong" and "1 GB free" in results.says


class Usage:
    def __init__(self, free):
        self.free = free


def test_a_place_that_cannot_be_written_to(monkeypatch, tmp_path):
    def refuse(*arguments, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refuse)
    finding = doctor.folder(tmp_path / "results")
    assert finding.state == "wrong" and "Permission denied" in finding.says


def test_the_sandbox_that_is_asked_for(project):
    config = parse_config(project.config | {"score": {"sandbox": "bwrap"}})
    assert doctor.in_sandbox(config, "it is not installed").state == "wrong"
    auto = parse_config(project.config)
    assert doctor.in_sandbox(auto, "it is not installed").state == "warning"
    assert doctor.in_sandbox(auto, "").state == "ok"
