"""Asking a model, by the engine that the settings name: prompts in, answers out."""

import os
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from fgit.common import models
from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.inference import endpoint, transformers_engine, vllm_engine
from fgit.inference.requests import Answer, Attempt, Request

SameText = Literal["batch_1", "batch_invariant", "none"]


def answers(
    requests: Sequence[Request], settings: GenerateSettings, spent: float = 0.0
) -> Iterator[Answer | Attempt]:
    """Load the teacher, and return an iterator over its answers, in any order, each as it is done,
    and over attempts at an endpoint that failed and may have been charged.

    The teacher is loaded when this returns, so that iterating takes the time of answering alone.

    Args:
        spent: the sum of all earlier ``cost``, which counts against ``settings.max_spend``.

    Raises:
        UserError: if the teacher cannot be loaded or reached, here or while iterating. Answers to
            requests already sent are yielded first.
    """
    if settings.backend == "transformers":
        return transformers_engine.answers(requests, settings)
    if settings.backend == "vllm":
        return vllm_engine.answers(requests, settings)
    return endpoint.answers(requests, settings, spent)


def with_dtype(settings: GenerateSettings, begun: str | None = None) -> GenerateSettings:
    """The settings with the dtype that the teacher has here; a server has its own (``auto``).

    Args:
        begun: the dtype of the answers that are there.

    Raises:
        UserError: if vLLM is asked for and not installed.
    """
    if settings.backend == "openai":
        return settings
    hardware = vllm_engine.computes_bf16() if settings.backend == "vllm" else None
    settings = models.settled(settings, "dtype", begun, hardware)
    if hardware is False and settings.dtype == "bfloat16" and torch.cuda.is_available():
        raise UserError(
            "generate.dtype bfloat16: vLLM computes it on GPUs of compute capability 8.0 and "
            "later, and this one is older; name float32, or use another GPU"
        )
    return settings


def promise(settings: GenerateSettings) -> SameText:
    """Why a text is the same whatever is asked beside it, in this job or another; or ``none``.

    ``batch_1``: each answer is computed alone. ``batch_invariant``: vLLM's kernels add up in the
    same order in every batch. ``none``: rounding may differ with the batch, and so may a sampled
    text; seeds, ids and counts do not. To be asked once :func:`answers` has loaded the teacher.
    """
    if settings.backend == "transformers" and settings.batch_size == 1:
        return "batch_1"
    if settings.backend == "vllm" and os.environ.get(vllm_engine.BATCH_INVARIANT) == "1":
        return "batch_invariant"
    return "none"
