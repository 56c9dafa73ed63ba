"""Discrimination: pairs as a model sees them, their mean probabilities, the score, what ships."""

from __future__ import annotations

import copy
import gzip
import json
import math
import sys
import types

import polars as pl
import pytest
import torch
import transformers

from fgit import cli, fetch
from fgit.benchmarks.problems import continuations, read_problems
from fgit.common.errors import UserError
from fgit.common.files import read_objects
from fgit.common.models import load_model, load_tokenizer
from fgit.common.statistics import paired_bootstrap, wilson
from fgit.config import DecontaminateSettings, EvaluateSettings
from fgit.decontaminate import decontaminate
from fgit.evaluate import discrimination as discriminate
from fgit.masks import pair_masks
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "workflow" / "quickstart"
FP32 = EvaluateSettings(dtype="float32")
HEAD = "def add(a: int, b: int) -> int:\n"
PROMPT = f'\n{HEAD}    """ Return the sum of the two numbers that are given. """\n'
PAIR = {
    "task_id": "T/0",
    "prompt": PROMPT,
    "correct": f"{HEAD}    return a + b\n",
    "incorrect": f"{HEAD}    return a - b\n",
}
PAIRS = [
    PAIR,
    # Code that is only inserted, and only deleted: one side has no marked token of its own.
    PAIR | {"task_id": "T/1", "incorrect": f"{HEAD}    a = b\n    return a + b\n"},
    PAIR | {"task_id": "T/2", "correct": f"{HEAD}    b = int(b)\n    return a + b\n"},
    PAIR | {"task_id": "T/3", "incorrect": f"{HEAD}    return a + b + 1\n    # done\n"},
    {
        "task_id": "T/4",
        "prompt": "Write a program that prints ÄÖ.",
        "correct": "print('ÄÖ')\n",
        "incorrect": "for x in 'ÄÖ':\n    print(x)\n",
    },
]
CHAT = """\
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Please provide a self-contained Python script that solves the following problem in a markdown code block:
```
{problem}
```
<|im_end|>
<|im_start|>assistant
Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:
```python
"""  # noqa: E501  EvalPlus's own lines
HUMANEVALPACK = {
    "task_id": "Python/0",
    "prompt": PROMPT,
    "declaration": HEAD,
    "canonical_solution": "    return a + b\n",
    "buggy_solution": "    return a - b\n",
    "entry_point": "add",
}


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def rows_of(path):
    return [row for _, row in read_objects(path)]


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", PAIRS)


@pytest.fixture
def untemplated(tiny_model, tmp_path):
    """The tiny model with a tokenizer that has no chat template."""
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = None
    folder = tmp_path / "base"
    tokenizer.save_pretrained(folder)
    load_model(str(tiny_model), dtype="float32").save_pretrained(folder)
    return folder


# ------------------------------------------------------------------ reading pairs


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_reads_pairs_in_order(tmp_path, name):
    found = read_problems("pairs", write(tmp_path / name, PAIRS))
    assert list(found) == [pair["task_id"] for pair in PAIRS]
    assert found["T/0"] == PAIR


def test_blank_lines_around_code_do_not_count(tmp_path):
    odd = PAIR | {"correct": f"\n\n{PAIR['correct']}  \n\n", "incorrect": "  x = 1"}
    found = read_problems("pairs", write(tmp_path / "p.jsonl", [odd]))["T/0"]
    assert (found["correct"], found["incorrect"]) == (PAIR["correct"], "  x = 1\n")


