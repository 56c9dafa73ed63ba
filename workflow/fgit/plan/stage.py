"""What a config costs, before anything is spent: jobs, tokens, hours and disk of each stage.

A plan is a list of jobs, one for each that the rules would start, and everything that is shown is a
sum over them. What a job costs follows from the sizes of data and benchmarks and from the figures
of the config's key ``plan``, which are assumptions until they are measured
(:func:`measured_settings`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.problems import problem_rows
from fgit.common.errors import UserError
from fgit.common.files import existing, open_binary, read_json, read_objects, resolve, write_json
from fgit.config import BASE, Benchmark, Config, Estimate, PlanSettings, read_config
from fgit.gather import part
from fgit.runs import (
    Run,
    all_runs,
    evaluations,
    is_fetched_benchmark,
    is_fetched_model,
    is_file,
    keeps_model,
    pilot_of,
    shard_count,
    sheets_of,
    teacher_as_model,
    train_settings,
)
from fgit.scores import read_summary

REFERENCE = 6.7  # billions of parameters for which the rates of the config's plan stand
CHECKPOINT_BYTES = 3 * 12  # of a parameter: two checkpoints are kept, a third is being written
SAVED_BYTES = {"bfloat16": 2, "float32": 4}
EMBEDDER_BILLIONS = 0.125
UNITS = {  # what a stage's items are, in the order in which the stages run
    "fetch": "files and models",
    "decontaminate": "samples",
    "generate": "answers",
    "gather": "answers",
    "mutate": "samples",
    "verify": "programs",
    "select": "texts",
    "annotate": "pairs",
    "train": "samples",
    "evaluate": "solutions",
    "score": "programs",
    "audit": "answers, programs",
    "report": "",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a stage, and what it needs.

    Attributes:
        count: 1, or 0 for what happens without a job of its own (downloads).
        items: samples, requests, programs: what UNITS says.
        tokens: that go through a model in training, or that a model writes.
        gpu_hours: GPUs times hours; cpu_hours: cores times hours; hours: from start to end.
        kept: bytes that stay; passing: bytes that are there for a time only, beside those.
        uses: the figures of the config's plan that the hours follow from.
    """

    stage: str
    name: str
    done: bool
    count: int = 1
    items: int = 0
    tokens: float = 0
    gpu_hours: float = 0
    cpu_hours: float = 0
    hours: float = 0
    kept: float = 0
    passing: float = 0
    uses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sum:
    """A stage's jobs, or all jobs, together. All but ``jobs`` and ``done`` is what is still to do.

    Attributes:
        longest: hours of the longest job.
        peak: bytes at most, what stays included.
        basis: of the hours: assumed, measured or partly measured; empty without any.
    """

    name: str
    jobs: int
    done: int
    items: int
    tokens: float
    gpu_hours: float
    cpu_hours: float
    longest: float
    kept: float
    peak: float
    basis: str


@dataclasses.dataclass(frozen=True)
class Plan:
    jobs: list[Job]
    settings: PlanSettings

    @property
    def stages(self) -> list[Sum]:
        return [
            self.sum_of(stage, [job for job in self.jobs if job.stage == stage])
            for stage in UNITS
            if any(job.stage == stage for job in self.jobs)
        ]

    @property
    def total(self) -> Sum:
        return self.sum_of("total", self.jobs)

    def sum_of(self, name: str, jobs: Sequence[Job]) -> Sum:
        to_do = [job for job in jobs if not job.done]
        passing = sorted((job.passing for job in to_do), reverse=True)
        kept = sum(job.kept for job in to_do)
        return Sum(
            name,
            jobs=sum(job.count for job in jobs),
            done=sum(job.count for job in jobs if job.done),
            items=sum(job.items for job in to_do),
            tokens=sum(job.tokens for job in to_do),
            gpu_hours=sum(job.gpu_hours for job in to_do),
            cpu_hours=sum(job.cpu_hours for job in to_do),
            longest=max((job.hours for job in to_do), default=0),
            kept=kept,
            peak=kept + sum(passing[: self.settings.trainings_at_once]),
            basis=self.basis(to_do),
        )

    def used(self) -> dict[str, Estimate]:
        """The figures that the hours of what is to do follow from."""
        names = {name for job in self.jobs if not job.done for name in job.uses}
        return {
            name: getattr(self.settings, name)
            for name in PlanSettings.model_fields
            if name in names
        }

    def basis(self, jobs: Iterable[Job]) -> str:
        found = {getattr(self.settings, name).basis for job in jobs for name in job.uses}
        if len(found) == 2:
            return "partly measured"
        return found.pop() if found else ""


