"""The provenance beside a result: what made it, from what, with what, on what, and when."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import types

import pytest

import fgit
from fgit.common import provenance
from fgit.common.errors import UserError
from fgit.config import GenerateSettings, SelectSettings


def sha256(path):
    """Of a file, or of a folder's names and contents."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    members = sorted(member for member in path.rglob("*") if member.is_file())
    lines = [f"{member.relative_to(path)}\0{sha256(member)}\n" for member in members]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


STARTED = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def written(out, **changes):
    arguments = {
        "stage": "select",
        "settings": SelectSettings(batch_size=3),
        "arguments": {},
        "inputs": {},
        "outputs": [out],
        "started": STARTED,
    } | changes
    provenance.write_provenance(out, **arguments)
    return json.loads(provenance.provenance_path(out).read_text())


def test_it_lies_beside_a_file_and_inside_a_folder(tmp_path):
    assert provenance.provenance_path(tmp_path) == tmp_path / "provenance.json"
    file = tmp_path / "pairs.parquet"
    assert provenance.provenance_path(file) == tmp_path / "pairs.parquet.provenance.json"


def test_what_it_says(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name in ("in.jsonl", "out.parquet", "report.json"):
        (tmp_path / name).write_text(name)
    out = tmp_path / "out.parquet"
    found = written(
        out,
        inputs={"records": tmp_path / "in.jsonl", "model": tmp_path / "org/name"},
        outputs=[out, tmp_path / "report.json"],
        arguments={"mode": "chat"},
    )
    assert found["stage"] == "select"
    assert found["command"] == sys.argv
    assert found["directory"] == os.getcwd()
    assert found["settings"] == SelectSettings(batch_size=3).model_dump()
    assert found["arguments"] == {"mode": "chat"}
    assert found["inputs"] == {
        "records": {
            "path": str(tmp_path / "in.jsonl"),
            "sha256": sha256(tmp_path / "in.jsonl"),
        },
        "model": {"path": str(tmp_path / "org/name"), "sha256": None},  # on the hub
    }
    assert found["outputs"] == {str(path): sha256(path) for path in (out, tmp_path / "report.json")}
    assert found["started"] == "2020-01-02T03:04:05+00:00"
    assert found["seconds"] > 0
    assert found["slurm_job"] is None


def test_versions_of_code_and_packages(tmp_path):
    found = written(tmp_path / "out.json", outputs=[])
    code = found["code"]
    assert code["version"] == fgit.__version__
    assert re.fullmatch("[0-9a-f]{64}", code["sources_sha256"])
    assert code["commit"] is None or re.fullmatch("[0-9a-f]{40,64}", code["commit"])
    assert isinstance(code["changed"], bool) or code["commit"] is None
    packages = found["packages"]
    assert packages["python"] == platform.python_version()
    for name in ("torch", "transformers", "polars", "python-Levenshtein", "numpy"):
        assert re.match(r"\d+\.\d+", packages[name]), name


def test_hardware(tmp_path):
    found = written(tmp_path / "out.json", outputs=[])["hardware"]
    assert found["machine"] == platform.machine()
    assert 1 <= found["cores"] <= os.cpu_count()
    assert isinstance(found["gpus"], list)
    assert found["processes"] == 1
    assert set(found) == {"machine", "system", "cpu", "cores", "gpus", "cuda", "processes"}


def test_the_names_of_the_gpus(tmp_path, monkeypatch):
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name="NVIDIA A800 {}".format
    )
    torch = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda="12.8"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = written(tmp_path / "out.json", outputs=[])["hardware"]
    assert (found["gpus"], found["cuda"]) == (["NVIDIA A800 0", "NVIDIA A800 1"], "12.8")
    assert found["processes"] == 2


def test_the_slurm_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert written(tmp_path / "out.json", outputs=[])["slurm_job"] == "4711"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_the_digest_of_a_model_is_that_of_what_is_read_of_it(model):
    digest = sha256(model)
    assert written(model)["outputs"] == {str(model): digest}
    (model / ".snakemake_timestamp").touch()
    (model / "README.md").write_text("# where its base lay")
    assert written(model)["outputs"] == {str(model): digest}
    assert provenance.Snapshot(model).sha256 == digest
    (model / "model.safetensors").write_text("others")
    assert provenance.Snapshot(model).sha256 != digest


