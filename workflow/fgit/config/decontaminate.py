"""``decontaminate``: how the data are kept free of benchmarks."""

from typing import Literal

from pydantic import Field

from fgit.config.base import Name, Settings


class DecontaminateSettings(Settings):
    """How the overlap with benchmarks is found, and which rows can be used."""

    mode: Literal["strict", "paper"] = Field(
        "strict",
        description="paper removes what Magicoder's rule finds, texts held verbatim but for case; "
        "strict what holds a text, case and whitespace aside, or most of its n-grams; what "
        "the other finds is reported",
    )
    min_characters: int = Field(
        40,
        ge=1,
        description="benchmark texts shorter than this many characters, whitespace not counted, "
        "are trivial: strict passes them over",
    )
    ngram_size: int = Field(
        8, ge=2, description="words of an n-gram, of descriptions and solutions (strict)"
    )
    renamed_size: int = Field(
        16,
        ge=2,
        description="tokens of an n-gram of code whose names do not count (strict); only "
        "solutions with more n-grams than that are looked for",
    )
    ngram_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of a benchmark text's n-grams that a sample's instruction or response "
        "must hold to be removed (strict)",
    )
    max_characters: int = Field(
        200_000,
        ge=1,
        description="a row whose instruction and response have more characters cannot be used",
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="what a row that cannot be used does: stop the stage, or be counted"
    )


class DecontaminateConfig(DecontaminateSettings):
    against: list[Name] = Field(
        min_length=1, description="keys of benchmarks that must not be in the data"
    )
