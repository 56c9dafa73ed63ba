"""``generate``: the teacher."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fgit.config.base import AUTO, Dtype, Place, Settings, Speed


class GenerateSettings(Settings):
    """The teacher that writes similar but incorrect variants (section II-A, III-B1)."""

    backend: Literal["transformers", "vllm", "openai"] = Field(
        "vllm", description="what runs the teacher; openai is any compatible HTTP endpoint"
    )
    teacher: Annotated[str, Place("model")] = Field(
        "Qwen/Qwen2.5-Coder-32B-Instruct",
        description="the teacher: a name on the hub, a folder, or the endpoint's model name",
    )
    revision: str | None = Field(None, description="the teacher's commit on the hub")
    url: str | None = Field(
        None, description="base URL of the endpoint (openai backend), its key in OPENAI_API_KEY"
    )
    variants: int = Field(3, ge=1, description="variants asked for, for each sample")
    temperature: float = Field(0.8, ge=0, description="sampling temperature")
    max_new_tokens: int = Field(1024, ge=1, description="length limit of an answer, in tokens")
    batch_size: Speed[int] = Field(
        32, ge=1, description="answers at a time (transformers), requests in flight (openai)"
    )
    dtype: Dtype = Field("auto", description=f"the teacher's weights: float32, bfloat16, or {AUTO}")
    tensor_parallel: Speed[int] = Field(1, ge=1, description="GPUs that share the teacher (vllm)")
    min_similarity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="refuse answers whose Levenshtein ratio to the code is below this; "
        "0 refuses none, as in the paper",
    )
    seed: int = Field(0, ge=0, description="seed; each answer's is (seed, sample id, k)")
    shards: int = Field(
        1,
        ge=1,
        description="jobs that share a dataset's samples; ids, prompts and seeds do not depend on "
        "it, and answers that are there count in any number of jobs",
    )
    requests_per_minute: Speed[float | None] = Field(
        None, gt=0, description="limit of the endpoint (openai), over all shards of a dataset"
    )
    tokens_per_minute: Speed[float | None] = Field(
        None,
        gt=0,
        description="limit of the endpoint (openai), over all shards; a request counts "
        "with its prompt and max_new_tokens",
    )
    max_spend: Speed[float | None] = Field(
        None,
        gt=0,
        description="the most that the answers for a dataset may cost (openai), in the currency of "
        "the prices, with all that was ever spent on them; each shard has its part",
    )
    price_per_million_input: Speed[float | None] = Field(
        None, ge=0, description="price of a million prompt tokens (openai)"
    )
    price_per_million_output: Speed[float | None] = Field(
        None, ge=0, description="price of a million generated tokens (openai)"
    )

    @property
    def gpus(self) -> int:
        """How many a teacher that runs here takes."""
        return self.tensor_parallel if self.backend == "vllm" else 1

    @model_validator(mode="after")
    def check_spending(self) -> Self:
        if self.max_spend is not None and not (
            self.price_per_million_input or self.price_per_million_output
        ):
            raise ValueError("max_spend needs price_per_million_input and price_per_million_output")
        return self
