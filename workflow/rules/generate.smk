rule generate:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
        given=lambda w: [file for file in [CONFIG.datasets[w.dataset].variants] if file],
    output:
        variants="{results}/generate/{dataset}/variants.parquet",
        report="{results}/generate/{dataset}/report.json",
    log:
        "{results}/logs/generate/{dataset}.log",
    benchmark:
        "{results}/benchmarks/generate/{dataset}.tsv"
    conda:
        f"../../envs/{'vllm' if CONFIG.generate.backend == 'vllm' else 'main'}.yaml"
    threads: 8
    resources:
        mem_mb=6000,
        runtime=1440,
    params:
        python=lambda w, input: teacher_python(bool(input.given)),
        flags=flags(CONFIG.generate),
        given=lambda w, input: (
            f"--given {shlex.quote(str(input.given))}" if input.given else ""
        ),
    message:
        "The teacher writes similar but incorrect variants of {wildcards.dataset}"
    shell:
        "{params.python} -m fgit generate --records {input.records:q} {params.given} {params.flags} "
        "--out {output.variants:q} --report {output.report:q} 2>&1 | tee {log:q}"