def test_of_a_folder_each_entry_is_recorded(tmp_path, model):
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / ".left.tmp").write_text("")
    (tmp_path / "a.parquet.provenance.json").write_text("{}")
    written(tmp_path)
    assert written(tmp_path)["outputs"] == {
        str(tmp_path / "metrics.json"): sha256(tmp_path / "metrics.json"),
        str(model): sha256(model),
    }


def test_the_digest_of_a_folder_is_that_of_names_and_contents(tmp_path):
    def make(name, members):
        for member, content in members.items():
            path = tmp_path / name / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return provenance.digest(tmp_path / name)

    same = make("a", {"x": "1", "sub/y": "2"})
    assert make("b", {"sub/y": "2", "x": "1"}) == same
    others = [
        make("c", {"x": "1", "sub/y": "3"}),
        make("d", {"x": "1", "sub/z": "2"}),
        make("e", {"x": "1", "y": "2"}),
        make("f", {"x": "1", "sub/y": "2", "z": ""}),
        make("g", {"x": "1"}),
    ]
    assert len({same, *others}) == 6


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Every file is large, and digests are kept below here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(provenance, "LARGE", 1)
    return tmp_path / "cache/fgit/digests"


def test_a_large_file_is_read_once(model, cache, monkeypatch):
    digest = sha256(model)
    assert provenance.digest(model) == digest
    assert len(list(cache.iterdir())) == 2
    read = []
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path) or sha256(path))
    assert provenance.digest(model) == digest and not read
    assert provenance.digest(model, again=True) == digest
    assert read == [model / "config.json", model / "model.safetensors"]


def test_a_large_file_that_was_written_to_is_read_again(model, cache):
    weights = model / "model.safetensors"
    first, before = provenance.digest(weights), weights.stat()
    other = model / "other"
    other.write_text("X" * before.st_size)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(weights)  # same name, size and time of change
    assert provenance.digest(weights) == sha256(weights) != first


def test_what_is_no_digest_in_the_cache_is_not_believed(model, cache):
    provenance.digest(model)
    for file in cache.iterdir():
        file.write_text("")
    assert provenance.digest(model) == sha256(model)


def test_without_a_place_for_the_cache(model, cache, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert provenance.digest(model) == sha256(model)
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(provenance.Path, "home", no_home)
    assert provenance.digest(model) == sha256(model)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_commit_of_a_model_that_another_process_loaded(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(provenance, "LOADED_DATASETS", {})
    monkeypatch.delitem(sys.modules, "fgit.common.models", raising=False)
    cached = tmp_path / "hub/models--org--teacher"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(COMMIT)
    (cached / f"snapshots/{COMMIT}").mkdir(parents=True)
    (cached / f"snapshots/{COMMIT}/config.json").write_text("{}")
    inputs = {"teacher": pathlib.Path("org/teacher"), "records": tmp_path / "gone.parquet"}
    settings = GenerateSettings(teacher="org/teacher")
    found = written(tmp_path / "out", inputs=inputs, settings=settings, outputs=[])
    assert found["models"] == {"org/teacher": {"revision": None, "commit": COMMIT}}
    served = GenerateSettings(teacher="org/teacher", url="http://server/v1")  # what has it there?
    assert written(tmp_path / "out", inputs=inputs, settings=served, outputs=[])["models"] == {}


def test_the_commit_of_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "LOADED_DATASETS", {})
    info = types.SimpleNamespace(
        download_checksums={f"hf://datasets/org/data@{COMMIT}/a.jsonl": {"num_bytes": 1}}
    )
    provenance.note_dataset("org/data", "main", types.SimpleNamespace(info=info, _fingerprint="f"))
    found = written(tmp_path / "out", outputs=[])["models"]["org/data"]
    assert found == {"revision": "main", "commit": COMMIT, "fingerprint": "f"}


def test_a_dataset_whose_commit_is_not_told(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(provenance, "LOADED_DATASETS", {})
    provenance.note_dataset("org/data", None, datasets.Dataset.from_dict({"a": [1]}))
    assert provenance.LOADED_DATASETS["org/data"]["commit"] is None
    assert provenance.LOADED_DATASETS["org/data"]["fingerprint"]


def test_it_is_read_back(tmp_path):
    out = tmp_path / "out.json"
    values = written(out, outputs=[])
    record = provenance.read_provenance(provenance.provenance_path(out))
    assert record.model_dump(mode="json") == values
    assert record.layout == provenance.LAYOUT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stage": None}, ", key 'stage': "),
        ({"outputs": ["a"]}, ", key 'outputs': "),
        (None, ": not a JSON object"),
    ],
)
def test_a_broken_one(tmp_path, change, named):
    values = written(tmp_path / "out.json", outputs=[])
    path = provenance.provenance_path(tmp_path / "out.json")
    path.write_text(json.dumps([] if change is None else values | change))
    with pytest.raises(UserError, match=re.escape(f"{path}{named}") + ".*run the stage again"):
        provenance.read_provenance(path)


