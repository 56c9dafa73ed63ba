"""Running a verb, ``fgit VERB``: its flags, the lock, errors, provenance."""

import argparse
import contextlib
import datetime
import errno
import inspect
import io
import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fgit
from fgit import verbs
from fgit.common import processes
from fgit.common.errors import Stopped, UserError, full_place, number_of
from fgit.common.lock import Lock
from fgit.common.signals import ending_on_sigterm
from fgit.flags import Verb, add_flags, add_settings, read_settings, read_values, verb_of

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


def check_outputs(verb: Verb, values: Mapping[str, Any]) -> None:
    """Refuse outputs that could not be written in the end, before anything is spent on them.

    Raises:
        UserError: naming the place, and what is in the way.
        OSError: naming a place that may not be written to.
    """
    from fgit.common.provenance import provenance_path
    from fgit.common.replacing import check_place

    given = with_role(verb, values, "output")
    places: dict[str, Path] = {}
    for name, value in given.items():
        flag = verb.flags[name]
        for path in value if isinstance(value, list) else [value]:
            other = places.setdefault(os.path.realpath(path), path)
            if other is not path:
                raise UserError(f"{other} and {path}: two outputs in one place; give each its own")
            if flag.holds and path.is_symlink() and not path.exists():
                raise UserError(f"{path}: a link to a folder that is not there; make the folder")
            for held in flag.holds:
                check_place(path / held, folder=held.endswith("/"))
            if not flag.holds and not (flag.follows and path.is_dir()):
                check_place(path, folder=None if flag.metavar or flag.follows else False)
    for path in files_written(verb, values)[:1]:
        check_place(provenance_path(path), folder=False)


# ------------------------------------------------------------------ running

NO_SPACE = "Nothing half-written was kept; free some space or choose another place, and start again"
NOT_ALLOWED = "Choose a place that you may write to, or have its permissions changed"
NO_FILE = "Give another path: something of another kind is in the way"
TOO_LARGE = "Have the limit on the size of files raised (ulimit -f), or choose another place"
BROKEN = "The disk or the file server fails; nothing half-written was kept. Choose another place"
GONE = "It was moved or removed meanwhile, or was never there; put it back, and start again"
OS_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NOT_ALLOWED),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY), NO_FILE),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT), BROKEN),
    errno.ENOENT: GONE,
    errno.EFBIG: TOO_LARGE,
    errno.ENAMETOOLONG: "Give a shorter name",
    errno.ELOOP: "Links lead in a circle; remove one",
    errno.EBUSY: "Choose another place: it is in use, or a file system is mounted there",
    errno.EMFILE: "Have the limit on open files raised (ulimit -n)",
}
SIGPIPE_CODE = 128 + 13  # as a shell says that nobody reads on


def main(argv: list[str] | None = None) -> int:
    """:func:`run`, on an output of any encoding, which may be closed at any moment."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(argv)
    except BrokenPipeError:  # whoever read it has gone, as head does
        if not is_closed(descriptor=1):
            raise
        return SIGPIPE_CODE
    finally:  # of --help, too
        try:
            if sys.stdout:
                sys.stdout.flush()
        except OSError:  # told by now; Python must not try again at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_closed(descriptor: int) -> bool:
    """Whether nobody reads what is written to a pipe."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def run(argv: list[str] | None) -> int:
    """Run one verb; 0 if it worked, 1 with a message if the user has something to fix.

    Under a launcher every process comes here; the first one speaks, and writes provenance.
    """
    level = logging.INFO if processes.is_first() else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")
    for noisy in ("accelerate", "httpx", "httpcore", "openai", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = make_parser().parse_args(argv)
    verb = VERBS[arguments.verb]
    started = datetime.datetime.now(datetime.UTC)
    outputs: list[Path] = []
    try:
        check_names([*(sys.argv[1:] if argv is None else argv), working_folder()])
        values = read_values(arguments, verb)
        settings = read_settings(arguments, verb)
        for name, flag in verb.flags.items():
            if flag.follows:
                values[name] = flag.worked_out(values)
        outputs = files_written(verb, values) if processes.is_first() else []
        if outputs:
            check_outputs(verb, values)
        with ending_on_sigterm(), Lock(outputs[0]) if outputs else contextlib.nullcontext():
            from fgit.common.provenance import reading, write_provenance

            named = inputs_of(verb, values, settings) if outputs else {}
            with reading(named, outputs) as inputs:
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
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        return fail(arguments.verb, str(error))
    except KeyboardInterrupt:
        return fail(arguments.verb, "interrupted", code=130)
    except Stopped as stopped:
        where = f" in {stopped.where}" if stopped.where else ""
        message = f"stopped by SIGTERM{where}; start it again to go on"
        return fail(arguments.verb, message, code=stopped.CODE)
    except Exception as error:
        if (reason := os_message(error, outputs)) is None:
            raise
        return fail(arguments.verb, reason)
    return 0


def working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the folder that this was started in is gone: change to another") from error


def check_names(words: list[str]) -> None:
    """Refuse names of files that libraries, which take all names for UTF-8, would not find.

    Raises:
        UserError: naming the word.
    """
    for word in words:
        try:
            same = os.fsencode(word) == word.encode()
        except UnicodeEncodeError:
            same = False
        if not same:
            raise UserError(
                f"{word!r}: not UTF-8. Rename the file or folder, or, if its name is UTF-8 and "
                "your locale is not, set PYTHONUTF8=1"
            )


def os_message(error: Exception, outputs: list[Path]) -> str | None:
    """What to tell of a full disk and the like, whatever was raised for it; else None."""
    number = number_of(error)
    advice = OS_ERRORS.get(number or 0)
    if number is None or advice is None:
        return None
    place = getattr(error, "filename", None)
    if place is None and number == errno.ENOSPC:
        place = full_place(path.parent for path in outputs)
    reason = getattr(error, "strerror", None) or os.strerror(number)
    if "temporary directory" in reason:  # Python's own words where all of them are full
        advice = NO_SPACE
    return f"{reason}{f' ({place})' if place else ''}. {advice}"


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
