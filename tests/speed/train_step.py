"""What a training step costs: FGit beside standard SFT, two-pass FGit, and TRL's SFT and DPO.

    python tests/speed/pairs.py humanevalpack-python.jsonl.gz --out pairs.jsonl
    python tests/speed/train_step.py --model DIR --pairs pairs.jsonl --json step.json

See --help for how it is measured and what is written.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import logging
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import transformers

from fgit.annotate import with_spans
from fgit.common.chat_templates import require_chat_template
from fgit.common.errors import UserError
from fgit.common.files import read_records, write_json, write_text
from fgit.common.progress import bar
from fgit.common.provenance import code_version, hardware, package_versions
from fgit.common.tokenizers import load_tokenizer
from fgit.config import TrainSettings
from fgit.train.examples import Example, examples
from tests.speed import contenders
from tests.speed.contenders import Batching, Job, Plan, Report

LABELS = {
    "sft": "standard SFT, FGit's engine",
    "fgit": "FGit",
    "two_pass_fgit": "FGit in two passes",
    "trl_sft": "TRL SFTTrainer",
    "trl_dpo": "TRL DPOTrainer",
}

DESCRIPTION = """\
Measure what a training step costs, contender by contender, on the same pairs:

  sft            standard SFT on FGit's engine (objective fixed, weight 1)
  fgit           FGit on its engine
  two_pass_fgit  FGit in two passes, x + y and x + y' (tests/reference.py)
  trl_sft        TRL's SFTTrainer
  trl_dpo        TRL's DPOTrainer; its reference log-probabilities are computed before

Every contender trains in a process of its own and they take turns, a block of optimizer steps
each, in an order that rotates, so that a drift of the machine hits all alike. In a block all see
the same samples, and every step has samples of all lengths. All use the same ids, samples per
step, maximum length, dtype, AdamW and clipping, and take the loss of the response only. Timed are
forward, backward, clipping, optimizer step and clearing the gradients; of FGit's engine and of the
two passes also the laying out of the batches, of TRL not its collation. A turn begins with a step
that is not timed.

Those that can cut a step into micro-batches in several ways (two_pass_fgit, trl_sft, trl_dpo) try
each in a block before the measurement; the fastest is measured, and what the others took is
recorded."""

EPILOG = """\
written to --json:
  contenders             for each: seconds_per_step (median) and ..._by_block, tokens_per_second
                         (of prompt and response, the same for all), peak_memory_gb (resident, or
                         of the GPU), loaded_memory_gb (before the first step),
                         tokens_processed_over_sft, first_loss, batching, trials
  fgit_over_sft, two_pass_over_fgit, fgit_over_trl_sft
                         ratios of the medians; ratios_by_block has those within each block
  fgit_memory_over_sft   ratio of the peaks
  max_rel_loss_diff      largest of the --exact samples, FGit's engine against two passes, in fp32
  rel_grad_diff          norm of the difference of their gradients over the norm, likewise
  and the settings, samples and tokens, the model's shape, packages, hardware, date.

