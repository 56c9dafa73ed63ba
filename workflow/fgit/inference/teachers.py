"""Asking the teacher: prompts in, answers out, by transformers, vLLM or an HTTP endpoint."""

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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import transformers

from fgit.common import models
from fgit.common.code_blocks import code_blocks
from fgit.common.errors import UserError
from fgit.common.progress import SECONDS, Writing
from fgit.config import GenerateSettings
from fgit.inference.decoding import context_length, decode, end_tokens, greedy

log = logging.getLogger(__name__)

ASKING = "Asking the teacher"
TOO_LONG = "prompt_too_long"
RETRIES = 8  # with the waits below, an endpoint may be away for some five minutes
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is twice the last
LONGEST_RETRY_AFTER = 3600.0  # seconds that an endpoint may ask us to wait

SameText = Literal["batch_1", "batch_invariant", "none"]


@dataclasses.dataclass(frozen=True)
class Request:
    """The k-th answer to ``prompt``, one user message, is wanted for sample ``id``."""

    id: str
    k: int
    seed: int
    prompt: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to ``requests[index]``; ``tokens`` (generated) is None where nobody counted.

    ``refused`` says why the teacher was not asked, if it was not. ``cost`` is what the answer cost
    with all its attempts, in the currency of the prices; 0 where the settings have none.
    """

    index: int
    text: str
    tokens: int | None
    refused: str | None = None
    cost: float = 0.0


def answers(
    requests: Sequence[Request], settings: GenerateSettings, spent: float = 0.0
) -> Iterator[Answer]:
    """Load the teacher, and return an iterator over its answers, in any order, each as it is done.

    The teacher is loaded when this returns, so that iterating takes the time of answering alone.

    Args:
        spent: the sum of the ``cost`` of answers that were had before: it counts against
            ``settings.max_spend``.

    Raises:
        UserError: if the teacher cannot be had, here or while iterating. What was answered, or had
            been asked already, is yielded first.
    """
    if settings.backend == "transformers":
        return transformers_answers(requests, settings)
    if settings.backend == "vllm":
        return vllm_answers(requests, settings)
    return openai_answers(requests, settings, spent)


def settled(settings: GenerateSettings, begun: str | None = None) -> GenerateSettings:
    """The settings with the dtype that the teacher has here; a server has its own (``auto``).

    Args:
        begun: the dtype of the answers that are there.

    Raises:
        UserError: if vLLM is asked for and not installed.
    """
    if settings.backend == "openai":
        return settings
    hardware = vllm_computes_bf16() if settings.backend == "vllm" else None
    found = models.settled(settings, "dtype", begun, hardware)
    if hardware is False and found.dtype == "bfloat16" and torch.cuda.is_available():
        raise UserError(
            "generate.dtype bfloat16: vLLM computes it on GPUs of compute capability 8.0 and "
            "later, and this one is older; name float32, or use another GPU"
        )
    return found


def promise(settings: GenerateSettings) -> SameText:
    """Why a text is the same whatever is asked beside it, in this job or another; or ``none``.

    ``batch_1``: each answer is computed alone. ``batch_invariant``: vLLM's kernels add up in the
    same order in every batch. ``none``: rounding may differ with the batch, and so may a sampled
    text; seeds, ids and counts do not. To be asked once :func:`answers` has loaded the teacher.
    """
    if settings.backend == "transformers" and settings.batch_size == 1:
        return "batch_1"
    if settings.backend == "vllm" and os.environ.get(BATCH_INVARIANT) == "1":
        return "batch_invariant"
    return "none"


# ------------------------------------------------------------------ transformers


class GumbelSampling:
    """Sample each row with its own generator: argmax(logits / T + Gumbel noise) is a softmax draw.

    A row's noise depends on its own seed alone, so that its text does not change with the rows
    beside it, but for rounding: a batched matrix product may differ in the last bits.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        noise = torch.empty_like(logits, dtype=torch.float32)
        for place, row in enumerate(rows):
            noise[place].uniform_(generator=self.generators[row])
        # -log(-log u) of a uniform draw is a Gumbel draw; the clamp keeps it finite.
        noise.clamp_(1e-30, 1 - 2**-24).log_().neg_().log_()
        return (logits.float() / self.temperature - noise).argmax(-1)


def fence_closed(text: str) -> bool:
    """Whether ``text`` has a code block that is not empty and whose closing line is complete."""
    complete = text[: text.rfind("\n") + 1]
    return any(
        block.content.strip() and block.end < len(complete) for block in code_blocks(complete)
    )


def transformers_answers(
    requests: Sequence[Request], settings: GenerateSettings
) -> Iterator[Answer]:
    tokenizer = load_tokenizer(settings)
    model = models.load_model(settings.teacher, settings.revision, settings.dtype)
    return _transformers_stream(requests, settings, tokenizer, model)


