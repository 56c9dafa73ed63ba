rule fetch_model:
    output:
        directory(f"{RESULTS}/fetch/models/{{model}}"),
    log:
        f"{RESULTS}/logs/fetch/models/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch/models/{{model}}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        python=CONFIG.python.main,
        flags=lambda w: flags(
            CONFIG.models[w.model],
            rename={"path": "model"},
            leave_out=["template", "mode"],
        ),
    message:
        "Fetching the model {wildcards.model}"
    shell:
        "{params.python} -m fgit fetch {params.flags} --out {output:q} 2>&1 | tee {log:q}"


rule fetch_benchmark:
    output:
        f"{RESULTS}/fetch/benchmarks/{{benchmark}}.jsonl",
    log:
        f"{RESULTS}/logs/fetch/benchmarks/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch/benchmarks/{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        python=CONFIG.python.main,
        flags=lambda w: flags(
            CONFIG.benchmarks[w.benchmark],
            rename={"kind": "benchmark"},
            leave_out=["sha256", "part_of"],
        ),
    message:
        "Fetching the benchmark {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit fetch {params.flags} --out {output:q} 2>&1 | tee {log:q}"
