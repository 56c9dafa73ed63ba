# What several rules need: where things lie, and the flags of a stage.


wildcard_constraints:
    results="|".join(map(re.escape, CONFIGS)),
    dataset="|".join(map(re.escape, CONFIG.datasets)),
    source="generate|mutate",
    shard=r"\d+",
    shards=r"\d+",
    benchmark="|".join(map(re.escape, CONFIG.benchmarks)),
    table="|".join(map(re.escape, CONFIG.tables)),
    run="|".join(map(re.escape, RUNS)),


def conf(w):
    """The config of a results folder: the experiments' own, or their pilot's."""
    return CONFIGS[w.results]


def whole_benchmark(w, benchmark):
    """All problems of a benchmark: the file of the config, or the one that fetch writes."""
    return str(resolve(whole_problems(CONFIG, benchmark, f"{w.results}/")))


def problems(w):
    """The problems of a benchmark that are asked and scored: all, or the first so many."""
    return str(resolve(asked_problems(conf(w), w.benchmark, f"{w.results}/")))


def as_is(value):
    """A param with text of the config: only what a function gives is not searched for wildcards."""
    return lambda w: value


def model_flags(w, model):
    """--model, --revision and --template of a base model."""
    path = base_model(CONFIG, model, f"{w.results}/")
    entry = CONFIG.models[model].model_copy(update={"path": path})
    leave_out = ["mode", "samples", "licence"]
    return flags(entry, rename={"path": "model"}, leave_out=leave_out)


def benchmark_flags(w):
    """--benchmark and --sha256; a cut file has another digest, and was cut from the right one."""
    entry = conf(w).benchmarks[w.benchmark]
    cut = [] if entry.limit is None else ["sha256"]
    leave_out = ["problems", "part_of", "limit", *cut]
    return flags(entry, rename={"kind": "benchmark"}, leave_out=leave_out)


def speed(*settings):
    """The flags of what changes the speed only, as params by which nothing is run again.

    Snakemake compares params with those of the last run, but for those that depend on threads.
    """
    return lambda w, threads: " ".join(map(speed_flags, settings))


def spans(w):
    """The annotated pairs that a run trains on: the teacher's variants, or mutants."""
    run = RUNS[w.run]
    source = train_settings(CONFIG, run).variants
    return f"{w.results}/annotate/{run.dataset}/{source}/spans.parquet"


def only(names):
    """A constraint of {run} that matches these runs and no other."""
    return "|".join(map(re.escape, names)) or "(?!)"


# The runs whose weights stay.
KEPT = [name for name, run in RUNS.items() if keeps_model(CONFIG, run)]


def whole_of(w):
    """The larger benchmark whose outcomes are taken; None for a benchmark that is scored itself."""
    return conf(w).benchmarks[w.benchmark].part_of


TEACHER_ENVIRONMENT = teacher_environment(CONFIG)


def teacher_python(given):
    """The interpreter of the teacher's environment; variants that are there already need none."""
    return getattr(CONFIG.python, "main" if given else TEACHER_ENVIRONMENT)


def teacher_folder(w):
    """The folder that fetch writes of the teacher, where it is a model of the config, too."""
    return teacher_files(CONFIG, f"{w.results}/")


def teacher_flags(w):
    """The teacher's settings that its answers depend on."""
    teacher = {"teacher": folder for folder in teacher_folder(w)}
    settings = CONFIG.generate.model_copy(update=teacher)
    return result_flags(settings, leave_out=["shards"])


def shards(w, suffix):
    """The files of a dataset's shards."""
    count = shard_count(CONFIG, w.dataset)
    folder = f"{w.results}/generate/{w.dataset}/shards"
    return [f"{folder}/{number}-of-{count}.{suffix}" for number in range(1, count + 1)]


def shards_in_braces(w):
    """The same as bash expands it."""
    count = shard_count(CONFIG, w.dataset)
    folder = shlex.quote(f"{w.results}/generate/{w.dataset}/shards")
    return f"{folder}/{{1..{count}}}-of-{count}.parquet"


