"""Which runs the tables ask for, and that the command line takes every flag the rules give it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fgit import cli
from fgit.common.errors import UserError
from fgit.config import (
    LAUNCHERS,
    Benchmark,
    BenchmarkKind,
    Config,
    Dataset,
    DecontaminateSettings,
    EvaluateSettings,
    GenerateSettings,
    Launch,
    Model,
    MutateSettings,
    ScoreSettings,
    SelectSettings,
    TrainSettings,
    parse_config,
    read_config,
)
from fgit.flags import read_settings
from fgit.runs import (
    Run,
    all_runs,
    check_sources,
    evaluations,
    flags,
    is_fetched_benchmark,
    is_fetched_model,
    is_file,
    keeps_model,
    launcher,
    result_flags,
    runs_of,
    speed_flags,
    train_settings,
    use_this_checkout,
)

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ["config.yaml", "workflow/quickstart/config.yaml"]


@pytest.fixture(params=SHIPPED)
def config(request) -> Config:
    return read_config(REPOSITORY / request.param)


@pytest.fixture
def small() -> Config:
    fgit = {"model": "m", "dataset": "d", "method": "fgit"}
    return parse_config(
        {
            "name": "small",
            "seeds": [3, 1],
            "models": {"m": {"path": "org/m"}, "n": {"path": "org/n"}},
            "datasets": {"d": {"path": "d.jsonl"}},
            "benchmarks": {
                name: {"kind": "humaneval", "problems": f"{name}.jsonl"} for name in ("b", "c")
            },
            "decontaminate": {"against": ["b"]},
            "train": {"epochs": 2},
            "methods": {"fgit": {}, "token": {"extends": "fgit", "granularity": "token"}},
            "tables": {
                "one": {
                    "caption": "One",
                    "columns": ["b", "b+"],
                    "rows": [{"model": "m", "method": "base"}, fgit],
                },
                "two": {
                    "caption": "Two",
                    "columns": ["b", "c+"],
                    "rows": [fgit, fgit | {"method": "token"}, {"model": "m", "method": "base"}],
                },
            },
        }
    )


# ------------------------------------------------------------------ runs


def test_names_say_what_a_run_is():
    assert Run("m", "d", "fgit", 3).name == "m/d/fgit/seed-3"
    assert Run("m", None, "base", None).name == "m/base"


def test_a_row_has_a_run_for_each_seed_and_a_base_model_one(small):
    base, fgit = small.tables["one"].rows
    assert runs_of(small, base) == [Run("m", None, "base", None)]
    assert runs_of(small, fgit) == [Run("m", "d", "fgit", 3), Run("m", "d", "fgit", 1)]


def test_a_run_that_two_tables_share_is_there_once(small):
    assert list(all_runs(small)) == [
        "m/base",
        "m/d/fgit/seed-3",
        "m/d/fgit/seed-1",
        "m/d/token/seed-3",
        "m/d/token/seed-1",
    ]
    for name, run in all_runs(small).items():
        assert run.name == name


def test_evaluations_are_what_the_tables_show_each_once(small):
    assert evaluations(small, ["one"]) == [
        ("m/base", "b"),
        ("m/d/fgit/seed-3", "b"),
        ("m/d/fgit/seed-1", "b"),
    ]
    both = evaluations(small, ["one", "two"])
    assert len(both) == len(set(both))
    assert set(both) == {(run, benchmark) for run in all_runs(small) for benchmark in "bc"}


def test_the_seed_of_a_run_is_in_its_settings(small):
    runs = all_runs(small)
    settings = train_settings(small, runs["m/d/token/seed-3"])
    assert (settings.seed, settings.granularity, settings.epochs) == (3, "token", 2)
    assert train_settings(small, runs["m/d/fgit/seed-1"]).seed == 1


def test_names_of_runs_are_paths_that_do_not_hold_each_other(config):
    names = [Path(name) for name in all_runs(config)]
    assert len(names) == len(set(names))
    assert not [(a, b) for a in names for b in names if a in b.parents]
    assert all(re.fullmatch(r"[A-Za-z0-9._/-]+", str(name)) for name in names)


def test_the_papers_tables_share_their_runs():
    runs = all_runs(read_config(REPOSITORY / "config.yaml"))
    methods = [run.method for run in runs.values()]
    assert sum(run.dataset is None for run in runs.values()) == 12
    assert len({(r.model, r.dataset, r.method) for r in runs.values()}) == len(runs)
    assert methods.count("mutation") == 1 and methods.count("dpo") == 3


@pytest.mark.parametrize(
    ("keep", "methods"),
    [("all", {"fgit", "token"}), ("none", set()), ([], set()), (["token"], {"token"})],
)
def test_whose_weights_stay(small, keep, methods):
    config = small.model_copy(update={"keep_models": keep})
    kept = {run.method for run in all_runs(config).values() if keeps_model(config, run)}
    assert kept - {"base"} == methods


# ------------------------------------------------------------------ launching


def launched(launch: Launch) -> argparse.Namespace:
    """What accelerate makes of the rule's command line."""
    from accelerate.commands.launch import launch_command_parser

    module, *words = shlex.split(f"{launcher(launch)} -m fgit train --out o")[1:]
    assert module == "accelerate.commands.launch"
    return launch_command_parser().parse_args(words)


