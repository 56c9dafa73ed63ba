"""``datasets``: instruction data."""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fgit.common.dataset_fields import check_template
from fgit.config.base import Place, Settings

Turns = Literal["last", "every"]
OurField = Literal["id", "instruction", "response", "language", "tests", "chat", "system"]


def misfit(fields: Collection[str], turns: str | None) -> str | None:
    """What of our names does not go together, in words."""
    if "chat" in fields and (also := {"instruction", "response"}.intersection(fields)):
        return f"chat takes the place of {' and '.join(sorted(also))}; name one or the other"
    if turns is not None and "chat" not in fields:
        return f"turns {turns!r} is of chats, and there is no field chat; name the chats' column"
    return None


class Dataset(Settings):
    """Instruction data."""

    path: Annotated[str, Place("data")] = Field(
        description="a records file (.jsonl, .json, .parquet) or a name on the hub"
    )
    revision: str | None = Field(None, description="commit on the hub")
    samples: int | None = Field(
        None, ge=1, description="how many rows it has, for `fgit plan` alone; a file is counted"
    )
    variants: Annotated[str | None, Place("file")] = Field(
        None,
        description="incorrect variants that are there already: rows of id, variant (code, or an "
        "answer with a code block); they take the place of the teacher's",
    )
    split: str = Field("train", description="split of a dataset on the hub")
    limit: int | None = Field(
        None, ge=1, description="use at most this many clean samples; unset uses all"
    )
    fields: dict[OurField, str] = Field(
        default_factory=dict,
        description="our name: the file's name, where they differ; a path (answers.0.text); or "
        "a template with the file's names in braces ({instruction} {input}); chat: the column of a "
        "chat, which is read by role in place of instruction and response; system: that of a "
        "system turn",
    )
    turns: Turns | None = Field(
        None,
        description="of a chat, which answers become samples: last (unset too) or every; the "
        "turns before one are its history",
    )

    @field_validator("fields")
    @classmethod
    def templates_are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for theirs in value.values():
            check_template(theirs)
        return value

    @model_validator(mode="after")
    def fields_go_together(self) -> Self:
        if reason := misfit(self.fields, self.turns):
            raise ValueError(reason)
        return self
