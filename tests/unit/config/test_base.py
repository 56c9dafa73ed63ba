"""Which settings change the speed only, and which name something on disk."""

import copy

import pytest

from fgit.common.errors import UserError
from fgit.config import (
    EvaluateSettings,
    GenerateSettings,
    ScoreSettings,
    SelectSettings,
    Settings,
    TrainSettings,
    every_subclass,
    locations,
    parse_config,
)
from tests.unit.config.test_experiment import SMALL

SPEED = {
    GenerateSettings: {
        *("batch_size", "tensor_parallel", "requests_per_minute", "tokens_per_minute"),
        *("max_spend", "price_per_million_input", "price_per_million_output"),
    },
    SelectSettings: {"batch_size"},
    TrainSettings: {
        *("token_budget", "attention", "gradient_checkpointing", "checkpoint_minutes"),
        "min_share",
    },
    EvaluateSettings: {"batch_size"},
    ScoreSettings: {"memory_mb"},
}


def test_what_changes_the_speed_only_is_said_at_the_field():
    """Whoever adds or takes away a mark decides what is asked, trained or scored again."""
    fields = {cls: cls.speed_fields() for cls in every_subclass(Settings)}
    inherited = [cls for cls in fields if any(issubclass(cls, own) for own in SPEED)]
    assert {cls: fields[cls] for cls in SPEED} == SPEED
    assert not [cls for cls in fields if fields[cls] and cls not in inherited]


def test_a_settings_result_depends_on_no_speed():
    fast = {"token_budget": 64, "attention": "sdpa", "gradient_checkpointing": True}
    assert TrainSettings(**fast, checkpoint_minutes=1).effective == TrainSettings().effective


# ------------------------------------------------------------------ what is on disk

PLACES = {
    "published": "file",
    "python.main": "interpreter",
    "python.vllm": "interpreter",
    "python.bigcodebench": "interpreter",
    "launch.accelerate": "launcher",
    "models.m.path": "model",
    "models.m.template": "template",
    "models.m.samples.b": "file",
    "datasets.d.path": "data",
    "datasets.d.variants": "file",
    "benchmarks.b.problems": "file",
    "generate.teacher": "model",
    "select.embedder": "model",
}


def with_path(key, path, config=SMALL):
    """A config in which a key names this path."""
    config = copy.deepcopy(config)
    section = config
    *sections, last = key.split(".")
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = path
    return config


def test_what_names_something_on_disk_is_said_at_the_field():
    config = copy.deepcopy(SMALL)
    for key in PLACES:
        config = with_path(key, "x.csv", config)
    places = {place.key: place.kind for place in locations(parse_config(config))}
    assert places == PLACES | {"benchmarks.big.problems": "file"}


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("path", ["~/a b/x.csv", "~"])
def test_the_home_folder_is_written_out(monkeypatch, key, path):
    monkeypatch.setenv("HOME", "/home/me")
    places = {place.key: place.path for place in locations(parse_config(with_path(key, path)))}
    assert places[key] == path.replace("~", "/home/me")


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/x", "there is no such user; write ./~nobody-of-this-name/x"),
        ("a/{dataset}/x", "a path has no braces"),
        ("a/}x", "a path has no braces"),
        ("a/x\n", "no characters that cannot be seen"),
        ("a\u200bx", "no characters that cannot be seen"),
        ("-x", "looks like a flag; write ./-x"),
        ("", "must not be empty"),
        (" ", "must not be empty"),
        (7, "must be text, not 7; put it in quotes"),
    ],
)
def test_what_is_no_path_for_a_rule(key, path, message):
    with pytest.raises(UserError) as caught:
        parse_config(with_path(key, path))
    assert str(caught.value).startswith(f"config: {key.removesuffix('.b')}") and message in str(
        caught.value
    )


@pytest.mark.parametrize(
    "path", ["a b/it's.csv", "ü/$x", "a*b?[c]", "#x", "a;b&c", "x" * 300, "./~x"]
)
def test_any_other_path_is_kept_as_it_is(path):
    for key in PLACES:
        places = {place.key: place.path for place in locations(parse_config(with_path(key, path)))}
        assert places[key] == path