def test_one_process_needs_no_launcher():
    assert launcher(Launch()) == ""


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_start_the_training(name):
    arguments = launched(Launch(accelerate=name, processes=3))
    assert arguments.num_processes == 3
    assert (arguments.module, arguments.training_script) == (True, "fgit")
    assert arguments.training_script_args == ["train", "--out", "o"]


def test_a_launcher_on_each_of_several_nodes():
    module, nodes, *flags = shlex.split(launcher(Launch(accelerate="ddp", processes=4, nodes=3)))[
        1:
    ]
    assert (module, nodes) == ("fgit.cluster.nodes", "3")
    assert flags[-2:] == ["--num_processes", "12"]  # of all nodes, as accelerate counts


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_configs_are_accelerates(name):
    """Loading one refuses a key that accelerate does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(launched(Launch(accelerate=name, processes=2)).config_file)
    assert loaded.distributed_type == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}[name]
    assert (loaded.main_process_port, loaded.mixed_precision) == (0, "no")
    options = {f"--{key}" for key in loaded.fsdp_config}
    from accelerate.commands.launch import launch_command_parser

    assert options <= set(launch_command_parser()._option_string_actions)


def test_a_config_of_ones_own_for_accelerate(tmp_path):
    path = tmp_path / "my file.yaml"
    path.touch()
    arguments = launched(Launch(accelerate=str(path)))
    assert (arguments.config_file, arguments.num_processes) == (str(path), None)
    assert launched(Launch(accelerate=str(path), processes=4)).num_processes == 4
    with pytest.raises(UserError, match=r"launch\.accelerate: 'fsdp3' is no file; .*ddp, fsdp2"):
        launcher(Launch(accelerate="fsdp3", processes=2))


# ------------------------------------------------------------------ locations


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("data/a.jsonl", True),
        ("a.json.gz", True),
        ("a.parquet", True),
        ("./folder", True),
        ("/data/folder", True),
        ("org/dataset", False),
        ("package:some/a.jsonl", False),
    ],
)
def test_is_file(path, file):
    assert is_file(path) is file


def test_what_has_to_be_fetched():
    assert is_fetched_model("package:a/b.gguf") and is_fetched_model("b.gguf")
    assert not is_fetched_model("org/model")
    assert is_fetched_benchmark("release:v1") and not is_fetched_benchmark("releases/a.jsonl")


@pytest.mark.parametrize(
    ("kind", "problems", "message"),
    [
        ("pairs", "release:v1", "benchmarks.tiny.problems: pairs release:v1: only release:"),
        ("texts", "release:", "benchmarks.tiny.problems: texts release:: only release:"),
        ("tests", "release:v1", "benchmarks.tiny.problems: 'release:v1': kind tests has no releas"),
        ("humaneval", "package:fgit/no.jsonl", "package:fgit/no.jsonl: the installed package has"),
    ],
)
def test_releases_and_packages_that_there_are_not(small, kind, problems, message):
    benchmark = small.benchmarks["b"].model_copy(update={"kind": kind, "problems": problems})
    with pytest.raises(UserError) as caught:
        check_sources(small.model_copy(update={"benchmarks": {"tiny": benchmark}}))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("file", ["config.yaml", "workflow/quickstart/config.yaml"])
def test_releases_and_packages_that_there_are(file):
    check_sources(read_config(REPOSITORY / file))


def test_the_rules_shells_find_this_interpreter_and_package(monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("PYTHONPATH", "")
    use_this_checkout()
    found = subprocess.run(
        ["python", "-c", "import sys, fgit; print(sys.prefix, fgit.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    import fgit

    assert found.stdout.split() == [sys.prefix, str(Path(fgit.__file__).resolve())]


# ------------------------------------------------------------------ flags


def test_flags_leave_out_what_is_not_set_and_quote_what_needs_it():
    entry = Dataset(path="my data/it's $HOME.jsonl", fields={"id": "x"})
    text = flags(entry, rename={"path": "data"}, leave_out=["fields"])
    assert shlex.split(text) == ["--data", "my data/it's $HOME.jsonl", "--split", "train"]


def test_flags_survive_the_shell(tmp_path):
    nasty = "a'b\"c $(touch made) `touch made` \\ * ; é"
    text = flags(Model(path=nasty), leave_out=["template", "mode", "samples"])
    done = subprocess.run(
        ["bash", "-c", f"printf '%s' {text}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == f"--path{nasty}"
    assert not list(tmp_path.iterdir())


def test_flags_of_yes_and_no():
    words = shlex.split(flags(TrainSettings(weight_gradient=False, gradient_checkpointing=True)))
    assert "--no-weight-gradient" in words and "--gradient-checkpointing" in words


def test_an_empty_value_is_given_as_one():
    words = shlex.split(flags(SelectSettings(prefix="")))
    assert words[words.index("--prefix") + 1] == ""


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
@example("-x")
@example("--out=x")
@example("{dataset}")
@example("two\nlines")
def test_any_text_reaches_the_stage(text):
    words = flags(SelectSettings(prefix=text), leave_out=["revision"])
    _, got = parsed("select", f"--records r --variants v {words} {REPORTED}")
    assert got.prefix == text


STAGES = [
    *(DecontaminateSettings, GenerateSettings, MutateSettings, SelectSettings),
    *(TrainSettings, EvaluateSettings, ScoreSettings),
]
FIELDS = [(cls, name) for cls in STAGES for name in cls.model_fields]


@pytest.mark.parametrize(
    ("cls", "name"), FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name in FIELDS]
)
def test_another_value_is_among_the_flags_that_are_compared_unless_it_is_speed(cls, name):
    before = cls()
    value = getattr(before, name)
    choices = get_args(cls.model_fields[name].annotation)
    if isinstance(value, str) and value in choices:
        other = next(choice for choice in choices if choice != value)
    elif isinstance(value, bool):
        other = not value
    else:
        other = choices[0](7) if value is None else value * 2 + type(value)(1)
    after = before.model_copy(update={name: other})
    changed = [given(before) != given(after) for given in (result_flags, speed_flags)]
    assert changed == ([False, True] if name in cls.speed_fields() else [True, False])
    words = shlex.split(f"{result_flags(before)} {speed_flags(before)}")
    assert sorted(words) == sorted(shlex.split(flags(before)))


def parsed(verb: str, text: str):
    """The settings that the command line reads from a rule's flags; unknown flags end the test."""
    try:
        arguments = cli.make_parser().parse_args([verb, *shlex.split(text)])
    except SystemExit:
        pytest.fail(f"fgit {verb} refuses: {text}")
    return arguments, read_settings(arguments, cli.VERBS[verb])


