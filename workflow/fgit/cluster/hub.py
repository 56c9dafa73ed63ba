"""What a config needs of the model hub: whether it is there, and bringing it beforehand.

Models, datasets and benchmarks go to the hub's own cache (``HF_HOME``), where the stages find them.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.releases import RELEASE_PREFIX, HubDataset
from fgit.common.errors import UserError
from fgit.common.files import is_offline
from fgit.config import Config
from fgit.runs import all_runs, is_on_hub
from fgit.steps import Step

log = logging.getLogger(__name__)

RepositoryKind = Literal["model", "dataset"]
PATTERNS = {
    "model": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"],
    "dataset": [
        *("*.parquet", "*.json", "*.jsonl", "*.csv", "*.arrow", "*.gz", "*.zst", "*.zip"),
        *("*.txt", "*.yaml", "*.md"),
    ],
}
PICKLED = "*.bin"  # of an embedder that has no safetensors (fgit.common.models)
TWICE = ["consolidated*", "original/*", "onnx/*", "openvino/*"]  # the same weights in other forms
Look = tuple[Literal["ok", "warning", "wrong"], str, str]
COMMIT = re.compile("[0-9a-f]{40}")
ATTEMPTS = 4  # at a file; each goes on where the last one broke off
SPARE = 1_000_000_000  # bytes that stay free


@dataclasses.dataclass(frozen=True)
class Repository:
    """A model or dataset of the hub that a config needs.

    Attributes:
        revision: as the config says it; None is the hub's main branch.
        keys: the config's keys that name it, each with the key of its revision.
    """

    kind: RepositoryKind
    name: str
    revision: str | None
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({', '.join(self.keys)})"

    @property
    def pinned(self) -> bool:
        return bool(self.revision and COMMIT.fullmatch(self.revision))


# ------------------------------------------------------------------ what a config needs


def needed(config: Config, steps: Iterable[Step]) -> list[Repository]:
    """The hub's models and datasets that steps read, each once, models in the tables' order."""
    read = dict.fromkeys(key for step in steps for key in step.hub)
    models = [f"models.{run.model}" for run in all_runs(config).values()]
    rest = sorted(read, key=lambda key: key.startswith("benchmarks."))
    keys_of: dict[tuple[RepositoryKind, str, str | None], list[str]] = {}
    for key in dict.fromkeys([*models, "generate", "select", *rest]):
        if key in read and (place := place_on_hub(config, key)) is not None:
            keys_of.setdefault(place, []).append(key)
    return [Repository(*place, tuple(keys)) for place, keys in keys_of.items()]


def place_on_hub(config: Config, key: str) -> tuple[RepositoryKind, str, str | None] | None:
    """Kind, name and revision of what a key of the config names; None if it is not on the hub."""
    section, entry = key.partition(".")[0], entry_of(config, key)
    if section == "benchmarks":
        release = kind_of(entry.kind).release
        place = release and release(entry.problems.removeprefix(RELEASE_PREFIX))
        return ("dataset", place.name, place.revision) if isinstance(place, HubDataset) else None
    path = getattr(entry, {"generate": "teacher", "select": "embedder"}.get(section, "path"))
    kind: RepositoryKind = "dataset" if section == "datasets" else "model"
    return (kind, path, entry.revision) if is_on_hub(path) else None


def entry_of(config: Config, key: str) -> Any:
    """What stands under ``SECTION`` or ``SECTION.NAME`` of the config."""
    section, _, name = key.partition(".")
    return getattr(config, section)[name] if name else getattr(config, section)


# ------------------------------------------------------------------ what is there


def snapshot(repository: Repository) -> Path | None:
    """The folder of a repository in the hub's cache, if all that is needed is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=repository.revision,
                allow_patterns=PATTERNS[repository.kind],
                ignore_patterns=TWICE,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    if repository.kind == "dataset":
        return folder if any(path.is_file() for path in folder.rglob("*")) else None
    return folder if has_weights(folder) and (folder / "config.json").exists() else None


def has_weights(folder: Path) -> bool:
    """Whether a model's weights are whole: each file that its index names, or the only one."""
    for index in folder.glob("*.index.json"):
        names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        if names and all((folder / name).exists() for name in names):
            return True
    return any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin"))


