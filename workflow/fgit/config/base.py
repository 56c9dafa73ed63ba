"""What the sections of a config share."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Dtype = Literal["auto", "float32", "bfloat16"]
AUTO = "auto: bf16 where the device computes it in hardware, else fp32"


@dataclasses.dataclass(frozen=True)
class SpeedOnly:
    """Marks a field that decides speed, memory, price or a refusal, and the result by rounding at
    most.

    Another value is no reason to do anything again: not for a rule, a training that goes on, the
    teacher's answers or the verdicts that are there.
    """


T = TypeVar("T")
Speed = Annotated[T, SpeedOnly()]


@dataclasses.dataclass(frozen=True)
class Place:
    """Marks a field whose text, or each of whose texts by name, names something on disk.

    ``~`` is the user's home folder. A relative path is one from where Snakemake is started.

    Attributes:
        kind: model and data may be on the hub as well, and may be, like a file, in a Python package
            (package:NAME/file); template and launcher may be one that is shipped; interpreter may
            be a command.
    """

    kind: Literal["model", "data", "file", "template", "launcher", "interpreter"]


def at_home(value: Any) -> Any:
    """A path, or each of a mapping's or list's, with ``~`` written out.

    Raises:
        ValueError: if it names the home folder of nobody.
    """
    if isinstance(value, dict):
        return {name: at_home(path) for name, path in value.items()}
    if isinstance(value, list):
        return [at_home(path) for path in value]
    if value is None or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError as error:
        raise ValueError(f"'{value}': there is no such user; write ./{value} for a name") from error


class Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def no_number_is_said_by_a_word(cls, value: Any, info: Any) -> Any:
        """YAML reads yes, no, on and off as true and false, and Pydantic these as 1 and 0."""
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items):
            annotation = cls.model_fields[info.field_name].annotation
            if mentions(annotation, int) or mentions(annotation, float):
                raise ValueError(f"must not be true or false (yes, no, on, off), not {value!r}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def home_is_written_out(cls, value: Any, info: Any) -> Any:
        return at_home(value) if kinds_of(cls.model_fields[info.field_name]) else value

    @classmethod
    def speed_fields(cls) -> frozenset[str]:
        """The fields that are marked :class:`SpeedOnly`."""
        fields = cls.model_fields.items()
        return frozenset(name for name, field in fields if SpeedOnly() in field.metadata)


def mentions(annotation: Any, kind: Any) -> bool:
    """Whether a type stands in an annotation."""
    return annotation is kind or any(mentions(inner, kind) for inner in get_args(annotation))


class Location(NamedTuple):
    """What a key of a config names on disk."""

    key: str
    kind: str
    path: str


def locations(settings: BaseModel, where: str = "") -> Iterator[Location]:
    """Everything that settings, and those in them, name on disk: the fields marked with Place."""
    for name, field in type(settings).model_fields.items():
        key, value = f"{where}{name}", getattr(settings, name)
        named = value if isinstance(value, dict) else {"": value}
        for entry, item in named.items():
            of_entry = f"{key}.{entry}".rstrip(".")
            if isinstance(item, BaseModel):
                yield from locations(item, f"{of_entry}.")
            elif item is not None:
                yield from (Location(of_entry, kind, item) for kind in kinds_of(field))


def kinds_of(field: FieldInfo) -> list[str]:
    return [mark.kind for mark in field.metadata if isinstance(mark, Place)]
