"""What ``train_step.py`` compares: each contender trains in a process of its own, block by block.

All do the same work in the timed part of a step: forward, backward, clipping, AdamW (the fused one,
which is TRL's default), and clearing the gradients; bf16 is autocast over fp32 weights.

The first step of a block is not timed: between its turns a worker gives freed memory back, so that
all fit into memory together, and other workers have had the caches.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from fgit.common.errors import UserError
from fgit.common.files import scratch
from fgit.common.models import device, load_model
from fgit.common.tokenizers import load_tokenizer
from fgit.config import TrainSettings
from fgit.train.engine import Engine
from fgit.train.examples import Example
from fgit.train.loop import Trainer, autocast, make_accelerator, make_optimizer
from fgit.train.rows import lay_out, pack
from tests.reference import two_pass

Plan = Sequence[Sequence[Sequence[Example]]]  # blocks of steps of samples, the first untimed


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a contender cuts a step: ``samples`` at once (0: packed under the token budget).

    padding_free: TRL's option, the samples in one row.
    plain_head: for TRL's SFTTrainer, transformers' own loss in place of TRL's fused one, which on
        a CPU reads logits at the prompt's positions too, and folds them in plain PyTorch.
    """

    samples: int = 0
    padding_free: bool = False
    plain_head: bool = False

    def __str__(self) -> str:
        if not self.samples:
            return "packed under the token budget"
        parts = [f"{self.samples} samples at a time" if self.samples > 1 else "sample by sample"]
        if self.samples > 1:
            parts.append("in one row" if self.padding_free else "of similar length, padded")
        if self.plain_head:
            parts.append("transformers' loss")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker does."""

    contender: str
    model: str
    settings: TrainSettings
    batching: Batching
    plan: Plan

    @property
    def steps(self) -> list[Sequence[Example]]:
        return [step for block in self.plan for step in block]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a worker tells after a block: of its timed steps, but for the memory (bytes).

    seconds: of each step. tokens: what went through the model. peak_memory: since the beginning.
    """

    seconds: list[float]
    tokens: int
    peak_memory: int
    loaded_memory: int
    first_loss: float | None
    threads: int


class Stop(Exception):
    """The parent has no more turns to give."""


