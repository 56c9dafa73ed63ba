"""Whether a checkpoint's weights are its model's: none is missing, none is left over, all finite.

transformers fills a weight that the files do not have with random numbers, drops one that the model
has no place for, and only prints a table of both.
"""

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from fgit.common.adapters import refuse_adapter, refuse_applied
from fgit.common.errors import UserError

log = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What some versions of transformers save and others compute: rotary frequencies, masks, decays.
COMPUTED = re.compile(
    r"(inv_freq|masked_bias|attn\.bias|attention\.bias|causal_mask|position_ids|token_type_ids"
    r"|(cos|sin)_cached|attn\.embed_positions|rope\.freqs|freqs_cis|\.version|_float_tensor"
    r"|slope_rate|(query|key|diagonal)_decay|act_fn\.(beta|eps))$"
)
# Parts beside the layers that no text needs: of images and sound, and of several tokens at a time.
OTHER_PARTS = re.compile(r"vis|image|audio|speech|multi_?modal|mm_|mtp|nextn", re.IGNORECASE)
# What a base model has and its last hidden states do not need: of an embedder it may be missing.
UNUSED_BY_EMBEDDERS = re.compile(r"(^|\.)pooler\.|^decoder\.")
# Floats of one byte and integers are quantised weights, which mean nothing without their scales.
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")
SHOWN = 3  # names of weights in a message


def load_checked(
    auto: Any, name: str | None, path: str, *, unused: re.Pattern[str] | None = None, **options: Any
) -> Any:
    """``auto.from_pretrained``, and every weight of the model is one of the checkpoint.

    Args:
        name, options: for ``from_pretrained``.
        path: the model's location as the user gave it, for messages.
        unused: weights that may be missing.

    Raises:
        UserError: naming the weights that are missing, of another shape, left over, or not finite;
            for an adapter.
    """
    folder = Path(name) if name is not None and Path(name).is_dir() else None
    if folder is not None:
        refuse_adapter(path, str(folder))
        if "gguf_file" not in options:
            check_files(path, folder)
    with load_report() as report:
        try:
            model, info = auto.from_pretrained(
                name,
                **options,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # we name them
            )
        except RuntimeError as error:
            # Experts that cannot be stacked to one weight: one is missing, or of another shape.
            names = re.findall(r"^(\S.*?) +\| +CONVERSION", "\n".join(report), re.MULTILINE)
            if not names:
                raise
            raise UserError(
                f"{path}: its files do not hold all parts of {listed(names)}, or in other shapes "
                f"than config.json says; {SAVE_AGAIN}"
            ) from error
    refuse_applied(path, model)
    check_keys(path, model, info, unused)
    check_finite(path, model)
    if name is not None and folder is None and (cached := folder_of(name, options.get("revision"))):
        check_files(path, cached)
    return model


SAVE_AGAIN = "download or save the checkpoint again, with the config.json that belongs to it"


