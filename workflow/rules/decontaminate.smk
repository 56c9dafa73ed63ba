rule decontaminate:
    input:
        data=lambda w: [
            path for path in [CONFIG.datasets[w.dataset].path] if is_file(path)
        ],
        problems=lambda w: [
            whole_benchmark(w, name) for name in CONFIG.decontaminate.against
        ],
    output:
        records="{results}/decontaminate/{dataset}/records.parquet",
        report="{results}/decontaminate/{dataset}/report.json",
        matches="{results}/decontaminate/{dataset}/matches.parquet",
    log:
        "{results}/logs/decontaminate/{dataset}.log",
    benchmark:
        "{results}/benchmarks/decontaminate/{dataset}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        python=CONFIG.python.main,
        benchmarks=lambda w: repeated(
            "benchmark",
            {name: whole_benchmark(w, name) for name in CONFIG.decontaminate.against},
        ),
        data=lambda w: flags(
            conf(w).datasets[w.dataset],
            rename={"path": "data"},
            leave_out=["fields", "samples", "variants"],
        ),
        fields=lambda w: repeated("field", CONFIG.datasets[w.dataset].fields),
        flags=as_is(flags(CONFIG.decontaminate, leave_out=["against"])),
    message:
        "Removing benchmark problems from {wildcards.dataset}"
    shell:
        "{params.python:q} -m fgit decontaminate {params.data} {params.fields} "
        "{params.benchmarks} {params.flags} --threads {threads} "
        "--out {output.records:q} --report {output.report:q} --matches {output.matches:q} "
        "2>&1 | tee {log:q}"
