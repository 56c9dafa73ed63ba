"""The list of steps is what Snakemake does: held to dry runs of the paper, quickstart and more."""

from __future__ import annotations

import pytest
import yaml

from fgit.cluster.hub import place_on_hub
from fgit.common.files import resolve
from fgit.config import parse_config, read_config
from fgit.runs import is_fetched_benchmark, pilot_of
from fgit.steps import RULES, STAGES, steps_of
from tests.conftest import REPOSITORY
from tests.dag import jobs_of, needed_for

SHIPPED = {"paper": "config.yaml", "quickstart": "workflow/quickstart/config.yaml"}
FILE = "workflow/quickstart/pairs.jsonl"  # any that is there
RUN = {"model": "m", "dataset": "d"}
UNUSUAL = {  # what the other two have nothing of
    "name": "unusual",
    "keep_models": ["sft"],
    "python": {"main": "python", "vllm": "a/vllm", "bigcodebench": "a/bigcodebench"},
    "launch": {"accelerate": "ddp", "processes": 2},
    "models": {
        "m": {"path": "m.gguf", "samples": {"b": FILE, "cut": FILE}},
        "teacher": {"path": "t.gguf"},
        "other": {"path": "org/other", "samples": {"big": FILE}},
        "unused": {"path": "org/unused"},
    },
    "datasets": {
        "d": {"path": "org/d"},
        "given": {"path": "workflow/quickstart/instructions.jsonl", "variants": FILE},
        "unused": {"path": "org/unused"},
    },
    "benchmarks": {
        "b": {"kind": "humaneval", "problems": "workflow/quickstart/benchmark.jsonl"},
        "cut": {"kind": "humaneval", "problems": "release:v1", "limit": 3},
        "against": {"kind": "humaneval", "problems": "release:v2", "limit": 3},
        "big": {"kind": "bigcodebench", "problems": "release:v3"},
        "hard": {"kind": "bigcodebench", "problems": "release:v3/hard", "part_of": "big"},
        "unused": {"kind": "humaneval", "problems": "release:v4"},
    },
    "decontaminate": {"against": ["against"]},
    "generate": {"backend": "vllm", "teacher": "t.gguf", "shards": 2},
    "select": {"embedder": "org/embedder", "verified_variants": True},
    "audit": {"benchmarks": ["cut"], "sheet": 5},
    "methods": {
        "sft": {"objective": "fixed"},
        "fgit": {},
        "mutation": {"extends": "fgit", "variants": "mutate"},
    },
    "tables": {
        "one": {
            "caption": "One",
            "columns": ["b", "b+", "cut", "hard"],
            "rows": [
                {"model": "m", "method": "base"},
                {**RUN, "method": "sft"},
                {**RUN, "method": "mutation"},
                {"model": "other", "dataset": "given", "method": "fgit"},
            ],
        },
        "two": {
            "caption": "Two",
            "columns": ["big"],
            "figure": {"x": "alpha"},
            "rows": [
                {"model": "other", "method": "base"},
                {**RUN, "method": "mutation", "x": 1},
            ],
        },
    },
    "claims": [{"label": "more", "tables": ["one"], "of": "sft", "over": "base"}],
}


class Case:
    """A config, or its pilot, and the jobs that Snakemake has for it."""

    def __init__(self, file, pilot):
        whole = read_config(REPOSITORY / file)
        self.config, self.pilot = (pilot_of(whole) if pilot else whole), pilot
        self.jobs = jobs_of(str(file), f"results/{self.config.name}")

    def steps(self, tables=None):
        return steps_of(self.config, tables, pilot=self.pilot)


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    file = tmp_path_factory.mktemp("unusual") / "config.yaml"
    file.write_text(yaml.safe_dump(UNUSUAL))
    return file


@pytest.fixture(params=["paper", "quickstart", "unusual"])
def file(request):
    return SHIPPED.get(request.param) or request.getfixturevalue(request.param)


@pytest.fixture(params=["all", "pilot"])
def case(request, file):
    return Case(file, request.param == "pilot")


