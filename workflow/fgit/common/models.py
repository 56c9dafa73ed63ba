"""Loading models from the hub, a folder, or a GGUF file in a Python package.

Weights of language models are read from safetensors or GGUF only, and code that a model repository
brings is never run (``trust_remote_code`` stays off). The embedder alone (:mod:`fgit.select.stage`)
may come as a PyTorch file, which torch reads without running code, since UniXcoder is published so.
"""

import contextlib
import functools
import importlib
import logging
import os
import pickle
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from pydantic import BaseModel
from tqdm import tqdm

from fgit.common.errors import UserError
from fgit.common.files import PACKAGE_PREFIX, is_offline, resolve
from fgit.common.weights import folder_of, load_checked

log = logging.getLogger(__name__)

AnySettings = TypeVar("AnySettings", bound=BaseModel)

SOURCE_HINT = "give a folder, a name on the hub, or package:NAME/file.gguf"


# Models of the hub that this process has loaded, with the commits that their revisions were.
LOADED_MODELS: dict[str, dict[str, str | None]] = {}

transformers.utils.logging.disable_progress_bar()  # "Loading weights" would drown our own bars


def device() -> torch.device:
    """The accelerator that there is, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
# What oneDNN may be held to (ONEDNN_MAX_CPU_ISA) and still multiply bf16 in hardware.
BF16_ISA = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")


def computes_bf16(on: torch.device | None = None) -> bool:
    """Whether a device multiplies bf16 matrices in hardware; elsewhere fp32 is faster, too.

    GPUs of compute capability 8.0 and later do, and x86 CPUs with AVX512-BF16 or AMX-BF16, unless
    settings of torch or oneDNN forbid these instructions.
    """
    if (on or device()).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    if not any(isa in os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() for isa in BF16_ISA):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def torch_dtype(name: str, on: torch.device | None = None) -> torch.dtype:
    """The dtype of a name, as ``dtype`` and ``precision`` of the config have them.

    ``auto`` is bf16 where the device computes it in hardware, else fp32.
    """
    if name == "auto":
        return torch.bfloat16 if computes_bf16(on) else torch.float32
    return DTYPES[name]


def settled(
    settings: AnySettings, field: str, begun: str | None = None, hardware: bool | None = None
) -> AnySettings:
    """The settings with the dtype or precision that ``auto`` is on this machine, which is logged.

    Args:
        field: ``dtype`` or ``precision``.
        begun: what an earlier process began with: what goes on keeps it, whatever is faster here.
        hardware: whether bf16 is computed in hardware; None asks :func:`computes_bf16`.
    """
    name = getattr(settings, field)
    hardware = computes_bf16() if hardware is None else hardware
    kind = "GPU" if torch.cuda.is_available() else "CPU"
    if name != "auto":
        why = "as named in the settings"
    elif begun is not None:
        name, why = begun, "as it began"
    else:
        names = {"dtype": ("float32", "bfloat16"), "precision": ("fp32", "bf16")}
        name = names[field][hardware]
        why = f"auto: this {kind} {'computes' if hardware else 'has no'} bf16 in hardware"
    log.info("computing in %s (%s)", name, why)
    if DTYPES[name] is torch.bfloat16 and not hardware:
        log.warning(
            "%s %s is slow on this %s, which has no bf16 in hardware; auto takes fp32 here",
            field,
            name,
            kind,
        )
    return settings.model_copy(update={field: name})


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_model(
    path: str,
    revision: str | None = None,
    dtype: str = "auto",
    on: torch.device | None = None,
) -> Any:
    """A causal language model in evaluation mode, on a device (by default :func:`device`).

    Raises:
        UserError: if it cannot be loaded whole (:mod:`fgit.common.weights`), or is an adapter.
    """
    name, arguments = source(path)
    if "gguf_file" in arguments:
        arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
        log.info("converting %s (half a minute)", path)
        gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        gguf.tqdm = functools.partial(tqdm, disable=True)  # its bar would fill a log's last line
    else:
        if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
            raise UserError(
                f"{path}: no weights in safetensors in this folder; pickled weights (.bin, .pt) "
                "can run code and are not read: convert them"
            )
        arguments["use_safetensors"] = True
    with loading_errors(path, "model"):
        arguments |= {"revision": revision, "dtype": torch_dtype(dtype, on)}
        model = load_checked(transformers.AutoModelForCausalLM, name, path, **arguments)
    # Encoders have a class for this too, which without is_decoder sees the text to come.
    encoders = transformers.MODEL_FOR_MASKED_LM_MAPPING
    if type(model.config) in encoders and not getattr(model.config, "is_decoder", True):
        raise UserError(f"{path}: {type(model.config).__name__} is an encoder's; use a decoder")
    head = model.get_output_embeddings()
    tied = head is not None and getattr(model.config, "tie_word_embeddings", False)
    if tied and head.weight is not model.get_input_embeddings().weight:
        log.warning(
            "%s: its output embedding is another than its input embedding, though config.json says "
            "tie_word_embeddings; both are used",
            path,
        )
        model.config.tie_word_embeddings = False  # so that nothing ties them later
    note_commit(path, name, revision)
    return torch.nn.Module.to(model, on or device()).eval()


def note_commit(path: str, name: str, revision: str | None) -> None:
    """Remember which commit of a hub's model was loaded, for the provenance."""
    if not Path(name).is_dir() and (folder := folder_of(name, revision)):
        LOADED_MODELS[path] = {"revision": revision, "commit": folder.name}


