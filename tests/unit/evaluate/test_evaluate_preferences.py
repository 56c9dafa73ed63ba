"""Preferences: pairs as a model sees them, and their mean probabilities."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
import transformers

from fgit import cli
from fgit.benchmarks.pairs import continuations
from fgit.benchmarks.problems import read_problems
from fgit.common.errors import UserError
from fgit.common.files import read_objects, write_jsonl
from fgit.common.models import load_model
from fgit.common.tokenizers import load_tokenizer
from fgit.config import EvaluateSettings
from fgit.evaluate import preferences
from fgit.evaluate.stage import evaluate
from fgit.masks import pair_masks
from fgit.score.preferences import score_pairs
from tests.pairs import HEAD, PAIR, PAIRS

FP32 = EvaluateSettings(dtype="float32")
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


def write(path, rows):
    write_jsonl(path, rows)
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
    evaluate(str(tiny_model), "pairs", pairs, out, FP32)
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
    evaluate(str(untemplated), "pairs", pairs, out, FP32, mode="completion")
    for pair, row in zip(PAIRS, rows_of(out), strict=True):
        assert row["prompt"] == pair["prompt"].strip() + "\n"
        expected = reference(untemplated, row["prompt"], continuations(pair))
        assert [row["p_correct"], row["p_incorrect"]] == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_pairs_and_bf16_change_rounding_only(tiny_model, pairs, tmp_path):
    reversed_pairs = write(tmp_path / "r.jsonl", PAIRS[::-1])
    found = []
    for path, dtype in [(pairs, "float32"), (reversed_pairs, "float32"), (pairs, "bfloat16")]:
        out = tmp_path / "samples.jsonl"
        evaluate(str(tiny_model), "pairs", path, out, EvaluateSettings(dtype=dtype))
        found.append({row["task_id"]: row["p_correct"] for row in rows_of(out)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=0.05)


def test_chat_mode_needs_a_template(untemplated, pairs, tmp_path):
    with pytest.raises(UserError, match="no chat template"):
        evaluate(str(untemplated), "pairs", pairs, tmp_path / "o.jsonl", FP32)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_model_that_the_engine_cannot_run(tiny_model):
    network = load_model(str(tiny_model), dtype="float32")
    network.config.final_logit_softcapping = 30.0
    with pytest.raises(
        UserError, match=r"softcapping, which is not supported.*kind pairs out of this"
    ):
        preferences.mean_probabilities(network, [])


def test_no_longer_than_the_models_context_or_window(tiny_model):
    network = load_model(str(tiny_model), dtype="float32")
    assert preferences.max_length(network) == 2048
    network.config.sliding_window = 100
    assert preferences.max_length(network) == 100


def test_pairs_that_cannot_be_compared_are_counted(tiny_model, pairs, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(str(tiny_model))
    by_id = read_problems("pairs", pairs)
    prompt = len(preferences.tokenize(by_id, tokenizer, "chat", 2048)["T/0"].example.prompt)
    head = len(tokenizer(HEAD + "    return a")["input_ids"])
    for limit, reason in [(prompt, "prompt_too_long"), (prompt + head, "cut")]:
        monkeypatch.setattr(preferences, "max_length", lambda network, limit=limit: limit)
        samples, out = tmp_path / "samples.jsonl", tmp_path / reason
        evaluate(str(tiny_model), "pairs", pairs, samples, FP32)
        first = rows_of(samples)[0]
        assert (first["not_compared"], first["truncated"]) == (reason, True)
        assert first["p_correct"] is first["p_incorrect"] is None
        score_pairs("pairs", pairs, samples, out)
        summary = json.loads((out / "summary.json").read_text())
        assert summary["n"] == len(PAIRS)
        assert summary["not_compared"][reason] >= 1
        assert not pl.read_parquet(out / "outcomes.parquet")["prefers"][0]
        compared = len(PAIRS) - sum(summary["not_compared"].values())
        assert (summary["gap"] or {"n": 0})["n"] == compared


def test_sides_with_the_same_tokens_are_not_compared():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"</s>": 0, "?": 1, "def": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="?"
    )
    found = preferences.tokenize({"T/0": PAIR}, tokenizer, "completion", 100)["T/0"]
    assert found.not_compared == "same_tokens"
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        preferences.tokenize({"T/0": PAIR}, tokenizer, "completion", 100)


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
