"""Configs: the shipped ones hold, and a mistake is answered with key, value and what is allowed."""

from __future__ import annotations

import copy
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit import config as config_module
from fgit.common.errors import UserError
from fgit.config import (
    BASE,
    PUBLISHED,
    Config,
    DecontaminateSettings,
    Settings,
    TrainSettings,
    every_subclass,
    parse_config,
    read_config,
)
from fgit.runs import to_yaml

REPOSITORY = Path(__file__).parents[3]
SHIPPED = ["config.yaml", "workflow/quickstart/config.yaml"]

SMALL: dict[str, Any] = {
    "name": "small",
    "models": {"m": {"path": "org/m"}},
    "datasets": {"d": {"path": "d.jsonl"}},
    "benchmarks": {
        "b": {"kind": "humaneval", "problems": "b.jsonl"},
        "big": {"kind": "bigcodebench", "problems": "big.jsonl"},
    },
    "decontaminate": {"against": ["b"]},
    "methods": {
        "sft": {"objective": "fixed"},
        "fgit": {},
        "fgit-line": {"extends": "fgit", "granularity": "line"},
    },
    "tables": {
        "t": {
            "caption": "A table",
            "columns": ["b", "b+", "big"],
            "rows": [
                {"model": "m", "method": "base"},
                {"model": "m", "dataset": "d", "method": "fgit"},
            ],
        }
    },
}
TRAIN_KEYS = set(TrainSettings.model_fields) - {"seed"}


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """SMALL with one value set; mappings on the way are made."""
    values = copy.deepcopy(SMALL)
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[path[-1]] = value
    return values


