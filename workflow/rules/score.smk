rule ground_truth:
    input:
        problems=problems,
    output:
        outcomes="{results}/score/canonical/{benchmark}/outcomes.parquet",
        times="{results}/score/canonical/{benchmark}/times.parquet",
        summary="{results}/score/canonical/{benchmark}/summary.json",
    log:
        "{results}/logs/score/canonical/{benchmark}.log",
    benchmark:
        "{results}/benchmarks/score/canonical/{benchmark}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=score_mb,
        runtime=growing(240),
    params:
        python=CONFIG.python.main,
        worker=worker_python,
        benchmark=benchmark_flags,
        flags=as_is(result_flags(CONFIG.score)),
        speed=speed(CONFIG.score),
        out=subpath(output.summary, parent=True),
    message:
        "Testing the canonical solutions of {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit score {params.benchmark} --problems {input.problems:q} "
        "--samples canonical {params.worker} {params.flags} {params.speed} --threads {threads} "
        "--out {params.out:q} 2>&1 | tee {log:q}"


# A part of a larger benchmark has its outcomes from there.
rule score:
    input:
        unpack(scored),
        problems=problems,
    output:
        outcomes="{results}/score/{run}/{benchmark}/outcomes.parquet",
        summary="{results}/score/{run}/{benchmark}/summary.json",
    log:
        "{results}/logs/score/{run}/{benchmark}.log",
    benchmark:
        "{results}/benchmarks/score/{run}/{benchmark}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: lambda w: 1 if whole_of(w) else 8
    resources:
        mem_mb=score_mb,
        runtime=growing(240),
    params:
        python=CONFIG.python.main,
        benchmark=benchmark_flags,
        scored=scored_flags,
        flags=as_is(result_flags(CONFIG.score)),
        speed=speed(CONFIG.score),
        out=subpath(output.summary, parent=True),
    message:
        "Testing the solutions of {wildcards.run} for {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit score {params.benchmark} --problems {input.problems:q} "
        "{params.scored} {params.flags} {params.speed} --threads {threads} --out {params.out:q} "
        "2>&1 | tee {log:q}"
