rule gather:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
        variants=lambda w: shards(w, "parquet"),
        reports=lambda w: shards(w, "json"),
    output:
        variants="{results}/generate/{dataset}/variants.parquet",
        report="{results}/generate/{dataset}/report.json",
    log:
        "{results}/logs/gather/{dataset}.log",
    benchmark:
        "{results}/benchmarks/gather/{dataset}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        python=CONFIG.python.main,
        # The shell names them: thousands of names are too long for a command.
        shards=lambda w: shards_in_braces(w),
    message:
        "Joining the variants of {wildcards.dataset}"
    shell:
        "{params.python:q} -m fgit gather --shards {params.shards} --records {input.records:q} "
        "--out {output.variants:q} --report {output.report:q} 2>&1 | tee {log:q}"
