rule select:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
        variants="{results}/{source}/{dataset}/variants.parquet",
        verified=(
            "{results}/verify/{dataset}/{source}/verified.parquet"
            if CONFIG.select.verified_variants
            else []
        ),
    output:
        pairs="{results}/select/{dataset}/{source}/pairs.parquet",
        report="{results}/select/{dataset}/{source}/report.json",
    log:
        "{results}/logs/select/{dataset}.{source}.log",
    benchmark:
        "{results}/benchmarks/select/{dataset}.{source}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 4
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        python=CONFIG.python.main,
        verified=lambda w, input: (
            f"--verified {shlex.quote(str(input.verified))}" if input.verified else ""
        ),
        flags=as_is(result_flags(CONFIG.select, leave_out=["verified_variants"])),
        speed=speed(CONFIG.select),
    message:
        "Choosing the most similar variants of {wildcards.dataset} ({wildcards.source})"
    shell:
        "{params.python:q} -m fgit select --records {input.records:q} --variants {input.variants:q} "
        "{params.verified} {params.flags} {params.speed} --threads {threads} "
        "--out {output.pairs:q} --report {output.report:q} 2>&1 | tee {log:q}"
