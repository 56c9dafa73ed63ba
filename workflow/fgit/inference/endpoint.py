"""Answers by an OpenAI-compatible HTTP endpoint, within a budget and at its pace."""

from __future__ import annotations

import dataclasses
import email.utils
import importlib.util
import itertools
import json
import logging
import math
import os
import queue
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from fgit.common.errors import UserError
from fgit.common.progress import Writing
from fgit.config import GenerateSettings
from fgit.inference.requests import ASKING, PROMPT_TOO_LONG, Answer, Attempt, Request

log = logging.getLogger(__name__)

RETRIES = 8  # with the waits below, an endpoint may be away for some five minutes
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is twice the last
LONGEST_RETRY_AFTER = 3600.0  # seconds that an endpoint may ask us to wait
LONGEST_REPLY = 3600.0  # seconds from a reply's first byte to its last
MOST_TOKENS = 10_000_000  # no model reads or writes as many at once: whoever counts more is wrong
# The HTTP library's errors before it has sent anything.
UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
# What a message may have where it has no content.
OTHER_CONTENT = ("refusal", "tool_calls", "function_call", "reasoning", "reasoning_content")


def answers(
    requests: Sequence[Request], settings: GenerateSettings, spent: float = 0.0
) -> Iterator[Answer | Attempt]:
    if settings.url is None:
        raise UserError(
            "backend openai: no url; set generate.url to the endpoint's base URL, "
            "such as http://localhost:8000/v1"
        )
    if importlib.util.find_spec("openai") is None:
        raise UserError("backend openai: the package openai is not installed: pip install openai")
    import openai

    key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY holds characters that no key has; set it again")
    try:
        if urllib.parse.urlsplit(settings.url).scheme not in ("http", "https"):
            raise ValueError("it begins with neither http:// nor https://")
        client = openai.OpenAI(
            base_url=settings.url,
            api_key=key,
            # Its own retries wait 8 s at most, give up where an endpoint asks for more than two
            # minutes, and know neither of the other threads' requests nor of what an attempt cost.
            max_retries=0,
        )
    except Exception as error:  # the HTTP library has exceptions of its own
        raise UserError(
            f"generate.url {settings.url!r}: {error}; give the endpoint's base URL, such as "
            "http://localhost:8000/v1"
        ) from error
    return Endpoint(client, settings, spent).stream(requests)


def input_tokens(prompt: str) -> int:
    """The most tokens that a prompt can have: no token is shorter than a byte."""
    return len(prompt.encode("utf-8", "replace")) + 64  # for the chat template


class Budget:
    """Money: what was spent, and what the requests that are under way may cost at most.

    With ``settings.shards`` jobs for a dataset, each has its part of ``settings.max_spend``.
    """

    def __init__(self, settings: GenerateSettings, spent: float) -> None:
        self.input_price = (settings.price_per_million_input or 0) / 1e6
        self.output_price = (settings.price_per_million_output or 0) / 1e6
        self.cap = math.inf if settings.max_spend is None else settings.max_spend / settings.shards
        self.spent = spent
        self.reserved = 0.0
        self.changed = threading.Condition()

    def price(self, read: int, written: int) -> float:
        return read * self.input_price + written * self.output_price

    def reserve(self, most: float, stopping: threading.Event) -> bool:
        """Whether a request may be sent that costs ``most`` at most.

        If it fits only without the requests under way, wait until these have been paid.
        """
        with self.changed:
            while self.spent + most <= self.cap and not stopping.is_set():
                if self.spent + self.reserved + most <= self.cap:
                    self.reserved += most
                    return True
                self.changed.wait(0.5)
            return False

    def settle(self, most: float, cost: float) -> None:
        with self.changed:
            self.reserved -= most
            self.spent += cost
            self.changed.notify_all()


class Pace:
    """Spreads requests over time, so that no minute has more requests or tokens than allowed.

    With ``settings.shards`` jobs for a dataset, each has its part of both.
    """

    def __init__(self, settings: GenerateSettings) -> None:
        self.per_request = 60 * settings.shards / (settings.requests_per_minute or math.inf)
        self.per_token = 60 * settings.shards / (settings.tokens_per_minute or math.inf)
        self.next = 0.0
        self.lock = threading.Lock()

    def wait(self, tokens: int, stopping: threading.Event) -> None:
        """Return when a request of so many tokens may be sent, or ``stopping`` is set."""
        with self.lock:
            start = max(self.next, time.monotonic())
            self.next = start + max(self.per_request, self.per_token * tokens)
        while (left := start - time.monotonic()) > 0 and not stopping.wait(left):
            pass

    def pause(self, seconds: float) -> None:
        """No request for so long, from any thread: the endpoint asked for it."""
        with self.lock:
            self.next = max(self.next, time.monotonic() + seconds)