def test_a_row_of_humanevalpack(tmp_path):
    found = read_problems("pairs", write(tmp_path / "p.jsonl", [HUMANEVALPACK]))["Python/0"]
    assert found == HUMANEVALPACK | {key: PAIR[key] for key in ("correct", "incorrect")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(
            ({k: v for k, v in PAIR.items() if k != field}, f"row 2: no field '{field}'")
            for field in PAIR
        ),
        *(
            ({k: v for k, v in HUMANEVALPACK.items() if k != field}, f"row 2: no field '{field}'")
            for field in ("task_id", "prompt", "declaration", "canonical_solution")
        ),
        (PAIR | {"correct": 3}, "row 2: 'correct' is not text: 3"),
        (PAIR | {"incorrect": " \n"}, "row 2: 'incorrect' is empty"),
        (PAIR | {"prompt": "\ud800"}, "row 2: 'prompt' holds a lone surrogate"),
        (HUMANEVALPACK | {"buggy_solution": None}, "row 2: 'buggy_solution' is not text"),
        (PAIR | {"task_id": "T/1", "incorrect": PAIR["correct"] + "\n"}, "of 'T/1' are the same"),
        (PAIR | {"task_id": "other"}, r"row 2: task_id 'other' is also in row 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", [PAIR | {"task_id": "other"}, row])
    with pytest.raises(UserError, match=message):
        read_problems("pairs", path)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (PROMPT, ("    return a + b\n", "    return a - b\n")),
        ("Add two numbers.", (PAIR["correct"], PAIR["incorrect"])),
        (HEAD, ("    return a + b\n", "    return a - b\n")),
    ],
)
def test_a_completion_goes_on_where_the_prompt_ends(prompt, expected):
    assert continuations(PAIR | {"prompt": prompt}) == expected


def test_humanevalpack_is_readable(shared_data):
    path = shared_data / "pairs" / "humanevalpack-python.jsonl.gz"
    found = read_problems("pairs", path)
    assert list(found) == [f"Python/{number}" for number in range(164)]
    for row in rows_of(path):
        pair = found[row["task_id"]]
        assert pair["correct"].rstrip() == (row["declaration"] + row["canonical_solution"]).strip()
        correct, incorrect = continuations(pair)
        assert row["canonical_solution"].rstrip() == correct.rstrip()
        assert row["buggy_solution"].rstrip() == incorrect.rstrip()


# ------------------------------------------------------------------ the forward passes


