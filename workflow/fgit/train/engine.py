"""The training step: one packed row through the model, and the objective on what comes out.

A row (:mod:`fgit.train.rows`) costs what its tokens cost, so FGit costs what standard SFT costs.
The whole computation is the forward pass of one module, as DDP and FSDP2 need it.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fgit.common.errors import UserError, described
from fgit.common.models import embedding_rows, position_limit, require_rows, torch_dtype
from fgit.config import TrainSettings
from fgit.train.attention import ATTENTION, FLEX_BLOCK, Visible, backend, block_mask, head_size
from fgit.train.examples import Example
from fgit.train.lm_head import target_logprobs
from fgit.train.rows import PackedRow, lay_out
from fgit.train.weights_and_losses import (
    dynamic_weight,
    marked_mean,
    per_sample,
    preference_loss,
    token_weights,
    weighted_nll,
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What the samples of a row gave; float32 [samples] but for ``tokens``.

    loss: Σ −w log P over a sample's response tokens (DPO: the pair's loss), with gradient. The
        rest is detached.
    tokens: int64, response tokens. weighted_tokens: those that carry the sample's weight.
    nll: Σ −log P.
    p_response, p_variant, weight: p̄, p̄' and w; nan where nothing is paired, and for objectives
        without a dynamic weight.
    margin: log P(y | x) − log P(y' | x), less the reference; nan but for DPO.
    """

    loss: Tensor
    tokens: Tensor
    weighted_tokens: Tensor
    nll: Tensor
    p_response: Tensor
    p_variant: Tensor
    weight: Tensor
    margin: Tensor


class Engine(torch.nn.Module):
    """A causal language model and the objective that it is trained with."""

    def __init__(self, model: Any, settings: TrainSettings) -> None:
        super().__init__()
        check_supported(model)
        config = model.config
        usual = config._attn_implementation
        self.usual_attention = "sdpa" if usual == ATTENTION else usual  # from another engine
        model.set_attn_implementation(ATTENTION)
        if config._attn_implementation != ATTENTION:
            raise UserError(
                f"{model.name_or_path}: {type(model).__name__} computes its attention in a way of "
                "its own that cannot be replaced, so it cannot be trained here"
            )
        without_dropout(model)
        self.model = model
        self.settings = settings
        dtype = torch_dtype(settings.precision)
        with refusing(model):
            heads = config.num_attention_heads
            key_heads = getattr(config, "num_key_value_heads", None) or heads
            self.attention = backend(settings.attention, heads, key_heads, head_size(config), dtype)
        self._no_split_modules = model._no_split_modules  # what FSDP2 wraps

    def tie_weights(self) -> None:
        """Called by accelerate after it has sharded the model."""
        self.model.tie_weights()

    def logprobs(self, row: PackedRow) -> Tensor:
        """float32 [R + V], log P of the row's labels."""
        tokens, positions, mask = row.tokens, row.positions, None
        if self.attention == "flex":
            padding = -len(row) % FLEX_BLOCK
            tokens, positions = pad(tokens, (0, padding)), pad(positions, (0, padding))
            mask = block_mask(row.segments, tokens.shape[1], tokens.device)
        hidden = self.model.get_decoder()(
            input_ids=tokens,
            position_ids=positions,
            use_cache=False,
            visible=Visible(row.groups, mask),
        ).last_hidden_state[0]
        return target_logprobs(hidden[row.read_at], self.model.get_output_embeddings(), row.labels)

    def forward(
        self, row: PackedRow, objective: str | None = None, reference: Tensor | None = None
    ) -> StepOutput:
        """The objective of each sample of a row.

        Args:
            row: laid out for the same objective.
            objective: in place of the settings' (held-out pairs are measured as FGit sees them).
            reference: float32 [samples], for DPO: the margins before training.
        """
        settings, samples = self.settings, len(row.names)
        objective = objective or settings.objective
        logprobs = self.logprobs(row)
        response, sample = logprobs[: len(row.response_sample)], row.response_sample
        variant = logprobs[row.variant_at]
        unknown = torch.full((samples,), float("nan"), device=logprobs.device)
        p_response, p_variant, weight, margin = unknown, unknown, unknown, unknown
        if objective == "dpo":
            marked = per_sample(row.response_marks * response, sample, samples)
            margin = marked - per_sample(row.variant_marks * variant, row.variant_sample, samples)
            start = torch.zeros_like(margin) if reference is None else reference
            loss = preference_loss(margin, start, settings.beta)
            margin = (margin - start).detach()
            is_weighted = row.response_marks > 0
        elif objective == "fixed":
            constant = torch.full_like(unknown, settings.weight)
            weights = token_weights(row.response_marks, constant, sample)
            loss = weighted_nll(response, weights, sample, samples)
            is_weighted = (row.response_marks > 0) & (settings.weight != 1.0)
        else:
            p = marked_mean(response, row.response_marks, sample, samples)
            q = marked_mean(variant, row.variant_marks, row.variant_sample, samples)
            w = dynamic_weight(p, q, settings.alpha, settings.gap)
            if not settings.weight_gradient:
                w = w.detach()
            marks = row.response_marks * row.paired[sample]
            weights = token_weights(marks, w, sample)
            loss = weighted_nll(response, weights, sample, samples)
            p_response, p_variant, weight = (
                torch.where(row.paired, value.detach(), unknown) for value in (p, q, w)
            )
            is_weighted = marks > 0
        ones = torch.ones_like(sample)
        return StepOutput(
            loss=loss,
            tokens=per_sample(ones, sample, samples).long(),
            weighted_tokens=per_sample(is_weighted, sample, samples).long(),
            nll=weighted_nll(response.detach(), ones, sample, samples),
            p_response=p_response,
            p_variant=p_variant,
            weight=weight,
            margin=margin,
        )


