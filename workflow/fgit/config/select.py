"""``select``: which variant of a sample is used."""

from typing import Annotated

from pydantic import Field

from fgit.config.base import Place, Settings, Speed


class SelectSettings(Settings):
    """The embedder that finds the most similar variant (section II-A)."""

    embedder: Annotated[str, Place("model")] = Field(
        "microsoft/unixcoder-base", description="the embedder: a name on the hub, or a folder"
    )
    revision: str | None = Field(None, description="the embedder's commit on the hub")
    prefix: str = Field(
        "<encoder-only>",
        description="special token before the code (UniXcoder's mode), empty for other embedders",
    )
    max_length: int = Field(512, ge=8, description="tokens of the code that are embedded")
    batch_size: Speed[int] = Field(
        32, ge=1, description="texts at a time (on a CPU fewer, where they are long)"
    )


class SelectConfig(SelectSettings):
    verified_variants: bool = Field(
        False,
        description="where a sample has tests, use only variants that fail them while the correct "
        "code passes; the paper uses all",
    )
