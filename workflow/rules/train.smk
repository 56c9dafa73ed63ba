rule train:
    input:
        model=lambda w: base_model_files(CONFIG, RUNS[w.run].model, f"{w.results}/"),
        spans=spans,
    output:
        model=directory("{results}/train/{run}/model"),
        metrics="{results}/train/{run}/metrics.json",
        steps="{results}/train/{run}/steps.jsonl",
        samples="{results}/train/{run}/samples.parquet",
        segments="{results}/train/{run}/segments.json",
        parameters="{results}/train/{run}/run.yaml",
    log:
        "{results}/logs/train/{run}.log",
    benchmark:
        "{results}/benchmarks/train/{run}.tsv"
    wildcard_constraints:
        results=re.escape(RESULTS),
        run=only(KEPT),
    conda:
        "../../envs/main.yaml"
    threads: 8
    resources:
        **on_gpus("train", CONFIG.launch.processes or 1, CONFIG.launch.nodes),
        mem_mb=8000,
        runtime=1440,
    params:
        python=CONFIG.python.main,
        model=lambda w: model_flags(w, RUNS[w.run].model),
        flags=lambda w: result_flags(
            train_settings(CONFIG, RUNS[w.run]), leave_out=["variants"]
        ),
        # Functions of threads, as speed() in common.smk: neither what changes the speed only, nor
        # the card's licence, nor the launcher trains anything again.
        speed=lambda w, threads: speed_flags(train_settings(CONFIG, RUNS[w.run])),
        licence=lambda w, threads: flags(
            CONFIG.models[RUNS[w.run].model],
            leave_out=Model.model_fields.keys() - {"licence"},
        ),
        launcher=lambda w, threads: LAUNCHER,
        out=subpath(output.metrics, parent=True),
    message:
        "Training {wildcards.run}"
    # On SIGTERM the training saves its state and ends. Until then the shell has to wait for it,
    # tee has to take what it writes, and the launcher must not kill it (it waits 30 s otherwise; as
    # long when one process failed and the others hang, so not for ever). The launcher's time bounds
    # the profile's notice.
    shell:
        "trap : TERM; export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600; "
        "{params.python:q} {params.launcher} -m fgit train {params.model} --spans {input.spans:q} "
        "{params.flags} {params.speed} {params.licence} --threads {threads} --out {params.out:q} 2>&1 "
        "| (trap '' TERM; exec tee {log:q})"


# The runs whose weights do not stay: the same but for temp().
use rule train as train_temporary with:
    output:
        model=temp(directory("{results}/train/{run}/model")),
        metrics="{results}/train/{run}/metrics.json",
        steps="{results}/train/{run}/steps.jsonl",
        samples="{results}/train/{run}/samples.parquet",
        segments="{results}/train/{run}/segments.json",
        parameters="{results}/train/{run}/run.yaml",
    wildcard_constraints:
        results=re.escape(RESULTS),
        run=only(name for name in RUNS if name not in KEPT),


# A pilot's weights are of no use once they are evaluated.
use rule train_temporary as train_pilot with:
    wildcard_constraints:
        results=re.escape(PILOT_RESULTS),
        run=only(RUNS),
