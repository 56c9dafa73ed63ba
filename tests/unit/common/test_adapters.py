"""Adapters: refused as models, merged into their base by fetch, exactly and with both recorded."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fgit import cli
from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.common.tokenizers import load_tokenizer
from fgit.fetch import check_model, fetch_model

IDS = torch.arange(20)[None]


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """Save an adapter of the tiny model, with weights that matter; the model that has it."""

    def save(folder=tmp_path / "adapter", rows=None, **changes):
        base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
        if rows:
            base.resize_token_embeddings(rows)
        settings = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
        model = peft.get_peft_model(base, peft.LoraConfig(**settings | changes))
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    weight.normal_(std=0.5)
        model.save_pretrained(folder)
        return model.eval(), folder

    return save


def rewrite(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


KINDS = [
    *({}, {"use_dora": True}, {"use_rslora": True, "r": 4}),
    # Of a model whose two embeddings are one weight.
    *({"target_modules": [name]} for name in ("lm_head", "embed_tokens")),
    *({"modules_to_save": [name]} for name in ("lm_head", "embed_tokens")),
]


@pytest.mark.parametrize("changes", KINDS)
def test_fetch_merges_an_adapter_and_records_both(adapter, tiny_model, tmp_path, changes):
    model, folder = adapter(**changes)
    out = tmp_path / "merged"
    assert cli.main(["fetch", "--model", str(folder), "--out", str(out)]) == 0
    with torch.no_grad():
        expected = model(IDS).logits
        assert torch.allclose(
            load_model(str(out), dtype="float32")(IDS).logits, expected, atol=1e-5
        )
    assert not list(out.glob("adapter*"))
    assert load_tokenizer(str(out)).chat_template == load_tokenizer(str(tiny_model)).chat_template
    record = json.loads((out / "provenance.json").read_text())
    assert record["inputs"]["model"]["path"] == str(folder)
    assert len(record["models"][str(tiny_model)]["sha256"]) == 64


@pytest.mark.parametrize("saved", [None, ["lm_head", "embed_tokens"]])
def test_an_adapter_may_bring_embeddings_of_other_rows(adapter, tiny_model, tmp_path, saved):
    model, folder = adapter(rows=1003, modules_to_save=saved)
    fetch_model(str(folder), tmp_path / "merged")
    with torch.no_grad():
        given = load_model(str(tmp_path / "merged"), dtype="float32")(IDS).logits
        assert given.shape[-1] == 1003
        assert torch.allclose(given, model(IDS).logits, atol=1e-5)


def test_a_config_beside_an_adapter_is_no_whole_model(adapter, tiny_model, tmp_path):
    model, folder = adapter()
    shutil.copy(tiny_model / "config.json", folder)
    with pytest.raises(UserError, match="this is an adapter, no whole model"):
        load_model(str(folder))
    fetch_model(str(folder), tmp_path / "merged")
    with torch.no_grad():
        given = load_model(str(tmp_path / "merged"), dtype="float32")(IDS).logits
        assert torch.allclose(given, model(IDS).logits, atol=1e-5)


def test_a_merge_that_computes_something_else_is_refused(adapter, tmp_path, monkeypatch):
    _, folder = adapter()
    monkeypatch.setattr(peft.PeftModel, "merge_and_unload", lambda self: self.unload(), False)
    with pytest.raises(UserError, match="merged, it gives other logits than applied beside"):
        fetch_model(str(folder), tmp_path / "merged")


def test_an_adapter_is_no_model_and_the_message_says_how_it_becomes_one(adapter):
    _, folder = adapter()
    for look in (load_model, load_tokenizer, check_model):
        with pytest.raises(UserError, match=rf"fgit fetch --model {folder} --out FOLDER, and name"):
            look(str(folder))


def test_an_adapter_beside_a_whole_model_is_not_applied_again(adapter, tiny_model, copy):
    adapter(copy)
    for look in (load_model, check_model, lambda path: fetch_model(path, copy.parent / "out")):
        with pytest.raises(
            UserError, match=r"beside the weights of a whole model.*If they have, re"
        ):
            look(str(copy))
    (copy / "adapter_config.json").unlink()
    (copy / "adapter_model.safetensors").unlink()
    load_model(str(copy))


BROKEN = [
    (lambda f: rewrite(f, lambda w: dict(list(w.items())[1:])), "1 weights are missing or have no"),
    (
        lambda f: rewrite(f, lambda w: {k.replace("q_proj", "x"): w[k] for k in w}),
        "missing or have",
    ),
    (lambda f: rewrite(f, lambda w: {k: v[:, :1].clone() for k, v in w.items()}), "size mismatch"),
    (lambda f: rewrite(f, lambda w: {k: v / 0 for k, v in w.items()}), "NaN or infinite"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 9), "cannot be merged into"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors in this"),
    (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is not readable"),
    (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json is not readable"),
    (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": null}'),
        "names no base_model_name_or_path",
    ),
    (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone"}'),
        r"its base model cannot be used; adapter_config.json .*/gone: no such model folder",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_broken_adapter_is_refused_and_nothing_written(adapter, tmp_path, damage, message):
    _, folder = adapter()
    damage(folder)
    with pytest.raises(UserError, match=message):
        fetch_model(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
