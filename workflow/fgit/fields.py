"""What a row of somebody's data has under a name that a config gives."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """What a row has under a name: a field, a path to one, or a text made of several.

    Args:
        name: ``problem``; ``messages.0.content``, where no field is named so; or with braces
            around names, ``{instruction} {input}``, the text with the fields in their places and
            nothing for null, without whitespace around it.

    Returns:
        None if there is no such field, or it is null.
    """
    if name in row:
        return row[name]
    if "{" in name:
        return filled(row, name)
    value: Any = row
    for key in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def filled(row: Mapping[str, Any], template: str) -> Any:
    """The template with the row's fields; the field itself where it is neither text nor null."""
    parts = []
    for literal, name, *_ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            value = value_of(row, name)
            if value is None and name not in row:
                return None
            if not isinstance(value, str | None):
                return value
            parts.append(value or "")
    return "".join(parts).strip()


def check_template(name: str) -> None:
    """Refuse braces that are not around the names of fields.

    Raises:
        ValueError: saying what is wrong.
    """
    for _, field, form, conversion in string.Formatter().parse(name):
        if field == "" or form or conversion or (field and "{" in field):
            raise ValueError(f"{name!r}: put the names of fields into braces, and nothing else")
