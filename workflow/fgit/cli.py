"""Running a verb, ``fgit VERB``: its flags, the lock, errors, provenance."""

import argparse
import contextlib
import datetime
import errno
import inspect
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fgit
from fgit import verbs
from fgit.common import processes
from fgit.common.errors import Stopped, UserError
from fgit.common.lock import Lock
from fgit.common.signals import ending_on_sigterm
from fgit.flags import Verb, add_flags, add_settings, read_settings, verb_of

VERBS = {
    name.replace("_", " "): verb_of(function)
    for name, function in vars(verbs).items()
    if inspect.isfunction(function) and function.__module__ == verbs.__name__
}


# ------------------------------------------------------------------ flags


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fgit",
        description="Fault-guided fine-tuning of code language models, one stage at a time. "
        "The whole road is `snakemake --profile local all`.",
    )
    parser.add_argument("--version", action="version", version=f"fgit {fgit.__version__}")
    groups = {"": parser.add_subparsers(dest="command", required=True, metavar="STAGE")}
    for name, verb in VERBS.items():
        group, _, last = name.rpartition(" ")
        if group not in groups:
            text = verbs.GROUPS[group]
            parent = groups[""].add_parser(group, help=text, description=text)
            groups[group] = parent.add_subparsers(dest=f"{group} verb", required=True)
        of_verb = groups[group].add_parser(
            last,
            help=verb.summary[0].lower() + verb.summary[1:],
            description=f"{verb.summary}. {verb.details}",
        )
        of_verb.set_defaults(verb=name)
        add_flags(of_verb, verb)
        add_settings(of_verb, verb)
    return parser


# ------------------------------------------------------------------ provenance


def with_role(verb: Verb, values: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The flags with this role that were given."""
    return {
        name: values[name]
        for name, flag in verb.flags.items()
        if flag.role == role and values[name] is not None
    }


def inputs_of(verb: Verb, values: Mapping[str, Any], settings: Any) -> dict[str, Path]:
    """What provenance records as read, by flag: files, and the models that settings name."""
    from fgit.common.files import resolve

    files: dict[str, Path] = {}
    for name, value in with_role(verb, values, "input").items():
        if isinstance(value, dict):
            files |= {f"{name} {key}": resolve(item) for key, item in value.items()}
        elif isinstance(value, list):
            files |= {f"{name} {number}": item for number, item in enumerate(value, start=1)}
        else:
            files[name] = resolve(str(value))
    for name in ["embedder"] if values.get("given") else ["teacher", "embedder"]:
        if (model := getattr(settings, name, None)) is not None:
            files[name] = resolve(model)
    return files


def files_written(verb: Verb, values: Mapping[str, Any]) -> list[Path]:
    named = with_role(verb, values, "output").values()
    return [path for value in named for path in (value if isinstance(value, list) else [value])]


# ------------------------------------------------------------------ running

NO_SPACE = "Nothing half-written was kept; free some space or choose another place, and start again"
NOT_ALLOWED = "Choose a place that you may write to, or have its permissions changed"
NO_FILE = "Give another path: something of another kind is in the way"
OS_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NOT_ALLOWED),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR), NO_FILE),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 if it worked, 1 with a message if the user has something to fix.

    Under a launcher every process comes here; the first one speaks, and writes provenance.
    """
    level = logging.INFO if processes.is_first() else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")
    for noisy in ("accelerate", "httpx", "httpcore", "openai", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = make_parser().parse_args(argv)
    verb = VERBS[arguments.verb]
    values = {name: getattr(arguments, name, None) for name in verb.flags}
    started = datetime.datetime.now(datetime.UTC)
    try:
        settings = read_settings(arguments, verb)
        for name, flag in verb.flags.items():
            if flag.follows:
                values[name] = flag.worked_out(values)
        outputs = files_written(verb, values) if processes.is_first() else []
        with ending_on_sigterm(), Lock(outputs[0]) if outputs else contextlib.nullcontext():
            if outputs:
                from fgit.common.provenance import check_inputs, write_provenance

                inputs = inputs_of(verb, values, settings)
                check_inputs(inputs.values())
            if verb.settings:
                settings = verb.run(**values, settings=settings) or settings
            else:
                verb.run(**values)
            if outputs:
                write_provenance(
                    outputs[0],
                    stage=arguments.verb,
                    settings=settings,
                    arguments=with_role(verb, values, "value"),
                    inputs=inputs,
                    outputs=outputs,
                    started=started,
                )
    except UserError as error:
        return fail(arguments.verb, str(error))
    except OSError as error:
        advice = OS_ERRORS.get(error.errno or 0)
        if advice is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return fail(arguments.verb, f"{error.strerror}{where}. {advice}")
    except KeyboardInterrupt:
        return fail(arguments.verb, "interrupted", code=130)
    except Stopped as stopped:
        where = f" in {stopped.where}" if stopped.where else ""
        message = f"stopped by SIGTERM{where}; start it again to go on"
        return fail(arguments.verb, message, code=stopped.CODE)
    return 0


def fail(name: str, message: str, code: int = 1) -> int:
    if processes.is_first():
        print(f"fgit {name}: error: {message}", file=sys.stderr, flush=True)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # The launcher ends the others when one process fails, perhaps before the first one can
        # speak; it shows at the end what each wrote here, under "py_callstack".
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        text = json.dumps({"message": {"message": message, "extraInfo": details}})
        Path(file).write_text(text, encoding="utf-8")
    return code
