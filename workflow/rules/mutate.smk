rule mutate:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
    output:
        variants="{results}/mutate/{dataset}/variants.parquet",
        report="{results}/mutate/{dataset}/report.json",
    log:
        "{results}/logs/mutate/{dataset}.log",
    benchmark:
        "{results}/benchmarks/mutate/{dataset}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        python=CONFIG.python.main,
        flags=as_is(flags(CONFIG.mutate)),
    message:
        "Mutating the responses of {wildcards.dataset}"
    shell:
        "{params.python:q} -m fgit mutate --records {input.records:q} {params.flags} "
        "--threads {threads} --out {output.variants:q} --report {output.report:q} 2>&1 | tee {log:q}"
