"""JSON that another stage wrote, read with care: what is wrong in it is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgit.common.errors import UserError
from fgit.common.files import read_json


@dataclasses.dataclass(frozen=True)
class Facts:
    """An object of a stage's JSON file; a missing key or a wrong type names file and key."""

    path: Path
    stage: str
    values: Mapping[str, Any]
    prefix: str = ""

    @classmethod
    def read(cls, path: Path, stage: str) -> Facts:
        return cls.of(path, stage, read_json(path))

    @classmethod
    def of(cls, path: Path, stage: str, value: Any) -> Facts:
        if not isinstance(value, dict):
            raise UserError(f"{path}: not a JSON object; run the {stage} stage again")
        return cls(path, stage, value)

    def wrong(self, key: str, reason: str) -> UserError:
        return UserError(
            f"{self.path}, key {self.prefix + key!r}: {reason}; run the {self.stage} stage again"
        )

    def get(self, key: str) -> Any:
        if key not in self.values:
            raise self.wrong(key, f"missing (it has: {', '.join(self.values)})")
        return self.values[key]

    def part(self, key: str) -> Facts:
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, f"not an object but {value!r:.60}")
        return Facts(self.path, self.stage, value, f"{self.prefix}{key}.")

    def parts(self, key: str) -> list[Facts]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, f"not a list of objects but {value!r:.60}")
        return [
            Facts(self.path, self.stage, item, f"{self.prefix}{key}[{number}].")
            for number, item in enumerate(value)
        ]

    def number_or_none(self, key: str) -> float | None:
        value = self.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.wrong(key, f"not a number but {value!r:.60}")
        return value

    def number(self, key: str) -> float:
        value = self.number_or_none(key)
        if value is None:
            raise self.wrong(key, "null, where a number is needed")
        return value

    def count(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(key, f"not a count but {value!r:.60}")
        return value

    def counts(self, key: str) -> dict[str, int]:
        part = self.part(key)
        return {name: part.count(name) for name in part.values}

    def bins(self, key: str) -> list[tuple[float, float, int]]:
        """A distribution: where each bin begins and ends, and how many are in it."""
        value = self.get(key)
        if not isinstance(value, list) or not all(map(is_bin, value)):
            raise self.wrong(key, f"not a list of bins [low, high, count] but {value!r:.60}")
        return [(low, high, count) for low, high, count in value]


def is_bin(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 3 and bool not in map(type, value)
    return (
        numbers
        and isinstance(value[2], int)
        and value[2] >= 0
        and all(isinstance(end, int | float) for end in value[:2])
        and value[0] <= value[1]
    )
