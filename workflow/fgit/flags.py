"""How the parameters of a verb, and the fields of its settings, become flags."""

import argparse
import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType

from pydantic import BaseModel, ValidationError

from fgit import config
from fgit.common.errors import UserError

VerbFunction = Callable[..., BaseModel | None]


@dataclasses.dataclass(frozen=True)
class Flag:
    """What the command line says of a parameter, in place of its default.

    It must be given if it has no default here and its type is neither bool nor ``T | None``.
    With ``follows``, a function's full name, it is no flag: that function works its value out of
    those of its own parameters' names. (It is imported then, since help needs no polars.)
    """

    help: str = ""
    metavar: str | None = None
    default: Any = None
    role: Literal["value", "input", "output", "unrecorded"] = "value"
    word: str | None = None  # where it is not the parameter's name
    one_of: bool = False  # exactly one of a verb's flags with this is given
    positional: bool = False
    follows: str = ""
    holds: tuple[str, ...] = ()  # of an output that is a folder: what goes into it

    def worked_out(self, values: Mapping[str, Any]) -> Any:
        module, _, name = self.follows.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        return function(*(values[name] for name in inspect.signature(function).parameters))


# Of inputs and outputs, provenance has the digests, and the first output is locked. Of other flags
# it has the values, unless they change no number. (Any, as a default is of the parameter's type.)
Value: Callable[..., Any] = Flag
Input: Callable[..., Any] = functools.partial(Flag, role="input")
Output: Callable[..., Any] = functools.partial(Flag, role="output")
Unrecorded: Callable[..., Any] = functools.partial(Flag, role="unrecorded")


def OutputFolder(*names: str) -> Any:
    """An output that is a folder, and what goes into it: files, and folders with a slash."""
    text = f"where {', '.join(names[:-1])} and {names[-1]} go"
    return Output(text, "DIR", holds=names)


Positive = NewType("Positive", int)
METAVARS = {Path: "FILE", int: "N", Positive: "N"}


class Verb(NamedTuple):
    summary: str
    details: str
    run: VerbFunction
    flags: dict[str, Flag]
    types: dict[str, Any]  # of the flags
    settings: type[BaseModel] | None = None
    fields: Collection[str] = ()  # of the settings, those that are flags


def verb_of(run: VerbFunction) -> Verb:
    """What a function says of itself by its docstring, its parameters and their annotations."""
    summary, _, details = " ".join((run.__doc__ or "").split()).partition(". ")
    verb = Verb(summary, details, run, {}, {})
    for name, parameter in inspect.signature(run, eval_str=True).parameters.items():
        if isinstance(parameter.default, Flag):
            verb.flags[name], verb.types[name] = parameter.default, parameter.annotation
        else:
            settings, *fields = typing.get_args(parameter.annotation) or [parameter.annotation]
            verb = verb._replace(settings=settings, fields=fields or settings.model_fields)
    return verb


def add_flags(parser: argparse.ArgumentParser, verb: Verb) -> None:
    one_of: Any = None
    for name, flag in verb.flags.items():
        if flag.follows:
            continue
        kind = bare_type(verb.types[name])
        options = {"help": flag.help, **of_type(kind)}
        if flag.metavar:
            options["metavar"] = flag.metavar
        if flag.positional:
            parser.add_argument(name, **options)
            continue
        if flag.one_of:
            one_of = one_of or parser.add_mutually_exclusive_group(required=True)
        elif flag.default is not None:
            options["default"] = flag.default
        elif kind is verb.types[name] and kind is not bool:
            options["required"] = True
        word = f"--{(flag.word or name).replace('_', '-')}"
        (one_of if flag.one_of else parser).add_argument(word, dest=name, **options)


def of_type(kind: Any) -> dict[str, Any]:
    """What argparse needs to know of a flag's type."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return {"nargs": "+", **of_type(inner[0])}
    if typing.get_origin(kind) is dict:
        return {"nargs": "+", "action": NamedValues}
    if typing.get_origin(kind) is Literal:
        return {"choices": inner}
    if kind is bool:
        return {"action": "store_true"}
    return {"type": positive if kind is Positive else kind, "metavar": METAVARS.get(kind)}


def add_settings(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """A flag for each field of the settings: same name, type, default and sentence."""
    if verb.settings is None:
        return
    group = parser.add_argument_group("settings (the same keys as in the config)")
    for name, field in verb.settings.model_fields.items():
        if name not in verb.fields:
            continue
        text = f"{field.description or ''} (default: {field.default})".strip().replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        kind = bare_type(field.annotation)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is Literal:
            options["choices"] = typing.get_args(kind)
        else:
            options["metavar"] = kind.__name__.upper()
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def read_values(arguments: argparse.Namespace, verb: Verb) -> dict[str, Any]:
    """The flags that are no settings, by name; paths with ``~`` written out.

    Raises:
        UserError: for the home folder of nobody.
    """
    values = {name: getattr(arguments, name, None) for name in verb.flags}
    for name, flag in verb.flags.items():
        if flag.role in ("input", "output") or bare_type(verb.types[name]) is Path:
            try:
                values[name] = config.at_home(values[name])
            except ValueError as error:
                raise UserError(f"--{(flag.word or name).replace('_', '-')}: {error}") from error
    return values


def read_settings(arguments: argparse.Namespace, verb: Verb) -> Any:
    """The settings that the flags say, or None for a verb without."""
    if verb.settings is None:
        return None
    fields = verb.settings.model_fields
    try:
        return verb.settings(**{n: v for n, v in vars(arguments).items() if n in fields})
    except ValidationError as error:
        raise UserError(config.validation_message(error)) from error


def bare_type(annotation: Any) -> Any:
    """The type behind ``T | None``."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


class NamedValues(argparse.Action):
    """``--flag NAME=VALUE ...``, repeatable, into a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        named = dict(getattr(namespace, self.dest) or {})
        for text in values:
            name, separator, value = text.partition("=")
            if not (name and separator and value):
                parser.error(f"argument {option}: expected NAME=VALUE, not {text!r}")
            if name in named:
                parser.error(f"argument {option}: {name!r} is given twice")
            named[name] = value
        setattr(namespace, self.dest, named)
