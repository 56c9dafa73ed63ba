"""The runs that a config's tables ask for, and how the rules start what they need."""

import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

import fgit
from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.releases import RELEASE_PREFIX
from fgit.common.errors import UserError
from fgit.common.files import PACKAGE_PREFIX, resolve
from fgit.config import (
    BASE,
    KEPT_OUT,
    LAUNCHERS,
    PUBLISHED,
    Config,
    Launch,
    Location,
    Row,
    Settings,
    TrainSettings,
    check_yaml,
    locations,
)

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
HUB_NAME = re.compile(  # what the hub's library takes; anything else can only be a path
    r"(?!.*(--|\.\.))(?!.*\.git$)(?=.{1,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Base model × dataset × method × seed; or a base model as it is, evaluated only."""

    model: str
    dataset: str | None
    method: str
    seed: int | None

    @property
    def name(self) -> str:
        if self.dataset is None:
            return f"{self.model}/{BASE}"
        return f"{self.model}/{self.dataset}/{self.method}/seed-{self.seed}"


def runs_of(config: Config, row: Row) -> list[Run]:
    """The runs that a row of a table shows: one per seed; one for a base model; none if quoted."""
    if row.method == PUBLISHED:
        return []
    if row.method == BASE:
        return [Run(row.model, None, BASE, None)]
    return [Run(row.model, row.dataset, row.method, seed) for seed in config.seeds]


def all_runs(config: Config) -> dict[str, Run]:
    """Every run by name, each once, in the order in which the tables ask for them."""
    rows = (row for table in config.tables.values() for row in table.rows)
    return {run.name: run for row in rows for run in runs_of(config, row)}


def evaluations(config: Config, tables: Iterable[str]) -> list[tuple[str, str]]:
    """The (run, benchmark) pairs that tables show, each once."""
    pairs = (
        (run.name, column.removesuffix("+"))
        for table in map(config.tables.__getitem__, tables)
        for row in table.rows
        for run in runs_of(config, row)
        for column in table.columns
    )
    return list(dict.fromkeys(pairs))


def train_settings(config: Config, run: Run) -> TrainSettings:
    """The resolved training settings of a run."""
    return config.resolve(run.method).model_copy(update={"seed": run.seed})


def sheets_of(config: Config) -> list[str]:
    """The datasets of which two readers get a sheet: those that are trained on with a teacher."""
    trained = [run for run in all_runs(config).values() if run.dataset and config.audit.sheet]
    by_teacher = [run for run in trained if train_settings(config, run).variants == "generate"]
    return list(dict.fromkeys(str(run.dataset) for run in by_teacher))


def pilot_of(config: Config) -> Config:
    """The same experiments on a few samples and problems, with results of their own.

    Each benchmark's first problems are asked; a part of a larger one has its own.
    """
    samples, problems = config.pilot.samples, config.pilot.problems

    def at_most(bound: int, limit: int | None) -> int:
        return bound if limit is None else min(bound, limit)

    note = f"Pilot: at most {samples} samples a dataset and {problems} problems a benchmark."
    return config.model_copy(
        update={
            "name": f"{config.name}-pilot",
            "note": f"{note} {config.note or ''}".strip(),
            "datasets": {
                name: entry.model_copy(update={"limit": at_most(samples, entry.limit)})
                for name, entry in config.datasets.items()
            },
            "benchmarks": {
                name: entry
                if entry.kind in KEPT_OUT  # not evaluated; the data must be free of all of it
                else entry.model_copy(
                    update={"limit": at_most(problems, entry.limit), "part_of": None}
                )
                for name, entry in config.benchmarks.items()
            },
        }
    )


def shard_count(config: Config, dataset: str) -> int:
    """How many jobs write a dataset's variants; one reads those that the config names."""
    return 1 if config.datasets[dataset].variants else config.generate.shards


def keeps_model(config: Config, run: Run) -> bool:
    """Whether a run's trained weights stay once all that needs them is done."""
    if isinstance(config.keep_models, list):
        return run.method in config.keep_models
    return config.keep_models == "all"


def launcher(launch: Launch) -> str:
    """What stands between ``python`` and ``-m fgit train``; empty for one process.

    Raises:
        UserError: if the config file of accelerate is not there, or has a key twice.
    """
    if launch.accelerate is None:
        return ""
    if launch.accelerate in LAUNCHERS:
        path = Path(fgit.__file__).parents[1] / "launchers" / f"{launch.accelerate}.yaml"
    else:
        path = Path(launch.accelerate)
        if not path.is_file():
            raise UserError(
                f"launch.accelerate: {launch.accelerate!r} is no file; name a config file of "
                f"accelerate, or one of {', '.join(LAUNCHERS)}"
            )
        check_yaml(path, numbers=False)
    start = (
        "-m accelerate.commands.launch"
        if launch.nodes == 1
        else f"-m fgit.cluster.nodes {launch.nodes}"
    )
    parts = [start, f"--config_file {shlex.quote(str(path))}"]
    if launch.processes is not None:
        parts.append(f"--num_processes {launch.nodes * launch.processes}")
    return " ".join(parts)


def is_fetched_model(path: str) -> bool:
    """Whether a model has to be converted to a folder first (GGUF)."""
    return path.endswith(".gguf")


def teacher_as_model(config: Config) -> str | None:
    """The model of the config that is the teacher, too, where it is converted to a folder."""
    path = config.generate.teacher
    names = (name for name, model in config.models.items() if model.path == path)
    return next(names, None) if is_fetched_model(path) else None


def is_fetched_benchmark(problems: str) -> bool:
    """Whether a benchmark's problems have to be fetched first."""
    return problems.startswith(RELEASE_PREFIX)


def is_file(path: str) -> bool:
    """Whether a location is a file of the user's, not a name on the hub or in a package."""
    return not path.startswith(PACKAGE_PREFIX) and (
        path.endswith(DATA_SUFFIXES) or path.startswith((".", "/"))
    )


def check_sources(config: Config) -> None:
    """Refuse a config that names a file of a Python package, or a release, that there is not.

    Raises:
        UserError: naming the location.
    """
    for location in locations(config):
        if location.path.startswith(PACKAGE_PREFIX):
            resolve(location.path)
    for name, benchmark in config.benchmarks.items():
        if is_fetched_benchmark(benchmark.problems):
            where = f"benchmarks.{name}.problems"
            release = kind_of(benchmark.kind).release
            if release is None:
                raise UserError(
                    f"{where}: {benchmark.problems!r}: kind {benchmark.kind} has no releases; name "
                    "a file"
                )
            try:
                release(benchmark.problems.removeprefix(RELEASE_PREFIX))
            except UserError as error:
                raise UserError(f"{where}: {error}") from error


def is_on_hub(path: str) -> bool:
    """Whether a location is a name on the hub: ``OWNER/NAME``, and no file or folder here."""
    local = path.startswith(PACKAGE_PREFIX) or is_fetched_model(path) or is_file(path)
    return not local and bool(HUB_NAME.fullmatch(path)) and not Path(path).exists()


def what_is_wrong(location: Location) -> str | None:
    """Why a stage cannot read what a key of a config names; None where it can, as far as this
    machine tells: of names on the hub and of interpreters, others know.
    """
    kind, name, path = location.kind, location.path, Path(location.path)
    if name.startswith((PACKAGE_PREFIX, RELEASE_PREFIX)) or kind in ("launcher", "interpreter"):
        return None
    if kind == "template" and (name == "own" or is_shipped_template(name)):
        return None
    if kind in ("model", "data") and is_on_hub(name):
        return None
    if kind == "model" and not is_fetched_model(name):
        if path.is_dir():
            return what_lacks(path, location.key)
        return "a file, not a folder" if path.exists() else "no such folder"
    if not path.is_file():
        return "a folder, not a file" if path.is_dir() else "no such file"
    if kind == "data" and not path.name.endswith(DATA_SUFFIXES):
        return "no .jsonl, .jsonl.gz, .json or .parquet"
    return None


def what_lacks(folder: Path, key: str) -> str | None:
    """What a folder lacks to be a model's."""
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        return "no config.json in this folder, so it is no model's"
    if not adapter and read_object((folder / "config.json").read_bytes()) is None:
        return "config.json is no JSON object, so it is no model's"
    patterns = ["*.safetensors", *(["*.bin"] if key == "select.embedder" else [])]
    if not any(any(folder.glob(pattern)) for pattern in patterns):
        return "no weights in safetensors in this folder"
    if file := cut_weights(folder):
        return f"{file} is not there, or cut short; download or save the model again"
    if not adapter and not any(folder.glob("*token*")):
        return "no tokenizer in this folder"
    return None


def cut_weights(folder: Path) -> str | None:
    """The first file of a model's weights that its index names and is not there, or is cut."""
    names = {file.name for file in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        places = (read_object(index.read_bytes()) or {}).get("weight_map")
        names |= set(map(str, places.values())) if isinstance(places, dict) else {index.name}
    return next((name for name in sorted(names) if is_cut(folder / name)), None)


def is_cut(file: Path) -> bool:
    """Whether a file of safetensors is shorter than its header says."""
    try:
        with open(file, "rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            tensors = read_object(opened.read(size)) if size < file.stat().st_size else None
    except OSError:
        return True
    if tensors is None:
        return True
    tensors.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
    return file.stat().st_size < 8 + size + max(ends, default=0)


def read_object(text: bytes) -> dict[str, Any] | None:
    """A JSON object; None where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def is_shipped_template(name: str) -> bool:
    file = Path(fgit.__file__).parent / "prompts" / f"{name}.jinja"
    return name != "teacher" and file.is_file()


def flags(
    settings: BaseModel,
    *,
    rename: Mapping[str, str] | None = None,
    leave_out: Iterable[str] = (),
) -> str:
    """Settings as command-line flags of a stage; keys that are not set are left out."""
    parts: list[str] = []
    for name, value in settings.model_dump(exclude=set(leave_out)).items():
        if isinstance(value, dict):
            raise TypeError(f"{name}: a mapping is no flag; see repeated()")
        flag = f"--{(rename or {}).get(name, name).replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is not None:
            # A value that begins with a dash would be taken for a flag.
            joint = "=" if str(value).startswith("-") else " "
            parts.append(f"{flag}{joint}{shlex.quote(str(value))}")
    return " ".join(parts)


def result_flags(settings: Settings, *, leave_out: Iterable[str] = ()) -> str:
    """The flags on which the stage's result depends."""
    return flags(settings, leave_out={*leave_out, *settings.speed_fields()})


def speed_flags(settings: Settings) -> str:
    """The other flags: those of what only changes the speed."""
    return flags(settings, leave_out=type(settings).model_fields.keys() - settings.speed_fields())


def repeated(flag: str, values: Mapping[str, str]) -> str:
    """``--flag NAME=VALUE`` for each entry."""
    return " ".join(f"--{flag} {shlex.quote(f'{name}={value}')}" for name, value in values.items())


def to_yaml(config: Config) -> str:
    """The resolved config, defaults included, as a config file that gives the same."""
    values = config.model_dump(mode="json")
    # A method's keys are extras of its model, and only what was said is written back.
    values["methods"] = {
        name: method.model_dump(mode="json", exclude_none=True)
        for name, method in config.methods.items()
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def use_this_checkout() -> None:
    """Have the rules' shells find this interpreter and this package first.

    The config's default interpreter, ``python``, is then the one that runs Snakemake, whether or
    not its environment is activated; and other environments (vLLM's, conda's) need not have this
    package installed.

    Raises:
        UserError: if Snakemake would take its path for a pattern.
    """
    folders = {"PATH": Path(sys.executable).parent, "PYTHONPATH": Path(fgit.__file__).parents[1]}
    if {"{", "}"} & set(str(folders["PYTHONPATH"])):
        raise UserError(
            f"{folders['PYTHONPATH']}: a folder whose name has braces, which Snakemake takes for "
            "wildcards; rename it"
        )
    for variable, folder in folders.items():
        before = os.environ.get(variable, "").split(os.pathsep)
        os.environ[variable] = os.pathsep.join([str(folder), *filter(None, before)])


def use_hub(config: Config) -> None:
    """Have no job ask the model hub, if the config says so."""
    if config.hub == "offline":
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