def refusal(values: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(values, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    # Nothing of Pydantic's own words reaches the user.
    assert "Input should" not in message and "validation error" not in message
    assert "pydantic" not in message and "[type=" not in message
    return message.removeprefix("my.yaml: ")


def allowed(message: str) -> set[str]:
    return set(message.partition("; allowed: ")[2].split(", "))


# ------------------------------------------------------------------ what is valid


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_configs_are_valid(name):
    config = read_config(REPOSITORY / name)
    for method in config.methods:
        assert isinstance(config.resolve(method), TrainSettings)
    assert config.name == {"config.yaml": "paper"}.get(name, "quickstart")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_resolved_config_gives_the_same_config(name, tmp_path):
    config = read_config(REPOSITORY / name)
    text = to_yaml(config)
    assert parse_config(yaml.safe_load(text)) == config
    assert to_yaml(parse_config(yaml.safe_load(text))) == text
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


def test_the_paper_has_the_papers_settings():
    config = read_config(REPOSITORY / "config.yaml")
    assert (config.generate.teacher, config.generate.temperature, config.generate.variants) == (
        "Qwen/Qwen2.5-Coder-32B-Instruct",
        0.8,
        3,
    )
    fgit = config.resolve("fgit")
    assert (fgit.learning_rate, fgit.epochs, fgit.alpha, fgit.max_length) == (5e-6, 1, 2.0, 1024)
    assert (fgit.objective, fgit.granularity, fgit.gap) == ("fgit", "hybrid", "clipped")
    assert config.select.prefix == "<encoder-only>"
    assert {f"table_{n}" for n in range(1, 8)} <= set(config.tables)
    assert {"figure_6", "figure_7a", "figure_7b"} <= set(config.tables)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_table_has_a_method_besides_base_and_every_entry_is_used(name):
    config = read_config(REPOSITORY / name)
    rows = [row for table in config.tables.values() for row in table.rows]
    asked = [row for row in rows if row.method != PUBLISHED]
    assert {row.model for row in asked} == set(config.models)
    assert {row.dataset for row in rows} - {None} == set(config.datasets)
    assert {row.method for row in rows} - {BASE, PUBLISHED} == set(config.methods)
    shown = {column.removesuffix("+") for t in config.tables.values() for column in t.columns}
    assert shown | set(config.decontaminate.against) == set(config.benchmarks)


def test_every_field_has_a_sentence():
    for cls in every_subclass(Settings):
        if cls in (Config, config_module.Pythons):  # their values are sections and interpreters
            continue
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__name__}.{name}"
            assert not field.description.endswith("."), f"{cls.__name__}.{name}"


def test_methods_take_over_what_they_extend():
    values = changed(("train",), {"alpha": 3.0, "epochs": 2})
    values["methods"] = {
        "a": {"granularity": "token"},
        "b": {"extends": "a", "epochs": 3},
        "c": {"extends": "b", "granularity": "line"},
        "fgit": {},
    }
    config = parse_config(values)
    got = {name: config.resolve(name) for name in values["methods"]}
    assert [(s.alpha, s.epochs, s.granularity) for s in got.values()] == [
        (3.0, 2, "token"),
        (3.0, 3, "token"),
        (3.0, 3, "line"),
        (3.0, 2, "hybrid"),
    ]


@settings(max_examples=40)
@given(
    alpha=st.floats(1, 100),
    learning_rate=st.floats(1e-9, 1),
    epochs=st.integers(1, 99),
    seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3, unique=True),
    note=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    caption=st.text("a:{}#'\"\\é %&*|>-\n", min_size=1),
)
def test_any_config_comes_back_from_its_yaml(alpha, learning_rate, epochs, seeds, note, caption):
    values = changed(("methods", "fgit"), {"alpha": alpha, "learning_rate": learning_rate})
    values |= {"train": {"epochs": epochs}, "seeds": seeds, "note": note}
    values["tables"]["t"]["caption"] = caption
    config = parse_config(values)
    assert parse_config(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("keep", ["all", "none", [], ["fgit"], ["fgit", "sft"]])
def test_which_weights_stay_comes_back_from_yaml(keep):
    config = parse_config(changed(("keep_models",), keep))
    assert config.keep_models == keep
    assert parse_config(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    "launch",
    [
        {},
        {"processes": 1},
        {"accelerate": "ddp", "processes": 2},
        {"accelerate": "fsdp2", "processes": 1},
        {"accelerate": "my.yaml"},
        {"accelerate": "my.yaml", "processes": 4},
        {"accelerate": "fsdp2", "processes": 8, "nodes": 4},
    ],
)
def test_ways_to_launch(launch):
    config = parse_config(changed(("launch",), launch))
    assert config.launch.model_dump(exclude_none=True) == {"nodes": 1} | launch
    assert config.launch.gpus == launch.get("processes", 1) * launch.get("nodes", 1)


def test_the_papers_trainings_have_the_papers_gpus():
    launch = read_config(REPOSITORY / "config.yaml").launch
    assert (launch.accelerate, launch.processes, launch.nodes) == ("fsdp2", 8, 1)


# ------------------------------------------------------------------ unknown keys

PLACES: dict[tuple[str | int, ...], set[str]] = {
    (): set(Config.model_fields),
    ("python",): {"main", "vllm", "bigcodebench"},
    ("launch",): {"accelerate", "processes", "nodes"},
    ("models", "m"): set(config_module.Model.model_fields),
    ("datasets", "d"): set(config_module.Dataset.model_fields),
    ("benchmarks", "b"): set(config_module.Benchmark.model_fields),
    ("decontaminate",): set(DecontaminateSettings.model_fields) | {"against"},
    ("generate",): set(config_module.GenerateSettings.model_fields),
    ("mutate",): set(config_module.MutateSettings.model_fields),
    ("select",): set(config_module.SelectSettings.model_fields) | {"verified_variants"},
    ("audit",): {"benchmarks", "sheet"},
    ("pilot",): {"samples", "problems"},
    ("plan",): set(config_module.PlanSettings.model_fields),
    ("train",): TRAIN_KEYS,
    ("methods", "fgit"): TRAIN_KEYS | {"extends"},
    ("methods", "fgit-line"): TRAIN_KEYS | {"extends"},
    ("evaluate",): set(config_module.EvaluateSettings.model_fields),
    ("score",): set(config_module.ScoreSettings.model_fields),
    ("tables", "t"): set(config_module.Table.model_fields),
    ("tables", "t", "rows", 1): set(config_module.Row.model_fields),
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)) or "top")
def test_an_unknown_key_is_refused_at_every_level(place):
    message = refusal(changed((*place, "alpah"), 7))
    key = ".".join([*map(str, place), "alpah"]).replace("rows.1.", "rows, entry 2, ")
    assert message.startswith(f"unknown key {key!r} (value 7); allowed: ")
    assert allowed(message) == PLACES[place]


