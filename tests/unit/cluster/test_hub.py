"""What a config needs of the hub: found, downloaded, verified, and used without asking again."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import polars as pl
import pytest
import yaml

from fgit.cluster import hub
from fgit.common.errors import UserError
from fgit.config import parse_config, read_config
from fgit.steps import steps_of
from tests.conftest import REPOSITORY
from tests.project import PROBLEMS

COMMIT = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's API, as far as its library asks for it; what is wrong is in the server's sets."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        server.asked.append((self.command, path, self.headers.get("Range")))
        api = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/([a-z-]+)/?(.*)", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            return self.refuse(404, "EntryNotFound")
        name = (api or file)[2]
        if name not in server.repositories:
            return self.refuse(404, "RepoNotFound")
        files = server.repositories[name]
        if api and api[3] == "revision":
            if api[4] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            gated = "manual" if name in server.gated else False
            return self.send_json({"id": name, "sha": COMMIT, "gated": gated, "siblings": []})
        if name in server.gated:
            return self.refuse(403, "GatedRepo")
        if api and api[3] == "tree":
            return self.send_json([entry(path, data) for path, data in files.items()])
        return self.send_file(name, file[4], files[file[4]])

    def send_file(self, name, path, data):
        server, whole = self.server, data
        if server.wrong.get(path, 0) and self.command == "GET":
            server.wrong[path] -= 1
            data = b"x" * len(data)
        start = 0
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash_of(path, whole)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if server.broken.get(path, 0):
            server.broken[path] -= 1
            self.wfile.write(data[start : (start + len(data)) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def send_json(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def is_lfs(path):
    return path.endswith((".safetensors", ".bin", ".parquet"))


def hash_of(path, data):
    if is_lfs(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path, data):
    found = {"type": "file", "path": path, "size": len(data), "oid": hash_of(path, data)}
    if is_lfs(path):
        found["oid"] = "0" * 40
        found["lfs"] = {"oid": hash_of(path, data), "size": len(data), "pointerSize": 130}
    return found


@contextlib.contextmanager
def serving(folder):
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    found.repositories, found.gated, found.asked = {}, set(), []
    found.wrong, found.broken = {}, {}
    found.url = f"http://127.0.0.1:{found.server_address[1]}"
    found.environment = os.environ | {
        "HF_ENDPOINT": found.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(REPOSITORY / "workflow"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    rows = [{"instruction": "Add.", "response": "```python\nx = 1\n```"}]
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    found.repositories["us/model"] = {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": bytes(range(256)) * 40,
        "pytorch_model.bin": b"pickled",
        "tokenizer.json": b"{}",
        "README.md": b"# read me",
    }
    found.repositories["us/embedder"] = {"config.json": b"{}", "pytorch_model.bin": b"weights"}
    found.repositories["us/data"] = {
        "README.md": b"---\n---\n",
        "data/train-00000-of-00001.parquet": (folder / "rows.parquet").read_bytes(),
    }
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A server and a folder, after a fetch into the cache; and what that said."""
    folder = tmp_path_factory.mktemp("fetched")
    with serving(folder) as found:
        done = fetch(found, folder)
        assert done.returncode == 0, done.stderr
        yield found, folder, done.stdout


def config(**changes):
    return {
        "name": "t",
        "models": {"m": {"path": "us/model"}},
        "datasets": {"d": {"path": "us/data", "revision": COMMIT}},
        "benchmarks": {"b": {"kind": "humaneval", "problems": "problems.jsonl"}},
        "decontaminate": {"against": ["b"]},
        "generate": {"backend": "openai", "url": "http://127.0.0.1:1/v1"},
        "select": {"embedder": "us/embedder", "prefix": ""},
        "methods": {"fgit": {}},
        "tables": {
            "table": {
                "caption": "T",
                "columns": ["b"],
                "rows": [{"model": "m", "dataset": "d", "method": "fgit"}],
            }
        },
        **changes,
    }


def fgit(server, folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fgit", *arguments],
        cwd=folder,
        env=server.environment | environment,
        capture_output=True,
        text=True,
    )


def fetch(server, folder, **changes):
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**changes)))
    return fgit(server, folder, "fetch", "--config", "config.yaml")


# ------------------------------------------------------------------ what a config needs


def needed(config):
    return hub.needed(config, steps_of(config))


