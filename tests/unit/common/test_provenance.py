"""The provenance beside a result: what made it, from what, with what, on what, and when."""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time
import types

import pytest

import fgit
from fgit.common import provenance
from fgit.common.errors import UserError
from fgit.common.files import write_json, write_text
from fgit.common.replacing import replacing
from fgit.config import GenerateSettings, SelectSettings


def sha256(path):
    """Of a file, or of a folder's names and contents."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    members = sorted(member for member in path.rglob("*") if member.is_file())
    lines = [f"{member.relative_to(path)}\0{sha256(member)}\n" for member in members]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


STARTED = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def read(inputs, outputs=()):
    """The inputs of a stage that does nothing."""
    with provenance.reading(inputs, outputs) as described:
        return described


def written(out, **changes):
    changes |= {"inputs": read(changes.get("inputs", {}))}
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
    provenance.WRITTEN.add(folder)
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


def test_of_a_folder_each_entry_is_recorded_that_was_written(tmp_path, model, monkeypatch):
    write_text(tmp_path / "metrics.json", "{}")
    write_text(tmp_path / "tables/one.md", "")
    for name in ("mine.jsonl", "config.json"):  # one's own, before and after
        (tmp_path / name).write_text("{}")
    (tmp_path / "a.parquet.provenance.json").write_text("{}")
    expected = {
        str(tmp_path / "metrics.json"): sha256(tmp_path / "metrics.json"),
        str(model): sha256(model),
        str(tmp_path / "tables"): sha256(tmp_path / "tables"),
    }
    for _ in range(2):
        record = written(tmp_path)
        assert record["outputs"] == expected
        assert record["files"] == {
            str(model): {path.name: sha256(path) for path in model.iterdir()},
            str(tmp_path / "tables"): {"one.md": sha256(tmp_path / "tables/one.md")},
        }
    monkeypatch.chdir(tmp_path)
    assert [*written(tmp_path, outputs=[pathlib.Path()])["outputs"]] == [
        "metrics.json",
        "model",
        "tables",
    ]


NOT_COUNTED = [
    *(".DS_Store", "._model.safetensors", ".gitattributes", ".nfs0000002a", ".config.json.swp"),
    *(".snakemake_timestamp", ".cache/huggingface/download/config.json.lock", ".git/HEAD"),
    *(".ipynb_checkpoints/config-checkpoint.json", "__pycache__/modeling.cpython-311.pyc"),
    *("README.md", "provenance.json", ".x.lock", "deeper/.hidden"),
]


def test_what_is_hidden_in_a_folder_is_no_content(model):
    digest = provenance.digest(model)
    for name in NOT_COUNTED:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
        assert provenance.digest(model) == digest, name
    (model / b"x\xff.txt".decode(errors="surrogateescape")).touch()  # a name that is no UTF-8
    assert provenance.digest(model) != digest


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


class Made:
    """Something that a stage wrote: its path, and a file of it that can be damaged."""

    def __init__(self, folder, kind):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = self.file = folder / {"second file": "report.json"}.get(kind, "pairs.parquet")
        if kind == "model":
            self.path, self.file = folder / "model", folder / "model/weights.safetensors"
            self.path.mkdir()
            provenance.WRITTEN.add(self.path)
            (self.path / "config.json").write_text("{}")
            self.file.write_text("content")
            written(folder, stage="train", outputs=[folder])
        else:
            files = [folder / name for name in ("pairs.parquet", "report.json")]
            for file in files:
                file.write_text("content")
            written(files[0], outputs=files)

    def check(self):
        return read({"it": self.path})

    def damage(self, text="contenX"):
        self.file.write_text(text)


KINDS = ["file", "second file", "model"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_is_not_as_it_was_written_is_set_aside(tmp_path, kind):
    made = Made(tmp_path / "stage", kind)
    made.check()
    for aside in ("damaged", "damaged-2", "damaged-3"):
        made.damage(aside)
        with pytest.raises(UserError, match=rf"not as fgit \w+ wrote it.*{aside} now; start again"):
            made.check()
        assert not made.path.exists()
        made = Made(tmp_path / "stage", kind)
    for aside in ("damaged", "damaged-2", "damaged-3"):
        kept = made.path.with_name(f"{made.path.name}.{aside}")
        assert (kept / made.file.name if kept.is_dir() else kept).read_text() == aside
    made.check()


def test_what_others_put_into_the_folder_of_a_model_does_not_cost_it(tmp_path, caplog):
    made = Made(tmp_path / "stage", "model")
    for name in ("notes.txt", "eval_results/a.json", "original/params.json", "trainer_state.json"):
        (made.path / name).parent.mkdir(exist_ok=True)
        (made.path / name).write_text("{}")
        described = made.check()["it"]
        assert f"{made.path}: fgit train did not write all that is in it: " in caplog.messages[-1]
        assert name in caplog.messages[-1]
        assert described.sha256 == provenance.digest(made.path)  # of all that could be read
    (made.path / "config.json").unlink()
    with pytest.raises(UserError, match=r"model\.damaged now"):
        made.check()


def test_older_provenance_files_tell_the_digest_of_a_folder_alone(tmp_path):
    made = Made(tmp_path / "stage", "model")
    file = made.folder / "provenance.json"
    values = json.loads(file.read_text())
    values.pop("files")
    write_json(file, values)
    made.check()
    (made.path / "notes.txt").touch()
    with pytest.raises(UserError, match="damaged now"):
        made.check()
    made = Made(tmp_path / "other", "model")
    write_json(made.folder / "provenance.json", values | {"layout": 1})
    made.damage()
    made.check()  # its digest cannot be compared


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_copy_is_set_aside_and_the_original_stays(tmp_path, kind):
    made = Made(tmp_path / "results/stage", kind)
    shutil.copytree(tmp_path / "results", tmp_path / "copy")
    copy = tmp_path / "copy/stage" / made.path.name
    read({"it": copy})
    (tmp_path / "copy" / made.file.relative_to(tmp_path / "results")).write_text("contenX")
    with pytest.raises(UserError, match=rf"copy/stage/{copy.name}: .*{copy.name}\.damaged now"):
        read({"it": copy})
    assert not copy.exists() and copy.with_name(f"{copy.name}.damaged").exists()
    made.check()


def test_a_copy_by_another_name_is_told_by_what_lies_beside(tmp_path):
    folder = tmp_path / "run"
    write_json(folder / "metrics.json", {})
    Made(folder, "model")
    shutil.copytree(folder, tmp_path / "mine")
    copy = tmp_path / "mine/model"
    read({"it": copy})
    (copy / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"mine/model: .*model\.damaged now"):
        read({"it": copy})


def test_a_folder_reached_by_a_link_is_where_it_was_written(tmp_path):
    made = Made(tmp_path / "real", "file")
    (tmp_path / "link").symlink_to("real")
    made.damage()
    with pytest.raises(UserError, match=r"pairs\.parquet\.damaged now"):
        read({"it": tmp_path / "link/pairs.parquet"})


def test_a_model_is_not_damaged_because_a_disk_is_not_mounted(tmp_path):
    made = Made(tmp_path, "model")
    there = tmp_path / "disk"
    made.file.rename(there)
    made.file.symlink_to(there)
    made.check()
    there.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"weights\.safetensors: a link to .*disk, which is not"):
        made.check()
    (tmp_path / "away").rename(there)
    made.check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_stage_wrote_is_not_damaged(tmp_path, kind):
    """The provenance file of what stood there before goes with it."""
    made = Made(tmp_path, kind)
    outputs = [tmp_path] if kind == "model" else [tmp_path / "pairs.parquet", made.path]
    with provenance.reading({}, outputs):
        write_text(tmp_path / "state/1", "of a training, which leaves it as it is")
        with pytest.raises(UserError, match="damaged"):  # though it would be seen still
            made.damage()
            made.check()
        if kind == "model":
            with replacing(made.path) as temporary:
                temporary.mkdir()
                (temporary / "config.json").write_text("new")
        else:
            write_text(made.path, "new")
    made.check()


def test_files_of_ones_own_are_taken_as_they_are(tmp_path):
    """Though a provenance file that lies beside them has the name of another such file."""
    (tmp_path / "data.jsonl").write_text("{}")
    (tmp_path / "broken.provenance.json").write_text("not JSON")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report.json").write_text("theirs")
    (tmp_path / "report.json").write_text("mine")
    (tmp_path / "out.parquet").write_text("out")
    outputs = [tmp_path / "out.parquet", elsewhere / "report.json"]
    written(tmp_path / "out.parquet", outputs=outputs)
    theirs = Made(tmp_path / "theirs", "model")  # its provenance file lies by mine, too
    mine = tmp_path / "mine/model"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("{}")
    shutil.copy(theirs.folder / "provenance.json", tmp_path / "mine")
    names = ("data.jsonl", "org/name", "report.json", "mine/model", "out.parquet")
    read({name: tmp_path / name for name in names})
    # Two outputs of one name, each by its place.
    (tmp_path / "report.json").write_text("ours")
    outputs.append(tmp_path / "report.json")
    written(tmp_path / "out.parquet", outputs=outputs)
    read({str(path): path for path in outputs})
    (tmp_path / "report.json").write_text("changed")
    with pytest.raises(UserError, match=r"report\.json\.damaged now"):
        read({"report": tmp_path / "report.json"})


def test_what_cannot_be_put_aside_is_refused(tmp_path, monkeypatch):
    made = Made(tmp_path, "file")
    made.damage()

    def read_only(path, word):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(provenance, "set_aside", read_only)
    with pytest.raises(UserError, match=r"cannot be put aside \(Read-only file sys.*rename it"):
        made.check()
    assert made.path.exists()


# ------------------------------------------------------------------ two jobs


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_job_touches_nothing_of_what_the_first_put_aside(tmp_path, kind, anew):
    made = Made(tmp_path, kind)
    made.damage()
    second = provenance.Snapshot(made.path)  # it has read it, and the first was faster
    with pytest.raises(UserError, match="damaged now"):
        made.check()
    if anew:
        made = Made(tmp_path, kind)
        time.sleep(0.02)  # a file system's clock ticks
    with pytest.raises(UserError, match=r"not as fgit .*another job has put it aside.*start again"):
        provenance.check_input(second)
    assert made.path.exists() == anew
    assert len(list(tmp_path.glob("*damaged*"))) == 1
    if not anew:
        with pytest.raises(UserError, match=r"not there.*put aside \(.*damaged\); start again"):
            made.check()


def test_an_input_that_goes_away_while_it_is_read(tmp_path, monkeypatch):
    made = Made(tmp_path, "model")

    def taken_away(path, *rest):
        made.path.rename(tmp_path / "elsewhere")
        raise FileNotFoundError(path)

    monkeypatch.setattr(provenance, "file_digest", taken_away)
    with pytest.raises(UserError, match=r"model: it was moved or removed while it was read"):
        made.check()


SECOND = """
import sys, time; from pathlib import Path
from fgit.common import provenance; from fgit.common.errors import UserError
while time.time() < float(sys.argv[2]): pass
for number in range(20):
    try:
        with provenance.reading({"it": Path(sys.argv[1], str(number), "pairs.parquet")}): pass
    except UserError as error: print(str(error)[-40:])
