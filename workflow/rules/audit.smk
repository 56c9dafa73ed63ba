# Are the teacher's variants similar and incorrect? By a benchmark's tests, and by two readers.


rule audit_records:
    input:
        problems=lambda w: problems(w.benchmark),
    output:
        records=f"{RESULTS}/audit/{{benchmark}}/records.parquet",
    log:
        f"{RESULTS}/logs/audit/{{benchmark}}.records.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit/{{benchmark}}.records.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        python=CONFIG.python.main,
        benchmark=lambda w: benchmark_flags(w.benchmark),
    message:
        "Making records of the problems of {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit audit records {params.benchmark} --problems {input.problems:q} "
        "--out {output.records:q} 2>&1 | tee {log:q}"


use rule generate as audit_generate with:
    input:
        records=f"{RESULTS}/audit/{{benchmark}}/records.parquet",
    output:
        variants=f"{RESULTS}/audit/{{benchmark}}/generate/variants.parquet",
        report=f"{RESULTS}/audit/{{benchmark}}/generate/report.json",
    log:
        f"{RESULTS}/logs/audit/{{benchmark}}.generate.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit/{{benchmark}}.generate.tsv"
    message:
        "The teacher writes similar but incorrect variants of {wildcards.benchmark}"


rule audit_variants:
    input:
        problems=lambda w: problems(w.benchmark),
        variants=f"{RESULTS}/audit/{{benchmark}}/generate/variants.parquet",
    output:
        variants=f"{RESULTS}/audit/{{benchmark}}/variants.parquet",
        audit=f"{RESULTS}/audit/{{benchmark}}/audit.json",
    log:
        f"{RESULTS}/logs/audit/{{benchmark}}.variants.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit/{{benchmark}}.variants.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=lambda w, threads: CONFIG.score.memory_mb + 2000 * threads,
        runtime=240,
    params:
        python=CONFIG.python.main,
        benchmark=lambda w: benchmark_flags(w.benchmark),
        score=flags(CONFIG.score),
        select=flags(CONFIG.select, leave_out=["verified_variants"]),
        out=subpath(output.audit, parent=True),
    message:
        "Testing the variants of {wildcards.benchmark}"
    shell:
        "{params.python} -m fgit audit variants {params.benchmark} --problems {input.problems:q} "
        "--variants {input.variants:q} {params.score} {params.select} --threads {threads} "
        "--out {params.out:q} 2>&1 | tee {log:q}"


# The readers' files, and the sheet that they read, are no outputs: Snakemake would remove them before
# the rule runs again, with all that was filled in.
rule audit_sheet:
    input:
        pairs=f"{RESULTS}/select/{{dataset}}/generate/pairs.parquet",
    output:
        drawn=f"{RESULTS}/audit/sheets/{{dataset}}/sheet.json",
    log:
        f"{RESULTS}/logs/audit/{{dataset}}.sheet.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit/{{dataset}}.sheet.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        python=CONFIG.python.main,
        number=CONFIG.audit.sheet,
        out=subpath(output.drawn, parent=True),
    message:
        "Drawing pairs of {wildcards.dataset} for two readers"
    shell:
        "{params.python} -m fgit audit sheet --pairs {input.pairs:q} --count {params.number} "
        "--out {params.out:q} 2>&1 | tee {log:q}"