REPORTED = "--out o.parquet --report r.json"


def test_the_settings_of_each_stage_arrive_as_they_are(config):
    """What a rule passes with flags(...) is what the stage gets, for both shipped configs."""
    _, got = parsed("generate", f"--records r.parquet {flags(config.generate)} {REPORTED}")
    assert got == config.generate
    _, got = parsed("mutate", f"--records r.parquet {flags(config.mutate)} {REPORTED}")
    assert got == config.mutate
    chosen = flags(config.select, leave_out=["verified_variants"])  # the rule gives --verified
    _, got = parsed("select", f"--records r --variants v {chosen} {REPORTED}")
    assert got.model_dump() == config.select.model_dump(exclude={"verified_variants"})
    _, got = parsed("verify", f"--records r --variants v {flags(config.score)} {REPORTED}")
    assert got == config.score
    parsed("annotate", f"--pairs p --threads 2 {REPORTED}")
    _, got = parsed(
        "evaluate",
        f"--model m --mode chat --benchmark mbpp --problems p {flags(config.evaluate)} "
        "--threads 2 --out o.jsonl",
    )
    assert got == config.evaluate
    _, got = parsed(
        "score",
        f"--benchmark mbpp --problems p --samples s {flags(config.score)} --threads 2 --out o",
    )
    assert got == config.score
    parsed("report", "--config c.yaml --results r")