# ------------------------------------------------------------------ sizes


def row_count(config: Config, dataset: str) -> int:
    """Rows of a dataset: of a file, counted; of a name on the hub, what the config says.

    Raises:
        UserError: naming the key, if the size is nowhere said.
    """
    entry = config.datasets[dataset]
    if is_file(entry.path):
        return count_rows(resolve(entry.path))
    if entry.samples is None:
        raise UserError(
            f"datasets.{dataset}: how many rows {entry.path} has is not known; set "
            f"datasets.{dataset}.samples to their number (its page on the hub says it)"
        )
    return entry.samples


def sample_count(config: Config, dataset: str) -> int:
    """Samples that are used; what decontamination removes is not foreseen."""
    rows, limit = row_count(config, dataset), config.datasets[dataset].limit
    return rows if limit is None else min(rows, limit)


def problem_count(config: Config, benchmark: str, results: Path) -> int:
    """Problems that are asked.

    Raises:
        UserError: naming the key, for a release that is neither here nor in ``plan.problems``.
    """
    entry = config.benchmarks[benchmark]
    fetched = results / "fetch" / "benchmarks" / f"{benchmark}.jsonl"
    if not is_fetched_benchmark(entry.problems):
        count = sum(1 for _ in problem_rows(resolve(entry.problems)))
    elif fetched.exists():
        count = count_rows(fetched)
    elif benchmark in config.plan.problems:
        count = config.plan.problems[benchmark]
    else:
        raise UserError(
            f"benchmarks.{benchmark}: how many problems {entry.problems} has is not known before "
            f"it is fetched; set plan.problems.{benchmark} to their number"
        )
    return count if entry.limit is None else min(count, entry.limit)


def count_rows(path: Path) -> int:
    """Rows of a records file, not checked any further."""
    existing(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    if name.endswith(".jsonl"):
        with open_binary(path) as file:
            return sum(1 for line in file if line.strip())
    return sum(1 for _ in read_objects(path))


def billions_in(path: str) -> float | None:
    """Billions of parameters as the last part of a name says them: ``…-6.7B``, ``…_135M``."""
    found = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])", Path(path).name)
    if not found:
        return None
    number, unit = found[-1]
    return float(number) * (1 if unit in "Bb" else 1e-3)


def parameters_of(config: Config, model: str) -> float:
    """Billions of parameters of a model.

    Raises:
        UserError: naming the key, if neither the config nor the model's name says it.
    """
    path = config.models[model].path
    found = config.plan.parameters.get(model) or billions_in(path)
    if found is None:
        raise UserError(
            f"models.{model}: how many parameters {path} has is not known; set "
            f"plan.parameters.{model} to their number in billions"
        )
    return found


# ------------------------------------------------------------------ the jobs


def plan_of(config: Config, results: Path, tables: Iterable[str] | None = None) -> Plan:
    """Every job that the rules would start for tables, or for all of a config, audit included.

    Args:
        results: the results folder; a job whose outputs are there is done.
        tables: keys of tables; None is everything that ``snakemake all`` asks for.
    """
    return Plan(list(Jobs(config, results).of(tables)), config.plan)


