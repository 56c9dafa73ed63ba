"""Reading a config from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fgit.common.errors import UserError
from fgit.config.experiment import Config
from fgit.config.messages import key_text, validation_message


def parse_config(values: Mapping[str, Any], source: str = "config") -> Config:
    """Validate a config read from YAML.

    Raises:
        UserError: naming key, value and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{source}: a config is a mapping of keys to values, not {type(values).__name__}"
        )
    try:
        keys_are_text(values)
        return Config(**values)
    except ValidationError as error:
        raise UserError(f"{source}: {validation_message(error)}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def keys_are_text(values: Any, location: tuple[int | str, ...] = ()) -> None:
    """Raise ValueError for a key that YAML reads as something else (1, on, 2.0), at any depth."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{key_text((*location, repr(key)))}: this key is not text; put it in quotes"
                )
            keys_are_text(value, (*location, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            keys_are_text(value, (*location, number))


def read_config(path: str | Path) -> Config:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if values is None:
        raise UserError(f"{path}: this config is empty; start from workflow/quickstart/config.yaml")
    return parse_config(values, str(path))