examples:
  python tests/speed/train_step.py --model DIR --pairs pairs.jsonl --json step.json \\
      --chart step.svg
  python tests/speed/train_step.py --model DIR --pairs pairs.jsonl --json quick.json \\
      --contenders sft,fgit --blocks 2 --steps-per-block 1 --samples-per-step 2"""


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    given = make_parser().parse_args(arguments)
    try:
        result = measure(given)
        write_json(given.json, result)
        if given.chart:
            from tests.speed.charts import train_step_chart

            write_text(given.chart, train_step_chart(LABELS, result))
    except UserError as error:
        print(f"train_step.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_step.py: interrupted", file=sys.stderr)
        return 130
    print(summary(result))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="a model's folder, or its name on the hub")
    add(
        "--pairs",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSONL rows {id, instruction, response, variant}; pairs.py makes such a file",
    )
    add("--json", type=Path, required=True, metavar="FILE", help="where the result goes")
    add("--chart", type=Path, metavar="FILE.svg", help="draw it, too")
    add(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(LABELS),
        metavar="NAME,...",
        help="which ones, in this order (default: all)",
    )
    number = {"type": positive, "metavar": "N"}
    add("--samples-per-step", **number, default=8, help="of an optimizer step (default: 8)")
    add("--blocks", **number, default=7, help="turns of each contender (default: 7)")
    add("--steps-per-block", **number, default=2, help="optimizer steps in a turn (default: 2)")
    add("--max-length", **number, default=1024, help="tokens of prompt and response (1024)")
    add(
        "--dtype",
        choices=["bf16", "fp32"],
        default="bf16",
        help="bf16: autocast over fp32 weights (default)",
    )
    add(
        "--token-budget",
        **number,
        default=TrainSettings().token_budget,
        help="tokens of a row of FGit's engine (default: that of training, %(default)s)",
    )
    add(
        "--exact",
        type=int,
        default=16,
        metavar="N",
        help="pairs, of all lengths, on which the engine is compared with two passes in fp32 "
        "(default: 16; 0: not at all)",
    )
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: at least 1")
    return value


# ------------------------------------------------------------------ the measurement


def measure(given: argparse.Namespace) -> dict[str, Any]:
    unknown = [name for name in given.contenders if name not in LABELS]
    if unknown or len(set(given.contenders)) < len(given.contenders):
        raise UserError(
            f"--contenders {','.join(given.contenders)}: name each once, out of {', '.join(LABELS)}"
        )
    if not given.json.parent.is_dir():
        raise UserError(f"--json {given.json}: there is no folder {given.json.parent}; make it")
    samples = read_samples(given)
    size = given.steps_per_block
    steps = deal(samples, given.samples_per_step, size * (1 + given.blocks))
    # A block for the trials and those to measure, each with its first step twice, once untimed.
    plan = [[steps[at], *steps[at : at + size]] for at in range(0, len(steps), size)]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a worker that waits must not spin
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fgit.train.engine"])  # what all import
    trials = sum(len(batchings(name, given.samples_per_step)) for name in given.contenders)
    total = 1 + trials + len(given.contenders) * given.blocks
    with bar(description="exactness", total=total, unit="turn") as progress:
        exact = exactness(context, given, samples) if given.exact > 0 else {}
        progress.update()
        workers: list[Worker] = []
        try:
            for name in given.contenders:
                workers.append(fastest(context, given, name, plan, progress))
            rounds: list[dict[str, Report]] = []
            for number in range(given.blocks):
                order = collections.deque(workers)
                order.rotate(-number)
                reports = {}
                for worker in order:
                    progress.set_description_str(worker.job.contender)
                    reports[worker.job.contender] = worker.block()
                    progress.update()
                rounds.append(reports)
        finally:
            stop(workers)
    return {
        **figures(workers, rounds, plan),
        **exact,
        **described(given, samples, plan, rounds),
    }


def read_samples(given: argparse.Namespace) -> list[Example]:
    frame, _ = read_records(given.pairs, ["id", "instruction", "response", "variant"])
    tokenizer = load_tokenizer(given.model)
    require_chat_template(tokenizer, given.model)
    rows = map(with_spans, frame.iter_rows(named=True))
    found, _ = examples(rows, tokenizer, max_length=given.max_length)
    if len(found) < given.samples_per_step:
        raise UserError(
            f"{given.pairs}: {len(found)} of its {frame.height} pairs have a prompt shorter than "
            f"--max-length {given.max_length}, but a step takes {given.samples_per_step}; "
            "lower --samples-per-step or give more pairs"
        )
    return found


def deal(samples: Sequence[Example], size: int, count: int) -> list[list[Example]]:
    """``count`` steps of ``size`` samples, each step with samples of all lengths.

    They are drawn at random, ordered by length and dealt out; where there are too few, the steps
    come again in their order.
    """
    steps = min(count, len(samples) // size)
    generator = np.random.default_rng(0)
    drawn = [samples[i] for i in generator.permutation(len(samples))[: steps * size]]
    drawn.sort(key=length)
    dealt: list[list[Example]] = [[] for _ in range(steps)]
    for at in range(0, len(drawn), steps):
        for step, i in enumerate(generator.permutation(steps)):
            dealt[step].append(drawn[at + i])
    shuffled = [[step[i] for i in generator.permutation(size)] for step in dealt]
    return [shuffled[number % steps] for number in range(count)]


def length(example: Example) -> int:
    return len(example.prompt) + len(example.response)


def settings_of(given: argparse.Namespace, name: str) -> TrainSettings:
    return TrainSettings(
        objective="fixed" if name == "sft" else "fgit",
        weight=1.0,
        batch_size=given.samples_per_step,
        token_budget=given.token_budget,
        max_length=given.max_length,
        precision=given.dtype,
    )


def batchings(name: str, samples_per_step: int) -> list[Batching]:
    """The ways to cut a step that a contender tries.

    Of DPO's samples, each two sequences, half as many go at once.
    """
    if name in ("sft", "fgit"):
        return [Batching()]
    several = [size for size in (4, 2) if samples_per_step % size == 0]
    if name == "two_pass_fgit":
        return [Batching(size) for size in (1, *several[:1])]
    if name == "trl_dpo":
        return [Batching(size) for size in (1, *several[-1:])]
    in_one_row = [Batching(size, padding_free=True) for size in several[:1]]
    plain = [Batching(size, plain_head=True) for size in (1, *several[:1])]
    sizes = sorted({*several[:1], samples_per_step} - {1})
    plain += [Batching(size, padding_free=True, plain_head=True) for size in sizes]
    return [Batching(1), *in_one_row, *plain]


class Worker:
    """The parent's side of a contender's process."""

    def __init__(self, context: Any, job: Job) -> None:
        self.job = job
        self.trials: dict[str, float] = {}  # seconds per step of each batching
        self.connection, theirs = context.Pipe()
        run = contenders.RUNS.get(job.contender, contenders.run_exactness)
        self.process = context.Process(target=contenders.work, args=(theirs, job, run), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        try:
            found = self.connection.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f"{self.job.contender}: its process died (exit code {self.process.exitcode}; -9 "
                "is most often for want of memory: name fewer --contenders, or lower "
                "--samples-per-step or --token-budget)"
            ) from None
        if isinstance(found, UserError):
            raise UserError(f"{self.job.contender}: {found}") from found
        return found

    def block(self) -> Report:
        """Give it a turn; returns after its block."""
        with contextlib.suppress(OSError):  # it is gone; receive says how
            self.connection.send("go")
        return self.receive()


def stop(workers: Sequence[Worker]) -> None:
    """End the processes; they are told all at once, since tidying up takes each a while."""
    for worker in workers:
        with contextlib.suppress(OSError):  # it is gone already
            worker.connection.send("stop")
    for worker in workers:
        worker.process.join(timeout=10)
        worker.process.kill()


def fastest(
    context: Any, given: argparse.Namespace, name: str, plan: Plan, progress: Any
) -> Worker:
    """A worker with the contender's fastest batching; its ``trials`` say what each took."""
    best: Worker | None = None
    trials: dict[str, float] = {}
    quickest = float("inf")
    for batching in batchings(name, given.samples_per_step):
        progress.set_description_str(f"trying {name}, {batching}")
        job = Job(name, given.model, settings_of(given, name), batching, plan)
        worker = Worker(context, job)
        worker.receive()  # ready
        seconds = min(worker.block().seconds)  # the least disturbed
        trials[str(batching)] = seconds
        slower = worker
        if seconds < quickest:
            best, slower, quickest = worker, best, seconds
        if slower is not None:
            stop([slower])
        progress.update()
    assert best is not None
    best.trials = trials
    return best