class Endpoint:
    """An OpenAI-compatible endpoint, asked by ``settings.batch_size`` threads."""

    def __init__(self, client: Any, settings: GenerateSettings, spent: float) -> None:
        self.client = client
        self.settings = settings
        self.budget = Budget(settings, spent)
        self.pace = Pace(settings)
        self.stopping = threading.Event()
        # None says that a thread has ended.
        self.done: queue.SimpleQueue[Answer | Attempt | BaseException | None] = queue.SimpleQueue()

    def stream(self, requests: Sequence[Request]) -> Iterator[Answer | Attempt]:
        waiting = enumerate(requests)
        taking = threading.Lock()
        done = self.done

        def work() -> None:
            """Ask one request after another."""
            try:
                while not self.stopping.is_set():
                    with taking:
                        index, request = next(waiting, (0, None))
                    if request is None or (answer := self.ask(index, request)) is None:
                        break
                    done.put(answer)
            except BaseException as error:
                self.stopping.set()  # the other threads finish their requests, and begin no more
                done.put(error)
            done.put(None)

        # Not an executor: Python would wait at the end for its threads, and so for answers that
        # nobody wants any more.
        count = min(self.settings.batch_size, len(requests))
        for _ in range(count):
            threading.Thread(target=work, daemon=True).start()
        failure: BaseException | None = None
        answered = 0
        try:
            with Writing(ASKING, len(requests), self.settings.max_new_tokens) as progress:
                while count:
                    result = done.get()
                    if result is None:
                        count -= 1
                    elif isinstance(result, BaseException):
                        failure = failure or result
                    elif isinstance(result, Attempt):
                        yield result
                    else:
                        yield result
                        answered += 1
                        progress.wrote(result.tokens or 0)
                        progress.end()
        finally:
            self.stopping.set()
        if failure is not None:
            raise failure
        if answered < len(requests):
            raise self.spending_error(len(requests) - answered)

    def spending_error(self, missing: int) -> UserError:
        cap, shards = self.settings.max_spend, self.settings.shards
        part = f" ({self.budget.cap:.4g} for each of {shards} shards)" if shards > 1 else ""
        return UserError(
            f"endpoint {self.settings.url}: {self.budget.spent:.4f} spent, by this start and all "
            f"before, and the next answer could pass generate.max_spend {cap}{part}; {missing} "
            "answers are missing. Those so far are kept: raise generate.max_spend and run it again "
            "to go on"
        )

    def ask(self, index: int, request: Request) -> Answer | None:
        """The answer to a request; None if the cap on spending, or a stop, forbids it.

        An attempt that brings nothing is made again after a wait that doubles each time, with a
        random part, so that the threads do not come back all at once; or after what the endpoint
        asks for (Retry-After), and then no thread asks it before. What it may have cost is told
        at once, since the request may fail for good.
        """
        read = input_tokens(request.prompt)
        most = self.budget.price(read, self.settings.max_new_tokens)
        for attempt in itertools.count():
            if not self.budget.reserve(most, self.stopping):
                return None
            cost = most  # where nobody tells: it may have been charged
            try:
                self.pace.wait(read + self.settings.max_new_tokens, self.stopping)
                if self.stopping.is_set():
                    cost = 0.0
                    return None
                outcome = self.attempt(index, request)
                if isinstance(outcome, Answer):
                    cost = outcome.cost
                    return outcome
                if outcome.charged:
                    self.done.put(Attempt(index, cost))
                else:
                    cost = 0.0
                if attempt >= RETRIES or not outcome.passing:
                    raise outcome.error
            finally:
                self.budget.settle(most, cost)
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)
            if outcome.retry_after is not None:
                wait = outcome.retry_after * random.uniform(1, 1.1)
                self.pace.pause(outcome.retry_after)
            log.warning("%s; again in %.1f s", outcome.error, wait)
            self.stopping.wait(wait)
        raise AssertionError  # the count has no end

    def attempt(self, index: int, request: Request) -> Answer | Failure:
        """Ask once."""
        import openai

        settings = self.settings
        where = f"endpoint {settings.url}, sample {request.id!r}"
        try:
            with self.client.chat.completions.with_streaming_response.create(
                model=settings.teacher,
                messages=[{"role": "user", "content": request.prompt}],
                temperature=settings.temperature,
                max_tokens=settings.max_new_tokens,
                seed=request.seed,
            ) as response:
                body = body_of(response, (1 << 20) + 1024 * settings.max_new_tokens)
            text, read, tokens = completion_of(body)
        except openai.AuthenticationError:
            return Failure(f"{where}: the key was refused (401); set OPENAI_API_KEY")
        except openai.NotFoundError as error:
            return Failure(
                f"{where}: not found (404): {said(error)}. Check generate.teacher "
                f"({settings.teacher!r}) and generate.url, which usually ends in /v1"
            )
        except openai.BadRequestError as error:
            if "context" in said(error) and "length" in said(error):
                return Answer(index, "", 0, PROMPT_TOO_LONG)
            return Failure(f"{where}: the request was refused (400): {said(error)}")
        except openai.APIStatusError as error:
            return Failure(
                f"{where}: status {error.status_code}: {said(error)}",
                passing=(error.status_code in (408, 409, 429) or error.status_code >= 500)
                and error.code != "insufficient_quota",
                retry_after=retry_after(error.response.headers),
            )
        except openai.APIConnectionError as error:
            late = isinstance(error, openai.APITimeoutError)
            return Failure(
                f"{where}: no answer in time"
                if late
                else f"{where}: no connection ({error.__cause__ or error}); "
                "is the server running, and generate.url right?",
                passing=True,
                charged=type(error.__cause__).__name__ not in UNSENT,
            )
        except Exception as error:  # the HTTP library's own, while it reads, are among them
            what = str(error) if isinstance(error, BadReply) else f"{type(error).__name__}: {error}"
            return Failure(
                f"{where}: the reply is no chat completion ({what:.500}); check generate.url",
                passing=True,
                charged=True,
            )
        cost = self.budget.price(
            input_tokens(request.prompt) if read is None else read,
            settings.max_new_tokens if tokens is None else tokens,
        )
        return Answer(index, text, tokens, cost=cost)


