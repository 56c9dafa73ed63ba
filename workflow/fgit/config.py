"""What a config says: every key, its type, its default and a sentence.

The same classes give the stages' command-line flags (:mod:`fgit.flags`) and the rules' parameters,
so that a key of the config, a flag and a field are one word. Unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fgit.common.dataset_fields import check_template
from fgit.common.errors import UserError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Objective = Literal["fgit", "fixed", "dpo"]
Granularity = Literal["hybrid", "line", "token"]
Gap = Literal["clipped", "absolute"]
Precision = Literal["auto", "fp32", "bf16"]
Dtype = Literal["auto", "float32", "bfloat16"]
AUTO = "auto: bf16 where the device computes it in hardware, else fp32"
VariantSource = Literal["generate", "mutate"]
# Whose format and scorer. Three are published; `tests` is any problems with a program of tests,
# `pairs` is correct and incorrect code, of which the model must find the correct one more probable,
# and `texts` is problems of whatever benchmark, which are only to be kept out of the data.
BenchmarkKind = Literal["humaneval", "mbpp", "bigcodebench", "tests", "pairs", "texts"]
SandboxChoice = Literal["auto", "bwrap", "rlimits"]
OnBadRow = Literal["fail", "skip"]
WITH_PLUS = ("humaneval", "mbpp")  # kinds with plus tests, of which NAME+ is a column
AUDITED = ("humaneval", "mbpp", "tests")  # kinds whose canonical solutions get variants
KEPT_OUT = ("texts",)  # kinds that are only kept out of the data: no model is asked
Mode = Literal["chat", "completion"]
LAUNCHERS = ("ddp", "fsdp2")  # each a file of workflow/launchers/
COLUMNS = ("avg", "dataset", "group", "method", "model", "n", "seeds")  # no names for benchmarks
TARGETS = ("all", "claims", "funnel", "pilot", "plan")  # no names for tables
BASE = "base"  # the method of a row that shows a model as it is
PUBLISHED = "published"  # the method of a row that is only quoted


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


# ------------------------------------------------------------------ one class per stage


class DecontaminateSettings(Settings):
    """How the overlap with benchmarks is found, and which rows can be used."""

    mode: Literal["strict", "paper"] = Field(
        "strict",
        description="paper removes what Magicoder's rule finds, texts held verbatim but for case; "
        "strict what holds a text, case and whitespace aside, or most of its n-grams; what "
        "the other finds is reported",
    )
    min_characters: int = Field(
        40,
        ge=1,
        description="benchmark texts shorter than this many characters, whitespace not counted, "
        "are trivial: strict passes them over",
    )
    ngram_size: int = Field(
        8, ge=2, description="words of an n-gram, of descriptions and solutions (strict)"
    )
    renamed_size: int = Field(
        16,
        ge=2,
        description="tokens of an n-gram of code whose names do not count (strict); only "
        "solutions with more n-grams than that are looked for",
    )
    ngram_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of a benchmark text's n-grams that a sample's instruction or response "
        "must hold to be removed (strict)",
    )
    max_characters: int = Field(
        200_000,
        ge=1,
        description="a row whose instruction and response have more characters cannot be used",
    )
    on_bad_row: OnBadRow = Field(
        "fail", description="what a row that cannot be used does: stop the stage, or be counted"
    )


class GenerateSettings(Settings):
    """The teacher that writes similar but incorrect variants (section II-A, III-B1)."""

    backend: Literal["transformers", "vllm", "openai"] = Field(
        "vllm", description="what runs the teacher; openai is any compatible HTTP endpoint"
    )
    teacher: str = Field(
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
    batch_size: int = Field(
        32, ge=1, description="answers at a time (transformers), requests in flight (openai)"
    )
    dtype: Dtype = Field("auto", description=f"the teacher's weights: float32, bfloat16, or {AUTO}")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share the teacher (vllm)")
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
        "it (settle it before the first answers: another number asks for all of them again)",
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="limit of the endpoint (openai), over all shards of a dataset"
    )
    tokens_per_minute: float | None = Field(
        None,
        gt=0,
        description="limit of the endpoint (openai), over all shards; a request counts "
        "with its prompt and max_new_tokens",
    )
    max_spend: float | None = Field(
        None,
        gt=0,
        description="the most that the answers for a dataset may cost (openai), in the currency of "
        "the prices; each shard has its part",
    )
    price_per_million_input: float | None = Field(
        None, ge=0, description="price of a million prompt tokens (openai)"
    )
    price_per_million_output: float | None = Field(
        None, ge=0, description="price of a million generated tokens (openai)"
    )

    @model_validator(mode="after")
    def check_spending(self) -> Self:
        if self.max_spend is not None and not (
            self.price_per_million_input or self.price_per_million_output
        ):
            raise ValueError("max_spend needs price_per_million_input and price_per_million_output")
        return self


# What changes the speed or the price of answers only: no reason to ask the teacher again.
GENERATE_SPEED_ONLY = frozenset(
    {
        "requests_per_minute",
        "tokens_per_minute",
        "max_spend",
        "price_per_million_input",
        "price_per_million_output",
    }
)


class MutateSettings(Settings):
    """Mutants in place of the teacher's variants (Table VI)."""

    variants: int = Field(3, ge=1, description="mutants drawn for each sample")
    seed: int = Field(0, ge=0, description="seed of the draw")


