"""Tokenizers: templates word for word, special tokens, what ends a turn."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers

from fgit.common.errors import UserError
from fgit.common.tokenizers import load_tokenizer

# ------------------------------------------------------------------ loading


def test_padding_is_there(folder, tokenizer):
    assert load_tokenizer(str(folder)).pad_token == "<eos>"
    assert tokenizer.pad_token_id is not None and tokenizer.is_fast


def test_a_slow_tokenizer_is_refused(folder, monkeypatch):
    slow = transformers.AutoTokenizer.from_pretrained(folder)
    monkeypatch.setattr(type(slow), "is_fast", False)
    with pytest.raises(UserError, match="needs a fast tokenizer"):
        load_tokenizer(str(folder))


def test_no_token_to_pad_with(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    (tmp_path / "t" / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="neither pad_token nor eos_token"):
        load_tokenizer(str(tmp_path / "t"))


def test_a_folder_without_a_tokenizer(copy):
    for file in copy.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"model: no tokenizer in this folder \(tokenizer\.json\)"):
        load_tokenizer(str(copy))


@pytest.mark.parametrize("content", ['{"a":', '{"a": 1}', "", "[]"])
def test_a_broken_tokenizer(copy, content):
    (copy / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"model: no usable tokenizer: .*give a folder"):
        load_tokenizer(str(copy))
