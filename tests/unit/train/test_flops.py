import numpy as np
import pytest
import torch
import transformers

from fgit.train.examples import Example
from fgit.train.flops import peak_flops, step_flops


def small_llama(layers, **more):
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_step_flops_are_those_that_torch_counts(tied):
    """Against torch's own counter on a plain forward and backward pass over one sample."""
    from torch.utils.flop_counter import FlopCounterMode

    model = small_llama(3, tie_word_embeddings=tied, attn_implementation="eager")
    prompt, y = np.arange(1, 21), np.arange(10, 40)
    marks = np.zeros(30, np.int8)
    one = Example("a", prompt, y, marks, np.zeros(0, np.int64), marks[:0])
    ids = torch.tensor([[*prompt, *y[:-1]]])
    with FlopCounterMode(display=False) as counter:
        hidden = model.get_decoder()(ids).last_hidden_state[:, 19:]
        model.lm_head(hidden).sum().backward()
    tokens = ids.shape[1]
    # Eager attention computes all pairs of tokens; half of them see nothing.
    width, layers = 32, 3
    blind = 12 * width * layers * (tokens * tokens - tokens * (tokens + 1) / 2)
    counted = counter.get_total_flops() - blind
    assert step_flops(model, [one], "fixed") == pytest.approx(counted, rel=0.01)


def test_frozen_weights_cost_less():
    model = small_llama(1)
    marks = np.zeros(9, np.int8)
    one = Example("a", np.arange(5), np.arange(9), marks, np.zeros(0, np.int64), marks[:0])
    full = step_flops(model, [one], "fixed")
    model.requires_grad_(False)
    assert step_flops(model, [one], "fixed") < 0.75 * full


def test_no_peak_is_known_for_a_cpu():
    assert peak_flops(torch.device("cpu")) is None
