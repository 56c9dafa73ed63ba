"""A whole config, and what must hold between its sections."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fgit.config.audit import AuditConfig
from fgit.config.base import Name, Place, Settings, locations
from fgit.config.benchmarks import AUDITED, KEPT_OUT, WITH_PLUS, Benchmark
from fgit.config.datasets import Dataset
from fgit.config.decontaminate import DecontaminateConfig
from fgit.config.evaluate import EvaluateSettings
from fgit.config.generate import GenerateSettings
from fgit.config.launch import Launch, Pythons
from fgit.config.methods import Method, check_train_settings
from fgit.config.models import Model
from fgit.config.mutate import MutateSettings
from fgit.config.plan import Pilot, PlanSettings
from fgit.config.score import ScoreSettings
from fgit.config.select import SelectConfig
from fgit.config.tables import BASE, FIXED_COLUMNS, NOT_TRAINED, PUBLISHED, TARGETS, Claim, Table
from fgit.config.train import TrainSettings


class Config(Settings):
    """A whole config file."""

    name: Name = Field(description="results go to results/NAME")
    note: str | None = Field(None, description="a sentence shown above every table")
    published: Annotated[str | None, Place("file")] = Field(
        None,
        description="published numbers to stand beside ours: CSV of table, model, dataset, method, "
        "column, value",
    )
    pilot: Pilot = Pilot()
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one run of each method per seed"
    )
    python: Pythons = Pythons()
    launch: Launch = Launch()
    hub: Literal["online", "offline"] = Field(
        "online",
        description="offline: no job asks the model hub; what it needs, `fgit fetch --config` has "
        "brought to the hub's cache",
    )
    keep_models: Literal["all", "none"] | list[str] = Field(
        "all",
        description="methods whose trained weights stay once all that needs them is done: all, "
        "none, or a list of methods",
    )
    models: dict[Name, Model]
    datasets: dict[Name, Dataset]
    benchmarks: dict[Name, Benchmark]
    decontaminate: DecontaminateConfig
    generate: GenerateSettings = GenerateSettings()
    mutate: MutateSettings = MutateSettings()
    select: SelectConfig = SelectConfig()
    audit: AuditConfig = AuditConfig()
    train: dict[str, Any] = Field(
        default_factory=dict, description="training settings shared by all methods"
    )
    methods: dict[Name, Method]
    evaluate: EvaluateSettings = EvaluateSettings()
    score: ScoreSettings = ScoreSettings()
    tables: dict[Name, Table]
    claims: list[Claim] = Field(
        default_factory=list, description="relative improvements that the tables should yield"
    )
    plan: PlanSettings = PlanSettings()

    @field_validator("keep_models", mode="before")
    @classmethod
    def keep_models_is_known(cls, value: Any) -> Any:
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not texts and value not in ("all", "none"):
            raise ValueError(f"must be all, none or a list of methods, not {value!r}")
        return value

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        """What depends on more than one key, or on a whole list."""
        must(len(set(self.seeds)) == len(self.seeds), f"seeds: each seed once, not {self.seeds}")
        must(
            self.generate.backend != "openai" or self.generate.url,
            "generate.url: the openai backend needs the base URL of its endpoint, "
            "such as http://localhost:8000/v1",
        )
        for key, _, path in locations(self):
            check_path(key, path)
        check_methods(self)
        for section, names, where in references(self):
            check_names(self, section, names, where)
        check_benchmarks(self)
        for name, table in self.tables.items():
            check_table(self, f"tables.{name}", table)
        return self

    def resolve(self, method: str) -> TrainSettings:
        """The training settings of a method: ``train``, then what it extends, then its own.

        Raises:
            ValueError: naming the method and key, if a key is unknown or a value not allowed.
        """
        chain = [method]
        while (name := self.methods[chain[-1]].extends) is not None:
            circle = " -> ".join([*chain, name])
            must(name not in chain, f"methods.{method}: extends goes in a circle: {circle}")
            chain.append(name)
        merged = dict(self.train)
        for name in reversed(chain):
            merged |= self.methods[name].settings
        return check_train_settings(f"methods.{method}", merged, also=["extends"])


# ------------------------------------------------------------------ between the sections


def must(holds: object, otherwise: str) -> None:
    """Refuse the config, in these words, where something does not hold."""
    if not holds:
        raise ValueError(otherwise)


def check_names(config: Config, section: str, names: Iterable[str], where: str) -> None:
    """A section has entries of these names, which stand at the key ``where``."""
    keys = getattr(config, section)
    for name in names:
        must(
            name in keys,
            f"{where}: no {section.removesuffix('s')} is called {name!r}; known: "
            f"{', '.join(keys) or 'none'}",
        )


def references(config: Config) -> Iterator[tuple[str, Iterable[str], str]]:
    """What names entries of another section: that section, the names, and the key they stand at."""
    for key, benchmark in config.benchmarks.items():
        yield "benchmarks", filter(None, [benchmark.part_of]), f"benchmarks.{key}.part_of"
    for key, model in config.models.items():
        yield "benchmarks", model.samples, f"models.{key}.samples"
    yield "benchmarks", config.decontaminate.against, "decontaminate.against"
    yield "benchmarks", config.audit.benchmarks, "audit.benchmarks"
    yield "models", config.plan.parameters, "plan.parameters"
    yield "benchmarks", config.plan.problems, "plan.problems"
    if isinstance(config.keep_models, list):
        yield "methods", config.keep_models, "keep_models"
    for key, table in config.tables.items():
        columns = [column.removesuffix("+") for column in table.columns]
        yield "benchmarks", columns, f"tables.{key}.columns"
        for number, row in enumerate(table.rows, start=1):
            where = f"tables.{key}.rows, entry {number}"
            yield "models", [row.model] if row.method != PUBLISHED else [], where
            if row.method not in NOT_TRAINED:
                yield "methods", [row.method], where
                yield "datasets", filter(None, [row.dataset]), where
    for number, claim in enumerate(config.claims, start=1):
        where = f"claims, entry {number}"
        yield "tables", claim.tables, f"{where}, tables"
        yield "models", claim.models, f"{where}, models"
        yield "methods", [name for name in (claim.of, claim.over) if name != BASE], where


def check_path(key: str, path: str) -> None:
    """A path is one that can stand in a rule and in a command."""
    must(path.strip(), f"{key}: must not be empty, not {path!r}")
    must(not path.startswith("-"), f"{key}: {path!r} looks like a flag; write ./{path}")
    must(
        path.isprintable() and not {"{", "}"} & set(path),
        f"{key}: {path!r}: a path has no braces, which are Snakemake's wildcards, and no "
        "characters that cannot be seen; rename it, or make a link to it that has another name",
    )


def check_benchmarks(config: Config) -> None:
    """The benchmarks, and what names them outside the tables."""
    for name, benchmark in config.benchmarks.items():
        must(
            benchmark.kind not in KEPT_OUT or benchmark.limit is None,
            f"benchmarks.{name}.limit: {benchmark.limit}: the data are kept free of all problems; "
            "leave it out",
        )
        if benchmark.part_of is not None:
            check_part(name, benchmark, config.benchmarks[benchmark.part_of])
    for key, model in config.models.items():
        for name in model.samples:
            larger = config.benchmarks[name].part_of
            must(
                larger is None,
                f"models.{key}.samples: {name!r} is scored as a part of {larger!r}; name solutions "
                "of that",
            )
    for name in config.audit.benchmarks:
        kind = config.benchmarks[name].kind
        must(
            kind in AUDITED,
            f"audit.benchmarks: {name!r} is of kind {kind}; an audit runs variants against the "
            f"tests of kind {', '.join(AUDITED)}",
        )


def check_part(name: str, part: Benchmark, whole: Benchmark) -> None:
    """A part of a larger benchmark is scored from the outcomes of the larger one."""
    where, larger = f"benchmarks.{name}.part_of", part.part_of
    must(
        whole.kind == part.kind,
        f"{where}: {larger!r} is of kind {whole.kind}, and {name!r} of kind {part.kind}; a part is "
        "scored from the outcomes of its own kind",
    )
    must(
        part.limit is None and whole.limit is None,
        f"{where}: a part needs all of the larger benchmark's outcomes; leave out part_of, or the "
        f"limit of {(name if part.limit else larger)!r}",
    )
    must(
        whole.part_of is None,
        f"{where}: {larger!r} is itself a part, of {whole.part_of!r}; name a benchmark that is no "
        "part of another",
    )


def check_methods(config: Config) -> None:
    """Each method can be resolved, and no two of them are one training."""
    for name, what in NOT_TRAINED.items():
        must(name not in config.methods, f"methods.{name}: {name} is {what}; choose another name")
    for name, method in config.methods.items():
        check_names(config, "methods", filter(None, [method.extends]), f"methods.{name}.extends")
    check_train_settings("train", config.train)
    trainings: dict[str, str] = {}
    for name in config.methods:
        other = trainings.setdefault(repr(config.resolve(name).effective), name)
        must(
            other == name,
            f"methods.{name}: the same training as methods.{other} (all that matters to it is the "
            "same), which would be done twice; use one of the names",
        )


def check_table(config: Config, where: str, table: Table) -> None:
    """What a table shows is there, and no two rows show the same or have one name."""
    name = where.removeprefix("tables.")
    must(name not in TARGETS, f"{where}: `snakemake {name}` is something else; choose another name")
    repeated = len(set(table.columns)) < len(table.columns)
    must(not repeated, f"{where}.columns: each column once, not {table.columns}")
    for column in table.columns:
        check_column(config, f"{where}.columns", column)
    curve = any(row.x is not None for row in table.rows)
    must(curve or not table.figure, f"{where}.figure: no row has an x, so there is no curve")
    must(table.figure or not curve, f"{where}.rows: a row has an x, but the table has no figure")
    numbers: dict[Any, int] = {}
    group = None
    for number, row in enumerate(table.rows, start=1):
        here = f"{where}.rows, entry {number}"
        trained = row.method not in NOT_TRAINED
        must(
            trained or row.dataset is None,
            f"{here}: a row of method {row.method} has no dataset ({row.dataset!r})",
        )
        must(row.dataset or not trained, f"{here}: method {row.method!r} needs a dataset")
        must(
            row.method != PUBLISHED or config.published is not None,
            f"{here}: {row.name!r} is only quoted (method {PUBLISHED}), but the config names no "
            "file of published numbers (key published)",
        )
        first = numbers.setdefault(("shows", *row.key), number)
        what = " / ".join(filter(None, row.key))
        must(first == number, f"{here}: shows {what}, as entry {first} does; leave one out")
        group = row.group if row.group is not None else group
        first = numbers.setdefault((group, row.model, row.name), number)
        must(
            first == number,
            f"{here}: is called {row.name!r}, as entry {first} is, and of the same model; give it "
            "a label of its own",
        )


def check_column(config: Config, where: str, column: str) -> None:
    benchmark = column.removesuffix("+")
    kind = config.benchmarks[benchmark].kind
    must(
        kind not in KEPT_OUT,
        f"{where}: {column!r} is of kind {kind}, which is only kept out of the data; no model is "
        "asked",
    )
    must(
        benchmark == column or kind in WITH_PLUS,
        f"{where}: {column!r}: a benchmark of kind {kind} has no plus tests",
    )
    must(
        column not in FIXED_COLUMNS,
        f"{where}: {column!r} is a column of every table; give the benchmark another name",
    )
