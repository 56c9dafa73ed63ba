"""What a row of somebody's data has under a name of the config."""

import string
from collections.abc import Mapping
from typing import Any

ABSENT = object()


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
    value = fill(row, name) if "{" in name else at_path(row, name)
    return None if value is ABSENT else value


def at_path(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path, ABSENT if it leads nowhere."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return ABSENT
    return value


def fill(row: Mapping[str, Any], template: str) -> Any:
    """The template with the row's fields, whole numbers among them.

    A field that is absent or something else, such as a list, is returned in its place.
    """
    parts = []
    for literal, name, *_ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            value = at_path(row, name)
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
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
