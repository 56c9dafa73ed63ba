rule evaluate:
    input:
        model=lambda w: (
            base_model_files(CONFIG, RUNS[w.run].model, f"{w.results}/")
            if RUNS[w.run].dataset is None
            else [f"{w.results}/train/{w.run}/model"]
        ),
        problems=problems,
    output:
        samples="{results}/evaluate/{run}/{benchmark}/samples.jsonl",
        one_bos="{results}/evaluate/{run}/{benchmark}/samples_one_bos.jsonl",
    log:
        "{results}/logs/evaluate/{run}/{benchmark}.log",
    benchmark:
        "{results}/benchmarks/evaluate/{run}/{benchmark}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=growing(6000),
        runtime=growing(480),
    params:
        python=CONFIG.python.main,
        # A checkpoint carries its template; the mode is its base model's.
        model=lambda w, input: (
            model_flags(w, RUNS[w.run].model)
            if RUNS[w.run].dataset is None
            else f"--model {shlex.quote(str(input.model))}"
        ),
        mode=lambda w: CONFIG.models[RUNS[w.run].model].mode,
        benchmark=benchmark_flags,
        flags=as_is(result_flags(CONFIG.evaluate)),
        speed=speed(CONFIG.evaluate),
    message:
        "{wildcards.run} writes solutions for {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit evaluate {params.model} --mode {params.mode} {params.benchmark} "
        "--problems {input.problems:q} {params.flags} {params.speed} --threads {threads} "
        "--out {output.samples:q} --one-bos {output.one_bos:q} 2>&1 | tee {log:q}"
