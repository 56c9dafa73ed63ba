"""``evaluate``: how models write solutions."""

from pydantic import Field

from fgit.config.base import AUTO, Dtype, Settings, Speed


class EvaluateSettings(Settings):
    """Greedy generation for a benchmark (section III-B2), as on EvalPlus's leaderboard."""

    max_new_tokens: int = Field(768, ge=1, description="length limit of a solution, in tokens")
    batch_size: Speed[int] = Field(16, ge=1, description="problems at a time")
    dtype: Dtype = Field("auto", description=f"the model's weights: float32, bfloat16, or {AUTO}")