"""


def test_two_jobs_at_one_time_both_end_with_a_clear_error(tmp_path):
    for number in range(20):
        Made(tmp_path / str(number), "file").damage(str(number))
    words = [sys.executable, "-c", SECOND, str(tmp_path), str(time.time() + 2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(words, **pipes) for _ in range(2)]
    for job in jobs:
        said, error = job.communicate()
        assert not error and len(said.splitlines()) == 20
    for number in range(20):
        asides = [*(tmp_path / str(number)).glob("pairs.parquet*damaged*")]
        assert [aside.read_text() for aside in asides] == [str(number)]
        assert not (tmp_path / str(number) / "pairs.parquet").exists()


# ------------------------------------------------------------------ changes while a stage runs


def replace(path, text):
    other = path.with_name("other")
    other.write_text(text)
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp --archive does
    other.replace(path)


CHANGES = {
    "written to": lambda p: p.write_text("other"),
    "appended to": lambda p: p.open("a").write("more"),
    "emptied": lambda p: os.truncate(p, 0),
    "replaced": lambda p: replace(p, "XXXXXXX"),
    "a link to another": lambda p: (
        p.unlink(),
        p.with_name("o").write_text("other"),
        p.symlink_to("o"),
    ),
}
NO_CHANGES = {
    "touched": lambda p: p.touch(),
    "linked": lambda p: p.with_name("second").hardlink_to(p),
    "other rights": lambda p: p.chmod(0o600),
    "replaced by the same": lambda p: replace(p, "content"),
    "gone": lambda p: p.unlink(),
    "hidden beside it": lambda p: p.with_name(".hidden").touch(),
    "another beside it": lambda p: p.with_name("another").touch(),
}


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_a_result_of_inputs_that_changed_is_not_written(tmp_path, cache, change, in_folder):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "x"
    path.write_text("content")
    before = sha256(folder if in_folder else path)
    out = tmp_path / "out"
    write_text(out, "old")
    with provenance.reading({"it": folder if in_folder else path}) as inputs:
        assert inputs["it"].sha256 == before
        write_text(out, "first")
        (CHANGES | NO_CHANGES)[change](path)
        if change in CHANGES:
            with pytest.raises(UserError, match=r"in/x: it was changed while .*start again"):
                write_text(out, "second")
        else:
            write_text(out, "second")
    assert out.read_text() == ("first" if change in CHANGES else "second")
    write_text(out, "third")  # by another stage


def test_what_is_written_over_is_not_taken_for_changed(tmp_path):
    path, report = tmp_path / "x", tmp_path / "report"
    path.write_text("old")
    (tmp_path / "link").symlink_to("x")
    with provenance.reading({"it": path}, [tmp_path / "link", report]):
        write_text(tmp_path / "link", "new")
        write_text(report, "{}")
    assert path.read_text() == "new"


def test_what_can_be_read_once_only_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with provenance.reading({"pipe": tmp_path / "pipe", "hub": tmp_path / "org/name"}) as inputs:
        assert {file.sha256 for file in inputs.values()} == {None}


def test_hardware_in_words():
    values = {"cpu": "EPYC", "cores": 64, "gpus": ["NVIDIA A800"] * 8, "processes": 8}
    text = provenance.hardware_text(values | {"system": "Linux-6.1"})
    assert text == "EPYC, 64 cores, 8 × NVIDIA A800, 8 processes; Linux-6.1"
    assert provenance.hardware_text({"machine": "x86_64", "cores": 2}) == "x86_64, 2 cores, no GPU"
