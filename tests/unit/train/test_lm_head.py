import pytest
import torch
from torch.nn.functional import log_softmax

from fgit.train.lm_head import target_logprobs


def plain(hidden, head, labels):
    return log_softmax(head(hidden).float(), -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_values_and_gradients(bias, chunk):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=bias)
    hidden = torch.randn(10, 8, requires_grad=True)
    labels = torch.randint(20, (10,))
    upstream = torch.randn(10)  # weights of either sign
    results = []
    for function in (plain, lambda *a: target_logprobs(*a, logits=20 * chunk)):
        hidden.grad = None
        head.zero_grad()
        found = function(hidden, head, labels)
        (upstream * found).sum().backward()
        results.append([found.detach(), hidden.grad, *[p.grad.clone() for p in head.parameters()]])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gradcheck():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 6, bias=True).double()
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(6, (5,))
    torch.autograd.gradcheck(
        lambda h, w: target_logprobs(h, head, labels, logits=12),
        (hidden, head.weight),
        eps=1e-3,
        atol=1e-3,  # sums are fp32
    )


def test_no_tokens():
    head = torch.nn.Linear(4, 6)
    hidden = torch.zeros(0, 4, requires_grad=True)
    found = target_logprobs(hidden, head, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert found.shape == (0,)


def test_frozen_head():
    head = torch.nn.Linear(4, 6).requires_grad_(False)
    hidden = torch.randn(3, 4, requires_grad=True)
    target_logprobs(hidden, head, torch.tensor([1, 2, 3])).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.norm() > 0


def test_autocast_computes_in_bf16_with_an_fp32_softmax():
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50)
    hidden, labels = torch.randn(7, 16), torch.randint(50, (7,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = target_logprobs(hidden, head, labels)
        expected = plain(hidden, head, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, target_logprobs(hidden, head, labels))


def test_no_array_of_all_logits():
    """The largest array that is made has a chunk's logits, forward and backward."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple | list) else [result]
            sizes.extend(t.numel() for t in outputs if isinstance(t, torch.Tensor))
            return result

    head = torch.nn.Linear(4, 1000)
    hidden = torch.randn(400, 4, requires_grad=True)
    with Watch():
        target_logprobs(hidden, head, torch.randint(1000, (400,)), logits=20_000).sum().backward()
    assert max(sizes) <= 20_000
