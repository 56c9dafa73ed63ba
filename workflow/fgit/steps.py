"""The one list of what the workflow does: each step, with what it reads, writes and runs in.

The rules say how a step is run. Whatever else must know what there is to do (plan, status, hub,
doctor, report) asks here, and ``tests/unit/test_steps.py`` holds the list to Snakemake's own jobs.
Places are relative to the results folder.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from fgit.benchmarks.kinds import kind_of
from fgit.config import Config
from fgit.runs import (
    Run,
    all_runs,
    evaluations,
    is_fetched_benchmark,
    is_fetched_model,
    is_file,
    keeps_model,
    shard_count,
    sheets_of,
    teacher_as_model,
    train_settings,
)

Environment = Literal["main", "vllm", "bigcodebench"]

# ------------------------------------------------------------------ where things lie


class Rule(NamedTuple):
    """What a rule's jobs write and are called: patterns of its wildcards, as Snakemake has them.

    Attributes:
        outputs: a job is done if the first one is there.
        job: what ``logs/`` and ``benchmarks/`` call it; by default, the first output's folder.
        title: a job in words, unique in its stage; by default, its wildcards.
    """

    stage: str
    outputs: tuple[str, ...]
    job: str = ""
    title: str = ""


def inside(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


def on_pairs(stage: str, name: str) -> Rule:
    """A stage that works on a dataset's variants, the teacher's or mutants."""
    files = inside(f"{stage}/{{dataset}}/{{source}}", f"{name}.parquet", "report.json")
    return Rule(stage, files, f"{stage}/{{dataset}}.{{source}}")


def audit(part: str, *names: str) -> Rule:
    folder = "audit/{benchmark}"
    return Rule("audit", inside(folder, *names), f"{folder}.{part}", f"{{benchmark}}, {part}")


CANONICAL_RUN = "canonical"  # in place of a run: the canonical solutions of a benchmark
FETCHED = "fetch/benchmarks/{benchmark}"
HEAD = "first-{limit}"
CLEAN = ("records.parquet", "report.json", "matches.parquet")
SHARD = "{shard}-of-{shards}"
GATHERED = ("variants.parquet", "report.json")
TRAINED = ("metrics.json", "model", "steps.jsonl", "samples.parquet", "segments.json", "run.yaml")
SOLUTIONS = ("samples.jsonl", "samples_one_bos.jsonl")
SCORE = ("summary.json", "outcomes.parquet")
TABLE = inside("tables", "{table}.csv", "{table}.md", "{table}.tex", "{table}.html")
FIGURE = (*TABLE, *inside("tables", "{table}.svg", "{table}.png"))
REPORT = ("report.html", "results.parquet", *inside("tables", "funnel.md", "funnel.csv"))
RULES = {  # in the order of the stages
    "fetch_model": Rule("fetch", ("fetch/models/{model}",), "fetch/models/{model}"),
    "fetch_benchmark": Rule("fetch", (f"{FETCHED}.jsonl",), FETCHED),
    "fetch_first": Rule(
        "fetch",
        (f"{FETCHED}.{HEAD}.jsonl",),
        f"{FETCHED}.{HEAD}",
        f"{{benchmark}}, {HEAD}",
    ),
    "decontaminate": Rule("decontaminate", inside("decontaminate/{dataset}", *CLEAN)),
    "generate": Rule(
        "generate",
        inside("generate/{dataset}/shards", f"{SHARD}.parquet", f"{SHARD}.json"),
        f"generate/{{dataset}}/{SHARD}",
        "{dataset}, shard {shard} of {shards}",
    ),
    "gather": Rule("gather", inside("generate/{dataset}", *GATHERED), "gather/{dataset}"),
    "mutate": Rule("mutate", inside("mutate/{dataset}", *GATHERED)),
    "verify": on_pairs("verify", "verified"),
    "select": on_pairs("select", "pairs"),
    "annotate": on_pairs("annotate", "spans"),
    "train": Rule("train", inside("train/{run}", *TRAINED)),
    "train_temporary": Rule("train", inside("train/{run}", *TRAINED)),
    "train_pilot": Rule("train", inside("train/{run}", *TRAINED)),
    "evaluate": Rule("evaluate", inside("evaluate/{run}/{benchmark}", *SOLUTIONS)),
    "ground_truth": Rule(
        "score",
        inside(f"score/{CANONICAL_RUN}/{{benchmark}}", *SCORE, "times.parquet"),
        title=f"{CANONICAL_RUN}, {{benchmark}}",
    ),
    "score": Rule("score", inside("score/{run}/{benchmark}", *SCORE)),
    "audit_records": audit("records", "records.parquet"),
    "audit_generate": audit("generate", "generate/variants.parquet", "generate/report.json"),
    "audit_variants": audit("variants", "audit.json", "variants.parquet"),
    "audit_sheet": Rule(
        "audit", ("audit/sheets/{dataset}/sheet.json",), "audit/{dataset}.sheet", "sheets/{dataset}"
    ),
    "config": Rule("report", ("config.yaml",), "config", "config"),
    "results": Rule("report", ("results/{table}.parquet",), "results/{table}", "{table}, numbers"),
    "table": Rule("report", TABLE, "table/{table}"),
    "figure": Rule("report", FIGURE, "table/{table}"),
    "report": Rule("report", REPORT, "report", "report"),
}
STAGES = tuple(dict.fromkeys(rule.stage for rule in RULES.values()))


def outputs_of(rule: str, **wildcards: str) -> tuple[str, ...]:
    """What a job of a rule writes."""
    return tuple(pattern.format(**wildcards) for pattern in RULES[rule].outputs)


def output_of(rule: str, **wildcards: str) -> str:
    """The first file that a job of a rule writes."""
    return outputs_of(rule, **wildcards)[0]


def folder_of(rule: str, **wildcards: str) -> str:
    """Where a job of a rule writes."""
    return output_of(rule, **wildcards).rpartition("/")[0]


# What lies in the results or elsewhere, as the config says: ``results`` stands before the former.


def whole_problems(config: Config, benchmark: str, results: str = "") -> str:
    """All problems of a benchmark: the file of the config, or the one that fetch writes."""
    problems = config.benchmarks[benchmark].problems
    fetched = results + output_of("fetch_benchmark", benchmark=benchmark)
    return fetched if is_fetched_benchmark(problems) else problems


def asked_problems(config: Config, benchmark: str, results: str = "") -> str:
    """The problems of a benchmark that are asked and scored: all, or the first so many."""
    limit = config.benchmarks[benchmark].limit
    if limit is None:
        return whole_problems(config, benchmark, results)
    return results + output_of("fetch_first", benchmark=benchmark, limit=str(limit))


def base_model(config: Config, model: str, results: str = "") -> str:
    """The folder of a base model that fetch writes, or a folder or hub name as it is."""
    path = config.models[model].path
    return results + output_of("fetch_model", model=model) if is_fetched_model(path) else path


def base_model_files(config: Config, model: str, results: str = "") -> list[str]:
    """The base model as inputs of a job; nothing for a name on the hub."""
    path = base_model(config, model, results)
    fetched = is_fetched_model(config.models[model].path)
    return [path] if fetched or Path(path).is_dir() else []


def teacher_files(config: Config, results: str = "") -> list[str]:
    """The folder of the teacher that fetch writes, if it is a model of the config, too."""
    name = teacher_as_model(config)
    return [results + output_of("fetch_model", model=name)] if name else []


def own_samples(config: Config, run: Run, benchmark: str) -> str | None:
    """Solutions that a base model's entry names, so that none are generated."""
    return config.models[run.model].samples.get(benchmark) if run.dataset is None else None


