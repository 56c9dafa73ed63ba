"""Checkpoints that are not whole are refused by name, for models of many kinds; whole ones load."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.common.weights import UNUSED_BY_EMBEDDERS, check_headers, load_checked

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": False}),
    "llama, tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 8}),
    "gemma3": (transformers.Gemma3TextConfig, {"head_dim": 8}),
    "phi3": (transformers.Phi3Config, {}),
    "starcoder2": (transformers.Starcoder2Config, {}),
    "gpt2": (transformers.GPT2Config, {}),
    "gpt_neox": (transformers.GPTNeoXConfig, {}),
    "opt": (transformers.OPTConfig, {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "gpt_bigcode": (transformers.GPTBigCodeConfig, {}),
    "bloom": (transformers.BloomConfig, {}),
    "falcon": (transformers.FalconConfig, {}),
    "mamba": (transformers.MambaConfig, {}),
    "mixtral": (transformers.MixtralConfig, {"num_local_experts": 4}),
    "deepseek_v3": (
        transformers.DeepseekV3Config,
        {"n_routed_experts": 4, "moe_intermediate_size": 8, "q_lora_rank": 8, "kv_lora_rank": 8}
        | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1}
        | {"topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    ),
}


def make(folder, kind="llama", **changes):
    """Save a model of a kind, made at random; its weights by the names that they have on disk."""
    config, own = KINDS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**SIZES | own | changes))
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def write(folder, weights):
    contiguous = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()
    }
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def verdict(look):
    try:
        look()
    except UserError as error:
        return str(error)
    return "whole"


def second(key):
    return key.replace(".1.", ".2.", 1)


def of_layer(key):
    return re.search(r"\.1\.", key) and "experts.1." not in key.replace("layers.1.", "")


def without(weights, gone):
    return {key: value for key, value in weights.items() if not gone(key)}


def first_matrix(weights):
    return next(k for k, v in weights.items() if v.ndim == 2 and ".0." in k and "experts" not in k)


def renamed(weights):
    return {f"_orig_mod.{key}": value for key, value in weights.items()}


def no_layer(weights):
    return without(weights, lambda key: re.search(r"(layers|h|blocks)\.1\.", key))


def no_norm(weights):
    norms = [key for key in weights if re.search(r"norm|ln_f", key)]
    return without(weights, lambda key: key == norms[-1])


def no_embedding(weights):
    names = r"(embed_tokens|embed_in|wte|word_embeddings|embeddings)\.weight$"
    return without(weights, lambda key: re.search(names, key))


def a_layer_more(weights):
    return weights | {second(key): value for key, value in weights.items() if of_layer(key)}


def another_shape(weights):
    key = first_matrix(weights)
    return weights | {key: torch.zeros(weights[key].shape[0] + 8, weights[key].shape[1])}


def nan(weights):
    weights[first_matrix(weights)][0, 0] = float("nan")
    return weights


def infinite(weights):
    weights[list(weights)[-1]].view(-1)[-1] = float("-inf")
    return weights


DAMAGES = {
    renamed: "missing in its files.* The files call it _orig_mod.*'_orig_mod.' is what a wrapper",
    no_layer: r"weights of \w+ are missing in its files.*(layers|h)\.1\.",
    no_norm: "1 of the .* missing in its files, and would be random: .*(norm|ln)",
    no_embedding: r"missing in its files.*(embed|wte|lm_head)",
    a_layer_more: r"hold \d+ weights that \w+ by its config.json has no place for.*\.2\.",
    another_shape: r"has the shape \(\d+, \d+\), but \w+ by its config.json \(\d+, \d+\)",
    nan: "1 of its weights hold NaN or infinite numbers: ",
    infinite: "1 of its weights hold NaN or infinite numbers: ",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_damage_to_each_kind_is_refused_by_name(tmp_path, kind):
    weights = make(tmp_path, kind)
    path = str(tmp_path)
    assert verdict(lambda: load_model(path, dtype="float32")) == "whole"
    assert verdict(lambda: check_headers(path, tmp_path)) == "whole"
    for damage, message in DAMAGES.items():
        broken = damage({key: value.clone() for key, value in weights.items()})
        write(tmp_path, broken)
        loaded = verdict(lambda: load_model(path, dtype="float32"))
        assert re.search(message, loaded), (damage.__name__, loaded)
        if damage not in (nan, infinite):  # which no header says
            assert verdict(lambda: check_headers(path, tmp_path)) == loaded


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("llama", "model.layers.0.self_attn.q_proj.bias", "no place for"),
        ("llama", "model.layers.1.self_attn.q_norm.weight", "no place for"),
        ("llama", "model.embed_layernorm.weight", "no place for"),
        ("llama", "lm_head.bias", "no place for"),
        ("llama", "layers.2.mlp.up_proj.weight", "no place for"),  # a base model's names
        ("llama", "v_head.summary.weight", None),
        ("llama", "score.weight", None),
        ("llama", "model.vision_tower.blocks.0.weight", None),
        ("llama", "mtp.layers.0.input_layernorm.weight", None),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("gpt2", "h.0.attn.masked_bias", None),
        ("gpt2", "transformer.h.1.attn.bias", None),
        ("deepseek_v3", "model.layers.2.eh_proj.weight", None),
    ],
)
def test_what_is_left_over_matters_where_it_was_used(tmp_path, kind, extra, message, caplog):
    weights = make(tmp_path, kind)
    write(tmp_path, weights | {extra: torch.ones(16)})
    found = verdict(lambda: load_model(str(tmp_path), dtype="float32"))
    assert found == "whole" if message is None else f"{message}, so that it" in found, found
    assert message is None or extra in found
    if "head" in extra and message is None:
        assert f"not used here: {extra}" in caplog.text


def test_an_output_embedding_may_be_missing_only_where_it_is_the_input_embedding(tmp_path):
    for kind, whole in [("llama, tied", True), ("llama", False)]:
        write(tmp_path, without(make(tmp_path, kind), lambda key: key == "lm_head.weight"))
        found = verdict(lambda: load_model(str(tmp_path), dtype="float32"))
        assert found == "whole" if whole else "set tie_word_embeddings: true" in found


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3"])
@pytest.mark.parametrize("part", [r"w1|gate_proj", r"w2|down_proj"])
def test_an_expert_that_is_gone(tmp_path, kind, part, request):
    usual = transformers.logging.get_verbosity()
    request.addfinalizer(lambda: transformers.logging.set_verbosity(usual))
    if part.startswith("w1"):  # as TRANSFORMERS_VERBOSITY=error does
        transformers.logging.set_verbosity_error()
    weights = make(tmp_path, kind)
    write(tmp_path, without(weights, lambda key: re.search(rf"experts\.2\.({part})\.", key)))
    found = verdict(lambda: load_model(str(tmp_path), dtype="float32"))
    assert "do not hold all parts" in found or "has the shape" in found
    assert "mlp.experts." in found


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_quantised_weights_without_their_scales(tmp_path, dtype):
    weights = make(tmp_path)
    key = first_matrix(weights)
    write(tmp_path, weights | {key: weights[key].to(dtype)})
    message = f"{key} is of .8.*, so it is quantised, but config.json has no"
    assert re.search(message, verdict(lambda: load_model(str(tmp_path))))


# ------------------------------------------------------------------ files


@pytest.fixture
def shards(tmp_path):
    """A folder of several shards: the folder, its index, and the shards' files."""
    make(tmp_path)
    model = load_model(str(tmp_path), dtype="float32")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    return tmp_path, tmp_path / "model.safetensors.index.json", sorted(tmp_path.glob("*-of-*"))


