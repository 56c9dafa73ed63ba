localrules:
    config,
    results,
    table,
    figure,


rule config:
    output:
        "{results}/config.yaml",
    log:
        "{results}/logs/config.log",
    conda:
        "../../envs/main.yaml"
    params:
        text=lambda w: to_yaml(conf(w)),
    message:
        "Writing down the config as it was resolved"
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


# The published numbers, if there are any.
PUBLISHED = [file for file in [CONFIG.published] if file]


# Here alone scores become numbers; the tables and the report are drawn from these files.
rule results:
    input:
        scores=lambda w: scores(w, [w.table]),
        config="{results}/config.yaml",
        published=PUBLISHED,
    output:
        numbers="{results}/results/{table}.parquet",
    log:
        "{results}/logs/results/{table}.log",
    benchmark:
        "{results}/benchmarks/results/{table}.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
    message:
        "Gathering the numbers of {wildcards.table}"
    shell:
        "{params.python:q} -m fgit results --config {input.config:q} "
        "--results {wildcards.results:q} --table {wildcards.table:q} 2>&1 | tee {log:q}"


rule table:
    input:
        config="{results}/config.yaml",
        numbers="{results}/results/{table}.parquet",
    output:
        multiext("{results}/tables/{table}", ".md", ".csv", ".tex"),
        drawing=report(
            "{results}/tables/{table}.html",
            category="Tables",
            labels={"of": "{results}", "table": "{table}"},
        ),
    log:
        "{results}/logs/table/{table}.log",
    benchmark:
        "{results}/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table=only(name for name, table in CONFIG.tables.items() if not table.figure),
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
        out=subpath(output.drawing, parent=True),
    message:
        "Drawing {wildcards.table}"
    shell:
        "{params.python:q} -m fgit table --config {input.config:q} --from {input.numbers:q} "
        "--table {wildcards.table:q} --out {params.out:q} 2>&1 | tee {log:q}"


use rule table as figure with:
    output:
        multiext("{results}/tables/{table}", ".md", ".csv", ".tex", ".html", ".png"),
        drawing=report(
            "{results}/tables/{table}.svg",
            category="Figures",
            labels={"of": "{results}", "figure": "{table}"},
        ),
    wildcard_constraints:
        table=only(name for name, table in CONFIG.tables.items() if table.figure),


rule report:
    input:
        config="{results}/config.yaml",
        numbers=expand("{{results}}/results/{table}.parquet", table=CONFIG.tables),
        scores=lambda w: scores(w, CONFIG.tables),  # each problem's outcome
        audit=expand(
            "{{results}}/audit/{name}/audit.json", name=CONFIG.audit.benchmarks
        ),
        sheets=expand(
            "{{results}}/audit/sheets/{dataset}/sheet.json",
            dataset=sheets_of(CONFIG),
        ),
        readers=readers,
    output:
        results="{results}/results.parquet",
        report=report(
            "{results}/report.html", category="Report", labels={"of": "{results}"}
        ),
        funnel=multiext("{results}/tables/funnel", ".md", ".csv"),
        claims=[
            f"{{results}}/tables/claims.{f}" for f in ["md", "csv"] if CONFIG.claims
        ],
    log:
        "{results}/logs/report.log",
    benchmark:
        "{results}/benchmarks/report.tsv"
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        python=CONFIG.python.main,
    message:
        "Drawing the report"
    shell:
        "{params.python:q} -m fgit report --config {input.config:q} --results {wildcards.results:q} "
        "2>&1 | tee {log:q}"


# `snakemake table_2`: what one table needs, and no more.
for name in CONFIG.tables:
    if name in (rule.name for rule in workflow.rules):
        raise WorkflowError(
            f"config: tables.{name}: `snakemake {name}` is a step of every table; choose another name"
        )

    rule:
        name:
            name
        input:
            drawn(RESULTS, name),
