"""``datasets``: instruction data."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fgit.common.dataset_fields import check_template
from fgit.config.base import Place, Settings


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
    fields: dict[Literal["id", "instruction", "response", "language", "tests"], str] = Field(
        default_factory=dict,
        description="our name: the file's name, where they differ; a path (messages.1.content); or "
        "a template with the file's names in braces ({instruction} {input})",
    )

    @field_validator("fields")
    @classmethod
    def templates_are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for theirs in value.values():
            check_template(theirs)
        return value