def _transformers_stream(
    requests: Sequence[Request], settings: GenerateSettings, tokenizer: Any, model: Any
) -> Iterator[Answer]:
    limit = context_length(model)
    # Prompts of like length share a batch; the sort is stable, so the answers to one prompt stay
    # together. The longest come first: if the memory does not suffice, that shows at once.
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
    with Writing(ASKING, len(order), settings.max_new_tokens) as progress:
        for start in range(0, len(order), settings.batch_size):
            fitting = []
            for index in order[start : start + settings.batch_size]:
                ids = prompt_ids(tokenizer, requests[index].prompt)
                if len(ids) >= limit:
                    yield Answer(index, "", 0, TOO_LONG)
                    progress.end()
                else:
                    fitting.append((index, ids))
            if not fitting:
                continue
            seeds = [requests[index].seed for index, _ in fitting]
            for row, text, tokens in generate_batch(
                *(model, tokenizer, [ids for _, ids in fitting], seeds, settings),
                progress.wrote,
            ):
                yield Answer(fitting[row][0], text, tokens)
                progress.end()


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    settings: GenerateSettings,
    wrote: Callable[[int], Any] = lambda tokens: None,
) -> Iterator[tuple[int, str, int]]:
    """Yield (row, text, number of generated tokens) as the rows end; temperature 0 is greedy.

    A row also ends once a code block of its answer is closed: small teachers ramble on behind it.
    """
    ends = end_tokens(model, tokenizer)

    def ended(row: int, tokens: list[int]) -> bool:
        if tokens[-1] in ends:
            return True
        return "\n" in tokenizer.decode(tokens[-1:]) and fence_closed(text_of(tokens))

    def text_of(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True)

    choose = (
        GumbelSampling(seeds, settings.temperature, model.device)
        if settings.temperature > 0
        else greedy
    )
    for row, tokens, _ in decode(
        *(model, prompts),
        max_new_tokens=settings.max_new_tokens,
        choose=choose,
        ended=ended,
        wrote=wrote,
    ):
        yield row, text_of(tokens), len(tokens)


# ------------------------------------------------------------------ vLLM


BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
# NVIDIA GPUs of this compute capability and later have bf16, and vLLM 0.32 has batch-invariant
# kernels for them.
LEAST_CAPABILITY = (8, 0)


def vllm_computes_bf16() -> bool:
    """As :func:`fgit.common.models.computes_bf16`, but the GPU is left to vLLM's workers."""
    require_vllm()
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return models.computes_bf16()
    return tuple(current_platform.get_device_capability() or (0, 0)) >= LEAST_CAPABILITY


def require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "backend vllm: vllm is not installed in this environment. Install envs/vllm.txt in an "
            "environment of its own (make .venv-vllm), and name its interpreter in the config as "
            "python.vllm"
        )


def vllm_answers(requests: Sequence[Request], settings: GenerateSettings) -> Iterator[Answer]:
    require_vllm()
    name, arguments = models.source(settings.teacher)
    if arguments:
        raise UserError(
            f"teacher {settings.teacher}: vLLM takes a folder or a name on the hub; "
            "`fgit fetch` makes a folder of a GGUF file"
        )
    tokenizer = load_tokenizer(settings)
    set_vllm_environment()
    from vllm import LLM

    gpu = torch.cuda.is_available()
    try:
        engine = LLM(
            model=name,
            revision=settings.revision,
            tokenizer_revision=settings.revision,
            dtype=settings.dtype,
            max_model_len=vllm_length(requests, settings, tokenizer, name),
            tensor_parallel_size=settings.tensor_parallel,
            enable_prefix_caching=True,
            # On a CPU, a prompt that is read in chunks breaks a request's own seed in vLLM 0.32
            # ("CPU Generator does not use offset").
            enable_chunked_prefill=gpu,
            enforce_eager=not gpu,  # compiling takes a minute and hardly pays on a CPU
            disable_log_stats=False,  # its count of tokens is what the bar shows
            seed=0,
        )
    # RuntimeError: vLLM's word for a model without batch-invariant kernels, or too little memory.
    except (OSError, ValueError, RuntimeError) as error:
        invariant = os.environ.get(BATCH_INVARIANT) == "1"
        hint = f"; if it is about batch invariance, set {BATCH_INVARIANT}=0" if invariant else ""
        raise UserError(
            f"teacher {settings.teacher}: vLLM cannot load it: {error}{hint}"
        ) from error
    return _vllm_stream(requests, settings, tokenizer, engine.llm_engine)


