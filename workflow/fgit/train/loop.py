"""The training loop, for every objective, on accelerate: one process, DDP or FSDP2."""

import contextlib
import dataclasses
import itertools
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import accelerate
import polars as pl
import torch
from torch import Tensor
from transformers import get_scheduler

from fgit.common import processes
from fgit.common.errors import Stopped, UserError
from fgit.common.models import torch_dtype
from fgit.common.progress import bar
from fgit.common.signals import Sigterm
from fgit.config import TrainSettings
from fgit.train.engine import Engine, StepOutput, check_exact
from fgit.train.examples import Example
from fgit.train.flops import peak_flops, step_flops
from fgit.train.rows import PackedRow, lay_out, length, pack
from fgit.train.samples import SCHEMA, sample_values, samples_of
from fgit.train.state import State, anywhere

log = logging.getLogger(__name__)


class Sums:
    """Sums over samples, from which a step's figures are means."""

    NAMES = (
        *("loss", "nll", "tokens", "samples", "weighted_tokens", "pairs"),
        *("p_response", "p_variant", "weight", "preferred", "margin", "margins"),
    )

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)

    def add(self, output: StepOutput) -> None:
        paired = ~output.weight.isnan()
        compared = ~output.margin.isnan()
        preferred = (output.p_response > output.p_variant) | (output.margin > 0)
        sums = [
            output.loss.detach().sum(),
            output.nll.sum(),
            output.tokens.sum(),
            torch.ones_like(output.loss).sum(),
            output.weighted_tokens.sum(),
            paired.sum(),
            output.p_response[paired].sum(),
            output.p_variant[paired].sum(),
            output.weight[paired].sum(),
            preferred[paired | compared].sum(),
            output.margin[compared].sum(),
            compared.sum(),
        ]
        self.values += torch.stack([value.double() for value in sums])

    def means(self, accelerator: accelerate.Accelerator, objective: str) -> dict[str, Any]:
        """The figures of the samples of all processes.

        loss per response token (DPO: per pair), nll per response token; the rest per sample with a
        dynamic weight (DPO: per pair), None if there is none.
        """
        values = self.values
        if accelerator.use_distributed:
            values = accelerator.reduce(values, "sum")
        sums = dict(zip(self.NAMES, values.tolist(), strict=True))
        tokens, pairs = max(sums["tokens"], 1), sums["pairs"]

        def mean(name: str, count: float) -> float | None:
            return sums[name] / count if count else None

        return {
            "loss": sums["loss"] / (max(sums["samples"], 1) if objective == "dpo" else tokens),
            "nll": sums["nll"] / tokens,
            "tokens": int(sums["tokens"]),
            "samples": int(sums["samples"]),
            "weighted_samples": int(pairs),
            "weighted_tokens": sums["weighted_tokens"] / tokens,
            "p_response": mean("p_response", pairs),
            "p_variant": mean("p_variant", pairs),
            "weight": mean("weight", pairs),
            "margin": mean("margin", sums["margins"]),
            "prefers_response": mean("preferred", pairs or sums["margins"]),
        }


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training gave.

    model: the trained model (under FSDP2, on the main process only).
    samples: a row for each sample and epoch (:data:`fgit.train.samples.SCHEMA`).
    """

    model: Any
    samples: pl.DataFrame
    history: list[dict[str, Any]]
    held_out_before: dict[str, Any]
    held_out_after: dict[str, Any]
    seconds: float


def batches(examples: Sequence[Example], settings: TrainSettings) -> Iterator[list[Example]]:
    """The samples of each optimizer step: shuffled anew each epoch, the last batch may be small."""
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), settings.batch_size):
            yield [examples[i] for i in order[start : start + settings.batch_size]]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model's engine and its optimizer, as accelerate prepared them for this process."""

    accelerator: accelerate.Accelerator
    engine: Any
    optimizer: Any
    scheduler: Any
    settings: TrainSettings

    def own_rows(self, samples: Sequence[Example], objective: str) -> list[list[Example]]:
        """The rows of this process, as many as of any other; some may be empty."""
        count = self.accelerator.num_processes
        rows = pack(samples, self.settings.token_budget, objective, count)
        return rows[self.accelerator.process_index :: count]

    def outputs(
        self, examples: Sequence[Example], objective: str, description: str
    ) -> Iterator[tuple[PackedRow, StepOutput]]:
        """Each row of this process and what it gives, without gradients."""
        device = self.accelerator.device
        self.engine.eval()
        with torch.no_grad():
            rows = self.own_rows(examples, objective)
            for samples in bar(rows, description=description, unit="row"):
                row = lay_out(samples or examples[:1], objective).to(device)
                with out_of_memory(self.settings, row), autocast(device, self.settings):
                    output = self.engine(row, objective=objective)
                if samples:
                    yield row, output
        self.engine.train()

    def measure(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Loss, p̄, p̄' and w on held-out samples, as FGit measures them."""
        if not examples:
            return {}
        sums = Sums(self.accelerator.device)
        for _, output in self.outputs(examples, "fgit", "held-out"):
            sums.add(output)
        return sums.means(self.accelerator, "fgit")

    def reference_margins(self, examples: Sequence[Example]) -> dict[str, float]:
        """log P(y | x) − log P(y' | x) of the untrained model, by id: DPO's reference."""
        margins: list[tuple[str, float]] = []
        for row, output in self.outputs(examples, "dpo", "reference"):
            margins += zip(row.names, output.margin.tolist(), strict=True)
        if self.accelerator.use_distributed:
            margins = accelerate.utils.gather_object(margins)
        return dict(margins)

    def step(
        self, batch: Sequence[Example], *, step: int, epoch: int, reference: dict[str, float]
    ) -> tuple[dict[str, Any], pl.DataFrame]:
        """Forward and backward over the rows of a step, then one update.

        Returns:
            The step's figures, and each sample's (:func:`fgit.train.samples.samples_of`).
        """
        started = time.perf_counter()
        accelerator, engine, settings = self.accelerator, self.engine, self.settings
        objective, device = settings.objective, accelerator.device
        tokens = sum(len(example.response) for example in batch)
        per_pair = objective == "dpo" or settings.loss_mean == "samples"
        # DDP and FSDP2 take the mean of the processes' gradients, where the sum is due.
        scale = accelerator.num_processes / (len(batch) if per_pair else tokens)
        sums = Sums(device)
        values = []
        parts = self.own_rows(batch, objective)
        for number, samples in enumerate(parts, start=1):
            row = lay_out(samples or batch[:1], objective).to(device)
            start = None
            if objective == "dpo":
                start = torch.tensor([reference[name] for name in row.names], device=device)
            with out_of_memory(settings, row), sync(accelerator, engine, number == len(parts)):
                with autocast(device, settings):
                    output = engine(row, reference=start)
                check_finite(output.loss, row, step)
                loss = output.loss.sum() * scale
                # A process without a row of its own still takes part in what all compute together.
                accelerator.backward(loss if samples else loss * 0.0)
            if samples:
                sums.add(output)
                values.append((row.names, sample_values(output)))
        with out_of_memory(settings):
            norm = float(accelerator.clip_grad_norm_(engine.parameters(), settings.max_grad_norm))
        if not math.isfinite(norm):
            raise UserError(
                f"the gradient's norm is {norm} in step {step}, though the loss is finite: lower "
                f"the learning rate, or look at its samples: {', '.join(e.id for e in batch)}"
            )
        learning_rate = self.scheduler.get_last_lr()[0]
        with out_of_memory(settings):
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        entry = sums.means(accelerator, objective)
        seconds = time.perf_counter() - started
        fed = sum(length(example, objective) for example in batch)
        entry |= {
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "model_tokens_per_second": fed / seconds,
        }
        if peak := peak_flops(device):
            model = accelerator.unwrap_model(engine).model
            work = step_flops(model, batch, objective) / seconds
            entry["mfu"] = work / (peak * accelerator.num_processes)
        return entry, samples_of(accelerator, batch, values, step=step, epoch=epoch)


def train_loop(
    model: Any,
    examples: Sequence[Example],
    settings: TrainSettings,
    *,
    held_out: Sequence[Example] = (),
    state: State | None = None,
) -> Trained:
    """Train ``model``.

    An optimizer step takes ``batch_size`` samples over all processes, packed into rows; its loss
    is normalised over the response tokens (or samples) of the whole step, however it is cut.
    Under DDP and FSDP2, process r of W takes the rows r, r + W, ...

    Args:
        state: where checkpoints go, and from where a killed training goes on.

    Raises:
        UserError: if a loss or gradient is not finite, naming samples; if memory runs out.
        Stopped: after a SIGTERM, when the state has been saved.
    """
    accelerator = make_accelerator()
    if settings.objective == "dpo":
        examples = [example for example in examples if len(example.variant)]
    check_lengths(model, examples, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adapted = with_adapters(model, settings) if settings.lora_rank else None
    engine: Any = Engine(model, settings)
    check_exact(engine)
    engine.train()
    optimizer = make_optimizer(engine, settings)
    per_epoch = math.ceil(len(examples) / settings.batch_size)
    steps = per_epoch * settings.epochs
    scheduler = make_scheduler(optimizer, settings, steps)
    with out_of_memory(settings):
        engine, optimizer, scheduler = accelerator.prepare(engine, optimizer, scheduler)
    trainer = Trainer(accelerator, engine, optimizer, scheduler, settings)
    done = state.load(accelerator) if state else None
    if done is None:
        before = trainer.measure(held_out)
        reference: dict[str, float] = {}
        if settings.objective == "dpo":
            reference = trainer.reference_margins(examples)
        done = {"step": 0, "history": [], "seconds": 0.0, "before": before, "reference": reference}
        if state and reference:
            state.save(accelerator, done)  # a pass over all samples: not to be lost
    history: list[dict[str, Any]] = done["history"]
    samples = [pl.DataFrame(schema=SCHEMA)]
    if state and (earlier := state.samples()) is not None:
        samples.append(earlier)
    # The time of steps that a kill took back is not counted.
    started = time.monotonic() - done["seconds"]
    progress = bar(description="train", total=len(examples) * settings.epochs, unit="sample")
    progress.update(sum(entry["samples"] for entry in history))
    with Sigterm() as sigterm:
        for step, batch in enumerate(batches(examples, settings), start=1):
            if step <= done["step"]:
                continue
            epoch = (step - 1) // per_epoch + 1
            figures, step_samples = trainer.step(
                batch, step=step, epoch=epoch, reference=done["reference"]
            )
            entry = {"step": step, "epoch": epoch} | figures
            history.append(entry)
            samples.append(step_samples)
            if processes.is_first():
                progress.write(step_line(entry, steps), file=sys.stderr)
            progress.update(len(batch))
            if state is None:
                continue
            stop = anywhere(sigterm.requested)
            if stop or (step < steps and state.due(settings.checkpoint_minutes)):
                now = {"step": step, "seconds": time.monotonic() - started}
                state.save(accelerator, done | now, samples=pl.concat(samples), required=stop)
                if stop:
                    progress.close()
                    raise Stopped(f"step {step} of {steps}")
    progress.close()
    after = trainer.measure(held_out)
    seconds = time.monotonic() - started
    if accelerator.distributed_type == accelerate.DistributedType.FSDP:
        weights = accelerator.get_state_dict(engine)  # gathered on the main process
        adapted = None  # of the others: they have nothing whole to merge
        if accelerator.is_main_process:
            model, adapted = unsharded(model, weights, settings)
    if adapted is not None:
        model = adapted.merge_and_unload()
    return Trained(model, pl.concat(samples), history, done["before"], after, seconds)


def step_line(entry: dict[str, Any], steps: int) -> str:
    """A step's figures as a line."""
    parts = [
        f"step {entry['step']}/{steps}",
        f"loss {entry['loss']:.4f}",
        f"{entry['model_tokens_per_second']:.0f} tokens/s",
    ]
    parts += [f"MFU {entry['mfu']:.0%}"] if "mfu" in entry else []
    if entry["weight"] is not None:
        parts.append(
            f"weight {entry['weight']:.2f} on {entry['weighted_tokens']:.0%} of the tokens, "
            f"p̄ {entry['p_response']:.3f}, p̄′ {entry['p_variant']:.3f}"
        )
    if entry["margin"] is not None:
        parts.append(f"margin {entry['margin']:.3f}")
    return ", ".join(parts)


def make_accelerator() -> accelerate.Accelerator:
    return accelerate.Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # see autocast
        step_scheduler_with_optimizer=False,  # or it steps once for each process
    )


def autocast(device: torch.device, settings: TrainSettings) -> Any:
    """bf16 products over fp32 weights, the same for one process, DDP and FSDP2.

    accelerate's own bf16 would, under FSDP2 only, cast weights, gradients and figures to bf16.
    """
    enabled = torch_dtype(settings.precision, device) is torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def sync(
    accelerator: accelerate.Accelerator, engine: Any, last: bool
) -> contextlib.AbstractContextManager[Any]:
    """DDP exchanges gradients once a step. FSDP2 does so at every row, to keep its shards small."""
    if last or accelerator.distributed_type == accelerate.DistributedType.FSDP:
        return contextlib.nullcontext()
    return accelerator.no_sync(engine)


def check_finite(loss: Tensor, row: PackedRow, step: int) -> None:
    broken = ~loss.detach().isfinite()
    if broken.any():
        names = ", ".join(itertools.compress(row.names, broken.tolist()))
        raise UserError(
            f"the loss is {loss[broken][0].item()} in step {step}, on samples {names}: lower the "
            "learning rate, or look at these samples"
        )


@contextlib.contextmanager
def out_of_memory(settings: TrainSettings, row: PackedRow | None = None) -> Iterator[None]:
    """Say what to do when a row does not fit into memory; without a row, the weights and AdamW."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate" not in str(error):
            raise
        fewer = "train adapters (lora_rank), or share the model out among more GPUs (fsdp2)"
        if row is None:
            raise UserError(
                "out of memory for the weights, their gradients and AdamW's two moments: 16 bytes "
                f"a parameter; {fewer}"
            ) from error
        longest = max(map(len, row.segments))
        if len(row.segments) > 1:
            advice = f"lower token_budget, now {settings.token_budget}"
        else:
            advice = f"the row is one sample: lower max_length, now {settings.max_length}"
        if not settings.gradient_checkpointing:
            advice += ", or set gradient_checkpointing"
        raise UserError(
            f"out of memory on a row of {len(row)} tokens (longest sample {longest}): {advice}, "
            f"or {fewer}"
        ) from error


def check_lengths(model: Any, examples: Sequence[Example], settings: TrainSettings) -> None:
    """Refuse a model that looks back less far than a sample is long; warn of long samples."""
    longest = max(len(e.prompt) + max(len(e.response), len(e.variant)) for e in examples)
    window = getattr(model.config, "sliding_window", None)
    if window and window < longest:
        raise UserError(
            f"{model.name_or_path}: its attention sees {window} tokens back, and the longest "
            f"sample has {longest}; lower max_length, now {settings.max_length}, to {window}"
        )
    lengths = [length(example, settings.objective) for example in examples]
    longer = sum(tokens > settings.token_budget for tokens in lengths)
    if longer and processes.is_first():
        log.warning(
            "%d of %d samples have more tokens than token_budget (%d; the longest has %d): each "
            "has a row of its own",
            *(longer, len(lengths), settings.token_budget, max(lengths)),
        )


def with_adapters(model: Any, settings: TrainSettings) -> Any:
    """Low-rank adapters on all linear layers but the output embedding (LoRA, through peft)."""
    import peft

    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def unsharded(
    model: Any, weights: dict[str, Tensor], settings: TrainSettings
) -> tuple[Any, Any | None]:
    """A model of the same kind, on the CPU, with the weights that an engine had, and its adapters.

    A sharded model cannot be turned back, so a new one is built around the weights.
    """
    with accelerate.init_empty_weights(include_buffers=False):
        plain = type(model)(model.config)
    adapted = with_adapters(plain, settings) if settings.lora_rank else None
    own = {name.removeprefix("model."): value for name, value in weights.items()}
    plain.load_state_dict(own, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain, adapted


def make_optimizer(model: Any, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices only, as is usual."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def make_scheduler(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> Any:
    """The learning rate of each step. A warm-up begins at 0, so a single step has none."""
    return get_scheduler(
        settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        optimizer,
        num_warmup_steps=math.ceil(settings.warmup_ratio * steps) if steps > 1 else 0,
        num_training_steps=steps,
    )
