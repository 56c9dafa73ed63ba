localrules:
    plan,


rule plan:
    input:
        f"{RESULTS}/config.yaml",
    log:
        f"{RESULTS}/logs/plan.log",
    conda:
        "../../envs/main.yaml"
    params:
        python=CONFIG.python.main,
        results=subpath(input[0], parent=True),
    message:
        "What all of it would cost"
    shell:
        "{params.python:q} -m fgit plan --config {input:q} --results {params.results:q} "
        "2>&1 | tee {log:q}"