def look_at(repository: Repository, timeout: float) -> Look:
    """Whether the jobs will find a repository. Nothing is downloaded, and of what is in the cache
    the hub is not asked.

    Args:
        timeout: seconds to wait for the hub.

    Returns:
        ok, warning (not here, and the hub does not answer) or wrong; the finding; what to do.
    """
    revision = repository.revision or "main"
    owner = Path(repository.name).parent
    mistyped = owner.is_dir()  # a path then, it seems
    here = f"; nor is there a folder of this name in {owner.absolute()}" if mistyped else ""
    if (folder := snapshot(repository)) is not None:
        return "ok", f"{repository}: in the cache, commit {folder.name}", ""
    fetch = "fgit fetch --config CONFIG where the hub can be reached, with the same HF_HOME"
    if is_offline():
        says = f"{repository}: revision {revision} is not in the cache, and the hub is not asked"
        return "wrong", f"{says} (hub: offline){here}", fetch
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        info = api.repo_info(
            repository.name, repo_type=repository.kind, revision=revision, timeout=timeout
        )
        if getattr(info, "gated", False):
            api.auth_check(repository.name, repo_type=repository.kind)
    except Exception as error:  # the network libraries beneath it raise errors of their own
        if (refused := refusal(repository, error)) is not None:
            return "wrong", *refused
        says = f"{repository}: not in the cache, and the hub does not answer here ({short(error)})"
        if mistyped:
            return "wrong", f"{says}{here}", f"correct {repository.keys[0]}, or else {fetch}"
        return "warning", says, f"{fetch}, if it does not answer in the jobs either"
    return "ok", f"{repository}: on the hub, commit {info.sha}; not in the cache yet", ""


def refusal(repository: Repository, error: BaseException) -> tuple[str, str] | None:
    """What the hub refuses, and what to do, from its library's error; None for any other error."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    page = f"{constants.ENDPOINT}/{'datasets/' * (repository.kind == 'dataset')}{repository.name}"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for one in causes:
        if isinstance(one, hub.GatedRepoError):
            return (
                f"{repository}: it needs the token of a user who has accepted its conditions",
                f"accept them at {page}, then set HF_TOKEN, or run hf auth login",
            )
        if isinstance(one, hub.RevisionNotFoundError):
            return (
                f"{repository}: the hub has no revision {repository.revision!r} (any more)",
                f"set {repository.keys[0]}.revision to a commit of {page}/commits/main",
            )
        if isinstance(one, hub.RepositoryNotFoundError):
            return (
                f"{repository}: the hub has none of this name, or it is private and no token "
                "opens it",
                f"correct {repository.keys[0]}, or set HF_TOKEN, or run hf auth login",
            )
    return None


def look_at_all(repositories: Sequence[Repository], timeout: float) -> list[Look]:
    """:func:`look_at` each, at the same time."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda repository: look_at(repository, timeout), repositories))


def short(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}".rstrip(": ")


# ------------------------------------------------------------------ bringing it


class Listing(NamedTuple):
    """What the hub has of a repository's revision: its commit, the paths of the files that the
    stages read, and how many bytes of them are not in the cache yet."""

    commit: str
    files: list[str]
    missing_bytes: int


def listing(repository: Repository) -> Listing:
    """What there is to download.

    Raises:
        UserError: if the hub refuses or does not answer; as :func:`wanted_files`.
    """
    from huggingface_hub import HfApi, snapshot_download

    api, name, kind = HfApi(), repository.name, repository.kind
    revision = repository.revision or "main"
    with hub_errors(repository):
        commit = api.repo_info(name, repo_type=kind, revision=revision).sha
        assert commit is not None
        paths = api.list_repo_files(name, repo_type=kind, revision=commit)
        files = wanted_files(repository, commit, paths)
        downloads = snapshot_download(
            name, repo_type=kind, revision=commit, allow_patterns=files, dry_run=True
        )
    size = sum(file.file_size or 0 for file in downloads if file.will_download)
    return Listing(commit, files, size)


def wanted_files(repository: Repository, commit: str, paths: list[str]) -> list[str]:
    """The paths that the stages read: of a model, safetensors, tokenizer and configuration.

    Raises:
        UserError: if there are none, or of a language model no safetensors.
    """
    from huggingface_hub.utils import filter_repo_objects

    def matching(patterns: list[str]) -> list[str]:
        return list(filter_repo_objects(paths, allow_patterns=patterns, ignore_patterns=TWICE))

    files = matching(PATTERNS[repository.kind])
    if "adapter_config.json" in paths:
        beside = " beside a whole model, which may have it merged already, or not"
        raise UserError(
            f"{repository}: an adapter{beside * ('config.json' in paths)}; bring a model that is "
            f"whole, by fgit fetch --model {repository.name} --revision {commit} --out FOLDER for "
            "an adapter alone, and name that folder"
        )
    if repository.kind == "model" and not any(path.endswith(".safetensors") for path in files):
        if repository.keys != ("select",):
            raise UserError(
                f"{repository}: no weights in safetensors at commit {commit}; pickled weights are "
                "not read: convert them, and name the folder"
            )
        files += matching([PICKLED])
    if not files:
        raise UserError(f"{repository}: no files of a {repository.kind} at commit {commit}")
    return files