def scored(w):
    """What the score stage reads besides the problems."""
    return scored_files(conf(w), RUNS[w.run], w.benchmark, f"{w.results}/")


def scored_flags(w, input):
    """The same as flags."""
    if whole_of(w):
        return f"--part-of {shlex.quote(str(Path(input.whole).parent))}"
    parts = [
        f"--{name.replace('_', '-')} {shlex.quote(str(file))}"
        for name in ["samples", "one_bos", "ground_truth"]
        if (file := input.get(name))
    ]
    own = own_samples(CONFIG, RUNS[w.run], w.benchmark)
    if own and conf(w).benchmarks[w.benchmark].limit:
        parts.append("--leave-out-others")
    return " ".join([*parts, worker_python(w)])


def worker_python(w):
    """The interpreter of the environment in which a benchmark's programs run."""
    environment = kind_of(CONFIG.benchmarks[w.benchmark].kind).environment
    return f"--worker-python {shlex.quote(getattr(CONFIG.python, environment))}"


def growing(value):
    """Memory or time that grows with the attempt: a job that had too little gets more."""
    return lambda w, attempt: value * attempt


def on_gpus(rule, of_a_node, nodes=1):
    """The GPUs of a rule's job, by the names of SLURM's executor; their type is the site's.

    A profile that sets nothing for the rule runs it where nobody hands out GPUs.
    """
    profile = workflow.resource_settings.overwrite_resources.get(rule, {})
    kind = [str(profile["gpu_type"].raw)] if "gpu_type" in profile else []
    if not profile:
        return {}
    if nodes == 1:
        return {"gpu": of_a_node, "gpu_model": kind[0] if kind else None}
    return {
        # One task a node; by gpu=, SLURM could spread them unevenly.
        "gres": ":".join(["gpu", *kind, str(of_a_node)]),
        "tasks_per_gpu": 0,
        "mpi": "srun",
        "nodes": nodes,
        "tasks": nodes,
    }


def programs_mb(w, threads, attempt):
    """Memory for programs: one sandbox that is full, and what the others have."""
    return attempt * (CONFIG.score.memory_mb + 2000 * threads)


def score_mb(w, threads, attempt):
    """The same, where programs run: not for pairs, nor for a part of a larger benchmark."""
    if kind_of(CONFIG.benchmarks[w.benchmark].kind).programs is None or whole_of(w):
        return attempt * 4000
    return programs_mb(w, threads, attempt)


def scores(w, tables):
    """The scores that tables show."""
    return [f"{w.results}/{file}" for file in score_files(CONFIG, tables)]


def readers(w):
    """What fgit audit kappa wrote of the sheets: no rule makes it, so it is there or it is not."""
    folder = f"{w.results}/audit/sheets"
    files = [f"{folder}/{dataset}/kappa.json" for dataset in sheets_of(CONFIG)]
    return [file for file in files if Path(file).exists()]


def drawn(results, table):
    """The files of a table; a figure has its curve too."""
    kind = "figure" if CONFIG.tables[table].figure else "table"
    return [f"{results}/{file}" for file in outputs_of(kind, table=table)]


def everything(results):
    """What `all` and `pilot` ask for."""
    tables = [file for table in CONFIG.tables for file in drawn(results, table)]
    return [f"{results}/report.html", f"{results}/results.parquet", *tables]


def asks_of(jobs):
    """What jobs ask for, each kind once."""
    later = {"tmpdir", "disk", "disk_mb", "disk_mib"}  # known when there is input
    asks = set()
    for job in jobs:
        if workflow.local_exec or not job.is_local:
            # Not job.resources, which Snakemake keeps once they are asked for.
            resources = job.rule.expand_resources(
                job.wildcards_dict, job.input, 1, later
            )
            asks.add(Ask.of(job.rule.name, resources["_cores"], resources))
    return asks
