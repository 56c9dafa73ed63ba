rule annotate:
    input:
        pairs="{results}/select/{dataset}/{source}/pairs.parquet",
    output:
        spans="{results}/annotate/{dataset}/{source}/spans.parquet",
        report="{results}/annotate/{dataset}/{source}/report.json",
    log:
        "{results}/logs/annotate/{dataset}.{source}.log",
    benchmark:
        "{results}/benchmarks/annotate/{dataset}.{source}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        python=CONFIG.python.main,
    message:
        "Marking the error-sensitive segments of {wildcards.dataset} ({wildcards.source})"
    shell:
        "{params.python:q} -m fgit annotate --pairs {input.pairs:q} --threads {threads} "
        "--out {output.spans:q} --report {output.report:q} 2>&1 | tee {log:q}"