@dataclasses.dataclass(frozen=True)
class Jobs:
    """The jobs of a config, stage by stage."""

    config: Config
    results: Path

    def of(self, tables: Iterable[str] | None) -> Iterator[Job]:
        config = self.config
        everything = tables is None
        names = list(config.tables) if tables is None else list(tables)
        shown = evaluations(config, names)
        runs = all_runs(config)
        trained = {run: None for run, _ in shown if runs[run].dataset is not None}
        audited = config.audit.benchmarks if everything else []
        sheets = sheets_of(config, runs.values()) if everything else []
        sources = {
            (str(runs[run].dataset), train_settings(config, runs[run]).variants): None
            for run in trained
        } | {(dataset, "generate"): None for dataset in sheets}
        datasets = {dataset: None for dataset, _ in sources}
        asked = {
            (run, config.benchmarks[benchmark].part_of or benchmark): None
            for run, benchmark in shown
        }
        read = [*(benchmark for _, benchmark in shown), *(benchmark for _, benchmark in asked)]
        read += [*audited, *(config.decontaminate.against if datasets else [])]

        teacher = any(
            source == "generate" and config.datasets[dataset].variants is None
            for dataset, source in sources
        )
        yield from self.fetch(
            dict.fromkeys(runs[run].model for run, _ in shown),
            dict.fromkeys(read),
            list(datasets),
            teacher or bool(audited),
            bool(sources),
        )
        for dataset in datasets:
            yield self.decontaminate(dataset)
        for dataset, source in sources:
            yield from self.variants(dataset, source)
        for name in trained:
            yield self.train(runs[name], [b for run, b in asked if run == name])
        for name, benchmark in asked:
            if self.own_samples(runs[name], benchmark) is None:
                yield self.evaluate(runs[name], benchmark)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in asked):
            if kind_of(config.benchmarks[benchmark].kind).ground_truth:
                yield self.score("canonical", benchmark, 1)
        for name, benchmark in dict.fromkeys([*asked, *shown]):
            asks = 1 if self.own_samples(runs[name], benchmark) else self.askings(runs[name])
            yield self.score(name, benchmark, asks)
        for benchmark in audited:
            yield from self.audit(benchmark)
        for dataset in sheets:
            yield self.job("audit", f"sheets/{dataset}", f"audit/sheets/{dataset}/sheet.json")
        for name in names:
            yield self.job("report", f"{name}, numbers", f"results/{name}.parquet")
            yield self.job("report", name, f"tables/{name}.csv")
        if everything:
            yield self.job("report", "report", "report.html")

    # -------------------------------------------------------------- small parts

    def is_done(self, *outputs: str) -> bool:
        return all((self.results / output).exists() for output in outputs)

    def job(self, stage: str, name: str, output: str, **rest: Any) -> Job:
        return Job(stage, name, self.is_done(output), **rest)

    def on_models(self, gpus: int, seconds: float) -> dict[str, Any]:
        """The hours of a job with a model: ``seconds`` of one GPU's work, on several GPUs."""
        plan = self.config.plan
        hours = (seconds / gpus + plan.start_seconds.value) / 3600
        if plan.device == "cpu":
            return {"hours": hours, "cpu_hours": hours * plan.cores}
        return {"hours": hours, "gpu_hours": hours * gpus}

    def on_cores(self, core_seconds: float) -> dict[str, Any]:
        hours = core_seconds / 3600
        return {"hours": hours / self.config.plan.cores, "cpu_hours": hours}

    def kilobytes(self, samples: float) -> float:
        """Bytes of a file of so many samples or variants, not compressed."""
        return samples * self.config.plan.sample_kilobytes.value * 1e3

    def own_samples(self, run: Run, benchmark: str) -> str | None:
        """Solutions of a base model that are there already."""
        return self.config.models[run.model].samples.get(benchmark) if run.method == BASE else None

    def askings(self, run: Run) -> float:
        """How often a run is asked each problem."""
        chat = self.config.models[run.model].mode == "chat"
        return self.config.plan.askings.value if chat else 1

    def answering(self, requests: int) -> dict[str, Any]:
        """What it takes the teacher to write answers; an endpoint's hours are not ours."""
        plan, settings = self.config.plan, self.config.generate
        tokens = requests * plan.answer_tokens.value
        found: dict[str, Any] = {"items": requests, "tokens": tokens}
        if settings.backend == "openai":
            return found
        uses = ("answer_tokens", "teacher_tokens_per_second", "start_seconds")
        hours = self.on_models(settings.gpus, tokens / plan.teacher_tokens_per_second.value)
        return found | hours | {"uses": uses}

    # -------------------------------------------------------------- the stages

    def fetch(
        self,
        models: Iterable[str],
        benchmarks: Iterable[str],
        datasets: Iterable[str],
        teacher: bool,
        embedder: bool,
    ) -> Iterator[Job]:
        """Files that rules make, and what the first job that needs it brings from the hub."""
        config = self.config
        for name in models:
            path = config.models[name].path
            size = parameters_of(config, name) * 1e9
            if is_fetched_model(path):
                output = f"fetch/models/{name}"
                yield self.job("fetch", name, output, items=1, kept=4 * size)
            else:
                yield from self.download("models", path, 2 * size)
        if teacher and config.generate.backend != "openai":
            billions = billions_in(config.generate.teacher) or 0
            yield from self.download("models", config.generate.teacher, 2e9 * billions)
        if embedder:
            yield from self.download("models", config.select.embedder, 4e9 * EMBEDDER_BILLIONS)
        for name in datasets:
            if not is_file(config.datasets[name].path):
                size = self.kilobytes(row_count(config, name))
                yield from self.download("datasets", config.datasets[name].path, size)
        for name in benchmarks:
            entry, output = config.benchmarks[name], f"fetch/benchmarks/{name}"
            if is_fetched_benchmark(entry.problems):
                yield self.job("fetch", name, f"{output}.jsonl", items=1)
            if entry.limit is not None:
                first = f"first-{entry.limit}"
                yield self.job("fetch", f"{name}, {first}", f"{output}.{first}.jsonl", items=1)

    def download(self, kind: str, path: str, size: float) -> Iterator[Job]:
        """What the hub's cache gets; nothing for a folder or a file of a package."""
        if path.startswith("package:") or Path(path).is_dir():
            return
        from huggingface_hub.constants import HF_HUB_CACHE

        snapshots = Path(HF_HUB_CACHE) / f"{kind}--{path.replace('/', '--')}" / "snapshots"
        yield Job("fetch", path, snapshots.is_dir(), count=0, items=1, kept=size)

    def decontaminate(self, dataset: str) -> Job:
        rows = row_count(self.config, dataset)  # all are looked at, whatever the limit
        return self.job(
            "decontaminate",
            dataset,
            f"decontaminate/{dataset}/records.parquet",
            items=rows,
            kept=self.kilobytes(sample_count(self.config, dataset)),
            uses=("decontaminate_per_second",),
            **self.on_cores(rows / self.config.plan.decontaminate_per_second.value),
        )

    def variants(self, dataset: str, source: str) -> Iterator[Job]:
        """From a dataset's clean samples to the annotated pairs of one source of variants."""
        config, plan = self.config, self.config.plan
        samples = sample_count(config, dataset)
        variants = getattr(config, source).variants
        if source == "mutate":
            yield self.job(
                "mutate",
                dataset,
                f"mutate/{dataset}/variants.parquet",
                items=samples,
                kept=self.kilobytes(samples * variants),
                uses=("mutate_per_second",),
                **self.on_cores(samples / plan.mutate_per_second.value),
            )
        else:
            yield from self.shards(dataset, samples)
        if config.select.verified_variants:
            programs = samples * (1 + variants)
            yield self.job(
                "verify",
                f"{dataset}, {source}",
                f"verify/{dataset}/{source}/verified.parquet",
                items=programs,
                uses=("program_seconds",),
                **self.on_cores(programs * plan.program_seconds.value),
            )
        texts = samples * (1 + variants)
        yield self.job(
            "select",
            f"{dataset}, {source}",
            f"select/{dataset}/{source}/pairs.parquet",
            items=texts,
            kept=self.kilobytes(2 * samples),
            uses=("texts_per_second", "start_seconds"),
            **self.on_models(1, texts / plan.texts_per_second.value),
        )
        yield self.job(
            "annotate",
            f"{dataset}, {source}",
            f"annotate/{dataset}/{source}/spans.parquet",
            items=samples,
            kept=self.kilobytes(2 * samples),
            uses=("annotate_per_second",),
            **self.on_cores(samples / plan.annotate_per_second.value),
        )

    def shards(self, dataset: str, samples: int) -> Iterator[Job]:
        """The teacher's answers, shard by shard, and the joining of them; both stay."""
        config, shards = self.config, shard_count(self.config, dataset)
        joined = f"generate/{dataset}/variants.parquet"
        for number in range(1, shards + 1):
            rows = part(samples, number, shards)
            requests = (rows.stop - rows.start) * config.generate.variants
            given = config.datasets[dataset].variants is not None
            work: dict[str, Any] = {"items": requests} if given else self.answering(requests)
            shard = f"generate/{dataset}/shards/{number}-of-{shards}.parquet"
            yield Job(
                "generate",
                f"{dataset}, shard {number} of {shards}",
                # Snakemake does not miss a shard of what is joined.
                self.is_done(shard) or self.is_done(joined),
                kept=self.kilobytes(requests),
                **work,
            )
        answers = samples * config.generate.variants
        yield self.job("gather", dataset, joined, items=answers, kept=self.kilobytes(answers))

    def train(self, run: Run, benchmarks: Sequence[str]) -> Job:
        """A training; adapters (lora_rank) are counted as if all weights were trained.

        Weights that do not stay are removed once ``benchmarks`` are evaluated; the next training
        may have begun by then, so that there are two models of them at a time.
        """
        config, plan = self.config, self.config.plan
        settings, billions = train_settings(config, run), parameters_of(config, run.model)
        samples = sample_count(config, str(run.dataset))
        tokens = samples * settings.epochs * plan.sample_tokens.value
        uses = ["sample_tokens", "training_tokens_per_second", "start_seconds"]
        if settings.objective in ("fgit", "dpo"):
            ratio = f"{settings.objective}_tokens"
            tokens *= getattr(plan, ratio).value
            uses.append(ratio)
        # DPO reads all samples once more before, forward only, which is a third of the work.
        work = tokens * (1 + 1 / (3 * settings.epochs)) if settings.objective == "dpo" else tokens
        rate = plan.training_tokens_per_second.value * REFERENCE / billions
        weights = billions * 1e9 * SAVED_BYTES[settings.save_dtype]
        kept = keeps_model(config, run)
        folder = f"train/{run.name}"
        evaluated = all(
            self.is_done(f"evaluate/{run.name}/{benchmark}/samples.jsonl")
            for benchmark in benchmarks
        )
        return Job(
            "train",
            run.name,
            self.is_done(f"{folder}/metrics.json")
            and (self.is_done(f"{folder}/model") or (evaluated and not kept)),
            items=samples * settings.epochs,
            tokens=tokens,
            kept=weights if kept else 0,
            passing=CHECKPOINT_BYTES * billions * 1e9 + (0 if kept else 2 * weights),
            uses=tuple(uses),
            **self.on_models(config.launch.gpus, work / rate),
        )

    def evaluate(self, run: Run, benchmark: str) -> Job:
        config, plan = self.config, self.config.plan
        billions = parameters_of(config, run.model)
        problems = problem_count(config, benchmark, self.results)
        if not kind_of(config.benchmarks[benchmark].kind).programs:
            # Two sides of each pair are read, forward only, which is a third of training's work.
            items, tokens = problems, 0.0
            seconds = 2 * problems * plan.sample_tokens.value * billions / REFERENCE
            seconds /= 3 * plan.training_tokens_per_second.value
            uses = ["sample_tokens", "training_tokens_per_second", "start_seconds"]
        else:
            items = round(problems * self.askings(run))
            tokens = items * plan.solution_tokens.value
            seconds = tokens * billions / REFERENCE / plan.evaluation_tokens_per_second.value
            uses = ["solution_tokens", "evaluation_tokens_per_second", "start_seconds"]
            uses += ["askings"] if config.models[run.model].mode == "chat" else []
        return self.job(
            "evaluate",
            f"{run.name}, {benchmark}",
            f"evaluate/{run.name}/{benchmark}/samples.jsonl",
            items=items,
            tokens=tokens,
            kept=self.kilobytes(2 * items),
            uses=tuple(uses),
            **self.on_models(1, seconds),
        )

    def score(self, run: str, benchmark: str, askings: float) -> Job:
        """A scoring; ``run`` is canonical for the canonical solutions. Of a part, nothing runs."""
        config, entry = self.config, self.config.benchmarks[benchmark]
        work: dict[str, Any] = {}
        if entry.part_of is None and kind_of(entry.kind).programs:
            programs = round(problem_count(config, benchmark, self.results) * askings)
            work = self.programs(benchmark, programs)
        output = f"score/{run}/{benchmark}/summary.json"
        return self.job("score", f"{run}, {benchmark}", output, **work)

    def programs(self, benchmark: str, programs: int) -> dict[str, Any]:
        name = program_rate(self.config.benchmarks[benchmark])
        seconds = programs * getattr(self.config.plan, name).value
        return {"items": programs, "uses": (name,), **self.on_cores(seconds)}

    def audit(self, benchmark: str) -> Iterator[Job]:
        """The teacher's variants of canonical solutions, and their tests (section III-B1)."""
        folder = f"audit/{benchmark}"
        requests = problem_count(self.config, benchmark, self.results)
        requests *= self.config.generate.variants
        yield self.job("audit", f"{benchmark}, records", f"{folder}/records.parquet")
        yield self.job(
            "audit",
            f"{benchmark}, generate",
            f"{folder}/generate/variants.parquet",
            **self.answering(requests),
        )
        yield self.job(
            "audit",
            f"{benchmark}, variants",
            f"{folder}/audit.json",
            **self.programs(benchmark, requests),
        )


