rule verify:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
        variants="{results}/{source}/{dataset}/variants.parquet",
    output:
        verified="{results}/verify/{dataset}/{source}/verified.parquet",
        report="{results}/verify/{dataset}/{source}/report.json",
    log:
        "{results}/logs/verify/{dataset}.{source}.log",
    benchmark:
        "{results}/benchmarks/verify/{dataset}.{source}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=programs_mb,
        runtime=1440,
    params:
        python=CONFIG.python.main,
        flags=as_is(result_flags(CONFIG.score)),
        speed=speed(CONFIG.score),
    message:
        "Testing the variants of {wildcards.dataset} ({wildcards.source}) by the samples' own tests"
    shell:
        "{params.python:q} -m fgit verify --records {input.records:q} --variants {input.variants:q} "
        "{params.flags} {params.speed} --threads {threads} --out {output.verified:q} "
        "--report {output.report:q} 2>&1 | tee {log:q}"
