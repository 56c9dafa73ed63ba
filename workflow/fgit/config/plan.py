"""``plan`` and ``pilot``: what ``fgit plan`` reckons with, and how much a pilot takes."""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field

from fgit.config.base import Name, Settings


class Pilot(Settings):
    """How much of everything `snakemake pilot` takes."""

    samples: int = Field(200, ge=1, description="clean samples of each dataset")
    problems: int = Field(20, ge=1, description="problems of each benchmark")


class Estimate(Settings):
    """A figure that `fgit plan` reckons with, and where it is from."""

    value: float = Field(gt=0, description="the figure")
    basis: Literal["assumed", "measured"] = Field(
        "assumed", description="measured only if it was, on the hardware that is planned for"
    )
    note: str = Field(description="the arithmetic, or what was measured")


def assumed(
    value: float, note: str, description: str, basis: Literal["assumed", "measured"] = "assumed"
) -> Any:
    """A field with a figure as its default."""
    return Field(Estimate(value=value, basis=basis, note=note), description=description)


measured = functools.partial(assumed, basis="measured")


class PlanSettings(Settings):
    """What `fgit plan` reckons with; nothing here changes a result.

    Rates of models are those of one with 6.7 billion parameters, and are scaled to others.
    """

    device: Literal["gpu", "cpu"] = Field(
        "gpu", description="what models run on; the hours of cpu are counted as core-hours"
    )
    cores: int = Field(8, ge=1, description="cores of a job, as the rules' threads")
    trainings_at_once: int = Field(
        1, ge=1, description="trainings in progress, each with its checkpoints, for the disk's peak"
    )
    parameters: dict[Name, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="billions of parameters, by model; needed where its path does not say (-7B)",
    )
    problems: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="problems of a benchmark that is fetched; those of a file are counted",
    )
    sample_tokens: Estimate = assumed(
        600,
        "Evol-Instruct's 255 MB / 111,183 rows = 2.3 kB, at 3.7 bytes a token, cut at 1,024",
        "tokens of prompt and response in a sample, as they are trained on",
    )
    sample_kilobytes: Estimate = assumed(
        2.3, "Evol-Instruct's 255 MB / 111,183 rows", "kB of a sample, or of a variant, in a file"
    )
    training_tokens_per_second: Estimate = assumed(
        3100,
        "312 TFLOP/s (A800, bf16) x 40 % MFU / (6 x 6.7e9 FLOP a token)",
        "tokens through the model in training, a second and GPU",
    )
    fgit_tokens: Estimate = assumed(
        1.2,
        "1.03 on the short variants of docs/benchmarks.md; a teacher's depart earlier",
        "tokens through the model with fgit, relative to standard SFT",
    )
    dpo_tokens: Estimate = assumed(
        1.5,
        "the variant's side from where it departs to its end",
        "tokens through the model with dpo, relative to standard SFT",
    )
    teacher_tokens_per_second: Estimate = assumed(
        700,
        "312 TFLOP/s x 25 % / (2 x 32.5e9 FLOP a token) = 1,200, of which 0.7 of 1.7 are prompt",
        "tokens that the teacher writes, a second and GPU",
    )
    answer_tokens: Estimate = assumed(
        330, "the code of a sample, somewhat more than half of its tokens", "tokens of an answer"
    )
    texts_per_second: Estimate = assumed(
        400,
        "312 TFLOP/s x 16 % / (2 x 0.125e9 x 512 FLOP), for UniXcoder at its longest",
        "texts that the embedder reads, a second and GPU",
    )
    evaluation_tokens_per_second: Estimate = assumed(
        300,
        "16 sequences x 30 steps a second (transformers, 32 layers), of which 0.6 are busy",
        "tokens of solutions, a second and GPU",
    )
    solution_tokens: Estimate = assumed(300, "of at most 768", "tokens of a solution")
    askings: Estimate = assumed(
        2,
        "at most: a second time, with one BOS token, where EvalPlus's prompt begins with two",
        "how often a problem is asked in chat mode",
    )
    start_seconds: Estimate = assumed(
        300,
        "27 GB of fp32 weights read and copied, compilation, saving",
        "what a job with a model takes before and after its work",
    )
    program_seconds: Estimate = measured(
        0.27,
        "164 HumanEval+ programs, 22.5 s on two cores (docs/benchmarks.md)",
        "core-seconds for one program of HumanEval+, MBPP+ or one's own tests",
    )
    bigcodebench_program_seconds: Estimate = assumed(
        5, "the import of large libraries", "core-seconds for one program of BigCodeBench"
    )
    decontaminate_per_second: Estimate = measured(
        7500,
        "100,000 samples of 2.3 kB, 13.3 s on one core (docs/benchmarks.md)",
        "samples a second and core",
    )
    mutate_per_second: Estimate = assumed(
        65, "15 ms for 2.1 kB of code, on one core", "samples a second and core"
    )
    annotate_per_second: Estimate = measured(
        2500,
        "40,000 pairs of 2,000 characters, 7.9 s on two cores (docs/benchmarks.md)",
        "pairs a second and core",
    )