# ------------------------------------------------------------------ figures from a finished run


def measured_settings(config: Config, folder: Path) -> PlanSettings:
    """The config's plan, with what the files of a results folder say in place of assumptions.

    Raises:
        UserError: if the folder has no config, or nothing in it could be measured.
    """
    try:
        source = read_config(folder / "config.yaml")
    except UserError as error:
        raise UserError(
            f"--measured {folder}: the config beside its results cannot be read; name the results "
            f"folder of a run with this version. {error}"
        ) from error
    source = source.model_copy(update={"plan": config.plan})
    found = {
        **measured_training(source, folder),
        **measured_teacher(config, source, folder),
        **measured_evaluation(source, folder),
        **measured_scoring(source, folder),
        **measured_data(folder),
    }
    if not found:
        raise UserError(
            f"{folder}: nothing in it could be measured; name a results folder whose stages have "
            "run (results/NAME, or results/NAME-pilot)"
        )
    return config.plan.model_copy(
        update={
            name: Estimate(value=float(f"{value:.4g}"), basis="measured", note=f"{folder}: {note}")
            for name, (value, note) in found.items()
            if value > 0
        }
    )


Measured = Mapping[str, tuple[float, str]]


def measured_training(config: Config, folder: Path) -> Measured:
    """Rates of trainings from steps.jsonl; a training's first step, which compiles, is left out.

    Steps of versions that did not log ``model_tokens_per_second`` are passed by.
    """
    runs = all_runs(config)
    gpus = config.launch.gpus
    fed: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    work = seconds = 0.0
    trainings, rests = 0, []
    for file in sorted(folder.glob("train/**/steps.jsonl")):
        name = file.parent.relative_to(folder / "train").as_posix()
        steps = [row for _, row in read_objects(file) if isinstance(row, dict)]
        if name not in runs or not all("model_tokens_per_second" in step for step in steps):
            continue
        trainings += 1
        settings = train_settings(config, runs[name])
        for number, step in enumerate(steps):
            tokens = step["model_tokens_per_second"] * step["seconds"]
            fed[settings.objective] += tokens
            samples[settings.objective] += step["samples"]
            if number > 0 or len(steps) == 1:
                work += tokens * parameters_of(config, runs[name].model) / REFERENCE
                seconds += step["seconds"]
        # DPO's pass over all samples before the first step is work, and no start.
        whole = wall_seconds(folder, f"train/{name}")
        if whole is not None and settings.objective != "dpo":
            rests.append(whole - sum(step["seconds"] for step in steps))
    found: dict[str, tuple[float, str]] = {}
    if seconds:
        note = f"{trainings} trainings"
        found["training_tokens_per_second"] = work / seconds / gpus, f"{note}, {gpus} at a time"
    if rests:
        found["start_seconds"] = statistics.fmean(rests), f"what {len(rests)} trainings took more"
    means = {objective: fed[objective] / samples[objective] for objective in fed}
    if sft := means.get("fixed"):
        found["sample_tokens"] = sft, f"{samples['fixed']} samples trained on"
        for objective in ("fgit", "dpo"):
            if objective in means:
                note = f"{samples[objective]} samples trained on"
                found[f"{objective}_tokens"] = means[objective] / sft, note
    return found


