"""Checkpoints of one training, so that a killed run goes on when it is started again.

A checkpoint is a folder ``step-000012`` in the state folder: what ``accelerator.save_state`` wrote
(model, optimizer, scheduler, and the random states of each process), ``samples.parquet`` (what was
noted of each sample so far) and ``manifest.json`` with the parameters of the training, its
progress, and the size and SHA-256 of every file. It is written under a hidden name, put on disk
file by file, the manifest last, and renamed; so a kill or a full disk at any moment leaves the
checkpoints that were there before. The newest two are kept.

The model is read back from safetensors; the optimizer, a prepared scheduler and the random states
with ``torch.load(weights_only=True)``, which runs no code. But accelerate and torch read what was
registered with ``register_for_checkpointing``, and the index of FSDP's sharded form, ``.metadata``,
with plain pickle. A state folder is scratch of one's own runs: never go on from a stranger's.
"""

import contextlib
import datetime
import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import accelerate
import polars as pl
import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from fgit.common import models
from fgit.common.errors import UserError
from fgit.common.files import sha256
from fgit.common.lock import Lock
from fgit.common.replacing import remove, settle
from fgit.config import TrainSettings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

VERSION = 2
KEPT = 2  # checkpoints
MANIFEST = "manifest.json"
NOTED_SAMPLES = "samples.parquet"
PROCESS_TIMEOUT = datetime.timedelta(hours=2)
CHECKPOINT_NAME = re.compile(r"step-\d+")


class NotWhole(Exception):
    """Why a checkpoint cannot be used."""


