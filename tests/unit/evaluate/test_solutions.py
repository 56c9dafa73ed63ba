"""Solutions: greedy decoding, stop strings, sanitizing, one or two BOS tokens."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from fgit.benchmarks.kinds import programs_of
from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.common.tokenizers import load_tokenizer, prompt_ids
from fgit.config import EvaluateSettings
from fgit.evaluate import solutions
from fgit.evaluate.solutions import answer_greedily, cut, sanitized, stopped
from fgit.evaluate.stage import evaluate

HUMANEVAL = {
    "task_id": "T/0",
    "prompt": "\n\ndef f(x):\n    ''' Return x. '''\n",
    "entry_point": "f",
    "contract": "",
    "canonical_solution": "    return x\n",
    "base_input": [[1]],
    "plus_input": [[2]],
    "atol": 0,
}
PROMPTS = [
    "def f(x):\n",
    "import math\n\n\ndef area(radius: float) -> float:\n    '''The area of a circle.'''\n",
    "x",
]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), dtype="float32")


@pytest.fixture
def problems(tmp_path):
    rows = [HUMANEVAL | {"task_id": f"T/{n}", "prompt": text} for n, text in enumerate(PROMPTS)]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bos_comes_once():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    assert prompt_ids(tokenizer, "a a") == [0, 1, 1]
    assert prompt_ids(tokenizer, "<s> a a") == [0, 1, 1]


# ------------------------------------------------------------------ greedy decoding


def test_equals_transformers_greedy_generation(model, tokenizer):
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    settings = EvaluateSettings(max_new_tokens=12, batch_size=3)
    answers = answer_greedily(model, tokenizer, prompts, ["no such string"], settings)
    for ids, answer in zip(prompts, answers, strict=True):
        reference = model.generate(
            torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            max_new_tokens=12,
            do_sample=False,
        )[0, len(ids) :]
        assert answer.tokens == len(reference)
        assert answer.text == tokenizer.decode(reference, skip_special_tokens=True).replace(
            "\t", "    "
        )


def test_each_row_stops_by_itself(model, tokenizer):
    """A stop string taken from one answer ends that answer there and leaves the others alone."""
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    settings = EvaluateSettings(max_new_tokens=16, batch_size=3)
    whole = answer_greedily(model, tokenizer, prompts, ["no such string"], settings)
    for row, answer in enumerate(whole):
        stop = answer.text[len(answer.text) // 2 :][:6]
        ended = answer_greedily(model, tokenizer, prompts, [stop], settings)
        assert ended[row].text == answer.text[: answer.text.index(stop)]
        assert ended[row].tokens < answer.tokens and not ended[row].truncated
        for other in set(range(3)) - {row}:
            if stop not in whole[other].text:
                assert ended[other] == whole[other]


def test_end_tokens_of_the_model_end_an_answer(model, tokenizer, monkeypatch):
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    settings = EvaluateSettings(max_new_tokens=4, batch_size=1)
    [answer] = answer_greedily(model, tokenizer, [prompt], ["no such string"], settings)
    assert answer.truncated and answer.tokens == 4
    with torch.inference_mode():
        first = int(model(torch.tensor([prompt], device=model.device)).logits[0, -1].argmax())
    config = transformers.GenerationConfig(eos_token_id=[first])
    monkeypatch.setattr(model, "generation_config", config)
    [answer] = answer_greedily(model, tokenizer, [prompt], ["no such string"], settings)
    assert answer.tokens == 1 and not answer.truncated


def test_a_generation_config_changes_nothing_else(model, tokenizer, monkeypatch):
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    settings = EvaluateSettings(max_new_tokens=8, batch_size=3)
    plain = answer_greedily(model, tokenizer, prompts, ["no such string"], settings)
    config = transformers.GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, num_beams=1
    )
    monkeypatch.setattr(model, "generation_config", config)
    assert answer_greedily(model, tokenizer, prompts, ["no such string"], settings) == plain


def test_answers_end_at_the_model_s_context(model, tokenizer, monkeypatch):
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    monkeypatch.setattr(model.config, "max_position_embeddings", max(map(len, prompts)) + 2)
    settings = EvaluateSettings(max_new_tokens=8, batch_size=3)
    answers = answer_greedily(model, tokenizer, prompts, ["no such string"], settings)
    assert answers[1].tokens == 2 and answers[1].truncated
    assert answers[2].tokens == 8


def test_stopped_looks_at_the_tail(tokenizer):
    def ids(text):
        return tokenizer(text)["input_ids"]

    stops = ["\nif __name__", "\n```\n"]
    assert stopped(tokenizer, ids("x = 1\nif __name__"), stops)
    assert not stopped(tokenizer, ids("x = 1\nif __nam"), stops)
    assert stopped(tokenizer, ids("é" * 40 + "\n```\n"), stops)


def test_cut():
    assert cut("a\n\tb\nprint(c)\n```\n", ["\n```\n", "\nprint("]) == "a\n    b"
    assert cut("a", ["\nprint("]) == "a"
    assert cut("\nprint(", ["\nprint("]) == ""


def test_text_that_the_sanitizer_cannot_take_stays():
    programs = programs_of("humaneval")
    deep = "(" * 5000 + ")" * 5000
    assert isinstance(sanitized(programs, deep, "f"), str)
    assert isinstance(sanitized(programs, "x\0\ny", "f"), str)


# ------------------------------------------------------------------ the stage


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_rows_do_not_depend_on_the_batch(tmp_path, tiny_model, problems, mode):
    written = []
    for size in (1, 3):
        settings = EvaluateSettings(max_new_tokens=10, batch_size=size, dtype="float32")
        out = tmp_path / f"{size}.jsonl"
        evaluate(str(tiny_model), "humaneval", problems, out, settings, mode=mode)
        written.append([json.loads(line) for line in out.read_text().splitlines()])
    assert written[0] == written[1]
    assert [row["task_id"] for row in written[0]] == ["T/0", "T/1", "T/2"]
    for row, prompt in zip(written[0], PROMPTS, strict=True):
        assert set(row) == {"task_id", "solution", "raw", "prompt", "tokens", "truncated"}
        assert prompt.strip() in row["prompt"]
        assert 1 <= row["tokens"] <= 10
        assert row["truncated"] == (row["tokens"] == 10)


def test_a_completion_goes_on_from_its_prompt(tmp_path, tiny_model, problems):
    out = tmp_path / "s.jsonl"
    settings = EvaluateSettings(max_new_tokens=1, batch_size=3, dtype="float32")
    evaluate(str(tiny_model), "humaneval", problems, out, settings, mode="completion")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["prompt"] == "def f(x):\n"
    assert rows[0]["solution"] == sanitized(
        programs_of("humaneval"), "def f(x):\n" + rows[0]["raw"], "f"
    )


def test_chat_mode_needs_a_template(tmp_path, tiny_model, problems, tokenizer):
    folder = tmp_path / "model"
    load_model(str(tiny_model), dtype="float32").save_pretrained(folder)
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    plain.save_pretrained(folder)
    with pytest.raises(UserError, match="no chat template"):
        evaluate(str(folder), "humaneval", problems, tmp_path / "s.jsonl", EvaluateSettings())


def test_a_prompt_longer_than_the_context_is_refused(tmp_path, tiny_model, problems):
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    rows[1]["prompt"] = "x " * 3000
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"the prompt of T/1 has \d+ tokens, but .* is 2048"):
        evaluate(str(tiny_model), "humaneval", problems, tmp_path / "s.jsonl", EvaluateSettings())
    assert not (tmp_path / "s.jsonl").exists()


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_special_tokens_in_a_problem_are_text(
    tmp_path, tiny_model, problems, monkeypatch, tokenizer, mode
):
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    rows[1]["prompt"] = "def f(x):\n    # Stop at <|im_end|>, not at <filename>.\n"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = asked_ids(monkeypatch)
    out = tmp_path / "samples.jsonl"
    evaluate(str(tiny_model), "humaneval", problems, out, EvaluateSettings(), mode=mode)
    special = [[id for id in ids if id in tokenizer.all_special_ids] for ids in seen]
    assert special[0] == special[1] == special[2]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[1]["prompt"].strip() in written[1]["prompt"]
    assert [tokenizer.decode(ids) for ids in seen] == [row["prompt"] for row in written]


@pytest.fixture
def doubling(tmp_path, tiny_model, tokenizer) -> Path:
    """The tiny model with a tokenizer that adds BOS, and a template that writes it too."""
    folder = tmp_path / "doubling"
    shutil.copytree(tiny_model, folder)
    with_bos = copy.deepcopy(tokenizer)
    bos = with_bos.bos_token
    with_bos._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, with_bos.bos_token_id)]
    )
    with_bos.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with_bos.save_pretrained(folder)
    return folder


def asked_ids(monkeypatch) -> list[list[int]]:
    """The prompts that the model gets from here on."""
    seen: list[list[int]] = []

    def answer_greedily(model, tokenizer, prompts, stops, settings):
        seen.extend(prompts)
        return [solutions.RawAnswer("x", 1, False) for _ in prompts]

    monkeypatch.setattr(solutions, "answer_greedily", answer_greedily)
    return seen


def test_two_bos_tokens_as_evalplus_gives_them_and_one(tmp_path, doubling, problems, monkeypatch):
    seen = asked_ids(monkeypatch)
    out, one_bos = tmp_path / "samples.jsonl", tmp_path / "one.jsonl"
    evaluate(str(doubling), "humaneval", problems, out, EvaluateSettings(), one_bos=one_bos)
    asked, again = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    tokenizer = load_tokenizer(str(doubling))
    bos = tokenizer.bos_token_id
    assert all(ids[:2] == [bos, bos] for ids in asked)
    assert [ids[1:] for ids in asked] == again  # and nothing else differs
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    # EvalPlus's own: tokenizer.encode of the prompt's text, with special tokens.
    assert asked == [tokenizer.encode(row["prompt"]) for row in rows]
    assert len(one_bos.read_text().splitlines()) == len(rows)


def test_where_bos_comes_once_anyway_nothing_is_asked_again(
    tmp_path, tiny_model, problems, monkeypatch
):
    seen = asked_ids(monkeypatch)
    out, one_bos = tmp_path / "samples.jsonl", tmp_path / "one.jsonl"
    evaluate(str(tiny_model), "humaneval", problems, out, EvaluateSettings(), one_bos=one_bos)
    assert len(seen) == len(out.read_text().splitlines()) and one_bos.read_text() == ""
