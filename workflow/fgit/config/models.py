"""``models``: what is trained or evaluated."""

from typing import Annotated, Literal

from pydantic import Field

from fgit.config.base import Name, Place, Settings

Mode = Literal["chat", "completion"]


class Model(Settings):
    """A model that is trained or evaluated."""

    path: Annotated[str, Place("model")] = Field(
        description="a name on the hub, a folder, or package:NAME/file.gguf"
    )
    revision: str | None = Field(None, description="commit on the hub")
    template: Annotated[str, Place("template")] = Field(
        "own",
        description="prompt template: own (the tokenizer's), magicoder, semcoder, or a Jinja file",
    )
    mode: Mode = Field(
        "chat", description="how benchmarks are asked, for the model and its fine-tunes alike"
    )
    licence: str | None = Field(
        None, description="the weights' licence, for the cards of models trained from it"
    )
    samples: Annotated[dict[Name, str], Place("file")] = Field(
        default_factory=dict,
        description="solutions of this model that are there already, by benchmark: JSONL rows of "
        "task_id, solution; they are scored in place of what the model would write",
    )
