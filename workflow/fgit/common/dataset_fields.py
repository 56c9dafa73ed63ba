"""What a row of somebody's data has under a name of the config."""

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()
INDEX = re.compile(r"-?[0-9]{1,9}")


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """What a row has under a name: a field, a path to one, or a text made of several.

    Args:
        name: ``problem``; ``tests.0.code``, where no field is named so (``tests.-1.code``: of the
            last); or with braces around names, ``{instruction} {input}``, the text with the fields
            in their places and nothing for null, without whitespace around it.

    Returns:
        None if there is no such field, or it is null.
    """
    if name in row:
        return row[name]
    value = fill(row, name) if "{" in name else at_path(row, name)
    return None if value is ABSENT else value


def has_field(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has what a name asks for, if as null."""
    return value_of(row, name) is not None or why_nothing(row, name)[1] == "null"


def why_nothing(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Why :func:`value_of` gives None: in a sentence, and in a word or two."""
    for path in [name] if name in row else paths_in(name):
        keys = [path] if path in row else path.split(".")
        value: Any = row
        for number, key in enumerate(keys):
            inner = inside(value, key)
            at, so_far = ".".join(keys[:number]), ".".join(keys[: number + 1])
            if inner is None and (path == name or number + 1 < len(keys)):
                lacking = "" if so_far == name else f", so there is no {path!r}"
                return f"{so_far!r} is null{lacking}", "null"
            if inner is ABSENT and isinstance(value, Mapping):
                where = f"{at!r} has no field {key!r}" if at else f"no field {path!r}"
                return f"{where} (it has: {', '.join(map(str, value))})", "missing field"
            if inner is ABSENT:
                what = type(value).__name__
                length = f" of {len(value)}" if isinstance(value, list) else ""
                return f"{at!r} is a {what}{length}, without {key!r}", "missing field"
            value = inner
    return f"no field {name!r}", "missing field"


def paths_in(name: str) -> Iterator[str]:
    """The paths that a name asks for: itself, or those in the braces of a template."""
    if "{" not in name:
        yield name
        return
    for _, path, *_ in string.Formatter().parse(name):
        if path is not None:
            yield path


def at_path(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path, ABSENT if it leads nowhere."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        value = inside(value, key)
    return value


def inside(value: Any, key: str) -> Any:
    """What an object has under a key, or a list at an index, from the end if negative."""
    if isinstance(value, Mapping):
        return value.get(key, ABSENT)
    if isinstance(value, list) and INDEX.fullmatch(key) and -len(value) <= int(key) < len(value):
        return value[int(key)]
    return ABSENT


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
