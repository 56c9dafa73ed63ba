"""Causal language models of many architectures, tiny and made at random from their config classes.

``python -m tests.architectures`` prints the table of docs/evaluation.md.
"""

import re
import sys
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fgit.common.errors import UserError, described
from fgit.config import TrainSettings
from fgit.inference.decoding import WAYS, first_exact
from fgit.train.engine import Engine, check_exact
from tests.conftest import REPOSITORY

# What a config class has of these is set.
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "embedding_size"], 32),
    **dict.fromkeys(["word_embed_proj_dim", "attention_hidden_size"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "num_layers"], 4),
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(["head_dim", "d_kv", "v_head_dim"], 8),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "d_ff"], 64),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 64),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx"], 512),
    "rotary_dim": 4,
    "dropout": 0.0,
    # Mixtures of experts.
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["n_shared_experts", "n_group", "topk_group"], 1),
    "num_experts_per_tok": 2,
    # Latent and sparse attention.
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "index_topk"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "index_head_dim"], 8),
    "index_n_heads": 2,
    # Recurrent layers.
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 8),
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "n_mamba_heads"], 8),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim", "mamba_headdim"], 8),
    **dict.fromkeys(["mamba_d_state", "ssm_state_size"], 8),
    **dict.fromkeys(["mamba_n_groups", "mamba_ngroups"], 1),
    "mamba_expand": 2,
}
LINEAR, FULL = "linear_attention", "full_attention"
# What single ones need otherwise; None: left as the class has it.
LATENT = {"head_dim": None, "num_key_value_heads": 4}
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"], LATENT),
    **dict.fromkeys(["glm_moe_dsa", "minicpm3", "youtu", "deepseek_v2"], LATENT),
    "bailing_hybrid": {
        "layer_types": [LINEAR, LINEAR, LINEAR, FULL],
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
    },
    "bamba": {"attn_layer_indices": [1]},
    **{key: {"is_decoder": True} for key in ["bert", "roberta", "electra"]},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": [LINEAR, FULL, LINEAR, FULL]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    **{key: {"layer_types": ["conv", FULL, "conv", FULL]} for key in ["lfm2", "lfm2_moe"]},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", FULL] * 2,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 97,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97},
    "kimi_linear": {
        "layer_types": [LINEAR, LINEAR, LINEAR, FULL],
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        **LATENT,
    },
    "longcat_flash": {"zero_expert_num": 0, "num_key_value_heads": None},
    "mamba2": {"head_dim": 8, "num_heads": 8, "n_groups": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlstm": {"v_head_dim": None, "qk_dim_factor": 1.0},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "head_dim": None,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_key_value_heads": 4,
        "attention_hidden_size": None,
        "head_dim": None,
    },
    "zaya": {"num_experts_per_tok": 1},
}
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def tiny_config(kind: str, **changes: Any) -> Any:
    """A config of this ``model_type``.

    Args:
        changes: what it shall have otherwise.
    """
    cls = CONFIG_MAPPING[kind]
    aliases = getattr(cls, "attribute_map", {})
    has = SHAPE.keys() & {*vars(cls()), *aliases}
    shape = {key: SHAPE[key] for key in SHAPE if key in has and aliases.get(key) not in has}
    shape |= CHANGES.get(kind, {})
    return cls(**{key: value for key, value in shape.items() if value is not None}, **changes)


def tiny(config: Any) -> Any:
    """The model of a config in fp32, its weights large enough that logits are far from flat."""
    with torch.device("meta"):
        size = sum(p.numel() for p in from_config(config).parameters())
    assert size < 7_000_000, f"{config.model_type} has {size:,} parameters"
    torch.manual_seed(0)
    model = from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


def from_config(config: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def small_windows(kind: str) -> dict[str, int]:
    """The windows that a config of this kind has, 6 tokens each."""
    config = tiny_config(kind)
    return {key: 6 for key in WINDOWS if type(getattr(config, key, None)) is int}


def trains(model: Any) -> str:
    """``exact``, or ``refused``: by name, or this fails."""
    try:
        check_exact(Engine(model, TrainSettings()))
    except UserError as error:
        assert named(model) in str(error), error
        return "refused"
    return "exact"


def writes(model: Any) -> str:
    """What writes a model's answers, a key of ``decoding.WAYS``, or ``refused``: by name."""
    try:
        return first_exact(model, 0)
    except UserError as error:
        assert named(model) in str(error), error
        return "refused"


def named(model: Any) -> str:
    """How its classes begin: an error may name its attention."""
    stem = re.match(r"\w+?(?=For|LM|Model|Decoder|$)", type(model).__name__)
    assert stem
    return stem[0]


def documented() -> dict[str, tuple[str, str]]:
    """What docs/evaluation.md says of each kind: what writes its answers, and its training."""
    rows = {}
    for line in (REPOSITORY / "docs" / "evaluation.md").read_text().splitlines():
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] in OUTCOMES:
            rows |= dict.fromkeys(cells[2].split(", "), (cells[0], cells[1]))
    return rows


OUTCOMES = (*WAYS, "refused")


def main() -> None:
    """Print the table, and the kinds that cannot be made tiny here."""
    transformers.utils.logging.set_verbosity_error()
    kinds: dict[tuple[str, str], list[str]] = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            model = tiny(tiny_config(kind))
        except Exception as error:
            print(f"{kind}: {described(error)}"[:150], file=sys.stderr)
        else:
            kinds.setdefault((writes(model), trains(model)), []).append(kind)
    for outcome in OUTCOMES:
        for training in ("exact", "refused"):
            if listed := kinds.get((outcome, training)):
                print(f"| {outcome} | {training} | {', '.join(listed)} |")


if __name__ == "__main__":
    main()
