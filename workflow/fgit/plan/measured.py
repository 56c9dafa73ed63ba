"""Figures for a plan, measured in a results folder."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from fgit.benchmarks.kinds import kind_of
from fgit.common.errors import UserError
from fgit.common.files import read_json, read_objects
from fgit.config import Config, Estimate, PlanSettings, read_config
from fgit.plan.costs import REFERENCE, parameters_of, program_rate
from fgit.runs import all_runs, train_settings
from fgit.scores import read_summary
from fgit.steps import Step, outputs_of, steps_of, teacher_files


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
    steps = steps_of(source)
    figures = {
        **measured_training(source, steps, folder),
        **measured_teacher(config, source, steps, folder),
        **measured_evaluation(source, steps, folder),
        **measured_scoring(source, steps, folder),
        **measured_data(steps, folder),
    }
    if not figures:
        raise UserError(
            f"{folder}: nothing in it could be measured; name a results folder whose stages have "
            "run (results/NAME, or results/NAME-pilot)"
        )
    return config.plan.model_copy(
        update={
            name: Estimate(value=float(f"{value:.4g}"), basis="measured", note=f"{folder}: {note}")
            for name, (value, note) in figures.items()
            if value > 0
        }
    )


Measured = Mapping[str, tuple[float, str]]


def files_of(steps: Iterable[Step], folder: Path, stage: str, name: str) -> list[tuple[Step, Path]]:
    """The files of this name that a stage's steps wrote, as far as they are there."""
    files = [(s, (folder / s.outputs[0]).with_name(name)) for s in steps if s.stage == stage]
    return [(step, file) for step, file in files if file.exists()]


def measured_training(config: Config, steps: Iterable[Step], folder: Path) -> Measured:
    """Rates of trainings from steps.jsonl; a training's first step, which compiles, is left out.

    Steps of versions that did not log ``model_tokens_per_second`` are passed by.
    """
    runs, gpus = all_runs(config), config.launch.gpus
    tokens: dict[str, float] = defaultdict(float)  # by objective, as the samples
    samples: dict[str, int] = defaultdict(int)
    work = seconds = 0.0
    trainings, starts = 0, []
    for training, file in files_of(steps, folder, "train", "steps.jsonl"):
        run = runs[training.wildcards["run"]]
        rows = [row for _, row in read_objects(file) if isinstance(row, dict)]
        if not all("model_tokens_per_second" in row for row in rows):
            continue
        trainings += 1
        objective = train_settings(config, run).objective
        for number, row in enumerate(rows):
            fed = row["model_tokens_per_second"] * row["seconds"]
            tokens[objective] += fed
            samples[objective] += row["samples"]
            if number > 0 or len(rows) == 1:
                work += fed * parameters_of(config, run.model) / REFERENCE
                seconds += row["seconds"]
        # DPO's pass over all samples before the first step is work, and no start.
        whole = job_seconds(folder / training.times)
        if whole is not None and objective != "dpo":
            starts.append(whole - sum(row["seconds"] for row in rows))
    figures: dict[str, tuple[float, str]] = {}
    if seconds:
        note = f"{trainings} trainings, {gpus} at a time"
        figures["training_tokens_per_second"] = work / seconds / gpus, note
    if starts:
        note = f"what {len(starts)} trainings took more"
        figures["start_seconds"] = statistics.fmean(starts), note
    means = {objective: tokens[objective] / samples[objective] for objective in tokens}
    if sft := means.get("fixed"):
        figures["sample_tokens"] = sft, f"{samples['fixed']} samples trained on"
        for name in [name for name in ("fgit", "dpo") if name in means]:
            note = f"{samples[name]} samples trained on"
            figures[f"{name}_tokens"] = means[name] / sft, note
    return figures


def measured_teacher(
    config: Config, source: Config, steps: Iterable[Step], folder: Path
) -> Measured:
    """The teacher's rate, if it was the one that is planned for, and the length of its answers."""
    tokens = seconds = answers = 0.0
    planned_for = {config.generate.teacher, *teacher_files(config, f"{folder}/")}
    for _, file in files_of(steps, folder, "gather", "report.json"):
        report = read_json(file)
        if report.get("teacher") in planned_for and report.get("tokens"):
            tokens += report["tokens"]
            answers += report["answers"]
            gpus = report["tensor_parallel"] if report["backend"] == "vllm" else 1
            seconds += report["seconds"] * gpus
    if not tokens:
        return {}
    figures = {"answer_tokens": (tokens / answers, f"{answers:.0f} answers")}
    if seconds and source.generate.backend == config.generate.backend != "openai":
        figures["teacher_tokens_per_second"] = tokens / seconds, f"{answers:.0f} answers"
    return figures