def source(path: str) -> tuple[str, dict[str, Any]]:
    """The name and the extra arguments that ``from_pretrained`` takes for a location."""
    if path.startswith(PACKAGE_PREFIX) or path.endswith(".gguf"):
        file = resolve(path)
        if file.is_dir():
            return str(file), {}
        if not file.is_file():
            raise UserError(f"{path}: no such file; {SOURCE_HINT}")
        return str(file.parent), {"gguf_file": file.name}
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local and not Path(path).is_dir():
        raise UserError(f"{path}: no such model folder; {SOURCE_HINT}")
    return path, {}


@contextlib.contextmanager
def loading_errors(path: str, what: str) -> Iterator[None]:
    """Turn what from_pretrained raises for a missing or unusable source into a clear error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers and safetensors have exceptions of their own
        lines = str(error).strip().splitlines() or [""]
        first = " ".join(map(str.strip, lines[: 1 + lines[0].endswith(":")]))
        hint = SOURCE_HINT
        if what == "model" and first.startswith("Unrecognized configuration class"):
            kind = re.search(r"(\w+)'>", first)
            raise UserError(
                f"{path}: a model of {kind[1] if kind else 'another kind'} is no causal language "
                "model of text alone (it is multimodal, an encoder, or reads and writes in two "
                "parts); use a language model, or save its language model by itself"
            ) from error
        if isinstance(error, (pickle.UnpicklingError, EOFError)):
            raise UserError(
                f"{path}: its file of weights (pytorch_model.bin) holds more than weights, is cut "
                "short, or is a pointer of Git LFS; download it again, or save it as safetensors"
            ) from error
        if is_offline() and path.count("/") == 1 and not Path(path).exists():
            hint = (
                "the hub is not asked (hub: offline); run fgit fetch --config CONFIG where it can "
                "be, with the same HF_HOME"
            )
        raise UserError(
            f"{path}: no usable {what}: {type(error).__name__}: {first} ({hint})"
        ) from error


# ------------------------------------------------------------------ what a model takes


def position_limit(model: Any) -> tuple[int | None, bool]:
    """How many tokens a model has positions for, and whether it fails on more.

    Positions that were learned, or are looked up in a table, end. Rotary ones go on, but the model
    was never trained on them.
    """
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")
    limits = [getattr(config, name, None) for name in names]
    tables = [
        # RoBERTa's kind counts from behind its padding id, OPT's from a fixed offset.
        module.num_embeddings
        - (getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding)
        and re.search(r"(^|\.)(position_embeddings|embed_positions|wpe)$", name)
    ]
    limit = min((number for number in (*limits, *tables) if number and number > 0), default=None)
    return limit, bool(tables) or not hasattr(config, "rope_parameters")


def embedding_rows(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]


def require_rows(
    rows: int, tokenizer: Any, sequences: Iterable[Sequence[int] | np.ndarray], path: str
) -> None:
    """Refuse token ids for which a model's embedding has no row.

    A tokenizer may well have such tokens, as padding that was added and is never read.

    Args:
        rows: of the embedding.
        sequences: token ids, which are looked at only where the tokenizer has too many.
    """
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return
    for ids in sequences:
        if (highest := max(map(int, ids), default=0)) >= rows:
            raise UserError(
                f"{path}: the token {tokenizer.convert_ids_to_tokens(highest)!r} has the id "
                f"{highest}, but the model's embedding has {rows} rows: tokens were added to the "
                "tokenizer and not to the model. Use the tokenizer that the model was trained "
                "with, or resize the model (resize_token_embeddings), train the new rows and save "
                "both"
            )