@contextlib.contextmanager
def load_report() -> Iterator[list[str]]:
    """Catch transformers' table of missing and unexpected weights; what is wrong we say."""
    lines: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")
    level, asked_for = logger.level, logger.getEffectiveLevel()

    def is_other(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "LOAD REPORT" in text:
            lines.extend(re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())
            return False
        return record.levelno >= asked_for

    logger.addFilter(is_other)
    if asked_for > logging.WARNING:  # TRANSFORMERS_VERBOSITY
        logger.setLevel(logging.WARNING)
    try:
        yield lines
    finally:
        logger.removeFilter(is_other)
        logger.setLevel(level)


def listed(names: Collection[str]) -> str:
    first = ", ".join(list(names)[:SHOWN])
    return f"{first} and {len(names) - SHOWN} more" if len(names) > SHOWN else first


# ------------------------------------------------------------------ names and shapes


def check_keys(
    path: str, model: Any, info: dict[str, Any], unused: re.Pattern[str] | None = None
) -> None:
    """Refuse weights that are missing, of another shape, or left over.

    Args:
        info: what ``from_pretrained`` says of its loading.
        unused: weights that may be missing; with it, heads on top of the model are no news.
    """
    values, buffers = model.state_dict(), {name for name, _ in model.named_buffers()}
    missing = [
        key
        for key in sorted(info["missing_keys"], key=by_numbers)
        # Buffers that are no floats are positions and masks, which the model makes itself.
        if (key not in values or values[key].is_floating_point())
        and not (key in buffers and COMPUTED.search(key))
        and not (unused and unused.search(key))
    ]
    extra = sorted(info["unexpected_keys"], key=by_numbers)
    kind = type(model).__name__
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the {len(values)} weights of {kind} are missing in its "
            f"files, and would be random: {listed(missing)}. {what_is_there(model, missing, extra)}"
        )
    for key, has, wanted in sorted(info["mismatched_keys"]):
        if not (unused and unused.search(key)):
            raise UserError(
                f"{path}: {key} has the shape {tuple(has)}, but {kind} by its config.json "
                f"{tuple(wanted)}; {SAVE_AGAIN}"
            )
    if getattr(model.config, "quantization_config", None):
        return  # the scales of each format are its own
    others = [key for key in extra if not COMPUTED.search(key) and key not in buffers]
    # A layer that predicts further tokens (DeepSeek's kind) has parts of its own.
    further = tuple(key.partition("eh_proj.")[0] for key in others if ".eh_proj." in key)
    used = [key for key in others if is_in_layers(model, key) and not key.startswith(further)]
    used = [key for key in used if not (unused and unused.search(key))]
    if used:
        raise UserError(
            f"{path}: its files hold {len(used)} weights that {kind} by its config.json has no "
            f"place for, so that it would compute something else: {listed(used)}; {SAVE_AGAIN}"
        )
    if others:
        level = logging.INFO if unused else logging.WARNING
        log.log(level, "%s: not used here: %s", path, listed(others))