def set_vllm_environment() -> None:
    """What vLLM reads from the environment; what is set there already stays.

    Batch invariance is switched on where the hardware has it.
    """
    # One process besides the GPUs' workers: a signal then finds one that knows what to do.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOG_STATS_INTERVAL", "60")  # seconds; the bar says the same
    from vllm.platforms import current_platform  # asks the driver, and leaves the GPU alone

    capability = current_platform.get_device_capability() if current_platform.is_cuda() else None
    if capability is not None and tuple(capability) >= LEAST_CAPABILITY:
        os.environ.setdefault(BATCH_INVARIANT, "1")
    elif os.environ.pop(BATCH_INVARIANT, "0") == "1":
        log.warning("%s=1 is ignored: this hardware has no such kernels", BATCH_INVARIANT)
    if current_platform.is_cpu():
        # GiB; vLLM would take nearly all of the machine's memory, whatever the job was granted.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")


def vllm_length(
    requests: Sequence[Request], settings: GenerateSettings, tokenizer: Any, name: str
) -> int | None:
    """Positions that the longest request may need; None if it may be all that the model has.

    vLLM starts only where its cache has room for one sequence of this length, which for a model of
    128k positions takes much memory that no request uses.
    """
    # No token of a prompt is shorter than a byte; the template's own count once more.
    longest = max((len(request.prompt.encode("utf-8")) for request in requests), default=0)
    needed = longest + len(prompt_ids(tokenizer, "")) + settings.max_new_tokens
    with models.loading_errors(settings.teacher, "model config"):
        config = transformers.AutoConfig.from_pretrained(
            name, revision=settings.revision, trust_remote_code=False
        )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return needed if positions is None or needed < positions else None