class State:
    """The checkpoints of one training, locked for one training at a time.

    Used as a context manager, around ``load`` once and ``save`` as often as is due. Under several
    processes every process calls each method; the main process alone locks, renames and removes,
    and its errors are raised on all. (With FSDP, ``SHARDED_STATE_DICT`` is the form to use: a
    disk that fills up under ``FULL_STATE_DICT`` leaves the other processes waiting in the middle of
    ``save_state``.)

    Args:
        folder: the state folder; made if need be.
        parameters: what the result depends on, as JSON. They must be those of the checkpoint.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self.folder = folder
        self.parameters: dict[str, Any] = json.loads(json.dumps(parameters))
        self.newest: Path | None = None
        self.broken: set[Path] = set()
        self.saved = time.monotonic()
        self.lock = Lock(folder)

    # -------------------------------------------------------------- lock

    def __enter__(self) -> Self:
        # The first to ask makes the process group, for accelerate as a whole. Its timeout has to
        # allow for the main process putting a large checkpoint, or the trained model, on disk.
        accelerate.PartialState(cpu=not torch.cuda.is_available(), timeout=PROCESS_TIMEOUT)
        from_main(self.take_over)
        return self

    def take_over(self) -> None:
        """Take the lock and clear what killed processes left half-written."""
        self.lock.__enter__()
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.glob(".*"):
            remove(left)

    def __exit__(self, *error: object) -> None:
        # Nothing here waits for the other processes: they may have died of the error.
        if self.lock.descriptor is not None:
            if self.lock.ours() and self.folder.exists() and not checkpoints(self.folder):
                remove(self.folder)
            self.lock.__exit__(*error)

    def remove(self) -> None:
        """Remove the whole folder; for when the training's results are written."""

        def retire_all() -> None:
            self.lock.check()
            for checkpoint in checkpoints(self.folder):
                retire(checkpoint)
            remove(self.folder)

        from_main(retire_all)

    # -------------------------------------------------------------- precision

    def settled(self, settings: TrainSettings) -> TrainSettings:
        """The settings with the precision that all processes train in.

        The main process says what ``auto`` is; a training that goes on keeps what it began in, so
        that a kill changes no number, whatever the machine.
        """
        settings = from_main(lambda: models.settled(settings, "precision", self.begun_in()))
        self.parameters["train"]["precision"] = settings.precision
        return settings

    def begun_in(self) -> str | None:
        """The precision of the newest checkpoint; None where there is none."""
        for checkpoint in checkpoints(self.folder)[::-1]:
            with contextlib.suppress(NotWhole):
                begun: str = read_manifest(checkpoint)["parameters"]["train"]["precision"]
                return begun
        return None

    # -------------------------------------------------------------- load

    def load(self, accelerator: accelerate.Accelerator) -> dict[str, Any] | None:
        """Restore the newest whole checkpoint.

        Call it after ``accelerator.prepare(model, optimizer, scheduler)``.

        Returns:
            The ``progress`` that was saved with it; None if there is nothing to go on from.

        Raises:
            UserError: if the checkpoint is of other parameters or of another format.
        """
        self.newest, progress = from_main(lambda: self.newest_whole(accelerator))
        if self.newest is not None:
            accelerator.load_state(str(self.newest))
        self.saved = time.monotonic()
        return progress

    def samples(self) -> pl.DataFrame | None:
        """The samples that were saved with the newest checkpoint; None if none were."""
        path = self.newest / NOTED_SAMPLES if self.newest else None
        return pl.read_parquet(path) if path and path.exists() else None

    def newest_whole(
        self, accelerator: accelerate.Accelerator
    ) -> tuple[Path | None, dict[str, Any] | None]:
        """The newest whole checkpoint and its progress."""
        newest_first = checkpoints(self.folder)[::-1]
        for number, checkpoint in enumerate(newest_first, start=1):
            try:
                manifest = read_manifest(checkpoint)
                self.check_parameters(manifest, accelerator)
                check_files(checkpoint, manifest["files"])
            except NotWhole as error:
                self.broken.add(checkpoint)
                older = number < len(newest_first)
                then = "using the one before it" if older else "starting anew"
                log.warning("%s is not whole: %s; %s", checkpoint, error, then)
                continue
            log.info("going on after step %d, from %s", manifest["progress"]["step"], checkpoint)
            if manifest["processes"] != accelerator.num_processes:
                log.warning(
                    "%s is of %d processes, and these are %d: the result will be the same but for "
                    "rounding",
                    *(checkpoint, manifest["processes"], accelerator.num_processes),
                )
            return checkpoint, manifest["progress"]
        return None, None

    def check_parameters(
        self, manifest: Mapping[str, Any], accelerator: accelerate.Accelerator
    ) -> None:
        """Refuse a checkpoint of another training, with the differences."""
        old = manifest["parameters"] | {"launch": manifest["layout"]}
        new = self.parameters | {"launch": layout(accelerator)}
        if lines := differences(old, new):
            raise UserError(
                f"{self.folder}: the state is of a training with other parameters (state → now):\n"
                + "".join(f"  {line}\n" for line in lines)
                + f"Set these back to go on with it, or delete {self.folder} to start anew"
            )

    # -------------------------------------------------------------- save

    def due(self, minutes: float) -> bool:
        """Whether so many minutes have gone by since the last save, attempt or start."""
        return anywhere(time.monotonic() - self.saved >= 60 * minutes)

    def save(
        self,
        accelerator: accelerate.Accelerator,
        progress: dict[str, Any],
        *,
        samples: pl.DataFrame | None = None,
        required: bool = False,
    ) -> None:
        """Write a checkpoint; the state must be as it is between two optimizer steps.

        A checkpoint that cannot be written (a full disk, a quota, a failing file system) leaves
        nothing behind and costs a warning: a training does not die of it.

        Args:
            progress: what ``load`` is to return, as JSON; ``step`` (int) is the number of optimizer
                steps that were taken.
            samples: what :meth:`samples` is to return.
            required: whether the process ends after this, so that a failure has to be an error.

        Raises:
            UserError: if it is ``required`` and could not be written.
        """
        target = self.folder / f"step-{progress['step']:06d}"
        if target == self.newest:
            return  # saved already
        temporary = from_main(lambda: hidden(target, "tmp"))
        failure = None
        try:
            with quiet("accelerate.utils.other"):  # it warns of tied weights at every save
                accelerator.save_state(str(temporary))
        except Exception as error:
            failure = failure_to_write(error)
            if failure is None:
                raise
        # gather_object also waits until every process has written its part.
        failure = next(filter(None, gather_object([failure])), None)
        manifest = {
            "version": VERSION,
            "parameters": self.parameters,
            "layout": layout(accelerator),
            "processes": accelerator.num_processes,
            "progress": progress,
        }
        failure = from_main(lambda: failure or self.publish(temporary, target, manifest, samples))
        self.saved = time.monotonic()
        if failure is None:
            self.newest = target
            return
        before = f"step {step_of(self.newest)}" if self.newest else "the start"
        what = from_main(lambda: self.clear(temporary, f"step {progress['step']}", failure))
        if required:
            raise UserError(f"{what}. Free some space and start again: it goes on from {before}")
        if accelerator.is_main_process:
            log.warning("%s; training goes on, and a kill would take it back to %s", what, before)

    def clear(self, temporary: Path, moment: str, failure: str) -> str:
        """Remove a checkpoint that could not be written; a message that says so."""
        with contextlib.suppress(OSError):
            remove(temporary)
        free = shutil.disk_usage(self.folder).free / 1e9
        return f"{self.folder}: no checkpoint of {moment} ({failure}; {free:.1f} GB are free)"

    def publish(
        self,
        temporary: Path,
        target: Path,
        manifest: Mapping[str, Any],
        samples: pl.DataFrame | None,
    ) -> str | None:
        """Make a checkpoint of what was written, and remove those that it supersedes.

        Returns:
            None, or why it could not be written.
        """
        try:
            if samples is not None:
                content = io.BytesIO()  # so that a full disk is an OSError, whatever polars makes
                samples.write_parquet(content)
                (temporary / NOTED_SAMPLES).write_bytes(content.getvalue())
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            for file in files:
                settle(file)
            with ThreadPoolExecutor() as pool:
                digests = list(pool.map(sha256, files))
            manifest_files = {
                str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": digest}
                for file, digest in zip(files, digests, strict=True)
            }
            manifest = {**manifest, "files": manifest_files}
            seal = {"sha256": manifest_digest(manifest), "manifest": manifest}
            (temporary / MANIFEST).write_text(json.dumps(seal), encoding="utf-8")
            settle(temporary / MANIFEST)
            for folder in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
                sync_folder(folder)
            self.lock.check()
            if target.exists():
                retire(target)  # not whole, or it would have been gone on from
            temporary.rename(target)
            sync_folder(self.folder)
        except OSError as error:
            return str(error)
        self.broken.discard(target)
        whole = [path for path in checkpoints(self.folder) if path not in self.broken]
        # What cannot be removed now is in nobody's way; the next save tries again.
        with contextlib.suppress(OSError):
            for path in [*self.broken, *whole[:-KEPT]]:
                retire(path)
        return None


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Only errors from a logger, for the time of the block."""
    noisy = logging.getLogger(logger)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)


# ------------------------------------------------------------------ between processes


def from_main(act: Callable[[], Result]) -> Result:
    """What ``act`` returns or raises on the main process, on every process."""
    outcome: list[Any] = [None, None]
    if accelerate.PartialState().is_main_process:
        try:
            outcome[0] = act()
        except (UserError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return cast("Result", outcome[0])


def anywhere(here: bool) -> bool:
    """Whether any process says so; all of them must ask."""
    return any(gather_object([here]))


def layout(accelerator: accelerate.Accelerator) -> str:
    """How a state is spread over processes, which decides how its files are named and read."""
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        return f"FSDP {plugin.fsdp_version}, {plugin.state_dict_type.name}"
    return "several, DDP" if accelerator.use_distributed else "one"


# ------------------------------------------------------------------ files


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a state folder, whole or not, oldest first."""
    return sorted((p for p in folder.iterdir() if CHECKPOINT_NAME.fullmatch(p.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def hidden(checkpoint: Path, suffix: str) -> Path:
    """The name of a checkpoint while it is written or removed."""
    return checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.{suffix}")


def retire(checkpoint: Path) -> None:
    """Remove a checkpoint, so that a kill in between leaves no part of it under its name."""
    if checkpoint.exists():
        leaving = hidden(checkpoint, "old")
        checkpoint.rename(leaving)
        remove(leaving)


def sync_folder(folder: Path) -> None:
    """Have a folder's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failure_to_write(error: Exception) -> str | None:
    """Why a file could not be written; None if that is not what failed."""
    if isinstance(error, OSError | SafetensorError | CheckpointException):
        return str(error)
    # What torch.save says of a full disk differs by where it noticed, and never names the disk.
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    if type(error) is RuntimeError and place == torch.serialization.__file__:
        return f"torch.save could not write its file: {error}"
    return None


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        NotWhole: if there is none, or it is not as it was written.
        UserError: if it is of another format.
    """
    try:
        seal = json.loads((checkpoint / MANIFEST).read_bytes())
        manifest = seal["manifest"]
        whole = manifest_digest(manifest) == seal["sha256"]
    except FileNotFoundError:
        raise NotWhole(f"{MANIFEST} is missing") from None
    except (ValueError, RecursionError) as error:
        raise NotWhole(f"{MANIFEST} is not readable JSON ({error})") from error
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise NotWhole(f"{MANIFEST} is not as it was written (SHA-256)")
    if manifest["version"] != VERSION:
        raise UserError(
            f"{checkpoint}: of format {manifest['version']}, and this version of FGit reads format "
            f"{VERSION}: go on with the version that wrote it, or delete {checkpoint.parent} to "
            "start anew"
        )
    return cast("dict[str, Any]", manifest)


def check_files(checkpoint: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check a checkpoint's files against its manifest.

    Raises:
        NotWhole: naming a file that is missing, of another size, or of other bytes.
    """
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise NotWhole(f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise NotWhole(f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}")
    with ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, map(checkpoint.joinpath, files))
        for name, digest in zip(files, digests, strict=True):
            if digest != files[name]["sha256"]:
                raise NotWhole(f"{name} is not as it was written (SHA-256)")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old → new`` for each that differs, keys of nested mappings joined by a dot."""
    before, now = dict(leaves(old)), dict(leaves(new))
    return [
        f"{key}: {before.get(key, 'not set')} → {now.get(key, 'not set')}"
        for key in {**before, **now}
        if (key in before) != (key in now) or before.get(key) != now.get(key)
    ]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