def test_decontamination_gets_its_data_fields_and_benchmarks(config):
    settings = flags(config.decontaminate, leave_out=["against"])
    for dataset in config.datasets.values():
        data = flags(dataset, rename={"path": "data"}, leave_out=["fields", "samples", "variants"])
        fields = "".join(f" --field {ours}={theirs}" for ours, theirs in dataset.fields.items())
        arguments, got = parsed(
            "decontaminate", f"{data}{fields} --benchmark a=1 b=2 {settings} {REPORTED}"
        )
        assert arguments.field == dataset.fields
        assert arguments.benchmark == {"a": "1", "b": "2"}
        assert (arguments.data, arguments.revision) == (dataset.path, dataset.revision)
        assert arguments.split == dataset.split
        assert got.model_dump() == config.decontaminate.model_dump(exclude={"against"})


def test_every_run_trains_with_its_settings(config):
    for run in all_runs(config).values():
        own = ["mode", "samples", *(["licence"] if run.dataset is None else [])]
        model = flags(config.models[run.model], rename={"path": "model"}, leave_out=own)
        if run.dataset is None:
            arguments, _ = parsed("evaluate", f"{model} --benchmark mbpp --problems p --out o")
        else:
            settings = train_settings(config, run)
            result = result_flags(settings, leave_out=["variants"])
            speed = speed_flags(settings)
            arguments, got = parsed(
                "train", f"{model} --spans s {result} {speed} --threads 2 --out o"
            )
            # Which stage's variants are used is in the spans that the rule gives.
            assert got.model_copy(update={"variants": settings.variants}) == settings
        entry = config.models[run.model]
        assert (arguments.model, arguments.revision) == (entry.path, entry.revision)
        assert arguments.template == entry.template


def test_what_is_fetched(config):
    for model in config.models.values():
        others = ["template", "mode", "licence", "samples"]
        text = flags(model, rename={"path": "model"}, leave_out=others)
        arguments, _ = parsed("fetch", f"{text} --out o")
        assert (arguments.model, arguments.revision) == (model.path, model.revision)
    for benchmark in config.benchmarks.values():
        cut = ["sha256", "part_of", "limit"]
        text = flags(benchmark, rename={"kind": "benchmark"}, leave_out=cut)
        arguments, _ = parsed("fetch", f"{text} --out o")
        assert (arguments.benchmark, arguments.problems) == (benchmark.kind, benchmark.problems)
        checked = benchmark.model_copy(update={"sha256": "ab" * 32})
        text = flags(checked, rename={"kind": "benchmark"}, leave_out=["problems", "part_of"])
        for verb, more in [("evaluate", "--model m"), ("score", "--samples s")]:
            arguments, _ = parsed(verb, f"{text} --problems p {more} --out o")
            assert (arguments.benchmark, arguments.sha256) == (benchmark.kind, "ab" * 32)


