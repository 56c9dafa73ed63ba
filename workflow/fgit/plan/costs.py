"""What each step of the workflow costs: items, tokens, hours and disk.

What a step costs follows from the sizes of data and benchmarks and from the figures of the config's
key ``plan``, which are assumptions until they are measured (:mod:`fgit.plan.measured`).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.problems import problem_rows
from fgit.cluster import hub
from fgit.common.errors import UserError
from fgit.common.files import parquet_height, raw_rows, resolve
from fgit.config import Benchmark, Config, Estimate, PlanSettings
from fgit.gather import rows_of_shard
from fgit.runs import Run, all_runs, is_fetched_benchmark, is_file, train_settings
from fgit.steps import STAGES, Step, output_of, own_samples, steps_of

REFERENCE = 6.7  # billions of parameters for which the rates of the config's plan stand
CHECKPOINT_BYTES = 3 * 12  # of a parameter: two checkpoints are kept, a third is being written
SAVED_BYTES = {"bfloat16": 2, "float32": 4}
EMBEDDER_BILLIONS = 0.125
ADDITIVE = ("items", "tokens", "gpu_hours", "cpu_hours", "kept")  # over a stage's jobs
ITEMS = {  # what a stage's items are
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
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a stage, and what it needs.

    Attributes:
        count: 1, or 0 for what happens without a job of its own (downloads).
        items: samples, requests, programs: what :data:`ITEMS` says.
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
    """A stage's jobs, or all jobs, together. Only ``jobs`` and ``done`` count jobs that are done.

    Attributes:
        longest: hours of the longest job.
        peak: bytes at most, with those that stay.
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
        jobs = {stage: [job for job in self.jobs if job.stage == stage] for stage in STAGES}
        return [self.sum_of(stage, members) for stage, members in jobs.items() if members]

    @property
    def total(self) -> Sum:
        return self.sum_of("total", self.jobs)

    def sum_of(self, name: str, jobs: Sequence[Job]) -> Sum:
        to_do = [job for job in jobs if not job.done]
        passing = sorted((job.passing for job in to_do), reverse=True)
        sums = {figure: sum(getattr(job, figure) for job in to_do) for figure in ADDITIVE}
        bases = {getattr(self.settings, name).basis for job in to_do for name in job.uses}
        return Sum(
            name,
            jobs=sum(job.count for job in jobs),
            done=sum(job.count for job in jobs if job.done),
            longest=max((job.hours for job in to_do), default=0),
            peak=sums["kept"] + sum(passing[: self.settings.trainings_at_once]),
            basis="partly measured" if len(bases) > 1 else "".join(bases),
            **sums,
        )

    def used(self) -> dict[str, Estimate]:
        """The figures that the hours of what is to do follow from."""
        names = {name for job in self.jobs if not job.done for name in job.uses}
        return {n: getattr(self.settings, n) for n in PlanSettings.model_fields if n in names}


# ------------------------------------------------------------------ sizes


