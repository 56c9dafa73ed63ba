"""Adapters (peft): a folder that holds only what was trained beside a model's own weights.

Nothing but ``fgit fetch --model ADAPTER --out FOLDER`` reads one: it merges the adapter into its
base model, so that every stage sees a plain model.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from fgit.common.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What the weights of a whole model are in; config.json alone is often saved beside an adapter.
WHOLE = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
TOKENS_COMPARED = 16  # of a merged model with the adapter and its base


def refuse_adapter(path: str, name: str) -> None:
    """Refuse a folder with an adapter, alone or beside a whole model.

    transformers would apply the adapter to the weights beside it. Whether they have it already, as
    after a merge into the same folder, nothing says.

    Args:
        path: the location as the user gave it.
        name: a folder; a name on the hub passes (:func:`refuse_applied`).
    """
    if Path(name, CONFIG).is_file():
        raise refusal(path, beside=has_weights(name, None))


def refuse_applied(path: str, model: Any) -> None:
    """Refuse a model from the hub to which transformers has applied an adapter."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise refusal(path, beside=has_weights(path, None))


def refusal(path: str, *, beside: bool) -> UserError:
    """What is wrong with an adapter as a model; beside: a whole model is there, too."""
    if beside:
        return UserError(
            f"{path}: an adapter ({CONFIG}) lies beside the weights of a whole model, which may "
            f"have it merged into them already, or not. If they have, remove {CONFIG} and "
            f"{WEIGHTS} (of a model on the hub, take hf download NAME --exclude 'adapter_*' "
            "--local-dir FOLDER); if not, move these two to a folder of their own, and merge "
            "them with fgit fetch --model THAT --out FOLDER"
        )
    return UserError(
        f"{path}: this is an adapter, no whole model; merge it into its base model with "
        f"fgit fetch --model {path} --out FOLDER, and name that folder"
    )


def has_weights(name: str, revision: str | None) -> bool:
    """Whether a whole model's weights are in a folder or a repository."""
    return any(has_file(name, file, revision) for file in WHOLE)


def has_file(name: str, file: str, revision: str | None) -> bool:
    """Whether a folder, or a repository on the hub as far as it can be asked, has a file."""
    lenient = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
    flags: dict[str, Any] = {f"_raise_exceptions_for_{key}": flag for key, flag in lenient.items()}
    return cached_file(name, file, revision=revision, **flags) is not None


def base_of(path: str, name: str, revision: str | None) -> tuple[str, str | None] | None:
    """The base model that an adapter names, and its revision; None for a whole model.

    Raises:
        UserError: if it names none, its weights are pickled, or a whole model lies beside it.
    """
    file = find_adapter_config_file(name, revision=revision)
    if file is None:
        return None
    if has_weights(name, revision):
        raise refusal(path, beside=True)
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {CONFIG} is not readable: {error!r}") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: {CONFIG} names no base_model_name_or_path; add the base model's")
    if Path(name).is_dir() and not has_file(name, WEIGHTS, None):
        raise UserError(f"{path}: no {WEIGHTS} in this folder; pickled weights are not read")
    return base, config.get("revision")


def resize(base: Any, weights: dict[str, Any]) -> None:
    """Give a base model as many rows as the embeddings that an adapter brings, if it does.

    Who adds tokens before training saves both embeddings, whole, with the adapter.
    """
    embeddings = (base.get_input_embeddings(), base.get_output_embeddings())
    names = [name for name, module in base.named_modules() if module in embeddings]
    brought = [weights.get(f"base_model.model.{name}.weight") for name in names]
    rows = {len(weight) for weight in brought if weight is not None}
    tied = embeddings[0].weight is embeddings[1].weight
    if len(rows) == 1 and (tied or all(weight is not None for weight in brought)):
        base.resize_token_embeddings(rows.pop(), mean_resizing=False)


def is_copy(weights: dict[str, Any], key: str) -> bool:
    """Whether a weight is there once more, by its usual name, as peft saves resized embeddings."""
    usual = key.replace(".modules_to_save.", ".")
    return usual != key and usual in weights and torch.equal(weights[usual], weights[key])


def untie(model: Any) -> None:
    """Part tied embeddings of which an adapter changes one: merged into the one weight it would
    change both."""
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    shared = embeddings[0].weight is embeddings[1].weight
    if shared and any(hasattr(module, "lora_A") for module in embeddings):
        head = getattr(embeddings[1], "base_layer", embeddings[1])
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False


def merged(path: str, name: str, revision: str | None, base: Any) -> Any:
    """A base model with an adapter merged into its weights.

    Args:
        path: the adapter's location as the user gave it; name: for ``from_pretrained``.
        base: the base model, in fp32.

    Raises:
        UserError: if weights of the adapter are missing, left over or of another shape, or it is
            of a kind that cannot be merged; if the merged model computes something else.
    """
    import peft

    try:
        config = peft.PeftConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        config.inference_mode = True
        weights = peft.load_peft_weights(name, device="cpu", revision=revision)
        resize(base, weights)
        model = peft.PeftModel(base, config).eval()
        loaded = model.load_adapter(name, "default", revision=revision)
        extra = [key for key in loaded.unexpected_keys if not is_copy(weights, key)]
        wrong = [*loaded.missing_keys, *extra]
        if wrong:
            raise ValueError(f"{len(wrong)} weights are missing or have no place, as {wrong[0]}")
        untie(model)
        ids = torch.arange(base.get_input_embeddings().weight.shape[0])[None, :TOKENS_COMPARED]
        with torch.no_grad():
            before = model(input_ids=ids.to(base.device)).logits
            whole = model.merge_and_unload()
            difference = (whole(input_ids=ids.to(base.device)).logits - before).abs().max()
        # NaN and infinite weights are named by who asks for the model.
        if difference > 1e-2 * before.abs().max():
            raise ValueError("merged, it gives other logits than applied beside the base model")
        return whole
    except Exception as error:  # peft and torch raise whatever does not fit
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        raise UserError(
            f"{path}: this adapter cannot be merged into its base model {base.name_or_path}: "
            f"{type(error).__name__}: {last}"
        ) from error