def test_the_digest_of_the_sources_is_that_of_their_contents(tmp_path, monkeypatch):
    copy = tmp_path / "fgit"
    shutil.copytree(fgit.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = provenance.code_version()["sources_sha256"]
    monkeypatch.setattr(fgit, "__file__", str(copy / "__init__.py"))
    assert provenance.code_version()["sources_sha256"] == before
    (copy / "masks.py").write_text("# changed\n")
    changed = provenance.code_version()["sources_sha256"]
    assert changed != before
    (copy / "prompts/magicoder.jinja").write_text("changed")
    assert provenance.code_version()["sources_sha256"] not in (before, changed)
    assert provenance.code_version()["commit"] is None  # no checkout there


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = provenance.code_version()
    assert (found["commit"], found["changed"]) == (None, None)
    assert found["sources_sha256"]


@pytest.mark.parametrize("value", [None, SelectSettings()])
def test_it_is_json_that_others_can_read(tmp_path, value):
    assert written(tmp_path / "o", settings=value, outputs=[])["settings"] == (
        value.model_dump() if value else {}
    )


# ------------------------------------------------------------------ inputs


@pytest.mark.parametrize("kind", ["file", "second file", "model"])
def test_an_input_that_is_not_as_it_was_written_is_set_aside(tmp_path, kind):
    folder = tmp_path / "stage"
    if kind == "model":
        path = folder / "model"
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        changed = path / "weights.safetensors"
        changed.write_bytes(b"weights")
        written(folder, stage="train", outputs=[folder])
    else:
        folder.mkdir()
        names = ("pairs.parquet", "report.json")
        for name in names:
            (folder / name).write_bytes(b"content")
        path = changed = folder / names[kind == "second file"]
        written(folder / names[0], outputs=[folder / name for name in names])
    provenance.check_inputs([path])
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + b"X")
    with pytest.raises(UserError, match=r"not as fgit \w+ wrote it.*damaged now"):
        provenance.check_inputs([path])
    assert not path.exists()
    aside = path.with_name(f"{path.name}.damaged")
    kept = aside / changed.name if aside.is_dir() else aside
    assert kept.read_bytes() == content[:-1] + b"X"


def test_inputs_that_no_stage_made_are_taken_as_they_are(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}")
    (tmp_path / "other.json").write_text("{}")
    written(tmp_path / "other.json", outputs=[tmp_path / "other.json"])
    (tmp_path / "broken.provenance.json").write_text("not JSON")
    provenance.check_inputs([tmp_path / "data.jsonl", tmp_path / "org/name"])
    assert (tmp_path / "data.jsonl").exists()


def test_hardware_in_words():
    values = {"cpu": "EPYC", "cores": 64, "gpus": ["NVIDIA A800"] * 8, "processes": 8}
    text = provenance.hardware_text(values | {"system": "Linux-6.1"})
    assert text == "EPYC, 64 cores, 8 × NVIDIA A800, 8 processes; Linux-6.1"
    assert provenance.hardware_text({"machine": "x86_64", "cores": 2}) == "x86_64, 2 cores, no GPU"
