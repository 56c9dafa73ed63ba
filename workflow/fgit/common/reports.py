"""JSON that one stage writes and a later step reads: what is wrong in it is named."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ModelWrapValidatorHandler, model_validator

from fgit.common.errors import UserError
from fgit.common.files import BadRow, MissingKey, as_model, read_json, read_objects, write_json

Content = TypeVar("Content")
Count = Annotated[int, Field(strict=True, ge=0)]
Counts = dict[str, Count]
Number = Annotated[float, Field(strict=True)]
Interval = tuple[Number, Number]


def having(*keys: str, or_empty: bool = False) -> AfterValidator:
    """Refuse objects without these keys."""

    def check(value: dict[str, Content]) -> dict[str, Content]:
        for key in keys:
            if key not in value and (value or not or_empty):
                raise MissingKey(key)
        return value

    return AfterValidator(check)


def in_order(ends: tuple[float, float, int]) -> tuple[float, float, int]:
    if ends[0] > ends[1]:
        raise ValueError("a bin is [low, high, count]")
    return ends


Bin = Annotated[tuple[Number, Number, Count], AfterValidator(in_order)]  # of a distribution


class Report(BaseModel):
    """A file that a stage writes, with a field for each key that something reads.

    Attributes:
        stage: who writes it. file: its name in a folder of results.
        where: the file that it was read from, or the row of one.
        values: all of it, as it was given.
    """

    stage: ClassVar[str]
    file: ClassVar[str] = "report.json"
    _where: Path | str
    _values: dict[str, Any]

    @model_validator(mode="wrap")
    @classmethod
    def keep_values(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        report = handler(values)
        report._values = values
        return report

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report in a file.

        Raises:
            UserError: naming file, key and value, if it is missing or lacks something.
        """
        return cls.of(path, read_json(path))

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The report in a folder of results; None before the stage has run."""
        path = folder / cls.file
        return cls.read(path) if path.exists() else None

    @classmethod
    def read_rows(cls, path: Path) -> list[Self]:
        """The reports in the rows of a file.

        Raises:
            UserError: naming file, row, key and value, if one lacks something.
        """
        reports = []
        for number, row in read_objects(path):
            if isinstance(row, BadRow):
                raise UserError(f"{row}. Run the {cls.stage} stage again")
            reports.append(cls.of(f"{path}, row {number}", row))
        return reports

    @classmethod
    def of(cls, where: Path | str, values: Any) -> Self:
        report = as_model(where, values, cls, f"run the {cls.stage} stage again")
        report._where = where
        return report

    @property
    def where(self) -> Path | str:
        return self._where

    @property
    def values(self) -> dict[str, Any]:
        return self._values

    def write(self, path: Path) -> None:
        write_json(path, self._values)