def reference(folder, prompt, sides):
    """p̄ and p̄′ from plain calls of the model on prompt + side, one side at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end == tokenizer.eos_token_id
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = [tokenizer(side, add_special_tokens=False)["input_ids"] + [end] for side in sides]
    marks = [[*found.hybrid.tolist(), 0] for found in pair_masks(tokenizer, *sides)]
    fork = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    for mark in marks:
        if not any(mark):
            mark[fork] = 1
    means = []
    for side, mark in zip(ids, marks, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([start + side])).logits[0]
        p = logits.double().softmax(-1)
        total = sum(m * p[len(start) + i - 1, side[i]].item() for i, m in enumerate(mark))
        means.append(total / sum(mark))
    return means


def test_means_are_those_of_plain_calls_in_chat_mode(tiny_model, pairs, tmp_path):
    out = tmp_path / "samples.jsonl"
    discriminate.discriminate(str(tiny_model), pairs, out, FP32)
    for pair, row in zip(PAIRS, rows_of(out), strict=True):
        assert row["prompt"] == CHAT.format(problem=pair["prompt"].strip())
        sides = [pair[side].strip() + "\n```" for side in ("correct", "incorrect")]
        expected = reference(tiny_model, row["prompt"], sides)
        assert [row["p_correct"], row["p_incorrect"]] == pytest.approx(expected, rel=1e-4)
        assert (row["task_id"], row["not_compared"], row["truncated"]) == (
            pair["task_id"],
            None,
            False,
        )


def test_means_are_those_of_plain_calls_in_completion_mode(untemplated, pairs, tmp_path):
    out = tmp_path / "samples.jsonl"
    discriminate.discriminate(str(untemplated), pairs, out, FP32, mode="completion")
    for pair, row in zip(PAIRS, rows_of(out), strict=True):
        assert row["prompt"] == pair["prompt"].strip() + "\n"
        expected = reference(untemplated, row["prompt"], continuations(pair))
        assert [row["p_correct"], row["p_incorrect"]] == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_pairs_and_bf16_change_rounding_only(tiny_model, pairs, tmp_path):
    reversed_pairs = write(tmp_path / "r.jsonl", PAIRS[::-1])
    found = []
    for path, dtype in [(pairs, "float32"), (reversed_pairs, "float32"), (pairs, "bfloat16")]:
        out = tmp_path / "samples.jsonl"
        discriminate.discriminate(str(tiny_model), path, out, EvaluateSettings(dtype=dtype))
        found.append({row["task_id"]: row["p_correct"] for row in rows_of(out)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=0.05)


def test_chat_mode_needs_a_template(untemplated, pairs, tmp_path):
    with pytest.raises(UserError, match="no chat template"):
        discriminate.discriminate(str(untemplated), pairs, tmp_path / "o.jsonl", FP32)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_model_that_the_engine_cannot_run(tiny_model):
    network = load_model(str(tiny_model), dtype="float32")
    network.config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match=r"softcapping are not supported.*kind pairs out of this"):
        discriminate.mean_probabilities(network, [])


def test_no_longer_than_the_models_context_or_window(tiny_model):
    network = load_model(str(tiny_model), dtype="float32")
    assert discriminate.max_length(network) == 2048
    network.config.sliding_window = 100
    assert discriminate.max_length(network) == 100


def test_pairs_that_cannot_be_compared_are_counted(tiny_model, pairs, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(str(tiny_model))
    by_id = read_problems("pairs", pairs)
    prompt = len(discriminate.tokenize(by_id, tokenizer, "chat", 2048)["T/0"].example.prompt)
    head = len(tokenizer(HEAD + "    return a")["input_ids"])
    for limit, reason in [(prompt, "prompt_too_long"), (prompt + head, "cut")]:
        monkeypatch.setattr(discriminate, "max_length", lambda network, limit=limit: limit)
        samples, out = tmp_path / "samples.jsonl", tmp_path / reason
        discriminate.discriminate(str(tiny_model), pairs, samples, FP32)
        first = rows_of(samples)[0]
        assert (first["not_compared"], first["truncated"]) == (reason, True)
        assert first["p_correct"] is first["p_incorrect"] is None
        discriminate.score_pairs("pairs", pairs, samples, out)
        summary = json.loads((out / "summary.json").read_text())
        assert summary["n"] == len(PAIRS)
        assert summary["not_compared"][reason] >= 1
        assert not pl.read_parquet(out / "outcomes.parquet")["base_pass"][0]
        compared = len(PAIRS) - sum(summary["not_compared"].values())
        assert (summary["gap"] or {"n": 0})["n"] == compared


def test_sides_with_the_same_tokens_are_not_compared():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"</s>": 0, "?": 1, "def": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="?"
    )
    found = discriminate.tokenize({"T/0": PAIR}, tokenizer, "completion", 100)["T/0"]
    assert found.not_compared == "same_tokens"
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        discriminate.tokenize({"T/0": PAIR}, tokenizer, "completion", 100)


# ------------------------------------------------------------------ the score


MEASURED = [(0.9, 0.5), (0.4, 0.4), (0.3, 0.6), (0.2, 0.1), (None, None)]


def measured(values=MEASURED):
    return [
        {
            "task_id": pair["task_id"],
            "p_correct": correct,
            "p_incorrect": incorrect,
            "not_compared": "cut" if correct is None else None,
        }
        for pair, (correct, incorrect) in zip(PAIRS, values, strict=True)
    ]


def test_score(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured()[::-1])
    discriminate.score_pairs("pairs", pairs, samples, tmp_path / "out")
    frame = pl.read_parquet(tmp_path / "out/outcomes.parquet")
    assert frame["task_id"].to_list() == [pair["task_id"] for pair in PAIRS]
    assert frame["base_pass"].to_list() == [True, False, False, True, False]  # a tie is none
    assert frame["base_status"].to_list() == ["pass", "fail", "fail", "pass", "fail"]
    assert frame["plus_pass"].null_count() == frame["plus_status"].null_count() == 5
    assert frame["solution"].to_list() == [pair["correct"] for pair in PAIRS]
    assert frame.select("p_correct", "p_incorrect").rows() == MEASURED
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["n"] == 5
    assert summary["pass@1"] == {"base": 0.4, "plus": None}
    assert summary["interval"] == {"base": list(wilson(2, 5)), "plus": None}
    mean, low, high = paired_bootstrap([0.9, 0.4, 0.3, 0.2], [0.5, 0.4, 0.6, 0.1])
    assert summary["gap"] == {"mean": mean, "interval": [low, high], "n": 4}
    assert math.isclose(mean, 0.05)
    assert summary["not_compared"] == {"cut": 1}
    assert summary["statuses"] == {"base": {"fail": 3, "pass": 2}, "plus": None}


def test_nothing_compared_has_no_gap(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured([(None, None)] * 5))
    discriminate.score_pairs("pairs", pairs, samples, tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["n"], summary["gap"], summary["pass@1"]["base"]) == (5, None, 0.0)


def changed(index, **change):
    return [row | change if i == index else row for i, row in enumerate(measured())]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            changed(1, task_id="T/9"),
            r"row 2: there is no problem 'T/9' \(the benchmark has T/0, T",
        ),
        (changed(1, task_id="T/0"), r"row 2: a second sample of 'T/0' \(the first is in row 1\)"),
        (changed(1, task_id=4), "row 2: 'task_id' is 4, not text"),
        (changed(1, p_correct=1.5), "row 2, T/1: 'p_correct' is 1.5, not a probability"),
        (changed(1, p_correct=math.nan), "row 2, T/1: 'p_correct' is nan, not a probability"),
        (changed(1, p_incorrect=True), "'p_incorrect' is True, not a probability"),
        (changed(1, p_incorrect=None), "'p_incorrect' is None, not a probability"),
        (changed(1, not_compared="lost"), "'not_compared' is 'lost', not one of prompt_too_long"),
        (changed(0, not_compared="cut"), "'p_correct' is 0.9, but 'not_compared' is cut"),
        (
            measured()[:3],
            "2 of 5 problems have no sample: T/3, T/4; evaluate the model on",
        ),
        (
            [{"task_id": "T/0", "solution": "x"}, *measured()[1:]],
            r"row 1, T/0: no 'p_correct' \(it has: task_id",
        ),
    ],
)
def test_bad_samples_are_named(pairs, tmp_path, rows, message):
    samples = write(tmp_path / "samples.jsonl", rows)
    with pytest.raises(UserError, match=message):
        discriminate.score_pairs("pairs", pairs, samples, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_digest_is_checked(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured())
    with pytest.raises(UserError, match="SHA-256"):
        discriminate.score_pairs("pairs", pairs, samples, tmp_path / "out", sha256="0" * 64)


def test_on_the_command_line(tiny_model, pairs, tmp_path):
    """A benchmark like any other: evaluate writes samples, score writes what the report reads."""
    samples, one_bos, out = tmp_path / "s.jsonl", tmp_path / "one.jsonl", tmp_path / "score"
    common = ["--benchmark", "pairs", "--problems", str(pairs)]
    asked = ["--model", str(tiny_model), "--out", str(samples), "--one-bos", str(one_bos)]
    assert cli.main(["evaluate", *common, *asked]) == 0
    assert [row["task_id"] for row in rows_of(samples)] == [pair["task_id"] for pair in PAIRS]
    assert one_bos.read_text() == ""
    assert cli.main(["score", *common, "--samples", str(samples), "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["n"] == len(PAIRS)
    assert (out / "provenance.json").exists()


# ------------------------------------------------------------------ decontamination, fetching


def test_pairs_can_be_kept_out_of_training(pairs, tmp_path):
    data = tmp_path / "data.jsonl"
    long = "    total = first_number + second_number\n    return total * 1\n"
    held_out = write(
        tmp_path / "held_out.jsonl",
        [PAIR, PAIR | {"task_id": "T/1", "correct": HEAD + long}],
    )
    rows = [
        {"id": "description", "instruction": "Return the SUM of the two numbers that are given."},
        {"id": "solution", "instruction": "Add.", "response": f"```python\ndef f():\n{long}```"},
        {"id": "clean", "instruction": "Multiply two numbers."},
    ]
    write(data, [{"response": "ok", **row} for row in rows])
    report = tmp_path / "report.json"
    settings = DecontaminateSettings()
    decontaminate(str(data), {"pairs": held_out}, tmp_path / "o.parquet", report, settings)
    removed = json.loads(report.read_text())["removed"]
    assert {(entry["id"], entry["what"]) for entry in removed if entry["rule"] == "text"} == {
        ("description", "description"),
        ("solution", "solution"),
    }


def test_a_bad_pair_is_named_by_decontamination(tmp_path):
    bad = write(tmp_path / "bad.jsonl", [PAIR, PAIR | {"incorrect": 3}])
    data = write(tmp_path / "data.jsonl", [{"instruction": "x", "response": "y"}])
    with pytest.raises(UserError, match=r"bad\.jsonl, row 2: 'incorrect' is not text"):
        decontaminate(
            str(data), {"pairs": bad}, tmp_path / "o", tmp_path / "r", DecontaminateSettings()
        )


def test_humanevalpack_can_be_kept_out_of_training(shared_data, tmp_path):
    path = shared_data / "pairs" / "humanevalpack-python.jsonl.gz"
    problem = read_problems("pairs", path)["Python/1"]
    data = write(
        tmp_path / "data.jsonl",
        [
            {"instruction": problem["prompt"], "response": "no"},
            {"instruction": "x", "response": "y"},
        ],
    )
    report = tmp_path / "r.json"
    decontaminate(
        str(data), {"pack": path}, tmp_path / "o.parquet", report, DecontaminateSettings()
    )
    assert {entry["task_id"] for entry in json.loads(report.read_text())["removed"]} == {"Python/1"}


def test_humanevalpack_is_fetched_at_a_commit(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return [HUMANEVALPACK]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    out = tmp_path / "o.jsonl"
    fetch.fetch_benchmark("pairs", "release:humanevalpack/c0ffee", out)
    assert asked == [("bigcode/humanevalpack", "python", "test", "c0ffee")]
    assert list(read_problems("pairs", out)) == ["Python/0"]
    for problems in ("release:humanevalpack", "release:other/c0ffee", "release:v1"):
        with pytest.raises(UserError, match="only release:humanevalpack/COMMIT can be fetched"):
            fetch.fetch_benchmark("pairs", problems, out)
    with pytest.raises(UserError, match="kind tests have no releases"):
        fetch.fetch_benchmark("tests", "release:v1", out)


# ------------------------------------------------------------------ the quickstart's pairs


def runs_through(code, problem, expected):
    """Whether our own small program gives what is expected on the problem's inputs."""
    for arguments, value in expected:
        names: dict[str, object] = {}
        try:
            exec(code, names)
            found = names[problem["entry_point"]](*copy.deepcopy(arguments))
        except Exception:
            return False
        if problem["atol"] and isinstance(found, float):
            if abs(found - value) > problem["atol"]:
                return False
        elif found != value:
            return False
    return True


