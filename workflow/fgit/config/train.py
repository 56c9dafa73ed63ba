"""``train``: one training."""

from typing import Any, Literal

from pydantic import Field

from fgit.config.base import AUTO, Settings, Speed

Gap = Literal["clipped", "absolute"]
Precision = Literal["auto", "fp32", "bf16"]
WEIGHT_ONE = "weight 1"


def given_to_pairs(objective: str, weight: float, alpha: float) -> str:
    """What an objective gives the pairs, in words; WEIGHT_ONE is standard SFT, however named."""
    if objective == "dpo":
        return "a preference"
    if objective == "fgit" and alpha != 1:
        return "a dynamic weight"
    return f"weight {weight if objective == 'fixed' else 1:g}"


class TrainSettings(Settings):
    """One training. Defaults are the paper's (section III-B2) where it names a value."""

    objective: Literal["fgit", "fixed", "dpo"] = Field(
        "fgit", description="fgit, fixed (weight 1 is standard SFT), dpo"
    )
    variants: Literal["generate", "mutate"] = Field(
        "generate", description="the stage whose variants are used: the teacher's or mutants"
    )
    granularity: Literal["hybrid", "line", "token"] = Field(
        "hybrid", description="which mask marks tokens (Table II)"
    )
    alpha: float = Field(2.0, ge=1, description="upper end of the dynamic weight (Figure 7a)")
    gap: Gap = Field("clipped", description="max(0, p - p') or |p - p'| in the weight")
    weight_gradient: bool = Field(True, description="whether gradients flow through the weight")
    weight: float = Field(1.0, gt=0, description="constant weight of marked tokens (fixed)")
    beta: float = Field(0.1, gt=0, description="DPO's beta (dpo)")
    loss_mean: Literal["tokens", "samples"] = Field(
        "tokens", description="mean over the batch's response tokens, or sums per sample, then mean"
    )
    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after warm-up"
    )
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    epochs: int = Field(1, ge=1, description="passes over the data (Figure 7b)")
    batch_size: int = Field(64, ge=1, description="samples in an optimizer step, over all devices")
    token_budget: Speed[int] = Field(
        8192,
        ge=8,
        description="tokens that go through the model at once, on one device: several samples "
        "packed into a row; it changes speed and memory, not the result",
    )
    max_length: int = Field(1024, ge=8, description="tokens of prompt and response that are kept")
    precision: Precision = Field(
        "auto", description=f"fp32, bf16 (autocast over fp32 weights), or {AUTO}"
    )
    gradient_checkpointing: Speed[bool] = Field(False, description="trade time for memory")
    attention: Speed[Literal["auto", "flex", "sdpa"]] = Field(
        "auto",
        description="auto: flex (FlexAttention, compiled) on a GPU, sdpa (PyTorch's own, sample "
        "by sample) elsewhere",
    )
    lora_rank: int = Field(
        0, ge=0, description="train low-rank adapters of this rank, merged at the end; 0 trains all"
    )
    lora_alpha: int = Field(32, ge=1, description="scale of the adapters is lora_alpha / rank")
    checkpoint_minutes: Speed[float] = Field(
        15.0, ge=0, description="minutes between checkpoints of the state; 0 is after every step"
    )
    save_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype of the saved weights"
    )
    held_out: int = Field(
        0, ge=0, description="samples kept out of training, for the loss before and after"
    )
    seed: int = Field(0, ge=0, description="seed of the order of the samples")
    min_share: Speed[float] = Field(
        0.1,
        gt=0,
        le=1,
        description="refuse to train where a smaller share of the samples has what the objective "
        "needs: a response and a variant that differ within max_length; for standard SFT, a prompt "
        "that leaves room for a response",
    )

    @property
    def pairs_get(self) -> str:
        """What sets pairs apart from other samples, in words (:func:`given_to_pairs`)."""
        return given_to_pairs(self.objective, self.weight, self.alpha)

    @property
    def effective(self) -> dict[str, Any]:
        """What the result depends on: without what the objective does not use, and speed."""
        unused = set(self.speed_fields())
        if self.objective != "fgit":
            unused |= {"alpha", "gap", "weight_gradient"}
        if self.objective != "fixed":
            unused.add("weight")
        elif self.weight == 1:
            unused.add("granularity")
        if self.objective == "dpo":
            unused |= {"granularity", "loss_mean"}
        else:
            unused.add("beta")
        if not self.lora_rank:
            unused.add("lora_alpha")
        return self.model_dump(exclude=unused)
