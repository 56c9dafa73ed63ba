"""What the sections of a config share."""

import dataclasses
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Dtype = Literal["auto", "float32", "bfloat16"]
AUTO = "auto: bf16 where the device computes it in hardware, else fp32"


@dataclasses.dataclass(frozen=True)
class SpeedOnly:
    """Marks a field that decides speed, memory or price, and the result by rounding at most.

    Another value is no reason to do anything again: not for a rule, a training that goes on, the
    teacher's answers or the verdicts that are there.
    """


T = TypeVar("T")
Speed = Annotated[T, SpeedOnly()]


class Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def speed_fields(cls) -> frozenset[str]:
        """The fields that are marked :class:`SpeedOnly`."""
        fields = cls.model_fields.items()
        return frozenset(name for name, field in fields if SpeedOnly() in field.metadata)
