"""Answers by transformers, in this process."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fgit.common.code_blocks import code_blocks
from fgit.common.errors import UserError
from fgit.common.models import embedding_rows, load_model, require_rows
from fgit.common.progress import Writing
from fgit.common.tokenizers import answer_text, chat_ids, load_tokenizer
from fgit.config import GenerateSettings
from fgit.inference.decoding import Choose, context_length, decode_texts, greedy
from fgit.inference.requests import ASKING, PROMPT_TOO_LONG, Answer, Request


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


def answers(requests: Sequence[Request], settings: GenerateSettings) -> Iterator[Answer]:
    tokenizer = chat_tokenizer(settings)
    model = load_model(settings.teacher, settings.revision, settings.dtype)
    ids = (chat_ids(tokenizer, prompt) for prompt in dict.fromkeys(r.prompt for r in requests))
    require_rows(embedding_rows(model), tokenizer, ids, f"teacher {settings.teacher}")
    return stream(requests, settings, tokenizer, model)


def stream(
    requests: Sequence[Request], settings: GenerateSettings, tokenizer: Any, model: Any
) -> Iterator[Answer]:
    limit = context_length(model)

    def code_closed(tokens: list[int]) -> bool:
        """Whether a code block of the answer is closed: small teachers ramble on behind it."""
        return "\n" in tokenizer.decode(tokens[-1:]) and fence_closed(
            answer_text(tokenizer, tokens)
        )

    # Prompts of like length share a batch; the sort is stable, so the answers to one prompt stay
    # together. The longest come first: if the memory does not suffice, that shows at once.
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
    with Writing(ASKING, len(order), settings.max_new_tokens) as progress:
        for start in range(0, len(order), settings.batch_size):
            fitting = []
            for index in order[start : start + settings.batch_size]:
                ids = chat_ids(tokenizer, requests[index].prompt)
                if len(ids) >= limit:
                    yield Answer(index, "", 0, PROMPT_TOO_LONG)
                    progress.end()
                else:
                    fitting.append((index, ids))
            if not fitting:
                continue
            choose: Choose = greedy
            if settings.temperature > 0:
                seeds = [requests[index].seed for index, _ in fitting]
                choose = GumbelSampling(seeds, settings.temperature, model.device)
            for row, text, tokens, _ in decode_texts(
                *(model, tokenizer, [ids for _, ids in fitting], code_closed),
                max_new_tokens=settings.max_new_tokens,
                wrote=progress.wrote,
                choose=choose,
            ):
                yield Answer(fitting[row][0], text, tokens)
                progress.end()


def chat_tokenizer(settings: GenerateSettings) -> Any:
    """The model's tokenizer, which must have a chat template."""
    tokenizer = load_tokenizer(settings.teacher, settings.revision)
    if not tokenizer.chat_template:
        raise UserError(
            f"teacher {settings.teacher}: its tokenizer has no chat template; "
            "use an instruction-tuned model"
        )
    chat_ids(tokenizer, "x")  # so that a template that does not work shows before the model loads
    return tokenizer