@pytest.mark.parametrize(
    ("verb", "rest", "settings"),
    [
        (
            "generate",
            f"--records r {REPORTED}",
            GenerateSettings(
                backend="openai", url="http://localhost:1/v1", revision="a b", temperature=1e-7
            ),
        ),
        ("mutate", f"--records r {REPORTED}", MutateSettings(variants=7, seed=2**40)),
        ("select", f"--records r --variants v {REPORTED}", SelectSettings(prefix="", revision="x")),
        (
            "train",
            "--model m --spans s --out o",
            TrainSettings(
                objective="dpo",
                alpha=1.0,
                gap="absolute",
                weight_gradient=False,
                loss_mean="samples",
                learning_rate=1e-9,
                schedule="constant",
                precision="fp32",
                gradient_checkpointing=True,
                save_dtype="float32",
                held_out=9,
                seed=11,
            ),
        ),
    ],
    ids=["generate", "mutate", "select", "train"],
)
def test_settings_that_no_shipped_config_has_arrive_too(verb, rest, settings):
    _, got = parsed(verb, f"{rest} {flags(settings, leave_out=['variants'] * (verb == 'train'))}")
    assert got == settings


def test_the_rules_name_verbs_and_flags_that_there_are():
    """The flags that stand in the rules' shell commands themselves."""
    verbs: set[str] = set()
    for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for block in file.read_text().split("\n    shell:\n")[1:]:
            command = "".join(re.findall(r'^ {8}"(.*)"$', block.split("\nrule ")[0], re.MULTILINE))
            for verb, rest in re.findall(r"-m fgit ([\w-]+(?: [a-z]+)?)(.*?)(?:2>|$)", command):
                verbs.add(verb.split()[0])
                subparser = cli.make_parser()
                for word in verb.split():
                    subparser = subparser._subparsers._group_actions[0].choices[word]
                known = {
                    option for action in subparser._actions for option in action.option_strings
                }
                assert set(re.findall(r"--[\w-]+", rest)) <= known, (file.name, verb)
    stages = {path.stem for path in (REPOSITORY / "workflow/rules").glob("*.smk")} - {"common"}
    assert verbs == stages | {"results", "table"}  # in the file of the report


def test_each_section_of_the_config_is_a_stage():
    stages = set(Config.model_fields) & set(cli.VERBS)
    assert stages == {
        "decontaminate", "generate", "mutate", "select", "train", "evaluate", "score", "plan"
    }  # fmt: skip
    # Decontaminate and select have one more key in the config.
    for stage in stages - {"train", "plan"}:
        assert issubclass(Config.model_fields[stage].annotation, cli.VERBS[stage].settings)


@pytest.mark.parametrize(
    ("verb", "entry", "rename", "leave_out", "more"),
    [
        (
            "decontaminate",
            Dataset,
            {"path": "data"},
            ["fields", "samples", "variants"],
            f"--benchmark a=1 {REPORTED}",
        ),
        ("train", Model, {"path": "model"}, ["mode", "samples"], "--spans s --out o"),
        (
            "evaluate",
            Model,
            {"path": "model"},
            ["licence", "samples"],
            "--benchmark mbpp --problems p --out o",
        ),
        ("fetch", Model, {"path": "model"}, ["template", "mode", "licence", "samples"], "--out o"),
        ("fetch", Benchmark, {"kind": "benchmark"}, ["part_of"], "--out o"),
        ("score", Benchmark, {"kind": "benchmark"}, ["part_of", "limit"], "--samples s --out o"),
    ],
)
def test_no_key_of_an_entry_lacks_its_flag(verb, entry, rename, leave_out, more):
    """Keys that no shipped config sets are not passed there, so all are set here."""
    texts = dict.fromkeys(entry.model_fields, "1") | {
        "mode": "chat",
        "kind": "mbpp",
        "turns": "last",
    }
    numbers = {n: 1 for n, field in entry.model_fields.items() if "int" in str(field.annotation)}
    values = {name: (texts | numbers)[name] for name in entry.model_fields}
    text = flags(entry.model_construct(**values), rename=rename, leave_out=leave_out)
    parsed(verb, f"{text} {more}")


def test_benchmark_kinds_are_the_command_lines():
    for kind in get_args(BenchmarkKind):
        text = flags(Benchmark(kind=kind, problems="p"), rename={"kind": "benchmark"})
        parsed("evaluate", f"--model m {text} --out o")