def scored_files(config: Config, run: Run, benchmark: str, results: str = "") -> dict[str, str]:
    """What is scored, besides the problems, by the name of the rule's input."""
    entry = config.benchmarks[benchmark]
    if entry.part_of is not None:
        return {"whole": results + output_of("score", run=run.name, benchmark=entry.part_of)}
    files = {}
    if kind_of(entry.kind).ground_truth:
        # Its environment must first be shown to be the right one.
        files["ground_truth"] = results + output_of("ground_truth", benchmark=benchmark)
    if own := own_samples(config, run, benchmark):
        return files | {"samples": own}
    samples, one_bos = outputs_of("evaluate", run=run.name, benchmark=benchmark)
    return files | {"samples": results + samples, "one_bos": results + one_bos}


def score_files(config: Config, tables: Iterable[str]) -> list[str]:
    """The scores that tables show."""
    scores = evaluations(config, tables)
    return [file for run, name in scores for file in outputs_of("score", run=run, benchmark=name)]


# ------------------------------------------------------------------ environments


def teacher_environment(config: Config) -> Environment:
    return "vllm" if config.generate.backend == "vllm" else "main"


def score_environments(config: Config, benchmark: str) -> tuple[Environment, ...]:
    entry = config.benchmarks[benchmark]
    programs = kind_of(entry.kind).environment
    # The programs of a part were run with those of its whole.
    return ("main",) if programs == "main" or entry.part_of is not None else ("main", programs)