def _vllm_stream(
    requests: Sequence[Request], settings: GenerateSettings, tokenizer: Any, engine: Any
) -> Iterator[Answer]:
    """Keep the engine's queue filled in the order of the requests, and yield what it finishes.

    The answers to one prompt are neighbours in ``requests``, so the engine reads the prompt once.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    limit = engine.model_config.max_model_len
    ahead = 2 * engine.vllm_config.scheduler_config.max_num_seqs
    waiting = iter(range(len(requests)))
    running: set[str] = set()
    prompt, ids = "", prompt_ids(tokenizer, "")
    read, cached = 0, 0
    written, told = 0, time.monotonic()
    before = tokens_written(engine)
    try:
        with Writing(ASKING, len(requests), settings.max_new_tokens) as progress:
            while True:
                # No more: a queue of all of a dataset's 300,000 requests takes gigabytes.
                taken = list(itertools.islice(waiting, ahead - len(running)))
                if not taken and not running:
                    break
                for index in taken:
                    if requests[index].prompt != prompt:
                        prompt = requests[index].prompt
                        ids = prompt_ids(tokenizer, prompt)
                    if len(ids) >= limit:  # vLLM would refuse it with an error
                        yield Answer(index, "", 0, TOO_LONG)
                        progress.end()
                        continue
                    sampling = SamplingParams(
                        temperature=settings.temperature,
                        max_tokens=settings.max_new_tokens,
                        seed=requests[index].seed,
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    # vLLM puts random letters behind the name: two runs may use one twice.
                    engine.add_request(str(index), {"prompt_token_ids": ids}, sampling)
                    running.add(str(index))
                outputs = engine.step() if running else ()
                if time.monotonic() - told > SECONDS or len(outputs) == len(running):
                    now = tokens_written(engine) - before
                    progress.wrote(now - written)
                    written, told = now, time.monotonic()
                for output in outputs:
                    if not output.finished:
                        continue
                    running.discard(output.request_id)
                    read += len(output.prompt_token_ids)
                    cached += output.num_cached_tokens or 0
                    text, tokens = output.outputs[0].text, len(output.outputs[0].token_ids)
                    yield Answer(int(output.request_id), text, tokens)
                    progress.end()
    finally:
        if running:  # the caller wants no more
            engine.abort_request(sorted(running))
    log.info("Of %d prompt tokens, %d were not computed again (prefix cache)", read, cached)


def tokens_written(engine: Any) -> int:
    """How many tokens vLLM has given since it was loaded, those of running requests among them."""
    return sum(m.value for m in engine.get_metrics() if m.name == "vllm:generation_tokens")


# ------------------------------------------------------------------ an endpoint


def openai_answers(
    requests: Sequence[Request], settings: GenerateSettings, spent: float = 0.0
) -> Iterator[Answer]:
    if settings.url is None:
        raise UserError(
            "backend openai: no url; set generate.url to the endpoint's base URL, "
            "such as http://localhost:8000/v1"
        )
    if importlib.util.find_spec("openai") is None:
        raise UserError("backend openai: the package openai is not installed: pip install openai")
    import openai

    client = openai.OpenAI(
        base_url=settings.url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        # Its own retries wait 8 s at most, give up where an endpoint asks for more than two
        # minutes, and know neither of the other threads' requests nor of what an attempt cost.
        max_retries=0,
    )
    return Endpoint(client, settings, spent).stream(requests)


def input_tokens(prompt: str) -> int:
    """At most so many tokens an endpoint counts for a prompt: no token is shorter than a byte."""
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

        Where it would fit but for what others may yet cost, wait until they have been paid.
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

    def stream(self, requests: Sequence[Request]) -> Iterator[Answer]:
        waiting = enumerate(requests)
        taking = threading.Lock()
        done: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            """Ask one request after another; None in the queue says that this thread has ended."""
            try:
                while not self.stopping.is_set():
                    with taking:
                        index, request = next(waiting, (0, None))
                    if request is None:
                        break
                    answer = self.ask(index, request)
                    if answer is None:
                        break
                    done.put(answer)
            except BaseException as error:
                self.stopping.set()  # the others finish what they have asked, and no more
                done.put(error)
            done.put(None)

        # Not an executor: Python would wait for its threads at the end, so for as long as the
        # endpoint takes to answer what nobody wants any more.
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
            f"endpoint {self.settings.url}: {self.budget.spent:.4f} spent, and the next answer "
            f"could pass generate.max_spend {cap}{part}; {missing} answers are missing. Those so "
            "far are kept: raise generate.max_spend and run it again to go on"
        )

    def ask(self, index: int, request: Request) -> Answer | None:
        """The answer to a request; None where the cap on spending, or a stop, forbids to ask.

        An attempt that brings nothing is made again after a wait that doubles each time, with a
        random part, so that the threads do not come back all at once; or after what the endpoint
        asks for (Retry-After), and then no thread asks it before.
        """
        read = input_tokens(request.prompt)
        most = self.budget.price(read, self.settings.max_new_tokens)
        paid = 0.0  # for attempts that brought nothing
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
                    return dataclasses.replace(outcome, cost=paid + cost)
                if not outcome.charged:
                    cost = 0.0
                paid += cost
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
            reply = self.client.chat.completions.create(
                model=settings.teacher,
                messages=[{"role": "user", "content": request.prompt}],
                temperature=settings.temperature,
                max_tokens=settings.max_new_tokens,
                seed=request.seed,
            )
            if not reply.choices:
                raise TypeError("no choices")
            text, usage = reply.choices[0].message.content or "", reply.usage
        except openai.AuthenticationError:
            return Failure(f"{where}: the key was refused (401); set OPENAI_API_KEY")
        except openai.NotFoundError as error:
            return Failure(
                f"{where}: not found (404): {error.message}. Check generate.teacher "
                f"({settings.teacher!r}) and generate.url, which usually ends in /v1"
            )
        except openai.BadRequestError as error:
            if "context" in error.message and "length" in error.message:
                return Answer(index, "", 0, TOO_LONG)
            return Failure(f"{where}: the request was refused (400): {error.message}")
        except openai.APIStatusError as error:
            return Failure(
                f"{where}: status {error.status_code}: {error.message}",
                passing=(error.status_code in (408, 409, 429) or error.status_code >= 500)
                and error.code != "insufficient_quota",
                retry_after=retry_after(error.response.headers),
            )
        except openai.APITimeoutError:
            return Failure(f"{where}: no answer in time", passing=True, charged=True)
        except openai.APIConnectionError as error:
            return Failure(
                f"{where}: no connection ({error.__cause__ or error}); "
                "is the server running, and generate.url right?",
                passing=True,
            )
        except (openai.APIError, json.JSONDecodeError, AttributeError, TypeError) as error:
            # A proxy's page in place of an answer, or half of one.
            return Failure(
                f"{where}: the reply is no chat completion ({type(error).__name__}: {error}); "
                "check generate.url",
                passing=True,
                charged=True,
            )
        tokens = usage.completion_tokens if usage else None
        read = usage.prompt_tokens if usage else None
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
            except ValueError:
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
    return None


# ------------------------------------------------------------------ prompts


def load_tokenizer(settings: GenerateSettings) -> Any:
    tokenizer = models.load_tokenizer(settings.teacher, settings.revision)
    if not tokenizer.chat_template:
        raise UserError(
            f"teacher {settings.teacher}: its tokenizer has no chat template; "
            "use an instruction-tuned model"
        )
    return tokenizer


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of the prompt as one user message, the generation prompt included."""
    return models.prompt_ids(tokenizer, models.prompt_text(tokenizer, prompt))