def test_the_paper_needs_twelve_models_a_teacher_an_embedder_and_data():
    found = needed(read_config(REPOSITORY / "config.yaml"))
    names = [repository.name for repository in found]
    assert len(names) == len(set(names)) == 22
    by_name = {repository.name: repository for repository in found}
    assert by_name["Qwen/Qwen2.5-Coder-32B-Instruct"].keys == ("generate",)
    assert by_name["microsoft/unixcoder-base"].keys == ("select",)
    assert by_name["ise-uiuc/Magicoder-Evol-Instruct-110K"].kind == "dataset"
    assert by_name["bigcode/humanevalpack"].pinned
    assert by_name["google-research-datasets/mbpp"].pinned


def test_the_quickstart_needs_nothing(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert needed(read_config("workflow/quickstart/config.yaml")) == []


def test_two_keys_of_one_model_are_one_repository():
    models = {"m": {"path": "us/model"}, "same": {"path": "us/model"}}
    table = config()["tables"]["table"]
    table["rows"].append({"model": "same", "method": "base"})
    found = needed(parse_config(config(models=models, tables={"table": table})))
    (model,) = [repository for repository in found if repository.name == "us/model"]
    assert model.keys == ("models.m", "models.same")


# ------------------------------------------------------------------ bringing it


def test_all_of_a_config_is_fetched_once_and_the_pins_are_printed(fetched):
    server, folder, said = fetched
    assert f"models.m.revision: {COMMIT}" in said
    assert "datasets.d.revision" not in said  # it is pinned
    record = json.loads((folder / "results" / "t" / "fetch" / "hub.json").read_text())
    by_name = {row["name"]: row for row in record["repositories"]}
    assert {row["commit"] for row in by_name.values()} == {COMMIT}
    assert by_name["us/model"]["files"] == 3  # no pickled weights, no README
    assert by_name["us/embedder"]["files"] == 2  # it has no others
    server.asked.clear()
    assert fetch(server, folder).returncode == 0
    assert not [path for command, path, _ in server.asked if command == "GET" and "resolve" in path]


def test_what_was_fetched_is_used_without_the_hub(fetched):
    server, folder, _ = fetched
    (folder / "problems.jsonl").write_text(json.dumps(PROBLEMS[0]) + "\n")
    server.asked.clear()
    flags = ["--data", "us/data", "--benchmark", "b=problems.jsonl", "--out", "o.parquet"]
    flags += ["--report", "r.json"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    pinned = [*flags, "--revision", COMMIT]
    done = fgit(server, folder, "decontaminate", *pinned, **offline)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(folder / "o.parquet")["instruction"].to_list() == ["Add."]
    provenance = json.loads((folder / "o.parquet.provenance.json").read_text())
    assert provenance["models"]["us/data"]["commit"] == COMMIT
    other = fgit(server, folder, "decontaminate", *flags, "--revision", "b" * 40, **offline)
    assert other.returncode == 1
    assert f"revision {'b' * 40} of this dataset is not in the hub's cache" in other.stderr
    assert "fgit fetch --config" in other.stderr
    assert not server.asked


def test_a_model_that_is_not_in_the_cache_names_fetch(tmp_path, server):
    done = fgit(
        server,
        tmp_path,
        *("fetch", "--model", "us/model", "--out", "out"),
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 1
    assert "us/model: no usable tokenizer" in done.stderr
    assert "fgit fetch --config" in done.stderr
    assert not server.asked


def test_a_transfer_that_breaks_off_goes_on(tmp_path, server):
    # The library writes 10 MB at a time: what goes on is more than that.
    server.repositories["us/model"]["model.safetensors"] = bytes(range(256)) * 120_000
    server.broken["model.safetensors"] = 1
    done = fetch(server, tmp_path)
    assert done.returncode == 0, done.stderr
    ranges = [r for command, p, r in server.asked if command == "GET" and "model.saf" in p]
    assert any(r and not r.startswith("bytes=0-") for r in ranges), ranges


def test_a_file_with_a_wrong_hash_is_fetched_again(tmp_path, server):
    server.wrong["model.safetensors"] = 1
    done = fetch(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors is not as the hub says; removed" in done.stderr


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_file_that_stays_wrong_is_refused_and_not_left(tmp_path, server, path):
    server.wrong[path] = 100
    done = fetch(server, tmp_path)
    assert done.returncode == 1
    right = hash_of(path, server.repositories["us/model"][path])
    assert f"{path} at commit {COMMIT} has the hash" in done.stderr and right in done.stderr
    assert not list((tmp_path / "hf").rglob(path))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_refused_before_it_is_downloaded(tmp_path, server, beside):
    files = server.repositories["us/model"]
    files["adapter_config.json"] = b"{}"
    if not beside:
        del files["config.json"]
    done = fetch(server, tmp_path)
    assert done.returncode == 1
    assert "model us/model (models.m): an adapter" in done.stderr
    assert ("beside a whole model" in done.stderr) is beside
    assert f"fgit fetch --model us/model --revision {COMMIT} --out FOLDER" in done.stderr
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_a_gated_model_is_refused(tmp_path, server):
    server.gated.add("us/model")
    gated = fetch(server, tmp_path)
    assert gated.returncode == 1
    assert "model us/model (models.m): it needs the token of a user" in gated.stderr
    assert "HF_TOKEN" in gated.stderr
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


class Usage:
    def __init__(self, free):
        self.free = free


def test_space_is_looked_at_first(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: Usage(10**9))
    with pytest.raises(UserError, match=r"5\.0 GB are to be downloaded, but 1\.0 GB are free"):
        hub.check_space(5 * 10**9)
    hub.check_space(0)  # all is there


# ------------------------------------------------------------------ looking


LOOK = """
import sys, json
from fgit.cluster import hub
from fgit.config import read_config
from fgit.steps import steps_of
config = read_config("config.yaml")
print(json.dumps(hub.look_at_all(hub.needed(config, steps_of(config)), 2.0)))
"""


def looks(server, folder, **changes):
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**changes)))
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=folder,
        env=server.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_looking_says_what_the_jobs_would_find(tmp_path, server):
    found = looks(server, tmp_path)
    assert [state for state, _, _ in found] == ["ok"] * 3
    assert all("not in the cache yet" in says for _, says, _ in found)
    assert not list(tmp_path.rglob("blobs"))  # nothing is downloaded
    server.gated.add("us/model")
    del server.repositories["us/embedder"]
    gone = {"d": {"path": "us/data", "revision": "c" * 40}}
    model, embedder, data = looks(server, tmp_path, datasets=gone)
    assert model[0] == "wrong" and "needs the token" in model[1]
    assert embedder[0] == "wrong" and "none of this name" in embedder[1]
    assert data[0] == "wrong" and f"(datasets.d): the hub has no revision '{'c' * 40}'" in data[1]


def test_looking_where_the_hub_does_not_answer(tmp_path, server):
    server.environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert {state for state, _, _ in looks(server, tmp_path)} == {"warning"}
    server.environment |= {"HF_HUB_OFFLINE": "1"}
    found = looks(server, tmp_path)
    assert {state for state, _, _ in found} == {"wrong"}
    assert all(fix.startswith("fgit fetch --config") for _, _, fix in found)


def test_a_name_that_seems_a_mistyped_path(tmp_path, monkeypatch):
    """A folder of its owner's name lies here: nobody waits for the hub then."""
    monkeypatch.chdir(tmp_path)
    repository = hub.Repository("model", "results/nosuch", None, ("models.x",))
    monkeypatch.setattr(hub, "is_offline", lambda: True)
    assert "nor is there a folder" not in hub.look_at(repository, 1.0)[1]
    (tmp_path / "results").mkdir()
    for offline in (True, False):
        monkeypatch.setattr(hub, "is_offline", lambda offline=offline: offline)
        monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
        state, says, _ = hub.look_at(repository, 1.0)
        assert state == "wrong"
        assert says.endswith(f"; nor is there a folder of this name in {tmp_path / 'results'}")


def unreachable(*arguments, **options):
    raise ConnectionError("nobody there")


def test_what_is_in_the_cache_is_not_asked_for(fetched):
    server, folder, _ = fetched
    server.asked.clear()
    found = looks(server, folder)
    assert all(
        state == "ok" and f"in the cache, commit {COMMIT}" in says for state, says, _ in found
    )
    assert not server.asked


def test_a_model_of_which_a_shard_is_missing_is_not_there(tmp_path):
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "one.safetensors").touch()
    assert not hub.has_weights(tmp_path)
    (tmp_path / "two.safetensors").touch()
    assert hub.has_weights(tmp_path)
