import json

import pytest
import yaml

from fgit.common.tokenizers import chat_ids
from fgit.config import TrainSettings
from fgit.train.model_card import (
    base_name,
    held_out_table,
    licence_of,
    method_of,
    read_front_matter,
    source_of,
    usage,
    with_scores,
)
from tests.made_tokenizers import CHATML, made_tokenizer

PROVENANCE = {
    "stage": "x",
    "inputs": {},
    "outputs": {},
    "code": {},
    "packages": {},
    "hardware": {},
    "started": "",
    "seconds": 1,
}


def test_front_matter_is_read_as_it_was_written():
    values = {"license": "mit", "tags": ["code", "é: x"]}
    front = yaml.safe_dump(values, allow_unicode=True)
    assert read_front_matter(f"---\n{front}---\n# Title\n---\n") == values
    for text in ("", "# Title\n", "---\n[unclosed\n---\n", "---\njust text\n---\n"):
        assert read_front_matter(text) == {}


def test_licence(tmp_path):
    assert licence_of("apache-2.0", "x/y") == {"license": "apache-2.0"}
    assert licence_of("deepseek", "x/y") == {"license": "other", "license_name": "deepseek"}
    assert licence_of(None, "x/y") == {}
    said = {"license": "other", "license_name": "l", "license_link": "LICENSE"}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(said | {'tags': ['a']})}---\n")
    assert licence_of(None, str(tmp_path)) == said
    assert licence_of("mit", str(tmp_path)) == {"license": "mit"}


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({}, "fault-guided"),
        ({"alpha": 1.0}, "sft"),
        ({"objective": "fixed"}, "sft"),
        ({"objective": "fixed", "weight": 2.0}, "fixed-weight"),
        ({"objective": "dpo"}, "dpo"),
    ],
)
def test_methods_are_told_apart(changes, tag):
    assert method_of(TrainSettings(**changes))[0] == tag


def test_base_is_named_by_what_it_was_fetched_from(tmp_path):
    folder = tmp_path / "smollm2"
    folder.mkdir()
    assert base_name(str(folder)) == "smollm2"
    command = ["fgit", "fetch", "--model", "package:p/x.gguf", "--out", "o"]
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE | {"command": command}))
    assert base_name(str(folder)) == "package:p/x.gguf"
    assert base_name("org/model") == "org/model"


def test_the_dataset_is_found_along_the_provenance(tmp_path):
    steps = {"spans": ("pairs", "pairs"), "pairs": ("records", "records"), "records": ("data", "")}
    for file, (name, before) in steps.items():
        path = str(tmp_path / before) if before else "org/data"
        record = PROVENANCE | {"inputs": {name: {"path": path}}}
        (tmp_path / f"{file}.provenance.json").write_text(json.dumps(record))
    assert source_of(tmp_path / "spans") == "org/data"
    assert source_of(tmp_path / "elsewhere") is None
    record = PROVENANCE | {"inputs": {"data": {"path": "data.jsonl"}}}
    (tmp_path / "records.provenance.json").write_text(json.dumps(record))
    assert source_of(tmp_path / "spans") is None


def test_held_out_figures():
    figures = {"nll": 0.5, "p_response": 0.25, "p_variant": None, "prefers_response": None}
    lines = held_out_table(figures, figures | {"nll": 0.25}, 3).splitlines()
    assert lines[2] == "| loss (−log P per response token) | 0.5000 | 0.2500 |"
    assert len(lines) == 4
    assert held_out_table({}, {}, 0) == "None were kept out of training."
    assert held_out_table({}, {}, 3).startswith("3 were kept out of training, but their prompts")


def test_scores_take_the_place_of_those_before():
    card = "# Model\n\n### Scores\n\n## Scores\n\nnone\n\n## Provenance\n\nx\n"
    first = with_scores(card, "70.1\n")
    assert first == "# Model\n\n### Scores\n\n## Scores\n\n70.1\n\n## Provenance\n\nx\n"
    assert with_scores(with_scores(card, "1"), "70.1") == first
    assert with_scores("# Model\n", "70.1") == "# Model\n\n## Scores\n\n70.1\n"


@pytest.mark.parametrize("post", [None, "<s> $A", "$A </s>", "<s> $A </s>"])
@pytest.mark.parametrize("start", ["", "{{ bos_token }}"])
def test_the_code_of_the_card_asks_as_training_did(post, start):
    tokenizer = made_tokenizer(post=post, template=start + CHATML)
    lines = usage(tokenizer).splitlines()
    code = [line for line in lines if line.startswith(("messages", "text", "prompt"))]
    names = {"tokenizer": tokenizer}
    exec("\n".join(code), names)
    wanted = chat_ids(tokenizer, "Write a function that adds two numbers.")
    assert names["prompt"]["input_ids"].tolist() == [wanted]
