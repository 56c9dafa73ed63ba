"""``models``: what is trained or evaluated."""

from typing import Literal

from pydantic import Field

from fgit.config.base import Name, Settings

Mode = Literal["chat", "completion"]


class Model(Settings):
    """A model that is trained or evaluated."""

    path: str = Field(description="a name on the hub, a folder, or package:NAME/file.gguf")
    revision: str | None = Field(None, description="commit on the hub")
    template: str = Field(
        "own",
        description="prompt template: own (the tokenizer's), magicoder, semcoder, or a Jinja file",
    )
    mode: Mode = Field(
        "chat", description="how benchmarks are asked, for the model and its fine-tunes alike"
    )
    licence: str | None = Field(
        None, description="the weights' licence, for the cards of models trained from it"
    )
    samples: dict[Name, str] = Field(
        default_factory=dict,
        description="solutions of this model that are there already, by benchmark: JSONL rows of "
        "task_id, solution; they are scored in place of what the model would write",
    )