class SelectSettings(Settings):
    """The embedder that finds the most similar variant (section II-A)."""

    embedder: str = Field(
        "microsoft/unixcoder-base", description="the embedder: a name on the hub, or a folder"
    )
    revision: str | None = Field(None, description="the embedder's commit on the hub")
    prefix: str = Field(
        "<encoder-only>",
        description="special token before the code (UniXcoder's mode), empty for other embedders",
    )
    max_length: int = Field(512, ge=8, description="tokens of the code that are embedded")
    batch_size: int = Field(
        32, ge=1, description="texts at a time (on a CPU fewer, where they are long)"
    )


class TrainSettings(Settings):
    """One training. Defaults are the paper's (section III-B2) where it names a value."""

    objective: Objective = Field("fgit", description="fgit, fixed (weight 1 is standard SFT), dpo")
    variants: VariantSource = Field(
        "generate", description="the stage whose variants are used: the teacher's or mutants"
    )
    granularity: Granularity = Field("hybrid", description="which mask marks tokens (Table II)")
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
    token_budget: int = Field(
        8192,
        ge=8,
        description="tokens that go through the model at once, on one device: several samples "
        "packed into a row; it changes speed and memory, not the result",
    )
    max_length: int = Field(1024, ge=8, description="tokens of prompt and response that are kept")
    precision: Precision = Field(
        "auto", description=f"fp32, bf16 (autocast over fp32 weights), or {AUTO}"
    )
    gradient_checkpointing: bool = Field(False, description="trade time for memory")
    attention: Literal["auto", "flex", "sdpa"] = Field(
        "auto",
        description="auto: flex (FlexAttention, compiled) on a GPU, sdpa (PyTorch's own, sample "
        "by sample) elsewhere",
    )
    lora_rank: int = Field(
        0, ge=0, description="train low-rank adapters of this rank, merged at the end; 0 trains all"
    )
    lora_alpha: int = Field(32, ge=1, description="scale of the adapters is lora_alpha / rank")
    checkpoint_minutes: float = Field(
        15.0, ge=0, description="minutes between checkpoints of the state; 0 is after every step"
    )
    save_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype of the saved weights"
    )
    held_out: int = Field(
        0, ge=0, description="samples kept out of training, for the loss before and after"
    )
    seed: int = Field(0, ge=0, description="seed of the order of the samples")

    @property
    def effective(self) -> dict[str, Any]:
        """What the result depends on: without what the objective does not use, and speed."""
        unused = set(SPEED_ONLY)
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


# What changes speed and memory, and the result by rounding only: no reason to train again.
SPEED_ONLY = frozenset(
    {"token_budget", "attention", "gradient_checkpointing", "checkpoint_minutes"}
)


class EvaluateSettings(Settings):
    """Greedy generation for a benchmark (section III-B2), as on EvalPlus's leaderboard."""

    max_new_tokens: int = Field(768, ge=1, description="length limit of a solution, in tokens")
    batch_size: int = Field(16, ge=1, description="problems at a time")
    dtype: Dtype = Field("auto", description=f"the model's weights: float32, bfloat16, or {AUTO}")