def measured_teacher(config: Config, source: Config, folder: Path) -> Measured:
    """The teacher's rate, if it was the one that is planned for, and the length of its answers."""
    tokens = seconds = answers = 0.0
    fetched = f"{folder}/fetch/models/{teacher_as_model(config)}"
    planned_for = {config.generate.teacher, fetched}
    for file in sorted(folder.glob("generate/*/report.json")):
        report = read_json(file)
        if report.get("teacher") in planned_for and report.get("tokens"):
            tokens += report["tokens"]
            answers += report["answers"]
            gpus = report["tensor_parallel"] if report["backend"] == "vllm" else 1
            seconds += report["seconds"] * gpus
    if not tokens:
        return {}
    found = {"answer_tokens": (tokens / answers, f"{answers:.0f} answers")}
    if seconds and source.generate.backend == config.generate.backend != "openai":
        found["teacher_tokens_per_second"] = tokens / seconds, f"{answers:.0f} answers"
    return found


def measured_evaluation(config: Config, folder: Path) -> Measured:
    """Rates of evaluations from the lengths of solutions and the seconds of the jobs.

    The seconds hold the loading too, which the plan counts by itself, so the rate is the slope of
    seconds over tokens; where the jobs do not allow that, none is given.
    """
    runs = all_runs(config)
    points: list[tuple[float, float]] = []
    tokens = solutions = chat_solutions = chat_problems = 0.0
    for file in sorted(folder.glob("evaluate/**/samples.jsonl")):
        name = file.parent.parent.relative_to(folder / "evaluate").as_posix()
        benchmark = config.benchmarks.get(file.parent.name)
        if name not in runs or benchmark is None or not kind_of(benchmark.kind).programs:
            continue
        rows = lengths(file)
        again = lengths(file.with_name("samples_one_bos.jsonl"))
        wrote = sum(rows) + sum(again)
        tokens += wrote
        solutions += len(rows) + len(again)
        if config.models[runs[name].model].mode == "chat":
            chat_problems += len(rows)
            chat_solutions += len(rows) + len(again)
        seconds = wall_seconds(folder, f"evaluate/{name}/{file.parent.name}")
        if seconds is not None:
            billions = parameters_of(config, runs[name].model)
            points.append((wrote * billions / REFERENCE, seconds))
    if not solutions:
        return {}
    found = {"solution_tokens": (tokens / solutions, f"{solutions:.0f} solutions")}
    if chat_problems:
        found["askings"] = chat_solutions / chat_problems, f"{chat_problems:.0f} problems"
    if len({work for work, _ in points}) > 2:
        line = statistics.linear_regression(*zip(*points, strict=True))
        if line.slope > 0 and line.intercept >= 0:
            note = f"{len(points)} jobs, without loading"
            found["evaluation_tokens_per_second"] = 1 / line.slope, note
    return found


