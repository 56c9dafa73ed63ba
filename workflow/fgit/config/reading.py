"""Reading a config from YAML."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fgit.common.errors import UserError
from fgit.config.experiment import Config
from fgit.config.messages import key_text, validation_message

KeyPath = tuple[int | str, ...]
MERGE = "tag:yaml.org,2002:merge"  # <<: of which all count
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What YAML 1.1 takes for a number though nobody means one: 010 is 8, and 1:30 is 90.
SURPRISING = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_.]*:.*)")


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
        check_texts(values)
        return Config(**values)
    except ValidationError as error:
        raise UserError(f"{source}: {validation_message(error)}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error


def check_texts(values: Any, location: KeyPath = ()) -> None:
    """Raise ValueError for a key that YAML reads as something else (1, on, 2.0), at any depth, or
    for text that cannot be handed to a command."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{key_text((*location, repr(key)))}: this key is not text; put it in quotes"
                )
            check_texts(value, (*location, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            check_texts(value, (*location, number))
    elif isinstance(values, str) and re.search("[\0\ud800-\udfff]", values):
        raise ValueError(
            f"{key_text(location)}: {values!r} has a NUL byte or half a surrogate pair, which no "
            "command takes; leave it out"
        )


def read_config(path: str | Path) -> Config:
    """The config in a file.

    Raises:
        UserError: if there is none, or it is not valid.
    """
    text = check_yaml(path)
    with yaml_errors(path):
        values = yaml.safe_load(text)
    if values is None:
        raise UserError(f"{path}: this config is empty; start from workflow/quickstart/config.yaml")
    return parse_config(values, str(path))


# ------------------------------------------------------------------ what YAML is silent about


def check_yaml(path: str | Path, *, numbers: bool = True) -> str:
    """The text of a YAML or JSON file that a loader reads as it looks.

    Args:
        numbers: whether numbers are looked at, besides keys.

    Raises:
        UserError: if there is no such file, or it is not valid; naming key and lines, if a key
            stands twice, of which a loader takes the last; or if YAML 1.1 makes another number of
            what is written (010, 1:30).
    """
    with yaml_errors(path):
        text = Path(path).read_text(encoding="utf-8-sig")
        if "\t" in text and is_json(text):
            text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML may not
        check_text(text, str(path), numbers=numbers)
    return text


def check_text(text: str, source: str, *, numbers: bool = True) -> None:
    """Refuse YAML as :func:`check_yaml` does a file.

    Raises:
        UserError: as there.
        yaml.YAMLError: if it is none.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    wrong = [] if root is None else sorted(surprises(root, numbers))
    if wrong:
        raise UserError("\n  ".join(f"{source}, line {line}: {what}" for line, what in wrong))


@contextlib.contextmanager
def yaml_errors(path: str | Path) -> Iterator[None]:
    """Say of a file why it cannot be read as YAML, in a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        at = f"not UTF-8 (byte {error.start}); save it as UTF-8"
        raise UserError(f"{path}: not valid YAML: {at}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-13-45 is no date
        raise UserError(f"{path}: not valid YAML: {error}") from error


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def surprises(root: yaml.Node, numbers: bool) -> Iterator[tuple[int, str]]:
    """What of a document is read otherwise than it looks: the line, and the key and what to do.

    A key that overrides one that is merged (``<<: *anchor``) is meant to.
    """
    todo: list[tuple[yaml.Node, KeyPath]] = [(root, ())]
    visited: set[int] = set()  # an alias is the node of its anchor, and may hold itself
    while todo:
        node, at = todo.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        inner: list[tuple[yaml.Node, KeyPath]] = []
        if isinstance(node, yaml.SequenceNode):
            inner = [(item, (*at, number)) for number, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                text = key.value if isinstance(key, yaml.ScalarNode) else str(key.value)
                line, name, here = key.start_mark.line + 1, (key.tag, text), (*at, text[:80])
                inner.append((value, here))
                if name in lines and key.tag != MERGE:
                    yield (
                        line,
                        f"the key {key_text(here)!r} stands twice, first in line {lines[name]}, "
                        "and only the last would count; join the two, or remove one",
                    )
                lines.setdefault(name, line)
        elif numbers and node.tag in NUMBER_TAGS and SURPRISING.fullmatch(node.value):
            yield (
                node.start_mark.line + 1,
                f"{key_text(at)}: YAML reads {node.value} as {yaml.safe_load(node.value)}; write "
                "the number that is meant, or put it in quotes if it is text",
            )
        todo += reversed(inner)  # an anchor before its aliases
