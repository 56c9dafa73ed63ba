# The teacher's answers, shard by shard; they are kept in state/, which no rule declares, and none that
# is there is asked for again.
rule generate:
    input:
        records="{results}/decontaminate/{dataset}/records.parquet",
        teacher=lambda w: (
            [] if CONFIG.datasets[w.dataset].variants else teacher_folder(w)
        ),
        given=lambda w: [file for file in [CONFIG.datasets[w.dataset].variants] if file],
    output:
        variants="{results}/generate/{dataset}/shards/{shard}-of-{shards}.parquet",
        report="{results}/generate/{dataset}/shards/{shard}-of-{shards}.json",
    log:
        "{results}/logs/generate/{dataset}/{shard}-of-{shards}.log",
    benchmark:
        "{results}/benchmarks/generate/{dataset}/{shard}-of-{shards}.tsv"
    conda:
        f"../../envs/{TEACHER_ENVIRONMENT}.yaml"
    threads: 8
    resources:
        **on_gpus("generate", CONFIG.generate.gpus),
        mem_mb=6000,
        runtime=1440,
    params:
        python=lambda w, input: teacher_python(bool(input.given)),
        flags=teacher_flags,
        speed=speed(CONFIG.generate),
        given=lambda w, input: (
            f"--given {shlex.quote(str(input.given))}" if input.given else ""
        ),
        shard=lambda w: (
            f"--shard {w.shard} --shards {w.shards}" if "shard" in w.keys() else ""
        ),
    message:
        "The teacher writes similar but incorrect variants of {wildcards.dataset} "
        "({wildcards.shard} of {wildcards.shards})"
    # SIGTERM ends the stage with what it has; the shell has to wait for that, and tee to take it.
    shell:
        "trap : TERM; "
        "{params.python:q} -m fgit generate --records {input.records:q} {params.given} {params.flags} "
        "{params.speed} {params.shard} --out {output.variants:q} --report {output.report:q} 2>&1 "
        "| (trap '' TERM; exec tee {log:q})"