class ScoreSettings(Settings):
    """Where programs run, and EvalPlus's limits for one solution."""

    min_time_limit: float = Field(1.0, gt=0, description="least time limit of a test, seconds")
    gt_time_limit_factor: float = Field(
        4.0, gt=0, description="time limit as a multiple of the canonical solution's time"
    )
    sandbox: SandboxChoice = Field(
        "auto",
        description="auto: bubblewrap where it works, else limits only; bwrap: refuse to run "
        "without bubblewrap; rlimits: limits only",
    )
    memory_mb: int = Field(
        6144,
        ge=512,
        description="memory of all processes and files of one solution, and its worker, together, "
        "MiB; EvalPlus allows a solution 4096 of it",
    )
    disk_mb: int = Field(512, ge=16, description="a solution's private temporary folder, MiB")
    processes: int = Field(
        256, ge=16, description="processes and threads that a solution may have at once"
    )
    min_ground_truth: float = Field(
        0.99,
        ge=0,
        le=1,
        description="BigCodeBench, and the audit of the variants: refuse to go on where a smaller "
        "share of the canonical solutions passes",
    )


# ------------------------------------------------------------------ what the experiments name


class Model(Settings):
    """A model that is trained or evaluated."""

    path: str = Field(description="a name on the hub, a folder, or package:NAME/file.gguf")
    revision: str | None = Field(None, description="commit on the hub")
    template: str = Field(
        "own",
        description="prompt template: own (the tokenizer's), magicoder, semcoder, or a Jinja file",
    )
    mode: Mode = Field(
        "chat", description="how benchmarks are asked, for the model and its fine-tunes alike"
    )
    licence: str | None = Field(
        None, description="the weights' licence, for the cards of models trained from it"
    )
    samples: dict[Name, str] = Field(
        default_factory=dict,
        description="solutions of this model that are there already, by benchmark: JSONL rows of "
        "task_id, solution; they are scored in place of what the model would write",
    )


class Dataset(Settings):
    """Instruction data."""

    path: str = Field(description="a records file (.jsonl, .json, .parquet) or a name on the hub")
    revision: str | None = Field(None, description="commit on the hub")
    samples: int | None = Field(
        None, ge=1, description="how many rows it has, for `fgit plan` alone; a file is counted"
    )
    variants: str | None = Field(
        None,
        description="incorrect variants that are there already: rows of id, variant (code, or an "
        "answer with a code block); they take the place of the teacher's",
    )
    split: str = Field("train", description="split of a dataset on the hub")
    limit: int | None = Field(
        None, ge=1, description="use at most this many clean samples; unset uses all"
    )
    fields: dict[Literal["id", "instruction", "response", "language", "tests"], str] = Field(
        default_factory=dict,
        description="our name: the file's name, where they differ; a path (messages.1.content); or "
        "a template with the file's names in braces ({instruction} {input})",
    )

    @field_validator("fields")
    @classmethod
    def templates_are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for theirs in value.values():
            check_template(theirs)
        return value


class Benchmark(Settings):
    """A benchmark that is evaluated, or that must not be in the training data."""

    kind: BenchmarkKind = Field(description="whose format and scorer")
    problems: str = Field(
        description="problem file: a path, package:NAME/file, or release:VERSION to fetch (of kind "
        "texts: release:mbpp/COMMIT, all 974 problems, or release:ds-1000/COMMIT)"
    )
    sha256: str | None = Field(None, description="the file's digest; another file is refused")
    limit: int | None = Field(
        None, ge=1, description="only the first problems, this many, are asked and scored"
    )
    part_of: Name | None = Field(
        None,
        description="a larger benchmark that has all of these problems: its solutions and "
        "outcomes are used, so that each problem is solved and scored once",
    )


class Method(BaseModel):
    """A named way to train: ``extends`` another method, and any key of the training settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    extends: Name | None = Field(None, description="the method whose settings are taken over")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Row(Settings):
    """A row of a table: a base model (method base), a run, or published numbers (method published).

    A run is compared with the base row of its model, if the table has one.
    """

    group: str | None = Field(None, description="heading under which this and later rows stand")
    label: str | None = Field(None, description="what the row is called; by default, its method")
    model: Name = Field(description="a key of models")
    dataset: Name | None = Field(None, description="a key of datasets; none for base")
    method: Name = Field(
        description="a key of methods; base for the model as it is; published for a model that is "
        "only quoted"
    )
    x: float | None = Field(
        None, description="where the row stands in the table's figure; unset is a level line"
    )

    @property
    def name(self) -> str:
        return self.label or self.method

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What a row shows; published numbers are named by it."""
        return self.model, self.dataset, self.method


