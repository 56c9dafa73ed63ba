"""The teacher behind an HTTP endpoint, a local one."""

import collections
import contextlib
import gzip
import http.server
import itertools
import json
import math
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.inference import endpoint as module
from fgit.inference.engines import answers
from fgit.inference.requests import PROMPT_TOO_LONG, Answer, Attempt
from tests.requests import PROMPTS, requests_for, texts


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers chat completions with the prompt and seed; `failures` come first, per prompt.

    A failure is (status, message), the bytes of a reply with status 200, or ("cut", bytes) for one
    that ends too early. ``headers`` go with a failure, ``slow`` seconds before each reply.
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
        if turn < len(failures) and failures[turn][0] == "cut":
            return self.reply(200, failures[turn][1], missing=10)
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

    def reply(self, status, value, missing=0):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) + missing))
        if content.startswith(b"\x1f\x8b"):
            self.send_header("Content-Encoding", "gzip")
        for name, text in self.server.headers.items() if status != 200 else ():
            self.send_header(name, text)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # nobody wants as much
            self.wfile.write(content)


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def openai_settings(url, **changes):
    return GenerateSettings(
        **{"backend": "openai", "teacher": "big", "url": url, "batch_size": 3} | changes
    )


# What an answer costs here: 6 bytes and 64 for the template at most, read at 10 a million, and at
# most 100 tokens written at 100; the endpoint counts 1 and 5.
PRICES = {"price_per_million_input": 10, "price_per_million_output": 100, "max_new_tokens": 100}
MOST, COST = (6 + 64) * 10e-6 + 100 * 100e-6, 1 * 10e-6 + 5 * 100e-6