def program_rate(benchmark: Benchmark) -> str:
    """The figure that says how long one program takes, by the environment in which it runs."""
    environment = kind_of(benchmark.kind).environment
    return "program_seconds" if environment == "main" else f"{environment}_program_seconds"


def measured_scoring(config: Config, folder: Path) -> Measured:
    """Core-seconds of a program, from the scores."""
    spent: dict[str, float] = defaultdict(float)
    programs: dict[str, int] = defaultdict(int)
    for file in sorted(folder.glob("score/**/summary.json")):
        benchmark = config.benchmarks.get(file.parent.name)
        summary = read_summary(file.parent)
        if (
            benchmark is None
            or not kind_of(benchmark.kind).programs
            or summary.part_of is not None  # it has the whole's seconds
            or summary.seconds is None
            or summary.threads is None
        ):
            continue
        run = file.parent.relative_to(folder / "score")
        again = lengths(folder / "evaluate" / run / "samples_one_bos.jsonl")
        rate = program_rate(benchmark)
        spent[rate] += summary.seconds * summary.threads
        programs[rate] += summary.n + len(again)
    return {name: (spent[name] / programs[name], f"{programs[name]} programs") for name in spent}


def measured_data(folder: Path) -> Measured:
    """Rates of the stages without a model, from jobs that took a minute: less is mostly start."""
    found: dict[str, tuple[float, str]] = {}
    for stage in ("decontaminate", "mutate", "annotate"):
        samples = core_seconds = 0.0
        for file in sorted(folder.glob(f"{stage}/**/report.json")):
            parts = file.parent.relative_to(folder / stage).parts
            seconds = wall_seconds(folder, f"{stage}/{'.'.join(parts)}", "cpu_time")
            if seconds is not None and seconds >= 60:
                samples += read_json(file)["samples"]
                core_seconds += seconds
        if core_seconds:
            found[f"{stage}_per_second"] = samples / core_seconds, f"{samples:.0f} samples"
    return found


