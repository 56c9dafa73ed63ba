"""Two processes with FSDP2 on the CPU, against one without (tests/workflow/test_distributed.py).

    python -m torch.distributed.run --nproc-per-node 2 tests/sharded.py

accelerate shards on GPUs only, so torch's fully_shard is called here, on each layer and the engine.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fgit.config import TrainSettings
from fgit.train.engine import Engine
from fgit.train.examples import Example
from fgit.train.loop import unsharded, with_adapters
from fgit.train.rows import lay_out, pack

SETTINGS = TrainSettings(precision="fp32", learning_rate=1e-3)


def make_model(tied: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    return transformers.Qwen2ForCausalLM(config)


def make_samples() -> list[Example]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(7):
        y, v = generator.integers(0, 50, (2, 12))
        v[:5] = y[:5]
        marks = [generator.integers(0, 3, 12).astype(np.int8) for _ in range(2)]
        found.append(Example(str(number), generator.integers(0, 50, 4), y, marks[0], v, marks[1]))
    return found


def train(engine: torch.nn.Module, rank: int, world: int) -> list[float]:
    """Three steps; the loss of each, summed over all samples."""
    optimizer = torch.optim.AdamW(engine.parameters(), lr=SETTINGS.learning_rate)
    losses = []
    for _ in range(3):
        total = torch.zeros(())
        for samples in pack(make_samples(), 60 if world == 1 else 40, "fgit", world)[rank::world]:
            output = engine(lay_out(samples or make_samples()[:1], "fgit"))
            loss = output.loss.sum() * world / 84
            (loss if samples else loss * 0.0).backward()
            total += output.loss.detach().sum() if samples else 0.0
        if world > 1:
            torch.distributed.all_reduce(total)
        torch.nn.utils.clip_grad_norm_(engine.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
    return losses


def compare(tied: bool, checkpointing: bool, lora_rank: int = 0) -> None:
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = make_model(tied)
    settings = SETTINGS.model_copy(update={"lora_rank": lora_rank})
    if lora_rank:
        with_adapters(model, settings)
    alone = Engine(copy.deepcopy(model), SETTINGS).train()
    expected = train(alone, 0, 1)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    engine = Engine(model, SETTINGS).train()
    mesh = init_device_mesh("cpu", (world,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(engine, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in engine.parameters())
    found = train(engine, rank, world)
    whole = {name: value.full_tensor() for name, value in engine.state_dict().items()}
    trained, adapted = unsharded(model, whole, settings)
    assert type(trained) is transformers.Qwen2ForCausalLM
    assert (adapted is not None) == bool(lora_rank)
    error = norm = 0.0
    for name, value in alone.model.state_dict().items():
        error += float((value - trained.state_dict()[name]).square().sum())
        norm += float(value.square().sum())
    assert (error / norm) ** 0.5 < 1e-5, (error / norm) ** 0.5
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours - theirs) < 1e-5 * theirs, (found, expected)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    for tied in (True, False):
        for checkpointing in (False, True):
            compare(tied, checkpointing)
    compare(tied=True, checkpointing=True, lora_rank=2)
    if torch.distributed.get_rank() == 0:
        print("equal")
    torch.distributed.destroy_process_group()
