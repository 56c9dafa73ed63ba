localrules:
    config,


rule config:
    output:
        f"{RESULTS}/config.yaml",
    log:
        f"{RESULTS}/logs/config.log",
    conda:
        "../../envs/main.yaml"
    params:
        text=to_yaml(CONFIG),
    message:
        "Writing down the config as it was resolved"
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule report:
    input:
        config=f"{RESULTS}/config.yaml",
        scores=[
            f"{RESULTS}/score/{run}/{benchmark}/{file}"
            for run, benchmark in evaluations(CONFIG, CONFIG.tables)
            for file in ["summary.json", "outcomes.parquet"]
        ],
        audit=[f"{RESULTS}/audit/{name}/audit.json" for name in CONFIG.audit.benchmarks],
        sheets=[
            f"{RESULTS}/audit/sheets/{dataset}/sheet.json"
            for dataset in sheets_of(CONFIG, RUNS.values())
        ],
        readers=readers(),
    output:
        results=f"{RESULTS}/results.parquet",
        tables=expand(
            f"{RESULTS}/tables/{{table}}.{{format}}",
            table=CONFIG.tables,
            format=["md", "csv"],
        ),
        report=f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        python=CONFIG.python.main,
        results=subpath(output.report, parent=True),
    message:
        "Drawing the tables and the report"
    shell:
        "{params.python} -m fgit report --config {input.config:q} --results {params.results:q} "
        "2>&1 | tee {log:q}"