def lengths(file: Path) -> list[int]:
    """Tokens of each solution in a file of samples; none if it is not there."""
    if not file.exists():
        return []
    rows = (row for _, row in read_objects(file))
    return [row["tokens"] for row in rows if isinstance(row, dict) and "tokens" in row]


def wall_seconds(folder: Path, job: str, column: str = "s") -> float | None:
    """Seconds of a job, as Snakemake measured them; None where it did not."""
    file = folder / "benchmarks" / f"{job}.tsv"
    if not file.exists():
        return None
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        return float(rows[-1][column])
    except (IndexError, KeyError, ValueError):
        return None


# ------------------------------------------------------------------ for people


HEADINGS = ["stage", "jobs", "done", "items", "", "tokens", "GPU-h", "core-h", "longest h"]
HEADINGS += ["disk kept", "at peak", "hours are"]


def show(plan: Plan) -> str:
    """The plan as an aligned table, with the figures that it rests on below."""
    rows = [cells(line) for line in [*plan.stages, plan.total]]
    lines = aligned([HEADINGS, *rows], left={0, 4, len(HEADINGS) - 1})
    rule = "-" * max(len(line) for line in lines)
    text = [lines[0], rule, *lines[1:-1], rule, lines[-1], ""]
    text += [
        "What is done is left out of all but the first two columns. Sizes are upper bounds: "
        "samples before decontamination, files uncompressed.",
        f"At peak: {plan.settings.trainings_at_once} training(s) at a time "
        "(plan.trainings_at_once), each with three checkpoints, 36 bytes a parameter.",
        "",
        "The hours rest on (key plan of the config):",
    ]
    used = [
        [name, f"{estimate.value:,g}", estimate.basis, estimate.note]
        for name, estimate in plan.used().items()
    ]
    text += [f"  {line}" for line in aligned(used, left={0, 2, 3})] or ["  nothing"]
    return "\n".join(text) + "\n"


