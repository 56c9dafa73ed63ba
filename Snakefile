# FGit: fault-guided fine-tuning, from instruction data to the paper's tables.
#
#   snakemake --profile local all     the quickstart: embedded models, two cores, no network
#   snakemake --profile slurm all     the paper, on GPU nodes
#   snakemake --profile slurm pilot   the same road on little data, before the rest is spent
#   snakemake --profile slurm table_2 what one table of the config needs
#   snakemake -c1 plan                what all of it would cost: jobs, tokens, GPU-hours, disk
#   snakemake -n                      what would run, and why

import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from fgit.config import Model, check_yaml, parse_config
from fgit.benchmarks.kinds import kind_of
from fgit.cluster.partitions import Ask
from fgit.cluster.profiles import check_arguments
from fgit.common.errors import UserError
from fgit.common.files import resolve
from fgit.doctor import before_start
from fgit.published import read_published
from fgit.runs import (
    all_runs,
    check_sources,
    flags,
    is_file,
    keeps_model,
    launcher,
    pilot_of,
    repeated,
    result_flags,
    shard_count,
    sheets_of,
    speed_flags,
    use_hub,
    use_this_checkout,
    to_yaml,
    train_settings,
)
from fgit.steps import (
    asked_problems,
    base_model,
    base_model_files,
    outputs_of,
    own_samples,
    score_files,
    scored_files,
    teacher_environment,
    teacher_files,
    whole_problems,
)

# The version of envs/main.txt: with no other is it tested. Of Snakemake's insides, asks_of() and
# on_gpus() in common.smk and onstart below use some, so that a new major version may break them.
min_version("9.27.1")


# A config that has a name is whole. (--replace-workflow-config would do, but Snakemake does not hand
# it to the jobs of a cluster, and they would merge the two.)
if "name" not in config:

    configfile: "config.yaml"


try:
    use_this_checkout()
    for file in workflow.configfiles:
        check_yaml(file)
    check_arguments(sys.argv[1:], workflow.basedir)
    CONFIG = parse_config(config, "config")
    check_sources(CONFIG)
    LAUNCHER = launcher(CONFIG.launch)
    read_published(CONFIG)  # now, and not when the tables are drawn
except UserError as error:
    raise WorkflowError(str(error))

use_hub(CONFIG)
RUNS = all_runs(CONFIG)
RESULTS = f"results/{CONFIG.name}"
PILOT = pilot_of(CONFIG)
PILOT_RESULTS = f"results/{PILOT.name}"
CONFIGS = {RESULTS: CONFIG, PILOT_RESULTS: PILOT}


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/decontaminate.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/mutate.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/annotate.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


rule all:
    default_target: True
    input:
        everything(RESULTS),


rule pilot:
    input:
        everything(PILOT_RESULTS),


# What is certain to fail later stops the run before the first job. (Jobs of a cluster have no hooks.)
onstart:
    jobs = list(workflow.dag.needrun_jobs())
    wrong = before_start(
        CONFIG,
        asks=asks_of(jobs),
        files={str(file) for job in jobs for file in job.output},
        folders=[Path(results) for results in CONFIGS],
        slurm=workflow.executor_plugin.name == "slurm",
        conda=bool(workflow.deployment_settings.deployment_method),
    )
    if wrong:
        raise WorkflowError(
            "not started; `fgit doctor` looks at all of it:\n"
            + "\n".join(str(finding) for finding in wrong)
        )


# What is there when jobs have failed: the tables, with the rest marked pending or failed.
onerror:
    for results in CONFIGS:
        if Path(results, "config.yaml").exists():
            shell(
                "{CONFIG.python.main:q} -m fgit report --config {results}/config.yaml "
                "--results {results} --ended || true"
            )
