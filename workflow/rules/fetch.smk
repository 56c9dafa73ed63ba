rule fetch_model:
    output:
        directory("{results}/fetch/models/{model}"),
    log:
        "{results}/logs/fetch/models/{model}.log",
    benchmark:
        "{results}/benchmarks/fetch/models/{model}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        python=CONFIG.python.main,
        flags=lambda w: flags(
            CONFIG.models[w.model],
            rename={"path": "model"},
            leave_out=["template", "mode", "licence", "samples"],
        ),
    message:
        "Fetching the model {wildcards.model}"
    shell:
        "{params.python:q} -m fgit fetch {params.flags} --out {output:q} 2>&1 | tee {log:q}"


rule fetch_benchmark:
    output:
        "{results}/fetch/benchmarks/{benchmark}.jsonl",
    log:
        "{results}/logs/fetch/benchmarks/{benchmark}.log",
    benchmark:
        "{results}/benchmarks/fetch/benchmarks/{benchmark}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        python=CONFIG.python.main,
        flags=lambda w: flags(
            CONFIG.benchmarks[w.benchmark],
            rename={"kind": "benchmark"},
            leave_out=["sha256", "part_of", "limit"],
        ),
    message:
        "Fetching the benchmark {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit fetch {params.flags} --out {output:q} 2>&1 | tee {log:q}"


rule fetch_first:
    input:
        problems=lambda w: whole_benchmark(w, w.benchmark),
    output:
        "{results}/fetch/benchmarks/{benchmark}.first-{limit}.jsonl",
    log:
        "{results}/logs/fetch/benchmarks/{benchmark}.first-{limit}.log",
    benchmark:
        "{results}/benchmarks/fetch/benchmarks/{benchmark}.first-{limit}.tsv"
    wildcard_constraints:
        limit=r"\d+",
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
        flags=lambda w: flags(
            CONFIG.benchmarks[w.benchmark],
            rename={"kind": "benchmark"},
            leave_out=["problems", "part_of", "limit"],
        ),
    message:
        "Taking the first {wildcards.limit} problems of {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit fetch {params.flags} --problems {input.problems:q} "
        "--limit {wildcards.limit} --out {output:q} 2>&1 | tee {log:q}"