@pytest.fixture
def impatient(monkeypatch):
    """Waits between attempts that a test can afford."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.002)


def until_it_fails(stream):
    """The answers, and the error that ended them."""
    found = []
    with pytest.raises(UserError) as caught:
        for answer in stream:
            found.append(answer)
    return found, str(caught.value)


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
        (403, ["not", "for", "you"], r"status 403.*\['not', 'for', 'you'\]"),
        (404, "no model big", r"not found \(404\).*no model big.*'big'"),
        (400, "max_tokens is bad", r"refused \(400\).*max_tokens is bad"),
        (503, "overloaded", r"status 503: .*overloaded.*\(also after 1 retries\)"),
    ],
)
def test_lasting_failures_are_told(endpoint, monkeypatch, status, text, message):
    monkeypatch.setattr(module, "RETRIES", 1)
    endpoint.failures[PROMPTS[1]] = [(status, text)] * 10
    with pytest.raises(UserError, match=message) as caught:
        texts(requests_for(PROMPTS), openai_settings(endpoint.url))
    assert endpoint.url in str(caught.value) and "'s1'" in str(caught.value)


def test_a_prompt_too_long_for_the_endpoint_is_refused_alone(endpoint):
    endpoint.failures[PROMPTS[1]] = [(400, "maximum context length is 10 tokens")]
    found = {a.index: a for a in answers(requests_for(PROMPTS, 1), openai_settings(endpoint.url))}
    assert found[1].refused == PROMPT_TOO_LONG
    assert found[0].refused is found[2].refused is None


def test_no_server_is_told(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    server = Endpoint()
    url = server.url
    server.server_close()  # the port is free again: connections to it are refused
    with pytest.raises(UserError, match=r"no connection.*is the server running"):
        texts(requests_for(PROMPTS), openai_settings(url))


def test_the_endpoint_needs_a_url():
    with pytest.raises(UserError, match=r"generate\.url"):
        answers(requests_for(PROMPTS), openai_settings(None))


def completion(content="x", usage=None, choice=None, **changes):
    """A reply as bytes; ``changes`` replace its keys, and None takes one out."""
    message = content if isinstance(content, dict) else {"role": "assistant", "content": content}
    value = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | (choice or {})],
        "usage": {"prompt_tokens": 1, "completion_tokens": 5} if usage is None else usage,
    } | changes
    return json.dumps(value).encode()


def part(text, kind="text"):
    return {"type": kind, kind: text}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (completion(" a\n"), " a\n"),
        (b"\n \n" + completion("a"), "a"),  # signs of life before it
        (b"\xef\xbb\xbf" + completion("a"), "a"),
        (completion("a").decode().encode("utf-16"), "a"),
        (completion("\ud800 \0 é"), "\ud800 \0 é"),  # the journal replaces what no file can hold
        (completion([part("a"), part("b")]), "ab"),
        (completion([part("why", "thinking"), part("a")]), "a"),
        (completion(["a", {"text": "b"}]), "ab"),
        (completion([]), ""),
        (completion([part("no", "refusal")]), ""),
        (completion(""), ""),
        (completion(None), ""),
        (completion({"content": None, "refusal": "I will not."}), ""),
        (completion({"role": "assistant", "tool_calls": [{"function": {}}]}), ""),
        (completion({"role": "assistant", "reasoning_content": "Let me think."}), ""),
        (completion("a", choice={"finish_reason": "length"}), "a"),
        (completion("a", choice={"finish_reason": "content_filter"}), "a"),
        (completion("a", choice={"finish_reason": None}), "a"),
        (completion("a", choice={"finish_reason": [1]}), "a"),
        (completion("a", error=None, id=3, model=None, created="now", choice={"index": "0"}), "a"),
    ],
)
def test_a_completion_in_any_form_is_read(endpoint, reply, text):
    endpoint.failures["Say a."] = [reply]
    [answer] = answers(requests_for(["Say a."], 1), openai_settings(endpoint.url, **PRICES))
    assert (answer.text, answer.tokens) == (text, 5)
    assert answer.cost == pytest.approx(COST)


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (b"", "no JSON"),
        (b"<html>busy</html>", "begins with b'<html>busy"),
        (b"data: " + completion() + b"\n\ndata: [DONE]\n\n", "begins with b'data: "),
        (completion()[:-20], "no JSON"),
        (completion() + completion(), "no JSON"),
        (b"\xff\xfe\x00\xd8 junk", "no JSON"),
        (b"\x00" * 64, "no JSON"),
        (b'"hello"', "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"NaN", "no JSON object"),
        (b"{}", "no choices"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"choices": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"choices": ' + b"9" * 5000 + b"}", "no JSON"),
        (completion(error={"message": "no credit", "code": 402}), "an error: .*no credit"),
        (completion(error="overloaded", choices=None), "an error: 'overloaded'"),
        (completion("half", choice={"error": {"message": "upstream"}}), "an error: .*upstream"),
        (completion("half", choice={"finish_reason": "error"}), "broken off by the server"),
        (completion("half", choice={"finish_reason": "abort"}), "broken off by the server"),
        (completion(choices=None), "no choices"),
        (completion(choices=[]), "no choices"),
        (completion(choices={"0": {"message": {"content": "a"}}}), "no choices"),
        (completion(choices=[None]), "no choices"),
        (completion(choices=["a"]), "no choices"),
        (completion(choices=[{}]), "no choices with a message"),
        (completion(choice={"message": "a"}), "no choices with a message"),
        (completion({"role": "assistant"}), "content that is no text but None"),
        (completion(7), "content that is no text but 7"),
        (completion(True), "content that is no text but True"),
        (completion({"content": {"text": "a"}}), "content that is no text but {"),
        (completion([part("a"), 3]), "a part that is no text but 3"),
        (completion([[part("a")]]), "a part that is no text"),
        (completion([{"type": "text", "text": None}]), "a part that is no text but None"),
        (completion("x" * (2 << 20)), "more than 1150976 bytes"),
        (gzip.compress(completion("x" * (50 << 20)), mtime=0), "more than 1150976 bytes"),
        (b"\x1f\x8b\x08broken", "DecodingError"),
        (("cut", completion("x" * 1000)), "no chat completion|peer closed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_reply_that_is_no_completion_is_one_failed_request(
    endpoint, impatient, monkeypatch, reply, what
):
    """It is asked again, and may have been charged; for ever, it ends the run and is told."""
    monkeypatch.setattr(module, "RETRIES", 1)
    settings = openai_settings(endpoint.url, **PRICES)
    endpoint.failures["Say a."] = [reply]
    attempt, answer = answers(requests_for(["Say a."], 1), settings)
    assert (attempt.index, attempt.cost) == (0, pytest.approx(MOST))
    assert (answer.text, answer.cost) == ("Say a. 0", pytest.approx(COST))
    endpoint.failures["Say b."] = [reply] * 2
    outcomes, message = until_it_fails(answers(requests_for(["Say b."], 1), settings))
    assert [one.cost for one in outcomes] == [pytest.approx(MOST)] * 2
    assert re.search(what, message) and "sample 's0'" in message and len(message) < 1000
    assert endpoint.seen["Say b."] == 2


@pytest.mark.parametrize(
    ("usage", "tokens", "cost"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 5}, 5, (1, 5)),
        ({"prompt_tokens": 1.0, "completion_tokens": 5.0}, 5, (1, 5)),
        ({"prompt_tokens": 5000, "completion_tokens": 900}, 900, (5000, 900)),
        ([], None, None),
        ("many", None, None),
        ({}, None, None),
        ({"prompt_tokens": 1}, None, (1, 100)),
        ({"completion_tokens": 5}, 5, (70, 5)),
        *[
            ({"prompt_tokens": value, "completion_tokens": value}, None, None)
            for value in (
                *(None, True, False, "5", [5], {"n": 5}, -1, -1e300, 0, 0.5, 5.5, 10**8),
                *(10**400, 1e300, math.nan, math.inf, -math.inf),
            )
        ],
    ],
    ids=repr,
)
def test_a_usage_that_cannot_be_neither_blocks_nor_defeats_the_cap(endpoint, usage, tokens, cost):
    """Where nobody can have counted so, the answer counts with the most that it may cost."""
    endpoint.failures["Say a."] = [completion("a", usage)]
    [answer] = answers(requests_for(["Say a."], 1), openai_settings(endpoint.url, **PRICES))
    read, written = cost or (70, 100)
    assert (answer.text, answer.tokens) == ("a", tokens)
    assert answer.cost == pytest.approx(read * 10e-6 + written * 100e-6)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["content", "type", "text", "error", "message", "prompt_tokens"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
messages = junk | st.fixed_dictionaries({"content": junk}, optional={"refusal": junk})
choices = junk | st.lists(
    st.fixed_dictionaries({"message": messages}, optional={"finish_reason": junk, "error": junk}),
    max_size=2,
)
replies = junk | st.fixed_dictionaries(
    {"choices": choices},
    optional={"error": junk, "usage": junk | st.dictionaries(st.just("completion_tokens"), junk)},
)


@given(replies.map(json.dumps).map(str.encode) | st.binary())
def test_a_reply_is_a_text_with_counts_or_told(body):
    try:
        text, *counts = module.completion_of(body)
    except module.BadReply as error:
        assert str(error)
    else:
        assert isinstance(text, str)
        assert all(count is None or (type(count) is int and count >= 0) for count in counts)


def test_an_answer_of_no_tokens_is_counted_so(endpoint):
    endpoint.failures["Say a."] = [completion("", {"prompt_tokens": 3, "completion_tokens": 0})]
    [answer] = answers(requests_for(["Say a."], 1), openai_settings(endpoint.url))
    assert answer.tokens == 0


@pytest.mark.parametrize("location", ["/v1/chat/completions", "/elsewhere", None])
def test_redirects_end(endpoint, impatient, monkeypatch, location):
    monkeypatch.setattr(module, "RETRIES", 1)
    endpoint.headers = {} if location is None else {"location": location}
    endpoint.failures["Say a."] = [(307, "elsewhere")] * 100
    stream = answers(requests_for(["Say a."], 1), openai_settings(endpoint.url))
    message = until_it_fails(stream)[1]
    assert "redirect" in message.lower() or "307" in message


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("localhost:8000/v1", "k", "begins with neither http"),
        ("ftp://localhost/v1", "k", "begins with neither http"),
        ("", "k", "begins with neither http"),
        ("http://[::1/v1", "k", r"generate\.url"),
        ("http://localhost:port/v1", "k", r"generate\.url"),
        ("http://localhost/v1", "clé", "OPENAI_API_KEY"),
        ("http://localhost/v1", "a\nb", "OPENAI_API_KEY"),
    ],
)
def test_what_is_no_url_or_key_is_told_at_once(monkeypatch, url, key, message):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=message):
        answers(requests_for(PROMPTS), openai_settings(url))


def test_garbage_for_ever_is_told_and_other_answers_are_kept(endpoint, impatient, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 2)
    endpoint.failures["Say b."] = [b"<html>no</html>"] * 9
    requests = requests_for(PROMPTS, 1)
    stream = answers(requests, openai_settings(endpoint.url, batch_size=1))
    found, message = until_it_fails(stream)
    assert [one.index for one in found if isinstance(one, Answer)] == [0, 1]
    assert sum(isinstance(one, Attempt) for one in found) == 3
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
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
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
    assert module.retry_after(headers) == seconds


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
    *attempts, answer = answers(requests, settings)
    assert [one.cost for one in attempts] == [pytest.approx(MOST)] * 2  # of garbage nobody knows
    assert answer.cost == pytest.approx(COST)
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
    budget, stopping = module.Budget(settings, 0), threading.Event()
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