class Figure(Settings):
    """A table drawn as a curve: its rows over their ``x``, a line for each column."""

    x: str = Field(description="what the rows' x is: the horizontal axis")
    optimum: float | None = Field(None, description="the x that was published as the best")


class Table(Settings):
    """A table of the report: benchmarks as columns, runs as rows.

    A run's number is marked where its difference from the base row of its model is significant.
    """

    caption: str = Field(description="what the table shows")
    columns: list[str] = Field(
        min_length=1,
        description="benchmarks; NAME is the base tests (of pairs, the share in which the correct "
        "side is the more probable one), NAME+ base and plus tests",
    )
    rows: list[Row] = Field(min_length=1, description="the rows, in order")
    average: bool = Field(False, description="whether the mean over the columns is one more column")
    figure: Figure | None = Field(None, description="draw it as a curve too")


class Claim(Settings):
    """A relative improvement that tables should yield.

    For each model of the tables that has both rows: the change, relative to ``over``, of the mean
    over the table's columns; the claim is the mean over these models.
    """

    label: str = Field(description="what is claimed")
    tables: list[Name] = Field(min_length=1, description="keys of tables")
    of: Name = Field(description="the method that is better")
    over: Name = Field(description="the method that it is compared with, or base")
    models: list[Name] = Field(
        default_factory=list, description="these models only; unset takes all of the tables"
    )
    published: float | None = Field(None, description="the published figure, in percent")


class Launch(Settings):
    """How a training is started on this site; the result is the same up to rounding."""

    accelerate: str | None = Field(
        None,
        description="ddp (each GPU holds the whole model), fsdp2 (the GPUs share it), or the path "
        "of a config file of accelerate; unset is one process without a launcher",
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="processes of one node, one for each of its GPUs; a file of accelerate may say "
        "it itself, for all nodes",
    )
    nodes: int = Field(
        1,
        ge=1,
        description="nodes of one training, under SLURM only; the profile has to ask for as many "
        "(training_nodes)",
    )

    @model_validator(mode="after")
    def values_fit(self) -> Launch:
        if self.accelerate is None and max(self.processes or 1, self.nodes) > 1:
            many = f"{self.nodes} nodes" if self.nodes > 1 else f"{self.processes} processes"
            raise ValueError(f"{many} need a launcher: set accelerate to ddp or fsdp2")
        if self.accelerate in LAUNCHERS and self.processes is None:
            raise ValueError(f"{self.accelerate} needs processes, the number of GPUs of a node")
        return self

    @property
    def gpus(self) -> int:
        """Of one training, as far as is known: a file of accelerate may say another number."""
        return self.nodes * (self.processes or 1)


class Pythons(Settings):
    """The interpreter of each environment (see envs/)."""

    main: str = "python"
    vllm: str = "python"
    bigcodebench: str = "python"


class DecontaminateConfig(DecontaminateSettings):
    against: list[Name] = Field(
        min_length=1, description="keys of benchmarks that must not be in the data"
    )


class SelectConfig(SelectSettings):
    verified_variants: bool = Field(
        False,
        description="where a sample has tests, use only variants that fail them while the correct "
        "code passes; the paper uses all",
    )


class AuditConfig(Settings):
    """Whether the teacher's variants are similar and incorrect (section III-B1)."""

    benchmarks: list[Name] = Field(
        default_factory=list,
        description="keys of benchmarks with tests, to whose canonical solutions the teacher "
        "writes variants that are then run",
    )
    sheet: int = Field(
        0, ge=0, description="pairs of each dataset that two readers judge; 0 makes no sheet"
    )


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


def assumed(value: float, note: str, description: str) -> Any:
    """A field with an assumption as its default."""
    return Field(Estimate(value=value, note=note), description=description)


def measured(value: float, note: str, description: str) -> Any:
    """A field with a measurement as its default."""
    return Field(Estimate(value=value, basis="measured", note=note), description=description)


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


