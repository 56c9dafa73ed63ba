"""How much of what the GPU can do a training step uses (model FLOPs utilisation, MFU)."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fgit.train.attention import head_size
from fgit.train.examples import Example
from fgit.train.rows import needs_of

# Dense bf16 matrix peak in FLOP/s, by what is in the device's name (the vendor's data sheets).
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device: torch.device) -> float | None:
    """The peak of a known GPU, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def step_flops(model: Any, samples: Sequence[Example], objective: str) -> float:
    """Floating-point operations that a step needs: forward and backward, nothing recomputed.

    6 for each weight of a matrix and token that it meets (4 for a frozen one; the output embedding
    meets only the tokens whose probability is read, the input embedding none), and attention's 12 h
    for each pair of tokens that see each other, in each layer, h being the width of all heads. Of a
    mixture of experts, all are counted.
    """
    config = model.config
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight

    def work(matrix: torch.nn.Parameter) -> int:
        return (6 if matrix.requires_grad else 4) * matrix.numel()

    body = sum(work(p) for p in model.parameters() if p.ndim >= 2 and p is not head)
    if embedding is not head:
        body -= work(embedding)
    width = config.num_attention_heads * head_size(config)
    tokens = read = pairs = 0.0
    for sample in samples:
        needs = needs_of(sample, objective)
        trunk, branch = needs.trunk, len(needs.branch)
        tokens += trunk + branch
        read += len(sample.response) + np.count_nonzero(needs.variant_marks[needs.fork :])
        seen = len(sample.prompt) + needs.fork
        pairs += trunk * (trunk + 1) / 2 + branch * seen + branch * (branch + 1) / 2
    attention = 12 * width * config.num_hidden_layers * pairs
    return body * tokens + work(head) * read + attention
