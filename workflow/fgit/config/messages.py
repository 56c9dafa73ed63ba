"""What is wrong with a config, in its own words."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from fgit.config.base import Settings

MESSAGES = {  # of Pydantic's that say more of Python than of the config
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_pattern_mismatch": "a name has letters, digits, '.', '_' and '-' only, and starts "
    "with a letter or digit",
    "too_short": "must not be empty",
}


def validation_message(
    error: ValidationError,
    where: str = "",
    *,
    also: Iterable[str] = (),
    not_here: Iterable[str] = (),
) -> str:
    """Pydantic's findings as one line each: key, what is wrong, the value, what is allowed.

    Args:
        where: the key under which the checked values stand.
        also: keys that are allowed there though the class does not have them.
        not_here: keys of the class that are not allowed there.
    """
    lines = []
    for item in error.errors():
        key = ".".join(filter(None, [where, key_text(item["loc"])]))
        message = MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "must be", 1)
        if item["type"] == "extra_forbidden":
            allowed = {*known_keys(error.title, item["loc"]), *also} - set(not_here)
            lines.append(
                f"unknown key {key!r} (value {item['input']!r}); "
                f"allowed: {', '.join(sorted(allowed)) or 'none'}"
            )
        elif item["type"] == "missing":
            lines.append(f"{key}: this key is required")
        elif item["type"] == "string_type" and item["input"] is not None:
            advice = "" if isinstance(item["input"], dict | list) else "; put it in quotes"
            lines.append(f"{key}: {message}, not {item['input']!r}{advice}")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {message}" if key else message)
        else:
            lines.append(f"{key}: {message}, not {item['input']!r}")
    return "\n  ".join(lines)


def key_text(location: Iterable[int | str]) -> str:
    """Where a finding is: ``tables.NAME.rows, entry 2, label``, entries counted from 1."""
    key, separator = "", ""
    for part in location:
        if isinstance(part, int):
            key, separator = f"{key}, entry {part + 1}", ", "
        elif part != "[key]":  # Pydantic's mark for a finding about the key itself
            key, separator = f"{key}{separator}{part}", "."
    return key


def known_keys(title: str, location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    model: Any = {cls.__name__: cls for cls in every_subclass(Settings)}.get(title)
    for part in location[:-1]:
        fields = getattr(model, "model_fields", {})
        # An entry of a dict or list: its model is the last type argument.
        entry = getattr(model, "__args__", [None])[-1]
        model = fields[part].annotation if part in fields else entry
    return list(getattr(model, "model_fields", ()))


def every_subclass(cls: type[BaseModel]) -> list[type[BaseModel]]:
    children = cls.__subclasses__()
    return children + [heir for child in children for heir in every_subclass(child)]