def test_the_quickstarts_pairs_are_correct_and_incorrect():
    problems = read_problems("humaneval", QUICKSTART / "benchmark.jsonl")
    pairs = read_problems("pairs", QUICKSTART / "pairs.jsonl")
    assert len(pairs) == 30
    seen = set()
    for task_id, pair in pairs.items():
        problem = problems[task_id.rpartition("-")[0]]
        seen.add(problem["task_id"])
        assert pair["prompt"] == problem["prompt"]
        assert continuations(pair)[0].rstrip() == problem["canonical_solution"].rstrip()
        names: dict[str, object] = {}
        exec(problem["prompt"] + problem["canonical_solution"], names)
        expected = [
            (arguments, names[problem["entry_point"]](*copy.deepcopy(arguments)))
            for arguments in problem["base_input"] + problem["plus_input"]
        ]
        assert runs_through(pair["correct"], problem, expected), task_id
        assert not runs_through(pair["incorrect"], problem, expected), task_id
        compile(pair["incorrect"], task_id, "exec")
        changed = {*pair["correct"].split("\n")} ^ {*pair["incorrect"].split("\n")}
        assert len(changed) <= 2, task_id  # one line
    assert len(seen) == len(pairs)


def test_the_quickstarts_pairs_are_not_in_its_training_data(tmp_path):
    """What decontamination against the benchmark leaves holds no text of the pairs."""
    report = tmp_path / "report.json"

    def clean(data, name):
        out = tmp_path / f"{name}.parquet"
        path = QUICKSTART / f"{name}.jsonl"
        decontaminate(str(data), {name: path}, out, report, DecontaminateSettings())
        return out, json.loads(report.read_text())["removed_count"]

    out, removed = clean(QUICKSTART / "instructions.jsonl", "benchmark")
    assert removed == 5
    assert clean(out, "pairs")[1] == 0
    assert clean(QUICKSTART / "instructions.jsonl", "pairs")[1] == 3
