"""``mutate``: mutants in place of the teacher's variants."""

from pydantic import Field

from fgit.config.base import Settings


class MutateSettings(Settings):
    """Mutants in place of the teacher's variants (Table VI)."""

    variants: int = Field(3, ge=1, description="mutants drawn for each sample")
    seed: int = Field(0, ge=0, description="seed of the draw")