def check_supported(model: Any) -> None:
    """Refuse a model of more than text, without attention, with quantised weights, or with more
    behind its output embedding."""
    if model.config.get_text_config() is not model.config:
        raise UserError(
            f"{model.name_or_path}: {type(model).__name__} is multimodal, and cannot be trained "
            "here; save its language model by itself, and name that folder"
        )
    if getattr(model.config, "quantization_config", None):
        raise UserError(
            f"{model.name_or_path}: its weights are quantised (quantization_config in its "
            "config.json), and cannot be trained; use the model that it was made from"
        )
    if not getattr(model.config, "num_attention_heads", None):
        raise UserError(f"{model.name_or_path}: {type(model).__name__} has no attention heads")
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, key, None) not in (None, 1.0):
            raise UserError(
                f"{model.name_or_path}: {type(model).__name__} has {key}, which is not supported "
                "(logits are rescaled behind the output embedding)"
            )


def check_fits(
    model: Any, tokenizer: Any, examples: Sequence[Example], setting: str = "max_length"
) -> None:
    """Refuse samples with tokens or positions that the model does not have.

    Args:
        setting: what to lower where samples are too long, for the message.
    """
    name = model.name_or_path
    sides = ((sample.prompt, sample.response, sample.variant) for sample in examples)
    ids = (part for parts in sides for part in parts if len(part))
    require_rows(embedding_rows(model), tokenizer, ids, name)
    limit, ends = position_limit(model)
    if limit is None:
        return
    lengths = [len(s.prompt) + max(len(s.response), len(s.variant)) for s in examples]
    long = [length for length in lengths if length > limit]
    if long and ends:
        raise UserError(
            f"{name}: {len(long)} samples are longer than the {limit} positions of this model, "
            f"up to {max(long)} tokens; set {setting} to {limit}"
        )
    if long:
        log.warning(
            "%s: %d of %d samples are longer than the %d positions that the model was made for "
            "(max_position_embeddings), up to %d tokens; what it gives beyond them is a guess. "
            "Set %s to %d to cut them",
            *(name, len(long), len(lengths), limit, max(long), setting, limit),
        )


@contextlib.contextmanager
def refusing(model: Any) -> Iterator[None]:
    """Refuse a model by name for whatever it raises, instead of a traceback."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # layers raise what they like where they get no mask, or no cache
        raise UserError(
            f"{model.name_or_path}: {type(model).__name__} does not run on a packed row "
            f"({described(error)}), so it cannot be trained here"
        ) from error


def check_exact(engine: Engine, tolerance: float = 0.01) -> None:
    """Compare a small row with plain calls of the model, and refuse a model that gives another P.

    What a layer carries along a row without asking attention (convolutions, recurrent states,
    positions that depend on the longest) would mix samples, and the branch with the trunk.

    Args:
        tolerance: by how much log P may differ; weights in bfloat16 need more than those in fp32.
    """
    model, attention = engine.model, engine.attention
    device = next(model.parameters()).device
    ids = np.arange(60) * 7919 % embedding_rows(model)  # any will do
    marks = np.ones(8, dtype=np.int8)
    samples = []
    for part in ids.reshape(2, 30):
        prompt, y = part[:10], part[10:18]
        samples.append(Example("", prompt, y, marks, np.append(y[:3], part[18:23]), marks))
    row = lay_out(samples, "fgit").to(device)
    expected = []
    with torch.no_grad(), refusing(model):
        engine.attention = "sdpa"  # which kernel computes it is checked elsewhere
        logprobs = engine.eval().logprobs(row)
        packed = torch.cat([logprobs[: len(row.response_sample)], logprobs[row.variant_at]])
        model.set_attn_implementation(engine.usual_attention)
        for sample, side in [(s, s.response) for s in samples] + [(s, s.variant) for s in samples]:
            tokens = torch.tensor([[*sample.prompt, *side]], device=device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
            labels = torch.tensor(side, device=device).unsqueeze(-1)
            expected.append(logits.float().log_softmax(-1).gather(-1, labels).squeeze(-1))
        model.set_attn_implementation(ATTENTION)
        engine.attention = attention
    difference = float((packed - torch.cat(expected)).abs().max())
    if not difference < tolerance:
        raise UserError(
            f"{model.name_or_path}: packed into a row, {type(model).__name__} gives log "
            f"probabilities that differ by {difference:.2g} from its own, so its layers carry more "
            "along a row than attention does, and it cannot be trained here"
        )


def without_dropout(model: Any) -> None:
    """Switch dropout off: y and y' share their trunk, so both must see the same network."""
    had_dropout = False
    for module in model.modules():
        names = ["p"] if isinstance(module, torch.nn.Dropout) else list(vars(module))
        for name in names:
            share = getattr(module, name)
            if (name == "p" or "dropout" in name) and isinstance(share, float) and share:
                setattr(module, name, 0.0)
                had_dropout = True
    if had_dropout:
        log.info("the model's dropout is switched off in training")
