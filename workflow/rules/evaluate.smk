rule evaluate:
    input:
        model=lambda w: (
            base_model_folder(RUNS[w.run].model)
            if RUNS[w.run].dataset is None
            else [f"{RESULTS}/train/{w.run}/model"]
        ),
        problems=lambda w: problems(w.benchmark),
    output:
        samples=f"{RESULTS}/evaluate/{{run}}/{{benchmark}}/samples.jsonl",
        one_bos=f"{RESULTS}/evaluate/{{run}}/{{benchmark}}/samples_one_bos.jsonl",
    log:
        f"{RESULTS}/logs/evaluate/{{run}}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{run}}/{{benchmark}}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=6000,
        runtime=480,
    params:
        python=CONFIG.python.main,
        # A checkpoint carries its template; the mode is its base model's.
        model=lambda w, input: (
            model_flags(RUNS[w.run].model)
            if RUNS[w.run].dataset is None
            else f"--model {shlex.quote(str(input.model))}"
        ),
        mode=lambda w: CONFIG.models[RUNS[w.run].model].mode,
        benchmark=lambda w: benchmark_flags(w.benchmark),
        flags=flags(CONFIG.evaluate),
    message:
        "{wildcards.run} writes solutions for {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit evaluate {params.model} --mode {params.mode} {params.benchmark} "
        "--problems {input.problems:q} {params.flags} --threads {threads} --out {output.samples:q} "
        "--one-bos {output.one_bos:q} 2>&1 | tee {log:q}"