@dataclasses.dataclass(frozen=True)
class Failure:
    """An attempt without an answer: whether it may pass, and whether it may have been charged."""

    message: str
    passing: bool = False
    charged: bool = False
    retry_after: float | None = None

    @property
    def error(self) -> UserError:
        again = f" (also after {RETRIES} retries)" if self.passing else ""
        return UserError(self.message + again)


def said(error: Any) -> str:
    """What an endpoint says of an error; where it is in no usual place, the body."""
    text = error.message if " - " in error.message else f"{error.message}: {error.body!r}"
    return str(text[:500])


class BadReply(Exception):
    """What came in place of a chat completion."""


def body_of(response: Any, limit: int) -> bytes:
    """The body of a reply, of so many bytes at most.

    Raises:
        BadReply: if it is longer, or takes for ever; the HTTP library has errors of its own.
    """
    body = bytearray()
    end = time.monotonic() + LONGEST_REPLY
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit:
            raise BadReply(f"more than {limit} bytes, which begin with {bytes(body[:80])!r}")
        if time.monotonic() > end:
            raise BadReply(f"not at its end after {LONGEST_REPLY:.0f} s")
    return bytes(body)


def completion_of(body: bytes) -> tuple[str, int | None, int | None]:
    """The text of a chat completion, and the tokens read and written; None if nobody counted.

    Raises:
        BadReply: saying what it is instead.
    """
    try:
        reply = json.loads(body)
    except RecursionError:
        raise BadReply("JSON that is nested too deeply") from None
    except ValueError:
        raise BadReply(f"no JSON; it begins with {body[:80]!r}") from None
    if not isinstance(reply, dict):
        raise BadReply(f"no JSON object but {body[:80]!r}")
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    for part in (reply, choice):
        if isinstance(part, dict) and part.get("error"):
            raise BadReply(f"an error: {part['error']!r:.300}")
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise BadReply(f"no choices with a message; it begins with {body[:80]!r}")
    if choice.get("finish_reason") in ("error", "abort"):
        raise BadReply(f"broken off by the server: finish_reason {choice['finish_reason']!r}")
    text = text_of(message)
    usage = reply.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    # A template makes tokens of an empty prompt too.
    read = count_of(counts.get("prompt_tokens"), least=1)
    return text, read, count_of(counts.get("completion_tokens"), least=1 if text else 0)


def text_of(message: dict[str, Any]) -> str:
    """The content of a message; of a list of parts, those that are text. What has none (a refusal,
    a call of a tool, thoughts alone) is an empty answer, and would be again.

    Raises:
        BadReply: if it is neither.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and any(key in message for key in ("content", *OTHER_CONTENT)):
        return ""
    if not isinstance(content, list):
        raise BadReply(f"content that is no text but {content!r:.80}")
    texts = []
    for part in content:
        if isinstance(part, dict):
            if part.get("type", "text") not in ("text", "output_text"):
                continue
            part = part.get("text")
        if not isinstance(part, str):
            raise BadReply(f"content with a part that is no text but {part!r:.80}")
        texts.append(part)
    return "".join(texts)


def count_of(value: Any, least: int) -> int | None:
    """A number of tokens; None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if least <= value <= MOST_TOKENS and value == int(value) else None


def retry_after(headers: Any) -> float | None:
    """Seconds that an endpoint asks to wait, at most an hour; None where it says nothing usable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
    return None
