"""Tokenizers: templates word for word, special tokens, what ends a turn."""

from __future__ import annotations

import importlib.resources
import json
import shutil

import pytest
import transformers

from fgit.common.errors import UserError
from fgit.common.tokenizers import (
    TEACHER_PROMPT,
    load_tokenizer,
    prompt_text,
    require_chat_template,
)

MAGICODER = (
    "<bos>You are an exceptionally intelligent coding assistant that consistently delivers "
    "accurate and reliable responses to user instructions.\n\n"
    "@@ Instruction\n{instruction}\n\n@@ Response\n"
)
SEMCODER = (
    "<bos>You are an exceptionally intelligent coding assistant that consistently delivers "
    "accurate and reliable <Code> according to <NL_Description>\n\n"
    "<NL_Description>\n{instruction}\n\n<Code>\n"
)
INSTRUCTIONS = ["Add two numbers.", "two\nlines\n\nand { braces } {{ x }} {% y %}", " <bos>é ", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fast tokenizer of a few words with <bos> and <eos>, without a template or padding."""
    import tokenizers

    words = {"<unk>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


# ------------------------------------------------------------------ templates


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize(("template", "text"), [("magicoder", MAGICODER), ("semcoder", SEMCODER)])
def test_shipped_templates_are_the_documented_text(folder, template, text, instruction):
    tokenizer = load_tokenizer(str(folder), template=template)
    assert prompt_text(tokenizer, instruction) == text.replace("{instruction}", instruction)


@pytest.mark.parametrize(("template", "text"), [("magicoder", MAGICODER), ("semcoder", SEMCODER)])
def test_a_conversation_goes_on_as_its_prompt_began(folder, template, text):
    tokenizer = load_tokenizer(str(folder), template=template)
    conversation = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], tokenize=False
    )
    assert conversation == text.replace("{instruction}", "Q") + "A<eos>\n"


def test_every_shipped_template_is_tested_here():
    shipped = {item.name for item in (importlib.resources.files("fgit") / "prompts").iterdir()}
    assert shipped == {"magicoder.jinja", "semcoder.jinja", f"{TEACHER_PROMPT}.jinja"}


def test_own_keeps_the_tokenizers_template(tokenizer, tiny_model, folder):
    assert load_tokenizer(str(tiny_model)).chat_template == tokenizer.chat_template
    assert prompt_text(tokenizer, "Hi").endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not load_tokenizer(str(folder)).chat_template


def test_a_template_from_a_file(folder, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}\n")
    tokenizer = load_tokenizer(str(folder), template=str(path))
    assert prompt_text(tokenizer, "Q") == "[Q]"


def test_the_template_is_saved_with_the_tokenizer(folder, tmp_path):
    load_tokenizer(str(folder), template="magicoder").save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    assert prompt_text(saved, "Q") == MAGICODER.replace("{instruction}", "Q")


@pytest.mark.parametrize(
    "template", ["magicoda", "teacher", "./none.jinja", "../templates/magicoder", ""]
)
def test_an_unknown_template(folder, template):
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder), template=template)
    message = str(caught.value)
    assert repr(template) in message and "shipped: own, magicoder, semcoder" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}", "cannot be used"),
        ("{{ raise_exception('system first') }}", "cannot be used: system first"),
        ("{{ messages.__class__.__mro__ }}", "cannot be used: .*unsafe"),
    ],
    ids=["syntax", "refusal", "unsafe"],
)
def test_a_broken_template(folder, tmp_path, text, message):
    (tmp_path / "mine.jinja").write_text(text)
    tokenizer = load_tokenizer(str(folder), template=str(tmp_path / "mine.jinja"))
    with pytest.raises(UserError, match=message):
        prompt_text(tokenizer, "Q")


def test_no_template_is_told_with_the_way_out(folder):
    tokenizer = load_tokenizer(str(folder))
    with pytest.raises(UserError, match=r"no chat template; name one with template \(magicoder"):
        require_chat_template(tokenizer, str(folder))


# ------------------------------------------------------------------ tokenizers


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
