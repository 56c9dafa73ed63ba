"""``audit``: are the variants similar and incorrect?"""

from pydantic import Field

from fgit.config.base import Name, Settings


class AuditConfig(Settings):
    """Whether the teacher's variants are similar and incorrect (section III-B1)."""

    benchmarks: list[Name] = Field(
        default_factory=list,
        description="keys of benchmarks with tests, to whose canonical solutions the teacher "
        "writes variants that are then run",
    )
    sheet: int = Field(
        0, ge=0, description="pairs of each dataset that two readers judge; 0 makes no sheet"
    )