def measured_evaluation(config: Config, steps: Iterable[Step], folder: Path) -> Measured:
    """Rates of evaluations from the lengths of solutions and the seconds of the jobs.

    The seconds hold the loading too, which the plan counts by itself, so the rate is the slope of
    seconds over tokens; where the jobs do not allow that, none is given.
    """
    runs = all_runs(config)
    points: list[tuple[float, float]] = []
    tokens = solutions = chat_solutions = chat_problems = 0.0
    for step, file in files_of(steps, folder, "evaluate", "samples.jsonl"):
        model = runs[step.wildcards["run"]].model
        if not kind_of(config.benchmarks[step.wildcards["benchmark"]].kind).programs:
            continue
        first = lengths(file)
        both = first + lengths(file.with_name("samples_one_bos.jsonl"))
        tokens += sum(both)
        solutions += len(both)
        if config.models[model].mode == "chat":
            chat_problems += len(first)
            chat_solutions += len(both)
        seconds = job_seconds(folder / step.times)
        if seconds is not None:
            points.append((sum(both) * parameters_of(config, model) / REFERENCE, seconds))
    if not solutions:
        return {}
    figures = {"solution_tokens": (tokens / solutions, f"{solutions:.0f} solutions")}
    if chat_problems:
        figures["askings"] = chat_solutions / chat_problems, f"{chat_problems:.0f} problems"
    if len({work for work, _ in points}) > 2:
        line = statistics.linear_regression(*zip(*points, strict=True))
        if line.slope > 0 and line.intercept >= 0:
            note = f"{len(points)} jobs, without loading"
            figures["evaluation_tokens_per_second"] = 1 / line.slope, note
    return figures


def measured_scoring(config: Config, steps: Iterable[Step], folder: Path) -> Measured:
    """Core-seconds of a program, from the scores."""
    core_seconds: dict[str, float] = defaultdict(float)
    programs: dict[str, int] = defaultdict(int)
    for step, file in files_of(steps, folder, "score", "summary.json"):
        benchmark = config.benchmarks[step.wildcards["benchmark"]]
        summary = read_summary(file.parent)
        if (
            not kind_of(benchmark.kind).programs
            or summary.part_of is not None  # it has the whole's seconds
            or summary.seconds is None
            or summary.threads is None
        ):
            continue
        rate = program_rate(benchmark)
        core_seconds[rate] += summary.seconds * summary.threads
        programs[rate] += summary.n
        if step.rule == "score":
            _, one_bos = outputs_of("evaluate", **step.wildcards)
            programs[rate] += len(lengths(folder / one_bos))
    return {
        rate: (seconds / programs[rate], f"{programs[rate]} programs")
        for rate, seconds in core_seconds.items()
    }


def measured_data(steps: Iterable[Step], folder: Path) -> Measured:
    """Rates of the stages without a model, from jobs that took a minute: less is mostly start."""
    figures: dict[str, tuple[float, str]] = {}
    for stage in ("decontaminate", "mutate", "annotate"):
        samples = core_seconds = 0.0
        for step, file in files_of(steps, folder, stage, "report.json"):
            seconds = job_seconds(folder / step.times, "cpu_time")
            if seconds is not None and seconds >= 60:
                samples += read_json(file)["samples"]
                core_seconds += seconds
        if core_seconds:
            figures[f"{stage}_per_second"] = samples / core_seconds, f"{samples:.0f} samples"
    return figures


def lengths(file: Path) -> list[int]:
    """Tokens of each solution in a file of samples; none if it is not there."""
    if not file.exists():
        return []
    rows = (row for _, row in read_objects(file))
    return [row["tokens"] for row in rows if isinstance(row, dict) and "tokens" in row]


def job_seconds(file: Path, column: str = "s") -> float | None:
    """Seconds of a job, as Snakemake measured them; None where it did not."""
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            *_, last = csv.DictReader(lines, delimiter="\t")
        return float(last[column])
    except (FileNotFoundError, KeyError, ValueError):  # not there, no such column, no row
        return None
