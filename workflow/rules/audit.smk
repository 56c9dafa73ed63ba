# Are the teacher's variants similar and incorrect? By a benchmark's tests, and by two readers.


rule audit_records:
    input:
        problems=problems,
    output:
        records="{results}/audit/{benchmark}/records.parquet",
    log:
        "{results}/logs/audit/{benchmark}.records.log",
    benchmark:
        "{results}/benchmarks/audit/{benchmark}.records.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
        benchmark=benchmark_flags,
    message:
        "Making records of the problems of {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit audit records {params.benchmark} --problems {input.problems:q} "
        "--out {output.records:q} 2>&1 | tee {log:q}"


use rule generate as audit_generate with:
    input:
        given=[],
        teacher=teacher_folder,
        records="{results}/audit/{benchmark}/records.parquet",
    output:
        variants="{results}/audit/{benchmark}/generate/variants.parquet",
        report="{results}/audit/{benchmark}/generate/report.json",
    log:
        "{results}/logs/audit/{benchmark}.generate.log",
    benchmark:
        "{results}/benchmarks/audit/{benchmark}.generate.tsv"
    message:
        "The teacher writes similar but incorrect variants of {wildcards.benchmark}"


rule audit_variants:
    input:
        problems=problems,
        variants="{results}/audit/{benchmark}/generate/variants.parquet",
    output:
        variants="{results}/audit/{benchmark}/variants.parquet",
        audit="{results}/audit/{benchmark}/audit.json",
    log:
        "{results}/logs/audit/{benchmark}.variants.log",
    benchmark:
        "{results}/benchmarks/audit/{benchmark}.variants.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=programs_mb,
        runtime=growing(240),
    params:
        python=CONFIG.python.main,
        benchmark=benchmark_flags,
        score=as_is(result_flags(CONFIG.score)),
        select=as_is(result_flags(CONFIG.select, leave_out=["verified_variants"])),
        speed=speed(CONFIG.score, CONFIG.select),
        out=subpath(output.audit, parent=True),
    message:
        "Testing the variants of {wildcards.benchmark}"
    shell:
        "{params.python:q} -m fgit audit variants {params.benchmark} --problems {input.problems:q} "
        "--variants {input.variants:q} {params.score} {params.select} {params.speed} "
        "--threads {threads} --out {params.out:q} 2>&1 | tee {log:q}"


# The readers' files, and the sheet that they read, are no outputs: Snakemake would remove them before
# the rule runs again, with all that was filled in.
rule audit_sheet:
    input:
        pairs="{results}/select/{dataset}/generate/pairs.parquet",
    output:
        drawn="{results}/audit/sheets/{dataset}/sheet.json",
    log:
        "{results}/logs/audit/{dataset}.sheet.log",
    benchmark:
        "{results}/benchmarks/audit/{dataset}.sheet.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
        number=CONFIG.audit.sheet,
        out=subpath(output.drawn, parent=True),
    message:
        "Drawing pairs of {wildcards.dataset} for two readers"
    shell:
        "{params.python:q} -m fgit audit sheet --pairs {input.pairs:q} --count {params.number} "
        "--out {params.out:q} 2>&1 | tee {log:q}"
