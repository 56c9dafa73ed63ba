"""Answers by vLLM, in an environment of its own."""

import importlib.util
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers

from fgit.common import models
from fgit.common.adapters import refuse_adapter
from fgit.common.chat_templates import ends_of_turn
from fgit.common.errors import UserError
from fgit.common.progress import SECONDS, Writing
from fgit.common.tokenizers import chat_ids
from fgit.config import GenerateSettings
from fgit.inference.requests import ASKING, PROMPT_TOO_LONG, Answer, Request
from fgit.inference.transformers_engine import chat_tokenizer

log = logging.getLogger(__name__)

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
# NVIDIA GPUs of this compute capability and later have bf16, and vLLM 0.32 has batch-invariant
# kernels for them.
LEAST_CAPABILITY = (8, 0)


def computes_bf16() -> bool:
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


def answers(requests: Sequence[Request], settings: GenerateSettings) -> Iterator[Answer]:
    require_vllm()
    name, arguments = models.source(settings.teacher)
    if arguments:
        raise UserError(
            f"teacher {settings.teacher}: vLLM takes a folder or a name on the hub; "
            "`fgit fetch` makes a folder of a GGUF file"
        )
    refuse_adapter(settings.teacher, name)
    tokenizer = chat_tokenizer(settings)
    set_environment()
    from vllm import LLM

    gpu = torch.cuda.is_available()
    try:
        engine = LLM(
            model=name,
            revision=settings.revision,
            tokenizer_revision=settings.revision,
            dtype=settings.dtype,
            max_model_len=longest_request(requests, settings, tokenizer, name),
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
    return stream(requests, settings, tokenizer, engine.llm_engine)


def set_environment() -> None:
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


def longest_request(
    requests: Sequence[Request], settings: GenerateSettings, tokenizer: Any, name: str
) -> int | None:
    """Positions that the longest request may need; None if it may be all that the model has.

    vLLM starts only where its cache has room for one sequence of this length, which for a model of
    128k positions takes much memory that no request uses.
    """
    # No token of a prompt is shorter than a byte; the template's own count once more.
    longest = max((len(request.prompt.encode("utf-8")) for request in requests), default=0)
    needed = longest + len(chat_ids(tokenizer, "")) + settings.max_new_tokens
    with models.loading_errors(settings.teacher, "model config"):
        config = transformers.AutoConfig.from_pretrained(
            name, revision=settings.revision, trust_remote_code=False
        )
    config = config.get_text_config()
    ids = (chat_ids(tokenizer, prompt) for prompt in dict.fromkeys(r.prompt for r in requests))
    models.require_rows(config.vocab_size, tokenizer, ids, f"teacher {settings.teacher}")
    positions = getattr(config, "max_position_embeddings", None)
    return needed if positions is None or needed < positions else None


def stream(
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
    prompt, ids = "", chat_ids(tokenizer, "")
    ends = ends_of_turn(tokenizer)
    read, cached = 0, 0
    reported, last_report = 0, time.monotonic()
    before = tokens_written(engine)
    try:
        with Writing(ASKING, len(requests), settings.max_new_tokens) as progress:
            while True:
                # No more: a queue of all of a dataset's 300,000 requests takes gigabytes.
                added = list(itertools.islice(waiting, ahead - len(running)))
                if not added and not running:
                    break
                for index in added:
                    if requests[index].prompt != prompt:
                        prompt = requests[index].prompt
                        ids = chat_ids(tokenizer, prompt)
                    if len(ids) >= limit:  # vLLM would refuse it with an error
                        yield Answer(index, "", 0, PROMPT_TOO_LONG)
                        progress.end()
                        continue
                    sampling = SamplingParams(
                        temperature=settings.temperature,
                        max_tokens=settings.max_new_tokens,
                        seed=requests[index].seed,
                        stop_token_ids=ends,  # besides the model's own
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    # vLLM puts random letters behind the name: two runs may use one twice.
                    engine.add_request(str(index), {"prompt_token_ids": ids}, sampling)
                    running.add(str(index))
                outputs = engine.step() if running else ()
                if time.monotonic() - last_report > SECONDS or len(outputs) == len(running):
                    written = tokens_written(engine) - before
                    progress.wrote(written - reported)
                    reported, last_report = written, time.monotonic()
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
