"""Bring models and benchmarks to where the stages read them.

A model in a GGUF file (the embedded default) is turned into an ordinary folder of safetensors
once, since reading GGUF takes many times longer. Models on the hub are left to the hub's cache.
"""

import logging
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.problems import problem_rows, problems_digest, read_problems
from fgit.benchmarks.releases import RELEASE_PREFIX, HubDataset
from fgit.cluster import hub
from fgit.common.errors import UserError
from fgit.common.files import (
    BadRow,
    is_offline,
    read_objects,
    replacing,
    resolve,
    scratch,
    write_json,
    write_jsonl,
)
from fgit.config import BenchmarkKind, Config
from fgit.steps import steps_of

log = logging.getLogger(__name__)


def fetch_model(path: str, out: Path, revision: str | None = None) -> None:
    """Save a model and its tokenizer as a folder that transformers and vLLM read.

    Args:
        path: a hub name, a folder, or ``package:NAME/file.gguf``; an adapter is merged into the
            base model that it names.
        out: the folder to write: safetensors in fp32, so that nothing of the source is rounded.
    """
    from fgit.common import adapters
    from fgit.common.models import LOADED_MODELS, load_model, note_commit, source
    from fgit.common.provenance import digest
    from fgit.common.tokenizers import load_tokenizer
    from fgit.common.weights import check_finite

    log.info("reading %s", path)
    name, _ = source(path)
    if (base := adapters.base_of(path, name, revision)) is None:
        tokenizer = load_tokenizer(path, revision)
        model = load_model(path, revision, dtype="float32")
    else:
        log.info("%s is an adapter of %s (revision %s)", path, *base)
        own = adapters.has_file(name, "tokenizer_config.json", revision)
        try:
            tokenizer = load_tokenizer(path, revision) if own else load_tokenizer(*base)
            base_model = load_model(*base, dtype="float32")
        except UserError as error:
            raise UserError(
                f"{path}: its base model cannot be used; {adapters.CONFIG} names it "
                f"(base_model_name_or_path), where another can be named. {error}"
            ) from error
        model = adapters.merged(path, name, revision, base_model)
        check_finite(path, model)
        note_commit(path, name, revision)
        if Path(base[0]).is_dir():
            LOADED_MODELS[base[0]] = {"sha256": digest(Path(base[0]))}
    with replacing(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    log.info("%s: %.1f million parameters", out, sum(p.numel() for p in model.parameters()) / 1e6)


def check_model(path: str, revision: str | None = None, *, embedder: bool = False) -> None:
    """What can be told of a model without reading its weights, in seconds: before any job starts.

    A model on the hub that is not in its cache passes.

    Raises:
        UserError: for an adapter; for weights that are missing, left over, or of another shape than
            config.json says; for a tokenizer whose special tokens the model has no rows for.
    """
    from fgit.common import adapters, models, weights
    from fgit.common.chat_templates import end_of_turn
    from fgit.common.tokenizers import load_tokenizer

    name, arguments = models.source(path)
    folder = weights.folder_of(name, revision)
    if folder is None or arguments:
        return
    adapters.refuse_adapter(path, str(folder))
    with models.loading_errors(path, "model"):
        config = weights.check_headers(path, folder, embedder=embedder)
    if not embedder:
        tokenizer = load_tokenizer(path, revision)
        # One without a template has that of the config, or none.
        ends = [[end_of_turn(tokenizer)]] if tokenizer.chat_template else []
        models.require_rows(config.vocab_size, tokenizer, ends, path)


def fetch_benchmark(kind: str, problems: str, out: Path) -> None:
    """Write a benchmark's problems of a named release as JSONL.

    Args:
        problems: ``release:VERSION``, as EvalPlus or BigCodeBench names its releases
            (``release:v0.1.10``); for pairs, ``release:humanevalpack/COMMIT``, a commit of that
            dataset on the hub; for texts likewise ``release:mbpp/COMMIT``, all splits of MBPP, or
            ``release:ds-1000/COMMIT``.
    """
    version = problems.removeprefix(RELEASE_PREFIX)
    if not problems.startswith(RELEASE_PREFIX) or not version:
        raise UserError(f"{problems}: only release:VERSION can be fetched")
    try:
        rows = problems_of_release(kind, version)
    except UserError:
        raise
    except Exception as error:  # the libraries raise whatever their download raises
        raise UserError(
            f"{kind} {problems}: could not be fetched ({type(error).__name__}: {error}). "
            "Without access to the network, put the file there yourself and name its path"
        ) from error
    write_jsonl(out, rows)


def first_problems(
    kind: BenchmarkKind, problems: str, out: Path, limit: int, sha256: str | None = None
) -> None:
    """Write the first ``limit`` problems of a benchmark's file, as they stand there.

    Args:
        sha256: the digest that the whole file's problems must have.
    """
    total = len(read_problems(kind, problems, sha256))
    rows = [row for _, row in problem_rows(resolve(problems)) if isinstance(row, dict)]
    write_jsonl(out, rows[:limit])
    log.info("%s: %d of %d problems of %s", out, min(limit, len(rows)), total, problems)


# Kinds that can be fetched.
RELEASED = tuple(kind for kind in typing.get_args(BenchmarkKind) if kind_of(kind).release)


def problems_of_release(kind: str, version: str) -> list[dict[str, Any]]:
    """The problems of a release, as published.

    EvalPlus's and BigCodeBench's own readers are passed by: they leave out the version that was
    asked for (HumanEval+, BigCodeBench), or make objects that JSON does not have (MBPP+).
    """
    if (release_of := kind_of(kind).release) is None:
        raise UserError(f"problems of kind {kind} have no releases; name their file")
    place = release_of(version)
    if isinstance(place, HubDataset):
        dataset = hub.load_dataset(
            place.name, place.subset, revision=place.revision, split=place.split
        )
        return [dict(row) for row in dataset]
    from evalplus.data.utils import get_dataset_metadata, make_cache

    url, cached = get_dataset_metadata(place.name, place.version, mini=False)
    make_cache(url, cached)
    rows: list[dict[str, Any]] = []
    for _, row in read_objects(cached):
        if isinstance(row, BadRow):
            raise UserError(f"{row}. Remove {cached}, and fetch it again")
        rows.append(row)
    return rows


# ------------------------------------------------------------------ all that a config needs


def fetch_all(config: Config, out: Path) -> None:
    """Download and verify all that a config needs of the network, and say which commits it is.

    Each file's SHA-256 (or git's hash, for small files) is compared with the hub's; what is wrong
    is downloaded once more. What broke off goes on. Benchmarks' releases go to the caches of the
    libraries that fetch them.

    Args:
        out: the record (JSON): each repository with its commit, files and bytes, and benchmarks.

    Raises:
        UserError: naming what is missing, refused, or broken, or the space that is lacking.
    """
    if is_offline():
        raise UserError(
            "fetch asks the hub, but HF_HUB_OFFLINE is set; run it without, on a machine that "
            "reaches the hub"
        )
    steps = steps_of(config)
    repositories = hub.needed(config, steps)
    listings = [hub.listing(repository) for repository in repositories]
    hub.check_space(sum(listing.missing_bytes for listing in listings))
    rows: list[dict[str, Any]] = []
    for repository, (commit, files, _) in zip(repositories, listings, strict=True):
        log.info("%d of %d: %s", len(rows) + 1, len(repositories), repository)
        rows.append(hub.bring(repository, commit, files))
    released = [s.wildcards["benchmark"] for s in steps if s.rule == "fetch_benchmark"]
    benchmarks = [fetch_release(config, name) for name in released]
    write_json(out, {"repositories": rows, "benchmarks": benchmarks})
    for line in report_lines(repositories, rows, benchmarks):
        print(line)


def fetch_release(config: Config, name: str) -> dict[str, Any]:
    """Bring a benchmark's release to the cache of the library that fetches it; its digest."""
    entry = config.benchmarks[name]
    with scratch() as folder:
        fetch_benchmark(entry.kind, entry.problems, folder / "problems.jsonl")
        digest = problems_digest(folder / "problems.jsonl")
    if entry.sha256 is not None and digest != entry.sha256.lower():
        raise UserError(
            f"benchmarks.{name}: the problems of {entry.problems} have the SHA-256 {digest}, but "
            f"the config says {entry.sha256}; correct the one that is wrong"
        )
    return {"name": name, "problems": entry.problems, "sha256": digest}


def report_lines(
    repositories: Sequence[hub.Repository],
    rows: Sequence[dict[str, Any]],
    benchmarks: Sequence[Any],
) -> Iterator[str]:
    """What was fetched as a table, then the pins that the config lacks."""
    for row in rows:
        size = f"{row['bytes'] / 1e9:.2f} GB, {row['files']} files"
        yield f"{row['kind']:10} {row['name']:45} {row['commit']}  {size}"
    for row in benchmarks:
        yield f"{'benchmark':10} {row['name'] + ' ' + row['problems']:45} sha256 {row['sha256']}"
    pins = [
        f"  {key}.revision: {row['commit']}"
        for repository, row in zip(repositories, rows, strict=True)
        if not repository.pinned
        for key in repository.keys
        if not key.startswith("benchmarks.")  # whose release says the version
    ]
    if pins:
        yield "Not pinned in the config; these are the commits that were fetched:"
        yield from pins
