"""The plan: its jobs are those of the rules, its sums add up, measurements replace assumptions."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgit import cli
from fgit.common.errors import UserError
from fgit.config import Estimate, PlanSettings, parse_config, read_config
from fgit.plan.costs import Job, Plan, billions_in, count_rows, plan_of
from fgit.plan.measured import measured_settings
from fgit.plan.text import aligned, as_text, as_yaml
from fgit.runs import all_runs, pilot_of, to_yaml
from fgit.scores import write_summary
from fgit.steps import STAGES, steps_of
from tests.conftest import REPOSITORY
from tests.results_folder import score_summary

GPUS = 4
RATE = 1000.0
SMALL = {
    "name": "small",
    "launch": {"accelerate": "ddp", "processes": GPUS},
    "models": {"m": {"path": "org/model-13.4B"}, "other": {"path": "org/other"}},
    "datasets": {"d": {"path": "org/data", "samples": 1000}},
    "benchmarks": {
        "b": {"kind": "humaneval", "problems": "release:v1"},
        "pairs": {"kind": "pairs", "problems": "release:humanevalpack/c"},
        "big": {"kind": "bigcodebench", "problems": "release:v2"},
        "hard": {"kind": "bigcodebench", "problems": "release:v2/hard", "part_of": "big"},
    },
    "decontaminate": {"against": ["b"]},
    "generate": {"teacher": "org/teacher-32B", "tensor_parallel": 2},
    "plan": {
        "parameters": {"other": 1.0},
        "problems": {"b": 100, "pairs": 50, "big": 1000, "hard": 100},
        "sample_tokens": {"value": 500, "note": "n"},
        "training_tokens_per_second": {"value": RATE, "note": "n"},
        "fgit_tokens": {"value": 1.5, "note": "n"},
        "dpo_tokens": {"value": 2, "note": "n"},
        "start_seconds": {"value": 36, "note": "n"},
    },
    "methods": {
        "sft": {"objective": "fixed"},
        "fgit": {"objective": "fgit"},
        "dpo": {"objective": "dpo"},
        "mutation": {"extends": "fgit", "variants": "mutate"},
        "twice": {"objective": "fixed", "epochs": 2},
    },
    "tables": {
        "one": {
            "caption": "One",
            "columns": ["b", "b+", "hard"],
            "rows": [
                {"model": "m", "method": "base"},
                {"model": "m", "dataset": "d", "method": "sft"},
                {"model": "m", "dataset": "d", "method": "fgit"},
            ],
        },
        "two": {
            "caption": "Two",
            "columns": ["b", "pairs"],
            "rows": [
                {"model": "m", "method": "base"},
                {"model": "m", "dataset": "d", "method": "fgit"},
                {"model": "m", "dataset": "d", "method": "dpo"},
                {"model": "m", "dataset": "d", "method": "mutation"},
            ],
        },
    },
}


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def small(**changes):
    values = copy.deepcopy(SMALL)
    for key, value in changes.items():
        values[key] = value
    return parse_config(values)


def job(plan: Plan, stage: str, name: str) -> Job:
    return next(job for job in plan.jobs if (job.stage, job.name) == (stage, name))


def stage(plan: Plan, name: str):
    return next(stage for stage in plan.stages if stage.name == name)


# ------------------------------------------------------------------ the jobs


def test_a_run_that_tables_share_is_counted_once(tmp_path):
    plan = plan_of(small(), tmp_path)
    trained = [job.name for job in plan.jobs if job.stage == "train"]
    assert sorted(trained) == sorted(
        f"m/d/{method}/seed-0" for method in ("sft", "fgit", "dpo", "mutation")
    )
    assert len(plan.jobs) == len({(job.stage, job.name) for job in plan.jobs})


def test_a_table_has_what_it_needs_and_no_more(tmp_path):
    one, both = plan_of(small(), tmp_path, ["one"]), plan_of(small(), tmp_path)
    assert {job.name for job in one.jobs if job.stage == "train"} == {
        "m/d/sft/seed-0",
        "m/d/fgit/seed-0",
    }
    assert not any(job.stage == "mutate" for job in one.jobs)
    assert one.total.gpu_hours < both.total.gpu_hours


def test_a_part_is_asked_and_run_with_the_whole(tmp_path):
    plan = plan_of(small(), tmp_path, ["one"])
    assert job(plan, "evaluate", "m/base, big").items == 2 * 1000
    assert ("evaluate", "m/base, hard") not in {(job.stage, job.name) for job in plan.jobs}
    assert job(plan, "score", "m/base, hard").items == 0
    assert job(plan, "score", "canonical, big").items == 1000


def test_what_a_training_takes(tmp_path):
    plan = plan_of(small(), tmp_path)
    sft, fgit, dpo = (job(plan, "train", f"m/d/{name}/seed-0") for name in ("sft", "fgit", "dpo"))
    assert (sft.items, sft.tokens, fgit.tokens, dpo.tokens) == (1000, 500e3, 750e3, 1000e3)
    # Twice the parameters of the rate's model, half of its rate; and 36 s of start for each GPU.
    assert sft.gpu_hours == pytest.approx((500e3 / (RATE / 2) + 36 * GPUS) / 3600)
    assert sft.hours == pytest.approx(sft.gpu_hours / GPUS)
    # DPO reads everything once more, forward only.
    assert dpo.gpu_hours == pytest.approx((4 / 3 * 1000e3 / (RATE / 2) + 36 * GPUS) / 3600)


def test_epochs_multiply(tmp_path):
    row = {"model": "m", "dataset": "d", "method": "twice"}
    tables = {"t": {"caption": "T", "columns": ["b"], "rows": [row]}}
    assert job(plan_of(small(tables=tables), tmp_path), "train", "m/d/twice/seed-0").items == 2000


@pytest.mark.parametrize(
    ("keep", "kept", "passing"), [("all", 26.8, 482.4), ("none", 0, 536), (["sft"], 26.8, 536)]
)
def test_disk_follows_what_is_kept(tmp_path, keep, kept, passing):
    """13.4 billion parameters: 2 bytes each in a model, 36 in three checkpoints."""
    plan = plan_of(small(keep_models=keep), tmp_path)
    train = stage(plan, "train")
    models = {"all": 4, "none": 0}.get(str(keep), 1)
    assert train.kept == pytest.approx(kept * 1e9 * models)
    assert train.peak - train.kept == pytest.approx(passing * 1e9)


def test_trainings_at_once_have_checkpoints_each(tmp_path):
    config = small()
    twice = config.model_copy(
        update={"plan": config.plan.model_copy(update={"trainings_at_once": 2})}
    )
    peaks = [stage(plan_of(c, tmp_path), "train").peak for c in (config, twice)]
    assert peaks[1] - peaks[0] == pytest.approx(36 * 13.4e9)


def test_the_teacher(tmp_path):
    config = small()
    found = job(plan_of(config, tmp_path), "generate", "d, shard 1 of 1")
    assert found.items == 3 * 1000
    assert found.gpu_hours == pytest.approx(2 * found.hours)
    elsewhere = config.generate.model_copy(update={"backend": "openai", "url": "http://x"})
    plan = plan_of(config.model_copy(update={"generate": elsewhere}), tmp_path)
    found = job(plan, "generate", "d, shard 1 of 1")
    assert (found.items, found.gpu_hours) == (3 * 1000, 0)
    datasets = {"d": {"path": "org/data", "samples": 1000, "variants": "mine.jsonl"}}
    found = job(plan_of(small(datasets=datasets), tmp_path), "generate", "d, shard 1 of 1")
    assert (found.tokens, found.gpu_hours) == (0, 0)


def test_shards_share_the_answers(tmp_path):
    whole = job(plan_of(small(), tmp_path), "generate", "d, shard 1 of 1")
    shards = small().generate.model_copy(update={"shards": 7})
    plan = plan_of(small().model_copy(update={"generate": shards}), tmp_path)
    parts = [one for one in plan.jobs if one.stage == "generate"]
    assert [one.name for one in parts] == [f"d, shard {number} of 7" for number in range(1, 8)]
    assert sum(one.items for one in parts) == whole.items
    assert sum(one.tokens for one in parts) == pytest.approx(whole.tokens)
    assert job(plan, "gather", "d").items == whole.items


def test_solutions_of_ones_own_are_scored_and_not_written(tmp_path):
    models = {"m": SMALL["models"]["m"] | {"samples": {"b": "mine.jsonl"}}}
    plan = plan_of(small(models=models, plan=SMALL["plan"] | {"parameters": {}}), tmp_path, ["one"])
    assert ("evaluate", "m/base, b") not in {(job.stage, job.name) for job in plan.jobs}
    assert job(plan, "score", "m/base, b").items == 100
    assert job(plan, "score", "m/d/sft/seed-0, b").items == 200


def test_without_a_gpu_hours_are_core_hours(tmp_path):
    config = small(plan=SMALL["plan"] | {"device": "cpu", "cores": 2})
    plan = plan_of(config, tmp_path)
    train = job(plan, "train", "m/d/sft/seed-0")
    assert plan.total.gpu_hours == 0 and train.cpu_hours == pytest.approx(2 * train.hours)


def test_what_is_done_is_not_counted(tmp_path):
    before = plan_of(small(), tmp_path)
    for output in (
        "train/m/d/sft/seed-0/metrics.json",
        "train/m/d/sft/seed-0/model/config.json",
        "train/m/d/fgit/seed-0/metrics.json",  # its weights are gone
        "generate/d/variants.parquet",
    ):
        (tmp_path / output).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / output).write_text("{}")
    after = plan_of(small(), tmp_path)
    assert stage(after, "train").done == 1 and stage(after, "train").jobs == 4
    assert stage(after, "generate").done == 1 and stage(after, "generate").tokens == 0
    gone = before.total.gpu_hours - after.total.gpu_hours
    expected = [("train", "m/d/sft/seed-0"), ("generate", "d, shard 1 of 1")]
    assert gone == pytest.approx(sum(job(before, *name).gpu_hours for name in expected))


def test_weights_that_do_not_stay_are_not_trained_again_for_nothing(tmp_path):
    config = small(keep_models="none")
    evaluated = [
        job.name.split(", ")
        for job in plan_of(config, tmp_path).jobs
        if job.stage == "evaluate" and job.name.startswith("m/d/sft/seed-0,")
    ]
    files = [f"evaluate/{run}/{benchmark}/samples.jsonl" for run, benchmark in evaluated]
    for number, output in enumerate(["train/m/d/sft/seed-0/metrics.json", *files]):
        assert number == 0 or not job(plan_of(config, tmp_path), "train", "m/d/sft/seed-0").done
        (tmp_path / output).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / output).write_text("")
    assert job(plan_of(config, tmp_path), "train", "m/d/sft/seed-0").done


def test_a_pilot_is_smaller(tmp_path):
    config = pilot_of(small())
    plan = plan_of(config, tmp_path)
    assert stage(plan, "train").items == 4 * 200
    assert job(plan, "evaluate", "m/base, hard").items == 2 * 20


@pytest.mark.parametrize(("pilot", "tables"), [(False, None), (True, None), (False, ["table_2"])])
def test_the_jobs_are_the_steps(pilot, tables, tmp_path):
    config = read_config(REPOSITORY / "config.yaml")
    config = pilot_of(config) if pilot else config
    jobs = [job for job in plan_of(config, tmp_path, tables, pilot=pilot).jobs if job.count]
    steps = [step for step in steps_of(config, tables, pilot=pilot) if step.rule != "config"]
    assert [(job.stage, job.name) for job in jobs] == [(step.stage, step.name) for step in steps]


def test_a_pilots_weights_do_not_stay(tmp_path):
    config = pilot_of(small())
    assert stage(plan_of(config, tmp_path, pilot=True), "train").kept == 0


# ------------------------------------------------------------------ sums


amounts = st.floats(0, 1e12, allow_subnormal=False)
jobs = st.builds(
    Job,
    stage=st.sampled_from(STAGES),
    name=st.text(max_size=3),
    done=st.booleans(),
    count=st.integers(0, 1),
    items=st.integers(0, 10**9),
    tokens=amounts,
    gpu_hours=amounts,
    cpu_hours=amounts,
    hours=amounts,
    kept=amounts,
    uses=st.lists(st.sampled_from(["sample_tokens", "program_seconds"]), max_size=2).map(tuple),
)


@given(st.lists(jobs, max_size=20))
def test_sums_add_up(made):
    plan = Plan(made, PlanSettings())
    for name in ("jobs", "done", "items", "tokens", "gpu_hours", "cpu_hours", "kept", "peak"):
        whole = getattr(plan.total, name)
        assert sum(getattr(stage, name) for stage in plan.stages) == pytest.approx(whole)
    assert max((stage.longest for stage in plan.stages), default=0) == plan.total.longest
    assert plan.total.jobs == sum(job.count for job in made)


def test_the_papers_sums_add_up_too(tmp_path):
    plan = plan_of(read_config(REPOSITORY / "config.yaml"), tmp_path)
    for name in ("gpu_hours", "cpu_hours", "kept", "peak", "tokens", "jobs"):
        whole = getattr(plan.total, name)
        assert sum(getattr(stage, name) for stage in plan.stages) == pytest.approx(whole)
    assert stage(plan, "train").jobs == 36


def test_no_figure_of_a_gpu_is_called_measured():
    gpu = {"texts_per_second"} | {
        f"{name}_tokens_per_second" for name in ("training", "teacher", "evaluation")
    }
    defaults = PlanSettings()
    assert {getattr(defaults, name).basis for name in gpu} == {"assumed"}
    config = read_config(REPOSITORY / "config.yaml")
    assert {getattr(config.plan, name).basis for name in gpu} == {"assumed"}


# ------------------------------------------------------------------ sizes that are not known


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"datasets": {"d": {"path": "org/data"}}}, "datasets.d.samples"),
        ({"models": {"m": {"path": "org/m"}, "other": {"path": "o"}}}, "plan.parameters.m"),
        ({"plan": {"parameters": {"other": 1}}}, "plan.problems.b"),
    ],
)
def test_an_unknown_size_names_the_key(tmp_path, change, key):
    with pytest.raises(UserError, match=re.escape(f"set {key} to")):
        plan_of(small(**change), tmp_path)


@pytest.mark.parametrize(
    ("path", "billions"),
    [
        ("org/model-7B", 7),
        ("m-a-p/OpenCodeInterpreter-DS-6.7B", 6.7),
        ("codellama/CodeLlama-7b-Instruct-hf", 7),
        ("package:p/SmolLM2-135M-Instruct.Q4_1.gguf", 0.135),
        ("semcoder/semcoder_s_1030", None),
        ("/data-7B/model", None),
    ],
)
def test_parameters_in_a_name(path, billions):
    assert billions_in(path) == (None if billions is None else pytest.approx(billions))


def test_files_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    (tmp_path / "a.json").write_text('[{"x": 1}, {"x": 2}, {"x": 3}]')
    assert count_rows(tmp_path / "a.jsonl") == 2
    assert count_rows(tmp_path / "a.json") == 3
    datasets = {"d": {"path": str(tmp_path / "a.jsonl"), "samples": 99}}
    plan = plan_of(small(datasets=datasets), tmp_path)
    assert job(plan, "train", "m/d/sft/seed-0").items == 2
    with pytest.raises(UserError, match=r"none\.jsonl"):
        plan_of(small(datasets={"d": {"path": str(tmp_path / "none.jsonl")}}), tmp_path)


@pytest.mark.parametrize(
    ("part", "key"), [("parameters", "plan.parameters"), ("problems", "plan.problems")]
)
def test_names_in_the_plan_exist(part, key):
    with pytest.raises(UserError, match=rf"{key}: no \w+ is called 'nobody'"):
        small(plan={part: {"nobody": 1}})


# ------------------------------------------------------------------ measured


@pytest.fixture
def finished(tmp_path) -> Path:
    """A results folder whose figures are known."""
    config, folder = small(), tmp_path / "results" / "small"

    def write(path, text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    def took(job, seconds):
        write(f"benchmarks/{job}.tsv", f"s\th:m:s\tcpu_time\n{seconds}\t0:00:00\t{2 * seconds}\n")

    write("config.yaml", to_yaml(config))
    for method, tokens in {"sft": 400, "fgit": 500, "dpo": 700, "mutation": 500}.items():
        run = f"train/m/d/{method}/seed-0"
        step = {"samples": 10, "seconds": 5.0, "model_tokens_per_second": 10 * tokens / 5}
        first = step | {"seconds": 50.0, "model_tokens_per_second": 10 * tokens / 50}
        write(f"{run}/steps.jsonl", "".join(json.dumps(s) + "\n" for s in (first, step, step)))
        took(run, 60 + 40)
    report = {"teacher": "org/teacher-32B", "backend": "vllm", "tensor_parallel": 2}
    report |= {"tokens": 30000, "answers": 100, "seconds": 20.0}
    write("generate/d/report.json", json.dumps(report))
    for run, count in {"m/base": 10, "m/d/sft/seed-0": 20, "m/d/fgit/seed-0": 30}.items():
        rows = [json.dumps({"task_id": str(i), "tokens": 200}) for i in range(count)]
        write(f"evaluate/{run}/b/samples.jsonl", "\n".join(rows))
        write(f"evaluate/{run}/b/samples_one_bos.jsonl", "\n".join(rows[: count // 2]))
        took(f"evaluate/{run}/b", 30 + count * 1.5 * 200 / 100)
        summary = score_summary("humaneval", count, base=1, seconds=0.75 * count, threads=2)
        write_summary(folder / "score" / run / "b", summary)
    write("decontaminate/d/report.json", json.dumps({"samples": 12000}))
    took("decontaminate/d", 60)
    return folder


def test_measurements_take_the_place_of_assumptions(finished):
    found = measured_settings(small(), finished)
    measured = {
        name: getattr(found, name)
        for name in PlanSettings.model_fields
        if getattr(getattr(found, name), "basis", None) == "measured"
        and getattr(found, name) != getattr(PlanSettings(), name)
    }
    values = {name: estimate.value for name, estimate in measured.items()}
    # Two steps of each training count, the first one compiles; 13.4 billion parameters are two of
    # the rates' models.
    training = 2 * 10 * (400 + 500 + 700 + 500) / (4 * 2 * 5) / GPUS * (13.4 / 6.7)
    assert values == {
        "sample_tokens": 400,
        "fgit_tokens": 1.25,
        "dpo_tokens": 1.75,
        "training_tokens_per_second": pytest.approx(training),
        "start_seconds": 40,
        "teacher_tokens_per_second": 750,
        "answer_tokens": 300,
        "solution_tokens": 200,
        "askings": 1.5,
        "evaluation_tokens_per_second": 200,
        "program_seconds": 1,
        "decontaminate_per_second": 100,
    }
    assert all(str(finished) in estimate.note for estimate in measured.values())


def test_measured_rates_are_those_that_were_planned(finished, tmp_path):
    """A plan of the measured run, from its own figures, has its own times."""
    config = small()
    config = config.model_copy(update={"plan": measured_settings(config, finished)})
    plan = plan_of(config, tmp_path / "elsewhere")
    assert stage(plan, "train").basis == stage(plan, "evaluate").basis == "measured"
    assert plan.total.basis == "partly measured"
    sft = job(plan, "train", "m/d/sft/seed-0")
    assert sft.tokens == 1000 * 400


def test_another_teachers_rate_is_not_taken(finished):
    config = small(generate={"teacher": "org/another-7B"})
    found = measured_settings(config, finished)
    assert found.teacher_tokens_per_second.basis == found.answer_tokens.basis == "assumed"


def test_settings_can_be_pasted(finished):
    found = measured_settings(small(), finished)
    pasted = yaml.safe_load(as_yaml(found))
    assert small(**pasted).plan == found


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="config"):
        measured_settings(small(), tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(small()))
    with pytest.raises(UserError, match="nothing in it could be measured"):
        measured_settings(small(), tmp_path)


# ------------------------------------------------------------------ what is printed


def test_columns_are_aligned():
    lines = aligned([["a", "1"], ["long", "1,000"]], left={0})
    assert lines == ["a         1", "long  1,000"]


def test_the_table_says_what_it_rests_on(tmp_path):
    text = as_text(plan_of(small(), tmp_path))
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.endswith("partly measured")
    train = next(line for line in text.splitlines() if line.startswith("train "))
    assert train.endswith("assumed")
    assert re.search(r"^  sample_tokens +500 +assumed +n$", text, flags=re.M)
    assert "mutate_per_second" not in as_text(plan_of(small(), tmp_path, ["one"]))


def test_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, out = tmp_path / "config.yaml", tmp_path / "plan.json"
    config.write_text(yaml.safe_dump(SMALL))
    assert cli.main(["plan", "--config", str(config), "--table", "one", "--json", str(out)]) == 0
    assert capsys.readouterr().out.startswith("stage")
    written = json.loads(out.read_text())
    plan = plan_of(small(), tmp_path / "results" / "small", ["one"])
    assert written["total"] == dataclasses.asdict(plan.total)
    assert len(written["jobs"]) == len(plan.jobs)
    assert cli.main(["plan", "--config", str(config), "--settings"]) == 0
    assert small(**yaml.safe_load(capsys.readouterr().out)).plan == small().plan
    assert cli.main(["plan", "--config", str(config), "--table", "three"]) == 1
    assert "known: one, two" in capsys.readouterr().err


def test_the_quickstart_is_planned_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = read_config("workflow/quickstart/config.yaml")
    plan = plan_of(config, tmp_path)
    assert plan.total.gpu_hours == 0 and 0 < plan.total.cpu_hours < 2
    assert stage(plan, "train").jobs == sum(
        r.dataset is not None for r in all_runs(config).values()
    )
    assert isinstance(config.plan.sample_tokens, Estimate)