def row_count(config: Config, dataset: str) -> int:
    """Rows of a dataset: counted in a file; as the config says for a name on the hub.

    Raises:
        UserError: naming the key, if the config does not say it.
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
    """Samples that are used, as if decontamination removed none."""
    rows, limit = row_count(config, dataset), config.datasets[dataset].limit
    return rows if limit is None else min(rows, limit)


def problem_count(config: Config, benchmark: str, results: Path) -> int:
    """Problems of a benchmark that runs are asked.

    Raises:
        UserError: naming the key, for a release that is neither here nor in ``plan.problems``.
    """
    entry = config.benchmarks[benchmark]
    fetched = results / output_of("fetch_benchmark", benchmark=benchmark)
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
    if path.suffix == ".parquet":
        return parquet_height(path)
    return sum(1 for _ in raw_rows(path))


def billions_in(path: str) -> float | None:
    """Billions of parameters as the last part of a name says them: ``…-6.7B``, ``…_135M``."""
    sizes = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])", Path(path).name)
    if not sizes:
        return None
    number, unit = sizes[-1]
    return float(number) * (1 if unit in "Bb" else 1e-3)


def parameters_of(config: Config, model: str) -> float:
    """Billions of parameters of a model.

    Raises:
        UserError: naming the key, if neither the config nor the model's name says it.
    """
    path = config.models[model].path
    billions = config.plan.parameters.get(model) or billions_in(path)
    if billions is None:
        raise UserError(
            f"models.{model}: how many parameters {path} has is not known; set "
            f"plan.parameters.{model} to their number in billions"
        )
    return billions


def program_rate(benchmark: Benchmark) -> str:
    """The figure that says how long one program takes, by the environment in which it runs."""
    environment = kind_of(benchmark.kind).environment
    return "program_seconds" if environment == "main" else f"{environment}_program_seconds"


# ------------------------------------------------------------------ the jobs


def plan_of(
    config: Config, results: Path, tables: Iterable[str] | None = None, *, pilot: bool = False
) -> Plan:
    """What each step of a config (:func:`fgit.steps.steps_of`) costs, and what it downloads.

    Args:
        results: the results folder; a step whose outputs are there is done.
        tables: keys of tables; None is everything that ``snakemake all`` asks for.
        pilot: whether the config is a pilot's.
    """
    steps = steps_of(config, tables, pilot=pilot)
    costs = Costs(config, results, steps, all_runs(config))
    downloads = (costs.download(repository) for repository in hub.needed(config, steps))
    jobs = [costs.job(step) for step in steps if step.rule != "config"]  # which costs nothing
    return Plan([*(job for job in downloads if job), *jobs], config.plan)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the steps of a config cost."""

    config: Config
    results: Path
    steps: Sequence[Step]
    runs: Mapping[str, Run]

    def job(self, step: Step) -> Job:
        return Job(step.stage, step.name, self.is_done(step), **getattr(self, step.stage)(step))

    def is_done(self, step: Step) -> bool:
        done = self.is_there(step.outputs[0])
        if step.rule == "generate":  # Snakemake does not miss a shard of what is joined
            return done or self.is_there(output_of("gather", dataset=step.wildcards["dataset"]))
        if step.stage == "train" and done and not self.is_there(step.outputs[1]):
            return step.rule != "train" and all(
                self.is_there(other.outputs[0])
                for other in self.steps
                if step.outputs[1] in other.inputs
            )
        return done

    def is_there(self, place: str) -> bool:
        return (self.results / place).exists()

    # -------------------------------------------------------------- small parts

    def on_models(self, gpus: int, seconds: float) -> dict[str, Any]:
        """The hours of a job with a model: ``seconds`` of one GPU's work, on several GPUs."""
        plan = self.config.plan
        hours = (seconds / gpus + plan.start_seconds.value) / 3600
        if plan.device == "cpu":
            return {"hours": hours, "cpu_hours": hours * plan.cores}
        return {"hours": hours, "gpu_hours": hours * gpus}

    def on_cores(self, items: int, figure: str, seconds: float) -> dict[str, Any]:
        """Items worked on without a model: core-seconds, and the figure that they follow from."""
        hours = seconds / 3600
        cores = self.config.plan.cores
        return {"items": items, "hours": hours / cores, "cpu_hours": hours, "uses": (figure,)}

    def at_rate(self, stage: str, samples: int, written: int) -> dict[str, Any]:
        """A stage without a model; ``written``: the samples or variants that it writes."""
        figure = f"{stage}_per_second"
        seconds = samples / getattr(self.config.plan, figure).value
        return self.on_cores(samples, figure, seconds) | {"kept": self.size_of(written)}

    def samples(self, step: Step) -> int:
        return sample_count(self.config, step.wildcards["dataset"])

    def texts(self, step: Step) -> int:
        """The responses of a dataset, and their variants of one source."""
        source = getattr(self.config, step.wildcards["source"])
        return self.samples(step) * (1 + int(source.variants))

    def size_of(self, samples: float) -> float:
        """Bytes of a file of so many samples or variants, not compressed."""
        return samples * self.config.plan.sample_kilobytes.value * 1e3

    def requests_per_problem(self, run: Run) -> float:
        chat = self.config.models[run.model].mode == "chat"
        return self.config.plan.askings.value if chat else 1

    def answering(self, requests: int) -> dict[str, Any]:
        """The teacher's answers; the hours of an endpoint are not counted."""
        plan, settings = self.config.plan, self.config.generate
        tokens = requests * plan.answer_tokens.value
        work: dict[str, Any] = {"items": requests, "tokens": tokens}
        if settings.backend == "openai":
            return work
        uses = ("answer_tokens", "teacher_tokens_per_second", "start_seconds")
        hours = self.on_models(settings.gpus, tokens / plan.teacher_tokens_per_second.value)
        return work | hours | {"uses": uses}

    def programs(self, benchmark: str, programs: int) -> dict[str, Any]:
        figure = program_rate(self.config.benchmarks[benchmark])
        return self.on_cores(programs, figure, programs * getattr(self.config.plan, figure).value)

    # -------------------------------------------------------------- the stages

    def download(self, repository: hub.Repository) -> Job | None:
        """A download to the hub's cache; None for a release, which a step fetches."""
        from huggingface_hub.constants import HF_HUB_CACHE

        section, _, name = repository.keys[0].partition(".")
        if section == "benchmarks":
            return None
        if section == "models":
            size = 2e9 * parameters_of(self.config, name)
        elif section == "generate":
            size = 2e9 * (billions_in(repository.name) or 0)
        elif section == "select":
            size = 4e9 * EMBEDDER_BILLIONS
        else:
            size = self.size_of(row_count(self.config, name))
        cached = f"{repository.kind}s--{repository.name.replace('/', '--')}"
        done = (Path(HF_HUB_CACHE) / cached / "snapshots").is_dir()
        return Job("fetch", repository.name, done, count=0, items=1, kept=size)

    def fetch(self, step: Step) -> dict[str, Any]:
        model = step.wildcards.get("model")
        return {"items": 1, "kept": 4e9 * parameters_of(self.config, model) if model else 0}

    def decontaminate(self, step: Step) -> dict[str, Any]:
        rows = row_count(self.config, step.wildcards["dataset"])  # whatever the limit
        return self.at_rate("decontaminate", rows, written=self.samples(step))

    def generate(self, step: Step) -> dict[str, Any]:
        dataset, shard, shards = step.wildcards.values()
        rows = rows_of_shard(self.samples(step), int(shard), int(shards))
        requests = (rows.stop - rows.start) * self.config.generate.variants
        written_before = self.config.datasets[dataset].variants is not None
        work = {"items": requests} if written_before else self.answering(requests)
        return work | {"kept": self.size_of(requests)}

    def gather(self, step: Step) -> dict[str, Any]:
        answers = self.samples(step) * self.config.generate.variants
        return {"items": answers, "kept": self.size_of(answers)}

    def mutate(self, step: Step) -> dict[str, Any]:
        samples = self.samples(step)
        return self.at_rate("mutate", samples, written=samples * self.config.mutate.variants)

    def verify(self, step: Step) -> dict[str, Any]:
        programs, figure = self.texts(step), "program_seconds"
        return self.on_cores(programs, figure, programs * self.config.plan.program_seconds.value)

    def select(self, step: Step) -> dict[str, Any]:
        texts = self.texts(step)
        return {
            "items": texts,
            "kept": self.size_of(2 * self.samples(step)),
            "uses": ("texts_per_second", "start_seconds"),
            **self.on_models(1, texts / self.config.plan.texts_per_second.value),
        }

    def annotate(self, step: Step) -> dict[str, Any]:
        return self.at_rate("annotate", self.samples(step), written=2 * self.samples(step))

    def train(self, step: Step) -> dict[str, Any]:
        """A training; adapters (lora_rank) are counted as if all weights were trained.

        Weights that do not stay are removed once they are evaluated; the next training may have
        begun by then, so that there are two models of them at a time.
        """
        config, plan = self.config, self.config.plan
        run, stays = self.runs[step.wildcards["run"]], step.rule == "train"
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
        return {
            "items": samples * settings.epochs,
            "tokens": tokens,
            "kept": weights if stays else 0,
            "passing": CHECKPOINT_BYTES * billions * 1e9 + (0 if stays else 2 * weights),
            "uses": tuple(uses),
            **self.on_models(config.launch.gpus, work / rate),
        }

    def evaluate(self, step: Step) -> dict[str, Any]:
        config, plan = self.config, self.config.plan
        run, benchmark = self.runs[step.wildcards["run"]], step.wildcards["benchmark"]
        billions = parameters_of(config, run.model)
        problems = problem_count(config, benchmark, self.results)
        if not kind_of(config.benchmarks[benchmark].kind).programs:
            # Two sides of each pair are read, forward only, which is a third of training's work.
            items, tokens = problems, 0.0
            seconds = 2 * problems * plan.sample_tokens.value * billions / REFERENCE
            seconds /= 3 * plan.training_tokens_per_second.value
            uses = ["sample_tokens", "training_tokens_per_second", "start_seconds"]
        else:
            items = round(problems * self.requests_per_problem(run))
            tokens = items * plan.solution_tokens.value
            seconds = tokens * billions / REFERENCE / plan.evaluation_tokens_per_second.value
            uses = ["solution_tokens", "evaluation_tokens_per_second", "start_seconds"]
            uses += ["askings"] if config.models[run.model].mode == "chat" else []
        return {
            "items": items,
            "tokens": tokens,
            "kept": self.size_of(2 * items),
            "uses": tuple(uses),
            **self.on_models(1, seconds),
        }

    def score(self, step: Step) -> dict[str, Any]:
        """Programs run, but not for a part of a larger benchmark, nor for pairs."""
        benchmark = step.wildcards["benchmark"]
        entry = self.config.benchmarks[benchmark]
        if entry.part_of is not None or not kind_of(entry.kind).programs:
            return {}
        programs = float(problem_count(self.config, benchmark, self.results))
        if step.rule == "score":
            run = self.runs[step.wildcards["run"]]
            if not own_samples(self.config, run, benchmark):
                programs *= self.requests_per_problem(run)
        return self.programs(benchmark, round(programs))

    def audit(self, step: Step) -> dict[str, Any]:
        """The teacher's variants of canonical solutions, and their tests (section III-B1)."""
        if step.rule not in ("audit_generate", "audit_variants"):
            return {}
        benchmark = step.wildcards["benchmark"]
        problems = problem_count(self.config, benchmark, self.results)
        answers = problems * self.config.generate.variants
        if step.rule == "audit_generate":
            return self.answering(answers)
        return self.programs(benchmark, answers)

    def report(self, step: Step) -> dict[str, Any]:
        return {}