def cut_index(index, shard):
    content = json.loads(index.read_text())
    places = {key: name for key, name in content["weight_map"].items() if name != shard.name}
    index.write_text(json.dumps(content | {"weight_map": places}))


def an_older_one(folder, index, files):
    write(folder, {"model.norm.weight": torch.ones(16)})


def a_dead_link(folder, index, files):
    files[0].unlink()
    files[0].symlink_to("../blobs/gone")


def in_two(folder, index, files):
    save_file(load_file(files[0]) | load_file(files[1]), files[1], metadata={"format": "pt"})


SHARDS = [
    (lambda folder, index, files: None, "whole"),
    (lambda folder, index, files: files[1].unlink(), r"names model-00002-.*, which is not there"),
    (lambda folder, index, files: cut_index(index, files[1]), "are missing in its files"),
    (lambda folder, index, files: index.unlink(), "but neither model.safetensors nor"),
    (lambda folder, index, files: index.write_text("{"), "says of no weight where it is"),
    (lambda folder, index, files: index.write_text("[]"), "says of no weight where it is"),
    (lambda folder, index, files: index.write_text('{"weight_map": {}}'), "says of no weight"),
    (a_dead_link, r"00001.* is a link to ../blobs/gone, which is not there"),
    (an_older_one, "they are two checkpoints. Remove the one"),
    (in_two, "is in model-00001-of-.* and in model-00002-of-"),
    (lambda folder, index, files: files[1].write_bytes(b""), "00002.*cut short or broken"),
    (
        lambda folder, index, files: files[1].write_bytes(files[1].read_bytes()[:-9]),
        "00002.*cut short or broken",
    ),
]


@pytest.mark.parametrize(("damage", "message"), SHARDS)
def test_shards_that_do_not_fit_together(shards, damage, message):
    damage(*shards)
    folder = shards[0]
    found = verdict(lambda: load_model(str(folder), dtype="float32"))
    assert re.search(message, found), found
    assert verdict(lambda: check_headers(str(folder), folder)) == found


# ------------------------------------------------------------------ embedders

ENCODERS = {
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES),
    "t5": transformers.T5Config(
        vocab_size=48, d_model=16, d_ff=24, num_layers=2, num_heads=2, d_kv=8
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    ("gone", "whole"),
    [("pooler", True), ("decoder", True), ("(layer|block).1", False), ("embed|shared", False)],
)
def test_of_an_embedder_what_it_does_not_use_may_be_missing(tmp_path, kind, gone, whole):
    transformers.AutoModel.from_config(ENCODERS[kind]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    write(tmp_path, without(weights, lambda key: re.search(rf"^(encoder\.)?{gone}", key)))
    found = verdict(
        lambda: load_checked(
            transformers.AutoModel, str(tmp_path), "it", unused=UNUSED_BY_EMBEDDERS
        )
    )
    assert (found == "whole") is whole, found


def test_the_head_of_a_masked_language_model_is_no_news(tmp_path, caplog):
    model = transformers.RobertaForMaskedLM(ENCODERS["roberta"])
    model.save_pretrained(tmp_path)  # without a pooler, with lm_head
    load_checked(transformers.AutoModel, str(tmp_path), "it", unused=UNUSED_BY_EMBEDDERS)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    write(tmp_path, a_layer_more(load_file(tmp_path / "model.safetensors")))
    with pytest.raises(UserError, match=r"no place for.*layer\.2"):
        load_checked(transformers.AutoModel, str(tmp_path), "it", unused=UNUSED_BY_EMBEDDERS)
