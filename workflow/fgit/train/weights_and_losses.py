"""The objective (section II-B): means over marked tokens, the dynamic weight, the weighted loss.

Pure functions on tensors; probabilities, weights and sums are fp32 whatever the model computes in.
Tokens of several samples stand one behind the other, without padding: ``sample`` says whose each
token is.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

TINY = torch.finfo(torch.float32).tiny


def per_sample(values: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Sums of the tokens' values by sample: float32 [tokens] -> float32 [samples]."""
    zeros = torch.zeros(samples, dtype=torch.float32, device=values.device)
    return zeros.index_add(0, sample, values.float())


def marked_mean(logprobs: Tensor, marks: Tensor, sample: Tensor, samples: int) -> Tensor:
    """The mean probability of each sample's marked tokens, p̄ (equations 5 and 6).

    Args:
        logprobs: float [tokens], log P(y_t | x, y_<t).
        marks: [tokens], h_t >= 0; 0 where a token is not marked.
        sample: int64 [tokens], whose token it is.

    Returns:
        float32 [samples]: Σ h_t P_t / Σ h_t; 0 for a sample without a marked token.
    """
    weights = marks.float()
    total = per_sample(weights * logprobs.float().exp(), sample, samples)
    return total / per_sample(weights, sample, samples).clamp(min=TINY)


def dynamic_weight(
    p_response: Tensor, p_variant: Tensor, alpha: float = 2.0, gap: str = "clipped"
) -> Tensor:
    """The weight w of the marked tokens of y, from the two means as Bradley–Terry strengths.

    w = 1 + (α − 1)(1 − g / (p̄ + p̄′)) with g = max(0, p̄ − p̄′) (``clipped``) or |p̄ − p̄′|
    (``absolute``): α where the model cannot tell the two apart (and, clipped, where it prefers the
    wrong one), towards 1 as it prefers the right one.

    Args:
        p_response, p_variant: float [...], means in [0, 1].
        alpha: upper end of the weight, at least 1.

    Returns:
        float32 [...], in [1, α]. Where both means are 0, α.
    """
    p, q = p_response.float(), p_variant.float()
    difference = (p - q).abs() if gap == "absolute" else (p - q).clamp(min=0)
    total = (p + q).clamp(min=TINY)
    return 1 + (alpha - 1) * (1 - difference / total)


def token_weights(marks: Tensor, weight: Tensor, sample: Tensor) -> Tensor:
    """The weight of each token of y: its sample's where it is marked, else 1 (equation 2).

    [tokens], float [samples], [tokens] -> float32 [tokens].
    """
    return torch.where(marks > 0, weight.float()[sample], 1.0)


def weighted_nll(logprobs: Tensor, weights: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Σ_t −w_t log P(y_t | x, y_<t) over each sample's response tokens (equation 1).

    Returns:
        float32 [samples]. Divide by the tokens of the global batch for their mean.
    """
    return per_sample(-weights * logprobs.float(), sample, samples)


def preference_loss(margin: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO's loss −log σ(β (margin − reference)) of each pair (Table V).

    Args:
        margin: float [samples], log P(y | x) − log P(y′ | x) of the model in training.
        reference: float [samples], the same of the model before training.

    Returns:
        float32 [samples].
    """
    return -logsigmoid(beta * (margin.float() - reference.float()))