def check_space(size: int) -> None:
    """Raise UserError if the hub's cache has not the space for so many bytes."""
    from huggingface_hub.constants import HF_HUB_CACHE

    free = shutil.disk_usage(existing_parent(Path(HF_HUB_CACHE))).free
    log.info(
        "%.1f GB to download to %s, which has %.1f GB free", size / 1e9, HF_HUB_CACHE, free / 1e9
    )
    if size and size + SPARE > free:
        raise UserError(
            f"{HF_HUB_CACHE}: {size / 1e9:.1f} GB are to be downloaded, but {free / 1e9:.1f} GB "
            "are free; free some space, or set HF_HOME to a larger place, here and in the jobs"
        )


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.is_dir())


def bring(repository: Repository, commit: str, files: list[str]) -> dict[str, Any]:
    """Download a repository's files at a commit, verify them, and say what they are.

    Raises:
        UserError: if a file is not as the hub says after it was downloaded twice.
    """
    from huggingface_hub import HfApi

    for _ in range(2):
        folder = download(repository, files)
        if folder.name != commit:
            raise UserError(
                f"{repository}: revision {repository.revision or 'main'} moved on the hub while it "
                "was fetched; start it again"
            )
        with hub_errors(repository):
            # It checks every file of the snapshot, also those that something else brought there.
            hashes = HfApi().verify_repo_checksums(
                repository.name, repo_type=repository.kind, revision=commit
            )
        wrong = [mismatch for mismatch in hashes.mismatches if mismatch["path"] in files]
        if not wrong:
            return {
                "kind": repository.kind,
                "name": repository.name,
                "keys": list(repository.keys),
                "revision": repository.revision,
                "commit": commit,
                "files": len(files),
                "bytes": sum((folder / path).stat().st_size for path in files),
            }
        for mismatch in wrong:
            path = folder / mismatch["path"]
            log.warning("%s: %s is not as the hub says; removed", repository, mismatch["path"])
            path.resolve().unlink(missing_ok=True)  # what it links to
            path.unlink(missing_ok=True)
    first = wrong[0]
    raise UserError(
        f"{repository}: {first['path']} at commit {commit} has the hash {first['actual']}, but the "
        f"hub says {first['expected']}, after two downloads; it was removed. Try again later, or "
        "use another revision"
    )


def download(repository: Repository, files: list[str]) -> Path:
    """The folder with the files, each whole; a transfer that broke off goes on, a few times."""
    from huggingface_hub import snapshot_download

    attempt = 1
    while True:
        with hub_errors(repository):
            try:
                return Path(
                    snapshot_download(
                        repository.name,
                        repo_type=repository.kind,
                        revision=repository.revision,
                        allow_patterns=files,
                    )
                )
            except OSError as error:
                # The library's errors of a transfer are OSErrors, as that of a full disk is.
                if attempt == ATTEMPTS or error.errno or refusal(repository, error):
                    raise
                log.warning("%s: %s; going on", repository, short(error))
                time.sleep(2**attempt)
                attempt += 1


@contextlib.contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turn what the hub's library raises into a clear error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the network libraries beneath it raise errors of their own
        if isinstance(error, OSError) and error.errno:
            raise  # a full disk, a folder that may not be written to: fgit.cli has words for it
        if (refused := refusal(repository, error)) is not None:
            raise UserError(": ".join(refused)) from error
        raise UserError(
            f"{repository}: could not be fetched ({short(error)}). Start it again: what is here "
            "stays, and a file that broke off goes on"
        ) from error


# ------------------------------------------------------------------ datasets


def load_dataset(
    name: str, subset: str | None = None, *, revision: str | None = None, split: str
) -> Any:
    """A split of a dataset on the hub; without the hub, of the commit in its cache, and no other.

    (The library's own way without the hub takes whatever version it prepared last.)

    Raises:
        UserError: without the hub, if the revision is not in its cache.
    """
    import datasets

    subsets = () if subset is None else (subset,)
    if not is_offline():
        return datasets.load_dataset(name, *subsets, revision=revision, split=split)
    repository = Repository("dataset", name, revision, (name,))
    if (folder := snapshot(repository)) is None:
        raise UserError(
            f"{name}: revision {revision or 'main'} of this dataset is not in the hub's cache, and "
            "the hub is not asked (hub: offline); run fgit fetch --config CONFIG where it can be"
        )
    return datasets.load_dataset(str(folder), *subsets, split=split)