def cells(line: Sum) -> list[str]:
    unit = UNITS.get(line.name, "")
    return [
        line.name,
        f"{line.jobs:,}",
        f"{line.done:,}",
        f"{line.items:,}" if unit and line.items else "",
        unit if line.items else "",
        millions(line.tokens),
        number(line.gpu_hours),
        number(line.cpu_hours),
        number(line.longest),
        gigabytes(line.kept),
        gigabytes(line.peak),
        line.basis,
    ]


def millions(tokens: float) -> str:
    if not tokens:
        return ""
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens / 1e3:,.1f} k"


def number(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 else "<0.1"


def gigabytes(value: float) -> str:
    if not value:
        return ""
    return f"{value / 1e9:,.0f} GB" if value >= 1e9 else f"{max(value / 1e6, 1):,.0f} MB"


def aligned(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Lines of columns, aligned to the right but for those in ``left``."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    return {
        "total": dataclasses.asdict(plan.total),
        "stages": [dataclasses.asdict(stage) for stage in plan.stages],
        "jobs": [dataclasses.asdict(job) for job in plan.jobs],
        "settings": plan.settings.model_dump(),
    }


def as_yaml(settings: PlanSettings) -> str:
    """The settings as the config's section, without what is the default."""
    values = {"plan": json.loads(settings.model_dump_json(exclude_defaults=True))}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def plan(
    config: Path,
    tables: Sequence[str] | None = None,
    pilot: bool = False,
    results: Path | None = None,
    measured: Path | None = None,
    out: Path | None = None,
    settings_only: bool = False,
) -> None:
    """Print what a config costs.

    Args:
        tables: keys of tables; None is everything.
        pilot: the config's pilot in its place.
        results: where jobs that are done are looked for; by default, results/NAME.
        measured: a results folder whose files say what was measured.
        out: a JSON file with every job.
        settings_only: print the config's key ``plan`` as it was reckoned with, and no plan.

    Raises:
        UserError: naming an unknown table, or the key of a size that is not known.
    """
    found = read_config(config)
    if unknown := [name for name in tables or [] if name not in found.tables]:
        raise UserError(
            f"--table {unknown[0]}: {config} has no such table; known: {', '.join(found.tables)}"
        )
    if measured is not None:
        found = found.model_copy(update={"plan": measured_settings(found, measured)})
    if settings_only:
        print(as_yaml(found.plan), end="")
        return
    if pilot:  # whose weights do not stay, whatever the config says
        found = pilot_of(found).model_copy(update={"keep_models": "none"})
    made = plan_of(found, results or Path("results") / found.name, tables)
    print(show(made), end="")
    if out is not None:
        write_json(out, as_json(made))
