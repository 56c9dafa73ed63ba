"""The engine on a GPU: FlexAttention and sdpa against the two-pass reference.

python -m pytest tests/gpu
"""

import numpy as np
import pytest
import torch
import transformers

from fgit.config import TrainSettings
from fgit.train.engine import Engine
from fgit.train.examples import Example
from fgit.train.loop import train_loop
from fgit.train.rows import lay_out
from tests.reference import two_pass

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="not run: there is no GPU here"
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    return transformers.LlamaForCausalLM(config).cuda().eval()


@pytest.fixture(scope="module")
def samples():
    generator = np.random.default_rng(0)
    found = []
    for number in range(24):
        length = int(generator.integers(20, 300))
        y, v = generator.integers(0, 1000, (2, length))
        fork = int(generator.integers(0, length))
        v[:fork] = y[:fork]
        marks = [(generator.random(length) < 0.1).astype(np.int8) for _ in range(2)]
        found.append(
            Example(str(number), generator.integers(0, 1000, 50), y, *marks[:1], v, marks[1])
        )
    return found


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


@pytest.mark.parametrize("attention", ["flex", "sdpa"])
def test_loss_and_gradient(model, samples, attention):
    torch.backends.cuda.matmul.allow_tf32 = False
    settings = TrainSettings(attention=attention)
    expected = two_pass(model, samples, settings)
    expected_gradient = gradient(model, expected.loss.sum())
    engine = Engine(model, settings)
    assert engine.attention == attention
    found = engine(lay_out(samples, "fgit").to(torch.device("cuda")))
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    error = (gradient(model, found.loss.sum()) - expected_gradient).norm()
    assert error / expected_gradient.norm() < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_in_bf16(model, samples, checkpointing):
    import copy

    settings = TrainSettings(
        batch_size=8,
        token_budget=1024,
        learning_rate=1e-3,
        epochs=4,
        gradient_checkpointing=checkpointing,
    )
    trained = train_loop(copy.deepcopy(model), samples, settings)
    assert trained.history[-1]["nll"] < trained.history[0]["nll"]