class Turns:
    """A worker's side of the alternation: wait for the word, time the steps of a block, report."""

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self.connection = connection
        self.lengths = [len(block) for block in plan]
        self.seconds: list[float] = []
        self.tokens = 0
        self.first_loss: float | None = None
        self.loaded_memory = 0

    def ready(self, model: Any) -> None:
        """The model is loaded and data prepared; blocks until the first turn."""
        embedding = model.get_input_embeddings()
        embedding.register_forward_hook(self.count)  # the same count for every contender
        reset_peak_memory()
        self.loaded_memory = peak_memory()
        self.connection.send("ready")
        self.wait()

    def count(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.tokens += inputs[0].numel()

    def wait(self) -> None:
        if self.connection.recv() == "stop":
            raise Stop

    def step_begins(self) -> None:
        if len(self.seconds) == 1:
            self.tokens = 0
        synchronize()
        self.started = time.perf_counter()

    def step_ends(self, loss: float | None = None) -> None:
        synchronize()
        self.seconds.append(time.perf_counter() - self.started)
        if self.first_loss is None:
            self.first_loss = loss
        if len(self.seconds) == self.lengths[0]:
            self.connection.send(
                Report(
                    self.seconds[1:],
                    self.tokens,
                    peak_memory(),
                    self.loaded_memory,
                    self.first_loss,
                    torch.get_num_threads(),
                )
            )
            del self.lengths[0]
            self.seconds = []
            give_memory_back()
            self.wait()


def work(connection: Connection, job: Any, run: Callable[[Any, Any], None]) -> None:
    """The main function of a worker."""
    try:
        run(connection, job)
    except (Stop, EOFError, KeyboardInterrupt):
        pass  # told to stop, or the parent is gone
    except UserError as error:
        connection.send(error)
    except Exception:
        connection.send(UserError(f"it failed:\n{traceback.format_exc().rstrip()}"))


# ------------------------------------------------------------------ time and memory


def synchronize() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def reset_peak_memory() -> None:
    """Forget the peak of loading, so that it does not hide that of training."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # some sandboxes forbid it
            Path("/proc/self/clear_refs").write_text("5")


def give_memory_back() -> None:
    """Hand what the heap, or the GPU's cache, keeps of freed memory to the other workers."""
    gc.collect()
    torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else the peak of this process's resident memory."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# ------------------------------------------------------------------ ours


def micro_batches(batch: Sequence[Example], size: int) -> list[list[Example]]:
    """Parts of a step, of samples of similar length so that little is padded."""
    ordered = sorted(batch, key=lambda e: len(e.prompt) + max(len(e.response), len(e.variant)))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def run_engine(connection: Connection, job: Job) -> None:
    """FGit's training loop, for standard SFT and FGit: its optimizer step, figures included."""
    settings = job.settings
    turns = Turns(connection, job.plan)
    model = load_model(job.model, dtype="float32")
    accelerator = make_accelerator()
    engine: Any = Engine(model, settings).train()
    optimizer: Any = make_optimizer(engine, settings)
    scheduler = get_scheduler("constant", optimizer)
    engine, optimizer = accelerator.prepare(engine, optimizer)
    trainer = Trainer(accelerator, engine, optimizer, scheduler, settings)
    turns.ready(model)
    for number, batch in enumerate(job.steps, start=1):
        turns.step_begins()
        entry, _ = trainer.step(batch, step=number, epoch=1, reference={})
        turns.step_ends(entry["loss"])


def run_two_pass(connection: Connection, job: Job) -> None:
    """The naive form: the model runs on x + y and on x + y'."""
    settings = job.settings
    turns = Turns(connection, job.plan)
    model = load_model(job.model, dtype="float32").train()
    optimizer = make_optimizer(model, settings)
    turns.ready(model)
    for batch in job.steps:
        turns.step_begins()
        tokens = sum(len(example.response) for example in batch)
        total = 0.0
        for samples in micro_batches(batch, job.batching.samples):
            with autocast(device(), settings):
                loss = two_pass(model, samples, settings).loss.sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        turns.step_ends(total)


# ------------------------------------------------------------------ TRL


def run_trl(connection: Connection, job: Job) -> None:
    """TRL's SFTTrainer or DPOTrainer, on exactly our ids, in its own training loop.

    The samples of a step are sorted by length before they are cut into micro-batches.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # TRL's own use of transformers
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings, batching = job.settings, job.batching
    turns = Turns(connection, job.plan)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            turns.ready(model)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.step_begins()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step_ends()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if turns.first_loss is None:
                turns.first_loss = logs["loss"]

    class PlainSFTTrainer(SFTTrainer):
        """Its loss overridden, as TRL's documentation advises where its own does not fit."""

        compute_loss = Trainer.compute_loss

    class ReadyDPOTrainer(DPOTrainer):
        """Takes ids that are ready, where TRL's own tokenizes prompt and response jointly.

        The rows bring their reference log-probabilities with them.
        """

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    samples = [
        example
        for step in job.steps
        for part in micro_batches(step, batching.samples)
        for example in part
    ]
    on_cpu = device().type == "cpu"
    model = load_model(job.model, dtype="float32")
    with scratch() as folder:
        common: dict[str, Any] = {
            "output_dir": str(folder),
            "max_steps": len(job.steps),
            "per_device_train_batch_size": batching.samples,
            "gradient_accumulation_steps": len(job.steps[0]) // batching.samples,
            "train_sampling_strategy": "sequential",
            "max_length": None,  # the ids are cut already
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": settings.weight_decay,
            "max_grad_norm": settings.max_grad_norm,
            "bf16": settings.precision == "bf16",
            "use_cpu": on_cpu,
            "gradient_checkpointing": False,  # TRL's default is on: less memory, more time
            "dataloader_pin_memory": not on_cpu,
            "logging_first_step": True,
            "logging_steps": 10**9,
            "disable_tqdm": True,
            "save_strategy": "no",
            "report_to": "none",
        }
        given: dict[str, Any] = {
            "model": model,
            "processing_class": load_tokenizer(job.model),
            "callbacks": [Clock()],
        }
        trainer: Any
        if job.contender == "trl_dpo":
            with torch.inference_mode(), autocast(device(), settings):
                rows = [preference(model, example) for example in samples]
            trainer = ReadyDPOTrainer(
                args=DPOConfig(**common, beta=settings.beta, precompute_ref_log_probs=True),
                train_dataset=Dataset.from_list(rows),
                **given,
            )
        else:
            trainer = (PlainSFTTrainer if batching.plain_head else SFTTrainer)(
                args=SFTConfig(
                    **common,
                    padding_free=batching.padding_free,
                    dataset_kwargs={"skip_prepare_dataset": True},
                ),
                train_dataset=Dataset.from_list([labelled(example) for example in samples]),
                **given,
            )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def labelled(example: Example) -> dict[str, list[int]]:
    """A row of TRL's tokenized format: the loss is on the response only."""
    prompt, response = example.prompt.tolist(), example.response.tolist()
    return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


def preference(model: Any, example: Example) -> dict[str, Any]:
    """A row of TRL's tokenized preference format, with the log-probabilities before training."""
    prompt = example.prompt.tolist()
    row: dict[str, Any] = {"prompt_ids": prompt}
    for name, side in [("chosen", example.response), ("rejected", example.variant)]:
        row[f"{name}_ids"] = ids = side.tolist()
        logits = model(
            input_ids=torch.tensor([prompt + ids], device=model.device),
            logits_to_keep=len(ids) + 1,
        ).logits[0, :-1]
        labels = torch.tensor(ids, device=model.device)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        row[f"ref_{name}_logps"] = -loss.item()
    return row


# ------------------------------------------------------------------ exactness


def run_exactness(connection: Connection, job: Job) -> None:
    """Send how far the engine is from the two-pass form on the job's one step, in fp32."""
    model = load_model(job.model, dtype="float32").train()
    settings = job.settings.model_copy(update={"precision": "fp32"})
    engine = Engine(model, settings)
    (batch,) = job.steps
    tokens = sum(len(example.response) for example in batch)
    difference: dict[str, float] = {}
    for samples in pack(batch, settings.token_budget, settings.objective):
        found = engine(lay_out(samples, settings.objective).to(device())).loss
        (found.sum() / tokens).backward()
        difference |= dict(zip((e.id for e in samples), found.tolist(), strict=True))
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    for example in batch:
        expected = two_pass(model, [example], settings).loss
        (expected.sum() / tokens).backward()
        difference[example.id] = abs(difference[example.id] / expected.item() - 1)
    squares, differing = 0.0, 0.0
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        expected = parameter.grad.double()
        squares += expected.square().sum().item()
        differing += (expected - gradient.double()).square().sum().item()
    connection.send(
        {
            "max_rel_loss_diff": max(difference.values()),
            "rel_grad_diff": (differing / squares) ** 0.5,
        }
    )


RUNS: dict[str, Callable[[Connection, Job], None]] = {
    "sft": run_engine,
    "fgit": run_engine,
    "two_pass_fgit": run_two_pass,
    "trl_sft": run_trl,
    "trl_dpo": run_trl,
}