# ------------------------------------------------------------------ the steps


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A job of the workflow.

    Attributes:
        wildcards: of the rule, but for ``results``.
        inputs: what it reads; files outside of the results as the config names them.
        environments: the interpreters of the config's key ``python`` that its command uses.
        hub: the config's keys of the models and datasets that it would ask the hub for.
    """

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    environments: tuple[Environment, ...] = ("main",)
    hub: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        return RULES[self.rule].stage

    @property
    def name(self) -> str:
        """What it works on, in words; unique in its stage."""
        title = RULES[self.rule].title.format(**self.wildcards)
        return title or ", ".join(self.wildcards.values())

    @property
    def job(self) -> str:
        job = RULES[self.rule].job.format(**self.wildcards)
        return job or self.outputs[0].rpartition("/")[0]

    @property
    def log(self) -> str:
        return f"logs/{self.job}.log"

    @property
    def times(self) -> str:
        """Where Snakemake writes how long it took."""
        return f"benchmarks/{self.job}.tsv"


def step(
    rule: str,
    of: Mapping[str, str],
    inputs: Iterable[str] = (),
    *,
    environments: tuple[Environment, ...] = ("main",),
    hub: tuple[str, ...] = (),
) -> Step:
    return Step(rule, of, tuple(inputs), outputs_of(rule, **of), environments, hub)


def steps_of(
    config: Config, tables: Iterable[str] | None = None, *, pilot: bool = False
) -> list[Step]:
    """What there is to do: each step once, after the steps that it reads from.

    Args:
        tables: keys of tables; None is everything that ``snakemake all`` asks for.
        pilot: whether the config is a pilot's (:func:`fgit.runs.pilot_of`).
    """
    names = list(config.tables if tables is None else tables)
    audited = config.audit.benchmarks if tables is None else []
    sheets = sheets_of(config) if tables is None else []
    steps = [*steps_to(config, evaluations(config, names), audited, pilot=pilot)]
    for benchmark in audited:
        steps += audit_steps(config, benchmark)
    for dataset in sheets:
        pairs = output_of("select", dataset=dataset, source="generate")
        steps.append(step("audit_sheet", {"dataset": dataset}, [pairs]))
    steps.append(step("config", {}, environments=()))
    published = [config.published] if config.published else []
    for name in names:
        inputs = ["config.yaml", *published, *score_files(config, [name])]
        steps.append(numbers := step("results", {"table": name}, inputs))
        rule = "figure" if config.tables[name].figure else "table"
        steps.append(step(rule, {"table": name}, ["config.yaml", *numbers.outputs]))
    if tables is None:
        inputs = ["config.yaml", *score_files(config, names)]
        inputs += [output_of("results", table=name) for name in names]
        inputs += [output_of("audit_variants", benchmark=name) for name in audited]
        inputs += [output_of("audit_sheet", dataset=name) for name in sheets]
        report = step("report", {}, inputs)
        claims = inside("tables", "claims.md", "claims.csv") if config.claims else ()
        steps.append(dataclasses.replace(report, outputs=(*report.outputs, *claims)))
    return steps


def steps_to(
    config: Config,
    scores: Iterable[tuple[str, str]],
    audited: Iterable[str] = (),
    *,
    pilot: bool = False,
) -> Iterator[Step]:
    """The steps to scores, each a run and a benchmark, and to what an audit of benchmarks reads."""
    runs, scores = all_runs(config), list(scores)
    wholes = dict.fromkeys((run, config.benchmarks[name].part_of or name) for run, name in scores)
    evaluated = [(run, name) for run, name in wholes if not own_samples(config, runs[run], name)]
    trained = [run for run in dict.fromkeys(run for run, _ in scores) if runs[run].dataset]
    sources = dict.fromkeys(
        (str(runs[run].dataset), train_settings(config, runs[run]).variants) for run in trained
    )
    datasets = dict.fromkeys(dataset for dataset, _ in sources)

    models = dict.fromkeys(runs[run].model for run, _ in evaluated)
    teacher = teacher_as_model(config)
    written_by_teacher = (
        source == "generate" and not config.datasets[dataset].variants
        for dataset, source in sources
    )
    if teacher and (audited or any(written_by_teacher)):
        models[teacher] = None
    for model in models:
        if is_fetched_model(config.models[model].path):
            yield step("fetch_model", {"model": model})
    benchmarks = dict.fromkeys([*(name for _, name in [*scores, *wholes]), *audited])
    against = config.decontaminate.against if datasets else []
    for name in dict.fromkeys([*benchmarks, *against]):
        yield from fetch_steps(config, name, limited=name in benchmarks)

    for dataset in datasets:
        data = config.datasets[dataset].path
        inputs = [data] if is_file(data) else []
        inputs += [whole_problems(config, name) for name in against]
        yield step("decontaminate", {"dataset": dataset}, inputs, hub=(f"datasets.{dataset}",))
    for dataset, source in sources:
        yield from variants_steps(config, dataset, source)
    for run in trained:
        yield train_step(config, runs[run], pilot)
    for run, name in evaluated:
        yield evaluate_step(config, runs[run], name)
    for name in dict.fromkeys(name for _, name in wholes):
        if kind_of(config.benchmarks[name].kind).ground_truth:
            environments, problems = score_environments(config, name), asked_problems(config, name)
            yield step("ground_truth", {"benchmark": name}, [problems], environments=environments)
    for run, name in dict.fromkeys([*wholes, *scores]):
        inputs = [asked_problems(config, name), *scored_files(config, runs[run], name).values()]
        environments = score_environments(config, name)
        yield step("score", {"run": run, "benchmark": name}, inputs, environments=environments)


def fetch_steps(config: Config, benchmark: str, limited: bool) -> Iterator[Step]:
    """Fetching a benchmark's problems; and, if ``limited``, the first of them alone."""
    entry, of = config.benchmarks[benchmark], {"benchmark": benchmark}
    if is_fetched_benchmark(entry.problems):
        yield step("fetch_benchmark", of, hub=(f"benchmarks.{benchmark}",))
    if limited and entry.limit is not None:
        whole = whole_problems(config, benchmark)
        yield step("fetch_first", of | {"limit": str(entry.limit)}, [whole])


