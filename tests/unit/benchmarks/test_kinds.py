"""The kinds of benchmarks: each a record, what it asks as its own package asks, and a new one."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from pathlib import Path

import bigcodebench
import evalplus
import polars as pl
import pytest

from fgit import config
from fgit.benchmarks.humaneval import INSTRUCTION_PREFIX, RESPONSE_PREFIX
from fgit.benchmarks.kind import Kind, require_texts, text_fields
from fgit.benchmarks.kinds import KINDS, kind_of, programs_of
from fgit.benchmarks.problems import read_problems
from fgit.benchmarks.releases import HubDataset
from fgit.common.errors import UserError
from fgit.common.files import write_jsonl
from fgit.decontaminate.texts import read_benchmark
from fgit.evaluate.stage import evaluate
from fgit.fetch import problems_of_release
from fgit.score.stage import score

HUMANEVAL = {"prompt": "\n\ndef f(x):\n    ''' Return x. '''\n", "entry_point": "f"}
BIGCODEBENCH = {"complete_prompt": "import math\ndef task_func(x):\n", "entry_point": "task_func"}
CHAT = """\
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Please provide a self-contained Python script that solves the following problem in a markdown code block:
```
def f(x):
    ''' Return x. '''
```
<|im_end|>
<|im_start|>assistant
Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:
```python
"""  # noqa: E501  the benchmark's own lines


def test_the_registry_and_the_config_name_the_same_kinds():
    names = typing.get_args(config.BenchmarkKind)
    assert set(KINDS) == set(names) and len(KINDS) == len(names)
    for facts in (config.WITH_PLUS, config.AUDITED, config.KEPT_OUT):
        assert set(facts) <= set(names)
    for kind in KINDS.values():
        assert hasattr(config.Pythons(), kind.environment)
        if kind.plus or kind.ground_truth or kind.name in config.AUDITED:
            assert kind.programs is not None, kind.name
    assert {kind.metric.format(tests="base") for kind in KINDS.values()} == {
        "pass@1 base",
        "preference",
    }


def test_what_a_kind_has_not_is_refused(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [CONTEST])
    with pytest.raises(UserError, match="kind texts are only kept out of the data, never asked"):
        read_problems("texts", tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="kind pairs has no programs"):
        programs_of("pairs")
    with pytest.raises(UserError, match="no kind of benchmark is called 'apps'; known: pairs, big"):
        kind_of("apps")


# ------------------------------------------------------------------ what is asked


def test_chat_prompt_is_evalplus_s(tokenizer):
    assert programs_of("humaneval").prompt(HUMANEVAL, tokenizer, "chat") == CHAT


def test_completion_prompt_is_evalplus_s(tokenizer):
    expected = "def f(x):\n    ''' Return x. '''\n"
    assert programs_of("humaneval").prompt(HUMANEVAL, tokenizer, "completion") == expected


def test_bigcodebench_prompts(tokenizer):
    chat = programs_of("bigcodebench").prompt(BIGCODEBENCH, tokenizer, "chat")
    assert "block:\n```\nimport math\ndef task_func(x):\n```\n" in chat
    assert chat.endswith("corresponding tests:\n```python\n")
    completion = programs_of("bigcodebench").prompt(BIGCODEBENCH, tokenizer, "completion")
    assert completion == BIGCODEBENCH["complete_prompt"]


def test_the_prefixes_are_those_of_the_installed_benchmarks():
    for module, name in [(evalplus, "codegen.py"), (bigcodebench, "generate.py")]:
        source = (Path(inspect.getfile(module)).parent / name).read_text()
        assert f'"{INSTRUCTION_PREFIX}"' in source
        assert f'"{RESPONSE_PREFIX}"' in source


def test_stop_strings():
    chat, completion = (
        programs_of("humaneval").stops("chat"),
        programs_of("humaneval").stops("completion"),
    )
    assert "\n```\n" in chat and "\nif __name__" in chat and "\ndef " not in chat
    assert "\ndef " in completion and "\n```\n" not in completion
    assert '\n"""' in programs_of("mbpp").stops("completion")
    assert "\n```\n" not in programs_of("bigcodebench").stops("chat")
    assert "\nclass " in programs_of("bigcodebench").stops("completion")