class Config(Settings):
    """A whole config file."""

    name: Name = Field(description="results go to results/NAME")
    note: str | None = Field(None, description="a sentence shown above every table")
    published: str | None = Field(
        None,
        description="published numbers to stand beside ours: CSV of table, model, dataset, method, "
        "column, value",
    )
    pilot: Pilot = Pilot()
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one run of each method per seed"
    )
    python: Pythons = Pythons()
    launch: Launch = Launch()
    hub: Literal["online", "offline"] = Field(
        "online",
        description="offline: no job asks the model hub; what it needs, `fgit fetch --config` has "
        "brought to the hub's cache",
    )
    keep_models: Literal["all", "none"] | list[str] = Field(
        "all",
        description="methods whose trained weights stay once all that needs them is done: all, "
        "none, or a list of methods",
    )
    models: dict[Name, Model]
    datasets: dict[Name, Dataset]
    benchmarks: dict[Name, Benchmark]
    decontaminate: DecontaminateConfig
    generate: GenerateSettings = GenerateSettings()
    mutate: MutateSettings = MutateSettings()
    select: SelectConfig = SelectConfig()
    audit: AuditConfig = AuditConfig()
    train: dict[str, Any] = Field(
        default_factory=dict, description="training settings shared by all methods"
    )
    methods: dict[Name, Method]
    evaluate: EvaluateSettings = EvaluateSettings()
    score: ScoreSettings = ScoreSettings()
    tables: dict[Name, Table]
    claims: list[Claim] = Field(
        default_factory=list, description="relative improvements that the tables should yield"
    )
    plan: PlanSettings = PlanSettings()

    @field_validator("keep_models", mode="before")
    @classmethod
    def keep_models_is_known(cls, value: Any) -> Any:
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not texts and value not in ("all", "none"):
            raise ValueError(f"must be all, none or a list of methods, not {value!r}")
        return value

    @model_validator(mode="after")
    def values_fit(self) -> Config:
        """What depends on more than one key, or on a whole list."""
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each seed once, not {self.seeds}")
        if self.generate.backend == "openai" and not self.generate.url:
            raise ValueError(
                "generate.url: the openai backend needs the base URL of its endpoint, "
                "such as http://localhost:8000/v1"
            )
        for name, table in self.tables.items():
            if len(set(table.columns)) < len(table.columns):
                raise ValueError(f"tables.{name}.columns: each column once, not {table.columns}")
        return self

    @model_validator(mode="after")
    def names_exist(self) -> Config:
        """Every name that one part of the config uses is a key of another part."""

        def must(name: str, known: Mapping[str, Any], where: str, kind: str) -> None:
            if name not in known:
                raise ValueError(
                    f"{where}: no {kind} is called {name!r}; known: {', '.join(known) or 'none'}"
                )

        for name, part in self.benchmarks.items():
            if part.part_of is None:
                continue
            where = f"benchmarks.{name}.part_of"
            must(part.part_of, self.benchmarks, where, "benchmark")
            whole = self.benchmarks[part.part_of]
            if whole.kind != part.kind:
                raise ValueError(
                    f"{where}: {part.part_of!r} is of kind {whole.kind}, and {name!r} of kind "
                    f"{part.kind}; a part is scored from the outcomes of its own kind"
                )
            if part.limit is not None or whole.limit is not None:
                raise ValueError(
                    f"{where}: a part needs all of the larger benchmark's outcomes; leave out "
                    f"part_of, or the limit of {(name if part.limit else part.part_of)!r}"
                )
            if whole.part_of is not None:
                raise ValueError(
                    f"{where}: {part.part_of!r} is itself a part, of {whole.part_of!r}; name a "
                    "benchmark that is no part of another"
                )
        for name in self.plan.parameters:
            must(name, self.models, "plan.parameters", "model")
        for name in self.plan.problems:
            must(name, self.benchmarks, "plan.problems", "benchmark")
        for name, entry in self.benchmarks.items():
            if entry.kind in KEPT_OUT and entry.limit is not None:
                raise ValueError(
                    f"benchmarks.{name}.limit: {entry.limit}: the data are kept free of all "
                    "problems; leave it out"
                )
        for name, model in self.models.items():
            for benchmark in model.samples:
                must(benchmark, self.benchmarks, f"models.{name}.samples", "benchmark")
                if (larger := self.benchmarks[benchmark].part_of) is not None:
                    raise ValueError(
                        f"models.{name}.samples: {benchmark!r} is scored as a part of {larger!r}; "
                        "name solutions of that"
                    )
        for benchmark in self.decontaminate.against:
            must(benchmark, self.benchmarks, "decontaminate.against", "benchmark")
        for benchmark in self.audit.benchmarks:
            must(benchmark, self.benchmarks, "audit.benchmarks", "benchmark")
            if (kind := self.benchmarks[benchmark].kind) not in AUDITED:
                raise ValueError(
                    f"audit.benchmarks: {benchmark!r} is of kind {kind}; an audit runs variants "
                    f"against the tests of kind {', '.join(AUDITED)}"
                )
        for name, what in {BASE: "the untrained model", PUBLISHED: "a quoted row"}.items():
            if name in self.methods:
                raise ValueError(f"methods.{name}: {name} is {what}; choose another name")
        check_train_settings("train", self.train)
        for name in self.methods:
            self.resolve(name)
        if isinstance(self.keep_models, list):
            for name in self.keep_models:
                must(name, self.methods, "keep_models", "method")
        for table_name, table in self.tables.items():
            for column in table.columns:
                benchmark = column.removesuffix("+")
                must(benchmark, self.benchmarks, f"tables.{table_name}.columns", "benchmark")
                kind = self.benchmarks[benchmark].kind
                if kind in KEPT_OUT:
                    raise ValueError(
                        f"tables.{table_name}.columns: {column!r} is of kind {kind}, which is "
                        "only kept out of the data; no model is asked"
                    )
                if column.endswith("+") and kind not in WITH_PLUS:
                    raise ValueError(
                        f"tables.{table_name}.columns: {column!r}: a benchmark of kind {kind} has "
                        "no plus tests"
                    )
            for number, row in enumerate(table.rows, start=1):
                where = f"tables.{table_name}.rows, entry {number}"
                if row.method in (BASE, PUBLISHED) and row.dataset is not None:
                    raise ValueError(
                        f"{where}: a row of method {row.method} has no dataset ({row.dataset!r})"
                    )
                if row.method == PUBLISHED:
                    if self.published is None:
                        raise ValueError(
                            f"{where}: {row.name!r} is only quoted (method {PUBLISHED}), but the "
                            "config names no file of published numbers (key published)"
                        )
                    continue
                must(row.model, self.models, where, "model")
                if row.method == BASE:
                    continue
                must(row.method, self.methods, where, "method")
                if row.dataset is None:
                    raise ValueError(f"{where}: method {row.method!r} needs a dataset")
                must(row.dataset, self.datasets, where, "dataset")
        for number, claim in enumerate(self.claims, start=1):
            where = f"claims, entry {number}"
            for name in claim.tables:
                must(name, self.tables, f"{where}, tables", "table")
            for name in claim.models:
                must(name, self.models, f"{where}, models", "model")
            for method in (claim.of, claim.over):
                if method != BASE:
                    must(method, self.methods, where, "method")
        return self

    @model_validator(mode="after")
    def each_once(self) -> Config:
        """A table has no two rows of one name, and no two methods are one training."""
        for name, table in self.tables.items():
            if name in TARGETS:
                raise ValueError(
                    f"tables.{name}: `snakemake {name}` is something else; choose another name"
                )
            for column in table.columns:
                if column in COLUMNS:
                    raise ValueError(
                        f"tables.{name}.columns: {column!r} is a column of every table; give the "
                        "benchmark another name"
                    )
            if table.figure and all(row.x is None for row in table.rows):
                raise ValueError(f"tables.{name}.figure: no row has an x, so there is no curve")
            if not table.figure and any(row.x is not None for row in table.rows):
                raise ValueError(f"tables.{name}.rows: a row has an x, but the table has no figure")
            seen: dict[Any, int] = {}
            group = None
            for number, row in enumerate(table.rows, start=1):
                group = row.group if row.group is not None else group
                where = f"tables.{name}.rows, entry {number}"
                if (first := seen.setdefault(("shows", *row.key), number)) != number:
                    shown = " / ".join(part for part in row.key if part)
                    raise ValueError(
                        f"{where}: shows {shown}, as entry {first} does; leave one out"
                    )
                if (first := seen.setdefault((group, row.model, row.name), number)) != number:
                    raise ValueError(
                        f"{where}: is called {row.name!r}, as entry {first} is, and of the same "
                        "model; give it a label of its own"
                    )
        trainings: dict[str, str] = {}
        for name in self.methods:
            settings = self.resolve(name).effective
            if (other := trainings.setdefault(repr(settings), name)) != name:
                raise ValueError(
                    f"methods.{name}: the same training as methods.{other} (all that matters to "
                    "it is the same), which would be done twice; use one of the names"
                )
        return self

    def resolve(self, method: str) -> TrainSettings:
        """The training settings of a method: ``train``, then what it extends, then its own.

        Raises:
            ValueError: naming the method and key, if a key is unknown or a value not allowed.
        """
        chain: list[str] = []
        name: str | None = method
        while name is not None:
            if name in chain:
                raise ValueError(
                    f"methods.{method}: extends goes in a circle: {' -> '.join([*chain, name])}"
                )
            if name not in self.methods:
                raise ValueError(
                    f"methods.{chain[-1]}.extends: no method is called {name!r}; "
                    f"known: {', '.join(self.methods)}"
                )
            chain.append(name)
            name = self.methods[name].extends
        merged = dict(self.train)
        for name in reversed(chain):
            merged |= self.methods[name].settings
        return check_train_settings(f"methods.{method}", merged, also=["extends"])