def exactness(
    context: Any, given: argparse.Namespace, samples: Sequence[Example]
) -> dict[str, float]:
    ordered = sorted(samples, key=length)
    spread = np.linspace(0, len(ordered) - 1, min(given.exact, len(ordered))).round().astype(int)
    batch = [ordered[i] for i in spread]
    job = Job("exactness", given.model, settings_of(given, "fgit"), Batching(), [[batch]])
    worker = Worker(context, job)
    found = worker.receive()
    stop([worker])
    return found | {"exact_samples": len(batch)}


# ------------------------------------------------------------------ the result


def figures(
    workers: Sequence[Worker], rounds: Sequence[dict[str, Report]], plan: Plan
) -> dict[str, Any]:
    """Medians over blocks, and their ratios."""
    tokens = [sum(length(e) for step in block[1:] for e in step) for block in plan[1:]]
    processed = {
        worker.job.contender: sum(reports[worker.job.contender].tokens for reports in rounds)
        for worker in workers
    }
    result: dict[str, Any] = {"contenders": {}}
    by_block: dict[str, list[float]] = {}
    for worker in workers:
        name = worker.job.contender
        reports = [found[name] for found in rounds]
        by_block[name] = [statistics.mean(report.seconds) for report in reports]
        rates = [n / sum(report.seconds) for n, report in zip(tokens, reports, strict=True)]
        result["contenders"][name] = {
            "seconds_per_step": statistics.median(by_block[name]),
            "seconds_per_step_by_block": by_block[name],
            "tokens_per_second": statistics.median(rates),
            "peak_memory_gb": reports[-1].peak_memory / 1e9,
            "loaded_memory_gb": reports[-1].loaded_memory / 1e9,
            "tokens_processed": processed[name],
            "tokens_processed_over_sft": processed[name] / processed.get("sft", sum(tokens)),
            "first_loss": reports[-1].first_loss,
            "batching": str(worker.job.batching),
            "trials": worker.trials,
        }
    result["ratios_by_block"] = {}
    for key, one, other in [
        ("fgit_over_sft", "fgit", "sft"),
        ("two_pass_over_fgit", "two_pass_fgit", "fgit"),
        ("fgit_over_trl_sft", "fgit", "trl_sft"),
    ]:
        if one in by_block and other in by_block:
            result[key] = statistics.median(by_block[one]) / statistics.median(by_block[other])
            result["ratios_by_block"][key] = [
                a / b for a, b in zip(by_block[one], by_block[other], strict=True)
            ]
    if "fgit" in by_block and "sft" in by_block:
        peaks = [result["contenders"][name]["peak_memory_gb"] for name in ("fgit", "sft")]
        result["fgit_memory_over_sft"] = peaks[0] / peaks[1]
    return result