def test_every_section_was_tried():
    sections = {
        name
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    assert sections <= {place[0] for place in PLACES if place}
    named = {n for n, f in Config.model_fields.items() if typing.get_origin(f.annotation) is dict}
    assert named <= {place[0] for place in PLACES if place}


def test_a_benchmark_is_not_called_as_a_column_of_every_table():
    values = changed(("benchmarks", "n"), {"kind": "humaneval", "problems": "p"})
    values["tables"]["t"]["columns"] = ["b", "n"]
    assert refusal(values) == (
        "tables.t.columns: 'n' is a column of every table; give the benchmark another name"
    )


def test_solutions_are_named_for_the_whole_benchmark():
    values = changed(("models", "m", "samples"), {"part": "s.jsonl"})
    values["benchmarks"]["part"] = {"kind": "bigcodebench", "problems": "p", "part_of": "big"}
    assert refusal(values).startswith("models.m.samples: 'part' is scored as a part of 'big'")


def test_no_model_is_asked_what_is_only_kept_out():
    values = changed(("benchmarks", "kept"), {"kind": "texts", "problems": "p"})
    values["decontaminate"]["against"] = ["kept"]
    parse_config(values)
    values["tables"]["t"]["columns"] = ["kept"]
    assert refusal(values).startswith("tables.t.columns: 'kept' is of kind texts, which is only")


def test_several_mistakes_are_all_told():
    values = changed(("generate", "x"), 1)
    values["score"] = {"y": 2}
    del values["name"]
    message = refusal(values)
    assert "name: this key is required" in message
    assert "'generate.x'" in message and "'score.y'" in message
    assert len(message.splitlines()) == 3


# ------------------------------------------------------------------ other mistakes

MISTAKES: dict[tuple[tuple[str | int, ...], str], tuple[Any, str]] = {
    (("decontaminate", "against"), "missing benchmark"): (
        ["c"],
        "decontaminate.against: no benchmark is called 'c'; known: b, big",
    ),
    (("decontaminate", "against"), "nothing"): (
        [],
        "decontaminate.against: must not be empty, not []",
    ),
    (("tables", "t", "rows", 1, "model"), "missing"): (
        "n",
        "tables.t.rows, entry 2: no model is called 'n'; known: m",
    ),
    (("tables", "t", "rows", 1, "method"), "missing"): (
        "fgti",
        "tables.t.rows, entry 2: no method is called 'fgti'; known: sft, fgit, fgit-line",
    ),
    (("tables", "t", "rows", 1, "dataset"), "missing"): (
        "e",
        "tables.t.rows, entry 2: no dataset is called 'e'; known: d",
    ),
    (("tables", "t", "rows", 1, "dataset"), "none"): (
        None,
        "tables.t.rows, entry 2: method 'fgit' needs a dataset",
    ),
    (("tables", "t", "rows", 0, "dataset"), "of base"): (
        "d",
        "tables.t.rows, entry 1: a row of method base has no dataset ('d')",
    ),
    (("tables", "t", "columns"), "missing benchmark"): (
        ["b", "c+"],
        "tables.t.columns: no benchmark is called 'c'; known: b, big",
    ),
    (("tables", "t", "columns"), "plus tests"): (
        ["big+"],
        "tables.t.columns: 'big+': a benchmark of kind bigcodebench has no plus tests",
    ),
    (("benchmarks", "big", "part_of"), "missing"): (
        "bigger",
        "benchmarks.big.part_of: no benchmark is called 'bigger'; known: b, big",
    ),
    (("benchmarks", "big", "part_of"), "of another kind"): (
        "b",
        "benchmarks.big.part_of: 'b' is of kind humaneval, and 'big' of kind bigcodebench; a part "
        "is scored from the outcomes of its own kind",
    ),
    (("benchmarks", "big", "part_of"), "of itself"): (
        "big",
        "benchmarks.big.part_of: 'big' is itself a part, of 'big'; name a benchmark that is no "
        "part of another",
    ),
    (("tables", "t", "columns"), "nothing"): ([], "tables.t.columns: must not be empty, not []"),
    (("models",), "nothing"): (
        {},
        "tables.t.rows, entry 1: no model is called 'm'; known: none",
    ),
    (("tables", "t", "rows"), "the same twice"): (
        [{"model": "m", "method": "base"}, {"model": "m", "method": "base", "label": "again"}],
        "tables.t.rows, entry 2: shows m / base, as entry 1 does; leave one out",
    ),
    (("tables", "t", "rows"), "two of one name"): (
        [
            {"group": "g", "model": "m", "dataset": "d", "method": "fgit", "label": "ours"},
            {"model": "m", "dataset": "d", "method": "sft", "label": "ours"},
        ],
        "tables.t.rows, entry 2: is called 'ours', as entry 1 is, and of the same model; give it a "
        "label of its own",
    ),
    (("tables", "t", "rows", 0, "method"), "quoted from nowhere"): (
        "published",
        "tables.t.rows, entry 1: 'published' is only quoted (method published), but the config "
        "names no file of published numbers (key published)",
    ),
    (("tables", "pilot"), "a target"): (
        {"caption": "c", "columns": ["b"], "rows": [{"model": "m", "method": "base"}]},
        "tables.pilot: `snakemake pilot` is something else; choose another name",
    ),
    (("tables", "t", "figure"), "without x"): (
        {"x": "alpha"},
        "tables.t.figure: no row has an x, so there is no curve",
    ),
    (("tables", "t", "rows", 1, "x"), "without a figure"): (
        2.0,
        "tables.t.rows: a row has an x, but the table has no figure",
    ),
    (("claims",), "missing table"): (
        [{"label": "l", "tables": ["u"], "of": "fgit", "over": "base"}],
        "claims, entry 1, tables: no table is called 'u'; known: t",
    ),
    (("claims",), "missing method"): (
        [{"label": "l", "tables": ["t"], "of": "fgit", "over": "dpo"}],
        "claims, entry 1: no method is called 'dpo'; known: sft, fgit, fgit-line",
    ),
    (("methods", "two"), "the same training"): (
        {"extends": "sft", "alpha": 3.0},  # which sft does not use
        "methods.two: the same training as methods.sft (all that matters to it is the same), which "
        "would be done twice; use one of the names",
    ),
    (("models", "m", "samples"), "missing benchmark"): (
        {"c": "mine.jsonl"},
        "models.m.samples: no benchmark is called 'c'; known: b, big",
    ),
    (("benchmarks", "big2"), "a part of a cut benchmark"): (
        {"kind": "bigcodebench", "problems": "p", "part_of": "big", "limit": 3},
        "benchmarks.big2.part_of: a part needs all of the larger benchmark's outcomes; leave out "
        "part_of, or the limit of 'big2'",
    ),
    (("benchmarks", "kept"), "texts that are cut"): (
        {"kind": "texts", "problems": "p", "limit": 3},
        "benchmarks.kept.limit: 3: the data are kept free of all problems; leave it out",
    ),
    (("datasets", "d", "fields"), "a template with a form"): (
        {"instruction": "{a:>3}"},
        "datasets.d.fields: '{a:>3}': put the names of fields into braces, and nothing else",
    ),
    (("methods", "base"), "reserved"): (
        {},
        "methods.base: base is the untrained model; choose another name",
    ),
    (("methods", "fgit", "alpha"), "below 1"): (
        0.5,
        "methods.fgit.alpha: must be greater than or equal to 1, not 0.5",
    ),
    (("train", "alpha"), "below 1"): (
        0.5,
        "train.alpha: must be greater than or equal to 1, not 0.5",
    ),
    (("train", "seed"), "elsewhere"): (
        3,
        "train.seed: 3 would not be used: each run takes its seed from the key seeds, at the top",
    ),
    (("methods", "fgit", "seed"), "elsewhere"): (
        3,
        "methods.fgit.seed: 3 would not be used: each run takes its seed from the key seeds, "
        "at the top",
    ),
    (("methods", "fgit", "objective"), "choice"): (
        "sft",
        "methods.fgit.objective: must be 'fgit', 'fixed' or 'dpo', not 'sft'",
    ),
    (("methods", "fgit", "epochs"), "type"): (
        "many",
        "methods.fgit.epochs: must be a valid integer, unable to parse string as an integer, "
        "not 'many'",
    ),
    (("methods", "fgit", "extends"), "itself"): (
        "fgit",
        "methods.fgit: extends goes in a circle: fgit -> fgit",
    ),
    (("methods", "fgit", "extends"), "circle"): (
        "fgit-line",
        "methods.fgit: extends goes in a circle: fgit -> fgit-line -> fgit",
    ),
    (("methods", "fgit", "extends"), "missing"): (
        "none",
        "methods.fgit.extends: no method is called 'none'; known: sft, fgit, fgit-line",
    ),
    (("methods", "fgit"), "nothing"): (
        None,
        "methods.fgit: must be a mapping of keys to values, not None",
    ),
    (("methods",), "list"): (
        ["fgit"],
        "methods: must be a mapping of keys to values, not ['fgit']",
    ),
    (("models", "m", "path"), "nothing"): (None, "models.m.path: must be text, not None"),
    (("models", "m"), "no path"): ({}, "models.m.path: this key is required"),
    (("models", "m", "mode"), "choice"): (
        "instruct",
        "models.m.mode: must be 'chat' or 'completion', not 'instruct'",
    ),
    (("models", "m n"), "name"): (
        {"path": "x"},
        "models.m n: a name has letters, digits, '.', '_' and '-' only, and starts with a letter "
        "or digit, not 'm n'",
    ),
    (("name",), "name"): (
        "../up",
        "name: a name has letters, digits, '.', '_' and '-' only, and starts with a letter or "
        "digit, not '../up'",
    ),
    (("benchmarks", "b", "kind"), "choice"): (
        "apps",
        "benchmarks.b.kind: must be 'humaneval', 'mbpp', 'bigcodebench', 'tests', 'pairs' or "
        "'texts', not 'apps'",
    ),
    (("datasets", "d"), "a chat and a field"): (
        {"path": "d", "fields": {"chat": "messages", "response": "answer"}},
        "datasets.d: chat takes the place of response; name one or the other",
    ),
    (("datasets", "d"), "turns of no chat"): (
        {"path": "d", "turns": "every"},
        "datasets.d: turns 'every' is of chats, and there is no field chat; name the chats' column",
    ),
    (("datasets", "d", "fields"), "unknown"): (
        {"prompt": "x"},
        "datasets.d.fields.prompt: must be 'id', 'instruction', 'response', 'language', 'tests', "
        "'chat' or 'system', not 'prompt'",
    ),
    (("launch", "processes"), "no launcher"): (
        8,
        "launch: 8 processes need a launcher: set accelerate to ddp or fsdp2",
    ),
    (("launch",), "nodes without a launcher"): (
        {"nodes": 2},
        "launch: 2 nodes need a launcher: set accelerate to ddp or fsdp2",
    ),
    (("launch",), "no processes"): (
        {"accelerate": "fsdp2"},
        "launch: fsdp2 needs processes, the number of GPUs of a node",
    ),
    (("launch", "processes"), "none"): (
        0,
        "launch.processes: must be greater than or equal to 1, not 0",
    ),
    (("launch",), "text"): ("fsdp2", "launch: must be a mapping of keys to values, not 'fsdp2'"),
    (("keep_models",), "unknown method"): (
        ["fgit", "fgti"],
        "keep_models: no method is called 'fgti'; known: sft, fgit, fgit-line",
    ),
    (("keep_models",), "base"): (
        ["base"],
        "keep_models: no method is called 'base'; known: sft, fgit, fgit-line",
    ),
    (("keep_models",), "one method"): (
        "fgit",
        "keep_models: must be all, none or a list of methods, not 'fgit'",
    ),
    (("keep_models",), "nothing"): (
        None,
        "keep_models: must be all, none or a list of methods, not None",
    ),
    (("keep_models",), "numbers"): (
        [1],
        "keep_models: must be all, none or a list of methods, not [1]",
    ),
    (("seeds",), "number"): (0, "seeds: must be a list, not 0"),
    (("seeds",), "text"): (
        [0, "x"],
        "seeds, entry 2: must be a valid integer, unable to parse string as an integer, not 'x'",
    ),
    (("seeds",), "nothing"): ([], "seeds: must not be empty, not []"),
    (("methods", "fgit", True), "key on"): (
        1,
        "methods.fgit.True: this key is not text; put it in quotes",
    ),
    (("tables", "t", "rows", 0, 1), "key 1"): (
        1,
        "tables.t.rows, entry 1, 1: this key is not text; put it in quotes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{'.'.join(map(str, m[0]))} {m[1]}")
def test_a_mistake_is_answered_with_key_value_and_what_is_allowed(mistake):
    value, message = MISTAKES[mistake]
    assert refusal(changed(mistake[0], value)) == message


def test_a_method_that_breaks_what_it_extends_is_named():
    values = changed(("methods", "bad"), {"extends": "fgit-line", "alpha": 0})
    assert refusal(values).startswith("methods.bad.alpha: must be greater than or equal to 1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 0]}, "each seed once"),
        ({"seeds": [-1]}, "seeds"),
        ({"generate": {"backend": "openai"}}, "generate.url"),
    ],
)
def test_values_that_do_not_fit(changes, message):
    values = yaml.safe_load((REPOSITORY / "workflow/quickstart/config.yaml").read_text())
    with pytest.raises(UserError, match=message):
        parse_config(values | changes)


@pytest.mark.parametrize("kind", ["tests", "pairs"])
def test_kinds_without_plus_tests_are_no_plus_column(kind):
    values = changed(("benchmarks", "b"), {"kind": kind, "problems": "b.jsonl"})
    assert refusal(values) == (
        f"tables.t.columns: 'b+': a benchmark of kind {kind} has no plus tests"
    )


def test_a_part_of_a_benchmark():
    values = changed(("benchmarks", "hard"), SMALL["benchmarks"]["big"] | {"part_of": "big"})
    assert parse_config(values).benchmarks["hard"].part_of == "big"
    values["benchmarks"]["harder"] = SMALL["benchmarks"]["big"] | {"part_of": "hard"}
    assert refusal(values) == (
        "benchmarks.harder.part_of: 'hard' is itself a part, of 'big'; name a benchmark that is no "
        "part of another"
    )


def test_a_column_twice_is_refused():
    values = yaml.safe_load((REPOSITORY / "workflow/quickstart/config.yaml").read_text())
    values["tables"]["quickstart"]["columns"] = ["quickstart", "quickstart"]
    with pytest.raises(UserError, match="each column once"):
        parse_config(values)
