rule ground_truth:
    input:
        problems=lambda w: problems(w.benchmark),
    output:
        outcomes=f"{RESULTS}/score/canonical/{{benchmark}}/outcomes.parquet",
        times=f"{RESULTS}/score/canonical/{{benchmark}}/times.parquet",
        summary=f"{RESULTS}/score/canonical/{{benchmark}}/summary.json",
    log:
        f"{RESULTS}/logs/score/canonical/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/canonical/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark=only(CHECKED),
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, threads: boxes_mb(w.benchmark, threads),
        runtime=240,
    params:
        python=CONFIG.python.main,
        worker=lambda w: worker_python(w.benchmark),
        benchmark=lambda w: benchmark_flags(w.benchmark),
        flags=flags(CONFIG.score),
        out=subpath(output.summary, parent=True),
    message:
        "Testing the canonical solutions of {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit score {params.benchmark} --problems {input.problems:q} "
        "--samples canonical {params.worker} {params.flags} --threads {threads} "
        "--out {params.out:q} 2>&1 | tee {log:q}"


rule score:
    input:
        problems=lambda w: problems(w.benchmark),
        samples=f"{RESULTS}/evaluate/{{run}}/{{benchmark}}/samples.jsonl",
        one_bos=f"{RESULTS}/evaluate/{{run}}/{{benchmark}}/samples_one_bos.jsonl",
        ground_truth=lambda w: (
            [f"{RESULTS}/score/canonical/{w.benchmark}/summary.json"]
            if w.benchmark in CHECKED
            else []
        ),
    output:
        outcomes=f"{RESULTS}/score/{{run}}/{{benchmark}}/outcomes.parquet",
        summary=f"{RESULTS}/score/{{run}}/{{benchmark}}/summary.json",
    log:
        f"{RESULTS}/logs/score/{{run}}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/{{run}}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark=only(WHOLE),
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, threads: boxes_mb(w.benchmark, threads),
        runtime=240,
    params:
        python=CONFIG.python.main,
        worker=lambda w: worker_python(w.benchmark),
        benchmark=lambda w: benchmark_flags(w.benchmark),
        ground_truth=lambda w, input: (
            f"--ground-truth {shlex.quote(str(input.ground_truth))}"
            if input.ground_truth
            else ""
        ),
        flags=flags(CONFIG.score),
        out=subpath(output.summary, parent=True),
    message:
        "Testing the solutions of {wildcards.run} for {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit score {params.benchmark} --problems {input.problems:q} "
        "--samples {input.samples:q} --one-bos {input.one_bos:q} {params.ground_truth} "
        "{params.worker} {params.flags} --threads {threads} --out {params.out:q} "
        "2>&1 | tee {log:q}"


rule score_part:
    input:
        problems=lambda w: problems(w.benchmark),
        whole=lambda w: (
            f"{RESULTS}/score/{w.run}/{CONFIG.benchmarks[w.benchmark].part_of}/summary.json"
        ),
    output:
        outcomes=f"{RESULTS}/score/{{run}}/{{benchmark}}/outcomes.parquet",
        summary=f"{RESULTS}/score/{{run}}/{{benchmark}}/summary.json",
    log:
        f"{RESULTS}/logs/score/{{run}}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/{{run}}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark=only(PARTS),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        python=CONFIG.python.main,
        benchmark=lambda w: benchmark_flags(w.benchmark),
        whole=subpath(input.whole, parent=True),
        out=subpath(output.summary, parent=True),
    message:
        "Taking the outcomes of {wildcards.run} for {wildcards.benchmark} from the whole benchmark"
    shell:
        "{params.python} -m fgit score {params.benchmark} --problems {input.problems:q} "
        "--part-of {params.whole:q} --out {params.out:q} 2>&1 | tee {log:q}"