def described(
    given: argparse.Namespace,
    samples: Sequence[Example],
    plan: Plan,
    rounds: Sequence[dict[str, Report]],
) -> dict[str, Any]:
    """What was measured, on what."""
    measured = {e.id: e for block in plan[1:] for step in block for e in step}.values()
    config = transformers.AutoConfig.from_pretrained(given.model)
    keys = (
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "tie_word_embeddings",
    )
    return {
        "settings": {
            "samples_per_step": given.samples_per_step,
            "blocks": given.blocks,
            "steps_per_block": given.steps_per_block,
            "max_length": given.max_length,
            "dtype": given.dtype,
            "token_budget": given.token_budget,
            "optimizer": "AdamW (fused)",
            "threads": next(iter(rounds[0].values())).threads,
        },
        "samples": {
            "pairs": len(samples),
            "measured": len(measured),
            "paired": sum(e.paired for e in measured),
            "prompt_tokens": sum(len(e.prompt) for e in measured),
            "response_tokens": sum(len(e.response) for e in measured),
            "variant_tokens": sum(len(e.variant) for e in measured),
            "longest": max(length(e) for e in measured),
        },
        "model": {"name": given.model} | {key: getattr(config, key, None) for key in keys},
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
    }


def summary(result: dict[str, Any]) -> str:
    return "\n".join(lines(result))


def lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'':30}{'s/step':>9}{'tokens/s':>10}{'peak GB':>9}{'tokens':>8}"
    for name, found in result["contenders"].items():
        yield (
            f"{LABELS[name]:30}{found['seconds_per_step']:9.3f}{found['tokens_per_second']:10.0f}"
            f"{found['peak_memory_gb']:9.2f}{found['tokens_processed_over_sft']:8.2f}"
        )
        if len(found["trials"]) > 1:
            yield f"  {found['batching']}; tried, s/step:"
            yield from (f"    {seconds:.3f}  {how}" for how, seconds in found["trials"].items())
    for key in (
        "fgit_over_sft",
        "two_pass_over_fgit",
        "fgit_over_trl_sft",
        "fgit_memory_over_sft",
        "max_rel_loss_diff",
        "rel_grad_diff",
    ):
        if key in result:
            yield f"{key:30}{result[key]:9.3g}"


if __name__ == "__main__":
    sys.exit(main())