def variants_steps(config: Config, dataset: str, source: str) -> Iterator[Step]:
    """From a dataset's clean samples to the annotated pairs of one source of variants."""
    records = output_of("decontaminate", dataset=dataset)
    inputs = [records]
    if source == "generate":
        count, answers = shard_count(config, dataset), config.datasets[dataset].variants
        for number in range(1, count + 1):
            of = {"dataset": dataset, "shard": str(number), "shards": str(count)}
            if answers:  # written before: they are read as the teacher's are
                shard = step("generate", of, [records, answers])
            else:
                shard = teacher_step(config, "generate", of, records)
            yield shard
            inputs += shard.outputs
    rule = "gather" if source == "generate" else "mutate"
    yield (variants := step(rule, {"dataset": dataset}, inputs))
    of = {"dataset": dataset, "source": source}
    inputs = [records, variants.outputs[0]]
    if config.select.verified_variants:
        yield step("verify", of, inputs)
        inputs = [*inputs, output_of("verify", **of)]
    yield step("select", of, inputs, hub=("select",))
    yield step("annotate", of, [output_of("select", **of)])


def teacher_step(config: Config, rule: str, of: Mapping[str, str], records: str) -> Step:
    return step(
        rule,
        of,
        [records, *teacher_files(config)],
        environments=(teacher_environment(config),),
        hub=() if config.generate.backend == "openai" else ("generate",),
    )


def train_step(config: Config, run: Run, pilot: bool) -> Step:
    source = train_settings(config, run).variants
    spans = output_of("annotate", dataset=str(run.dataset), source=source)
    rule = "train" if keeps_model(config, run) else "train_temporary"
    return step(
        "train_pilot" if pilot else rule,
        {"run": run.name},
        [spans, *base_model_files(config, run.model)],
        hub=(f"models.{run.model}",),
    )


def evaluate_step(config: Config, run: Run, benchmark: str) -> Step:
    base = run.dataset is None
    _, trained, *_ = outputs_of("train", run=run.name)
    model = base_model_files(config, run.model) if base else [trained]
    return step(
        "evaluate",
        {"run": run.name, "benchmark": benchmark},
        [asked_problems(config, benchmark), *model],
        hub=(f"models.{run.model}",) if base else (),
    )


def audit_steps(config: Config, benchmark: str) -> Iterator[Step]:
    """The teacher's variants of canonical solutions, and their tests (section III-B1)."""
    problems, of = asked_problems(config, benchmark), {"benchmark": benchmark}
    yield step("audit_records", of, [problems])
    yield (answers := teacher_step(config, "audit_generate", of, output_of("audit_records", **of)))
    yield step("audit_variants", of, [problems, answers.outputs[0]], hub=("select",))