def by_numbers(key: str) -> list[tuple[int, str]]:
    """A sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def what_is_there(model: Any, missing: Sequence[str], extra: Sequence[str]) -> str:
    """What the files hold in place of missing weights, and what to do."""
    for key in missing:
        for other in extra:
            if other.endswith(f".{key}"):
                prefix = other.removesuffix(key)
                return (
                    f"The files call it {other}: {prefix!r} is what a wrapper put in front "
                    "(torch.compile, DDP, peft). Save the model inside the wrapper"
                )
    if extra:
        return f"The files hold others that it has no place for: {listed(extra)}; {SAVE_AGAIN}"
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = [name for name, module in model.named_modules() if module is head and head is not None]
    if missing == [f"{name}.weight" for name in names]:
        return (
            "If the model's output embedding is its input embedding, set tie_word_embeddings: true "
            f"in config.json; if not, {SAVE_AGAIN}"
        )
    return SAVE_AGAIN[0].upper() + SAVE_AGAIN[1:]


def is_in_layers(model: Any, key: str) -> bool:
    """Whether a weight without a place belongs to what the model computes, so that it is missed.

    What stands beside the layers does not: heads for values or classes, and towers for images.
    """
    base = getattr(model, model.base_model_prefix, model)
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    part = inner.partition(".")[0]
    children = {name for module in (base, model) for name, _ in module.named_children()}
    return part in children or not (inner == key or OTHER_PARTS.search(part))


# ------------------------------------------------------------------ numbers


def check_finite(path: str, model: Any) -> None:
    """Refuse a model with NaN or infinite weights, by name."""
    kept = model.state_dict().keys()  # other buffers may hold -inf, as masks do
    tensors = [*model.named_parameters(), *(b for b in model.named_buffers() if b[0] in kept)]
    broken = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point()
        and tensor.itemsize > 1
        and tensor.numel()
        and not tensor.is_meta
        and not bool(torch.stack(tensor.detach().aminmax()).isfinite().all())
    ]
    if broken:
        raise UserError(
            f"{path}: {len(broken)} of its weights hold NaN or infinite numbers: {listed(broken)}. "
            "The training that made them diverged, or they were saved in float16; use another "
            "checkpoint"
        )


# ------------------------------------------------------------------ files


def check_files(path: str, folder: Path) -> None:
    """Refuse a folder of which it cannot be told what its weights are.

    Args:
        path: the model's location as the user gave it, for messages.
        folder: with the files; it may hold no safetensors.
    """
    where: dict[str, str] = {}
    for file in files_of(path, folder):
        for key, (dtype, _) in headers(file).items():
            if key in where:
                raise UserError(
                    f"{path}: {key} is in {where[key]} and in {file.name}; {SAVE_AGAIN}"
                )
            where[key] = file.name
            quantised = dtype not in PLAIN_DTYPES and key.endswith(".weight")
            if quantised and "quantization_config" not in read_json(folder / "config.json"):
                raise UserError(
                    f"{path}: {key} is of {dtype}, so it is quantised, but config.json has no "
                    "quantization_config that says how; use the checkpoint that is not quantised"
                )


def files_of(path: str, folder: Path) -> list[Path]:
    """The files of safetensors in which transformers looks for a model's weights."""
    index, single = folder / INDEX, folder / SINGLE
    for file in folder.glob("*.safetensors"):
        if file.is_symlink() and not file.exists():
            raise UserError(
                f"{path}: {file.name} is a link to {file.readlink()}, which is not there; of the "
                "hub's cache, take the folder blobs too, or download the model again"
            )
    if not index.is_file():
        others = sorted(folder.glob("*.safetensors"))
        if others and not single.is_file() and not any(folder.glob("pytorch_model*.bin")):
            raise UserError(
                f"{path}: {others[0].name} is there, but neither {SINGLE} nor {INDEX}; {SAVE_AGAIN}"
            )
        return [single] if single.is_file() else []
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: {INDEX} says of no weight where it is; {SAVE_AGAIN}")
    names = sorted(set(map(str, places.values())))
    if single.is_file() and names != [SINGLE]:
        raise UserError(
            f"{path}: both {SINGLE} and {INDEX} are there, of which the second names other files; "
            "they are two checkpoints. Remove the one that is not meant"
        )
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{path}: {INDEX} names {name}, which is not there; {SAVE_AGAIN}")
    return [folder / name for name in names]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where it is none, which another says."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def headers(file: Path) -> dict[str, tuple[str, list[int]]]:
    """dtype and shape of each tensor in a file of safetensors."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            slices = ((key, opened.get_slice(key)) for key in opened.keys())  # noqa: SIM118
            return {key: (part.get_dtype(), part.get_shape()) for key, part in slices}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file}: cut short or broken ({error}); {SAVE_AGAIN}") from error


def check_headers(path: str, folder: Path, *, embedder: bool = False) -> Any:
    """:func:`load_checked`'s checks of names and shapes, without reading a single weight.

    For what looks at models before any job starts: it takes about a second. A folder without
    safetensors passes.

    Returns:
        The configuration of the text model.

    Raises:
        UserError: as :func:`load_checked` and :func:`check_files`.
    """
    auto: Any = transformers.AutoModel if embedder else transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_files(path, folder)
    files = files_of(path, folder)
    shapes = {key: shape for file in files for key, (_, shape) in headers(file).items()}
    if not shapes or getattr(config, "quantization_config", None):
        return config.get_text_config()
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=False)
        weights = {key: torch.empty(shape) for key, shape in shapes.items()}
    load_checked(
        type(model),
        None,
        path,
        unused=UNUSED_BY_EMBEDDERS if embedder else None,
        config=model.config,
        state_dict=weights,
        device_map="meta",
    )
    return model.config.get_text_config()


def folder_of(name: str, commit: str | None) -> Path | None:
    """Where a model's files lie: the folder itself, or the hub's cache."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "adapter_config.json"):
        if isinstance(cached := try_to_load_from_cache(name, file, revision=commit), str):
            return Path(cached).parent
    return None