def test_sanitizers():
    text = (
        "import os\n\ndef f(x):\n    return g(x)\n\n"
        "def g(x):\n    return x\n\ndef h():\n    return 1\n"
    )
    sanitize = programs_of("humaneval").sanitize
    code = sanitize("Here it is:\n" + text + "\nThat is all of it.", "f")
    assert code == "import os\ndef f(x):\n    return g(x)\ndef g(x):\n    return x"
    assert sanitize("", "f") == ""
    assert "def task_func" in programs_of("bigcodebench").sanitize(
        "def task_func(x):\n    pass\n", "task_func"
    )


# ------------------------------------------------------------------ a new kind

FIELDS = ("task_id", "question", "stub", "entry_point", "canonical_solution", "test")
CONTEST = {
    "task_id": "Contest/0",
    "question": "A number is given, which may be negative; return twice that number.",
    "stub": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return 2 * x\n",
    "test": "assert f(2) == 4\nassert f(-1) == -2\n",
}


def check_contest(where, row):
    require_texts("contest", where, row, FIELDS)
    return dict(row)


def protect_contest(path, number, row):
    problem = text_fields(path, number, row, FIELDS)
    if isinstance(problem, dict):
        problem |= {"text": problem["question"], "code": problem["canonical_solution"]}
    return problem


@pytest.fixture
def contest(monkeypatch) -> Kind:
    """A kind that no other module knows, registered."""
    programs = dataclasses.replace(
        programs_of("tests"),
        prompt=lambda problem, tokenizer, mode: f"# {problem['question']}\n{problem['stub']}",
        head="stub",
        max_new_tokens=3,
    )
    kind = Kind(
        typing.cast(typing.Any, "contest"),
        check_contest,
        protect_contest,
        lambda version: HubDataset("somebody/contest", None, version, "test"),
        programs,
    )
    others = dict(KINDS)
    KINDS.clear()
    monkeypatch.setitem(KINDS, "contest", kind)
    KINDS.update(others)  # behind it, since its fields are more
    return kind


def test_a_new_kind_is_its_record_alone(contest, tmp_path, tiny_model, monkeypatch):
    problems, samples, out = tmp_path / "p.jsonl", tmp_path / "s.jsonl", tmp_path / "score"
    write_jsonl(problems, [CONTEST, CONTEST | {"task_id": "Contest/1"}])
    [text] = [
        text
        for text in read_benchmark("contest", problems, 40).texts
        if text.task_id == "Contest/0"
    ]
    assert (text.what, text.text) == ("description", CONTEST["question"])

    settings = config.EvaluateSettings(dtype="float32", max_new_tokens=99)
    used = evaluate(str(tiny_model), "contest", problems, samples, settings, mode="completion")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert used.max_new_tokens == 3 and all(1 <= row["tokens"] <= 3 for row in rows)
    assert rows[0]["prompt"] == f"# {CONTEST['question']}\ndef f(x):\n"

    write_jsonl(
        samples,
        [
            {"task_id": "Contest/0", "completion": "    return x + x\n"},
            {"task_id": "Contest/1", "completion": "    return x\n"},
        ],
    )
    score("contest", problems, samples, out, config.ScoreSettings(min_time_limit=1.0), threads=1)
    frame = pl.read_parquet(out / "outcomes.parquet")
    assert frame.select("base_pass", "plus_pass").rows() == [(True, None), (False, None)]

    asked = []
    monkeypatch.setattr(
        "fgit.cluster.hub.load_dataset",
        lambda *place, **more: asked.append((*place, more)) or [CONTEST],
    )
    assert problems_of_release("contest", "c0ffee") == [CONTEST]
    assert asked == [("somebody/contest", None, {"revision": "c0ffee", "split": "test"})]