def test_the_steps_are_snakemakes_jobs(case):
    steps = {step.log: step for step in case.steps()}
    assert steps.keys() == case.jobs.keys()
    for log, job in case.jobs.items():
        step = steps[log]
        assert (step.rule, step.wildcards) == (job.rule, job.wildcards)
        assert {str(resolve(file)) for file in step.inputs} == job.inputs, log
        assert set(step.outputs) == job.outputs, log
        assert job.times in (step.times, None), log


def test_a_table_needs_its_own(case):
    for table in case.config.tables:
        jobs = needed_for(case.jobs.values(), [f"tables/{table}.csv"])
        steps = case.steps([table])
        assert {step.log for step in steps} == {job.log for job in jobs}


def test_each_step_is_there_once_and_after_what_it_reads(case):
    steps = case.steps()
    assert len({step.log for step in steps}) == len(steps)
    assert len({(step.stage, step.name) for step in steps}) == len(steps)
    assert {step.stage for step in steps} <= set(STAGES)
    made = {file for step in steps for file in step.outputs}
    before: set[str] = set()
    for step in steps:
        assert made.isdisjoint({*step.inputs} - before) or step.rule == "report"
        before |= {*step.outputs}


def test_environments_are_those_of_the_commands(case):
    pythons = case.config.python.model_dump()
    for step in case.steps():
        used = {pythons[name] for name in step.environments}
        assert used == case.jobs[step.log].words & set(pythons.values()), step.log


def test_what_is_asked_of_the_hub_is_named_in_the_command(case):
    config = case.config
    named = {f"models.{name}": model.path for name, model in config.models.items()}
    named |= {f"datasets.{name}": dataset.path for name, dataset in config.datasets.items()}
    named |= {"generate": config.generate.teacher, "select": config.select.embedder}
    releases = {n: e for n, e in config.benchmarks.items() if is_fetched_benchmark(e.problems)}
    named |= {f"benchmarks.{name}": entry.problems for name, entry in releases.items()}
    on_hub = {key for key in named if place_on_hub(config, key)}
    for step in case.steps():
        words = case.jobs[step.log].words
        assert on_hub & set(step.hub) == {key for key in on_hub if named[key] in words}, step.log


NASTY = (
    '{dataset}> {query} {{x}} {wildcards.dataset} {input} {0} {} { } it\'s "so" `id` $(id) $HOME '
    "\\ \\n !x\ntwo\tlines\r 100 % %s * ? [a] ~ # ; & | > < größer 思 🙂\u2028 " + "x" * 20_000
)


def test_text_arrives_as_the_config_has_it(tmp_path):
    """Not as a pattern of Snakemake's, nor as the shell's: the prefix, a URL, and places."""
    place = 'a b/it\'s "$HOME" ü* (1)'
    values = UNUSUAL | {
        "python": {"main": f"{place}/python"},
        "models": UNUSUAL["models"] | {"other": {"path": "o/o", "template": f"{place}.jinja"}},
        "generate": {"backend": "openai", "teacher": "t", "url": NASTY},
        "select": {"embedder": f"{place}/e", "prefix": f"-{NASTY}"},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True))
    jobs = jobs_of(str(file), "results/unusual").values()
    for job in jobs:
        assert job.rule == "config" or f"{place}/python" in job.words
        if job.rule in ("select", "audit_variants"):
            assert {f"--prefix=-{NASTY}", f"{place}/e"} <= job.words
        if job.rule == "audit_generate":
            assert NASTY in job.words
        if job.rule == "evaluate" and job.wildcards["run"] == "other/base":
            assert f"{place}.jinja" in job.words
        if job.rule == "config":
            (whole,) = (word for word in job.words if word.startswith("name: unusual"))
            assert parse_config(yaml.safe_load(whole)) == read_config(file)
    assert {"select", "audit_variants", "audit_generate", "evaluate"} <= {job.rule for job in jobs}


def test_every_rule_is_tried(unusual):
    cases = [Case(file, pilot) for file in (*SHIPPED.values(), unusual) for pilot in (False, True)]
    assert {step.rule for case in cases for step in case.steps()} == RULES.keys()
    assert {job.rule for case in cases for job in case.jobs.values()} == RULES.keys()
