# What several rules need: where things lie, and the flags of a stage.


wildcard_constraints:
    dataset="[^/]+",
    source="generate|mutate",
    benchmark="[^/]+",
    run="|".join(map(re.escape, RUNS)),


def location(benchmark):
    """Where a benchmark's problems are: as the config says, or the file that fetch writes."""
    given = CONFIG.benchmarks[benchmark].problems
    return (
        f"{RESULTS}/fetch/benchmarks/{benchmark}.jsonl"
        if is_fetched_benchmark(given)
        else given
    )


def problems(benchmark):
    """A benchmark's problem file."""
    return str(resolve(location(benchmark)))


def base_model(model):
    """What --model takes: the folder that fetch writes, or a folder or hub name as it is."""
    path = CONFIG.models[model].path
    return f"{RESULTS}/fetch/models/{model}" if is_fetched_model(path) else path


def base_model_folder(model):
    """The same as an input of a rule; nothing for a name on the hub."""
    path = base_model(model)
    fetched = is_fetched_model(CONFIG.models[model].path)
    return [path] if fetched or Path(path).is_dir() else []


def model_flags(model):
    """--model, --revision and --template of a base model."""
    entry = CONFIG.models[model].model_copy(update={"path": base_model(model)})
    return flags(entry, rename={"path": "model"}, leave_out=["mode"])


def benchmark_flags(benchmark):
    """--benchmark and --sha256."""
    return flags(
        CONFIG.benchmarks[benchmark],
        rename={"kind": "benchmark"},
        leave_out=["problems", "part_of"],
    )


def spans(run):
    """The annotated pairs that a run trains on: the teacher's variants, or mutants."""
    source = train_settings(CONFIG, run).variants
    return f"{RESULTS}/annotate/{run.dataset}/{source}/spans.parquet"


def only(names):
    """A constraint of {run} that matches these runs and no other."""
    return "|".join(map(re.escape, names)) or "(?!)"


# The runs whose weights stay.
KEPT = [name for name, run in RUNS.items() if keeps_model(CONFIG, run)]


# The benchmarks that are scored, those that are parts of others, and those whose environment must
# first be shown to be the right one.
WHOLE = [name for name, entry in CONFIG.benchmarks.items() if entry.part_of is None]
PARTS = [name for name in CONFIG.benchmarks if name not in WHOLE]
CHECKED = [name for name in WHOLE if CONFIG.benchmarks[name].kind == "bigcodebench"]


def worker_python(benchmark):
    """The interpreter of the environment in which a benchmark's programs run."""
    kind = CONFIG.benchmarks[benchmark].kind
    python = (
        CONFIG.python.bigcodebench if kind == "bigcodebench" else CONFIG.python.main
    )
    return f"--worker-python {shlex.quote(python)}"


def boxes_mb(benchmark, threads):
    """Memory for scoring: one box that is full, and what the others have; pairs run no programs."""
    pairs = CONFIG.benchmarks[benchmark].kind == "pairs"
    return 4000 if pairs else CONFIG.score.memory_mb + 2000 * threads


def readers():
    """What fgit audit kappa wrote of the sheets: no rule makes it, so it is there or it is not."""
    sheets = f"{RESULTS}/audit/sheets"
    found = [f"{sheets}/{d}/kappa.json" for d in sheets_of(CONFIG, RUNS.values())]
    return [path for path in found if Path(path).exists()]