def check_train_settings(
    where: str, values: Mapping[str, Any], also: Iterable[str] = ()
) -> TrainSettings:
    """Training settings that stand under a key of the config; ``also`` names more keys there."""
    if "seed" in values:
        raise ValueError(
            f"{where}.seed: {values['seed']!r} would not be used: each run takes its seed from "
            "the key seeds, at the top"
        )
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        raise ValueError(explain(error, where, also=also, not_here=["seed"])) from error


# ------------------------------------------------------------------ reading a config


def parse_config(values: Mapping[str, Any], source: str = "config") -> Config:
    """Validate a config read from YAML.

    Raises:
        UserError: naming key, value and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{source}: a config is a mapping of keys to values, not {type(values).__name__}"
        )
    try:
        keys_are_text(values)
        return Config(**values)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error)}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def keys_are_text(values: Any, location: tuple[int | str, ...] = ()) -> None:
    """Raise ValueError for a key that YAML reads as something else (1, on, 2.0), at any depth."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{key_of((*location, repr(key)))}: this key is not text; put it in quotes"
                )
            keys_are_text(value, (*location, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            keys_are_text(value, (*location, number))


def read_config(path: str | Path) -> Config:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if values is None:
        raise UserError(f"{path}: this config is empty; start from workflow/quickstart/config.yaml")
    return parse_config(values, str(path))


MESSAGES = {  # of Pydantic's that say more of Python than of the config
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_pattern_mismatch": "a name has letters, digits, '.', '_' and '-' only, and starts "
    "with a letter or digit",
    "too_short": "must not be empty",
}


def explain(
    error: ValidationError,
    where: str = "",
    *,
    also: Iterable[str] = (),
    not_here: Iterable[str] = (),
) -> str:
    """Pydantic's findings as one line each: key, what is wrong, the value, what is allowed.

    Args:
        where: the key under which the checked values stand.
        also: keys that are allowed there though the class does not have them.
        not_here: keys of the class that are not allowed there.
    """
    lines = []
    for item in error.errors():
        key = ".".join(filter(None, [where, key_of(item["loc"])]))
        message = MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "must be", 1)
        if item["type"] == "extra_forbidden":
            allowed = {*known_keys(error.title, item["loc"]), *also} - set(not_here)
            lines.append(
                f"unknown key {key!r} (value {item['input']!r}); "
                f"allowed: {', '.join(sorted(allowed)) or 'none'}"
            )
        elif item["type"] == "missing":
            lines.append(f"{key}: this key is required")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {message}" if key else message)
        else:
            lines.append(f"{key}: {message}, not {item['input']!r}")
    return "\n  ".join(lines)


def key_of(location: Iterable[int | str]) -> str:
    """Where a finding is: ``tables.NAME.rows, entry 2, label``, entries counted from 1."""
    key, separator = "", ""
    for part in location:
        if isinstance(part, int):
            key, separator = f"{key}, entry {part + 1}", ", "
        elif part != "[key]":  # Pydantic's mark for a finding about the key itself
            key, separator = f"{key}{separator}{part}", "."
    return key


def known_keys(title: str, location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    model: Any = {cls.__name__: cls for cls in every_subclass(Settings)}.get(title)
    for part in location[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[str(part)].annotation
        else:  # an entry of a dict or list: its model is the last type argument
            model = getattr(model, "__args__", [None])[-1]
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return list(model.model_fields)


def every_subclass(cls: type[BaseModel]) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for sub in cls.__subclasses__():
        found += [sub, *every_subclass(sub)]
    return found
