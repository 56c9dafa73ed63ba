"""A made-up results folder, as the stages leave it, in little: what the report's tests read."""

import csv
import dataclasses
import datetime
import re
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from fgit.annotate import segments
from fgit.config import parse_config
from fgit.files import write_json, write_jsonl, write_parquet, write_text
from fgit.masks import overlap_mask
from fgit.provenance import write_provenance
from fgit.runs import all_runs, evaluations
from fgit.statistics import wilson

RESPONSE = "Use this:\n```python\ndef add(a, b):\n    return a + b\n```\n"
EVIL = "<script>alert('x')</script>"
STARTED = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
N = 10
SHA256 = "1a2b3c4d" * 8


def make_config(**changes):
    values = {
        "name": "made-up",
        "note": "Stand-ins throughout.",
        "models": {"tiny": {"path": "somewhere/tiny"}},
        "datasets": {"tasks": {"path": "tasks.jsonl"}},
        "benchmarks": {"easy": {"kind": "humaneval", "problems": "easy.jsonl"}},
        "decontaminate": {"against": ["easy"]},
        "methods": {
            "sft": {"objective": "fixed"},
            "fgit": {},
            "dpo": {"objective": "dpo"},
            "mutation": {"extends": "fgit", "variants": "mutate"},
        },
        "tables": {
            "main": {
                "caption": "All methods",
                "columns": ["easy", "easy+"],
                "rows": [
                    {"label": "untrained", "model": "tiny", "method": "base"},
                    *(
                        {"model": "tiny", "dataset": "tasks", "method": method}
                        for method in ("sft", "fgit", "dpo", "mutation")
                    ),
                ],
            }
        },
    }
    return parse_config(values | changes)


def first(count, n=N):
    """Outcomes in which the first problems are solved."""
    return [number < count for number in range(n)]


class Folder:
    """A results folder as the stages leave it, in little."""

    def __init__(self, root: Path, config, *, response=RESPONSE) -> None:
        self.root = root
        self.config = config
        self.response = response
        root.mkdir()
        for dataset in config.datasets:
            self.data(dataset)
        for number, (name, run) in enumerate(all_runs(config).items()):
            if run.dataset is not None:
                self.train(name, number)
        for number, (run, benchmark) in enumerate(evaluations(config, config.tables)):
            self.score(run, benchmark, first(4 + number % 5))

    def provenance(self, out, stage, **inputs):
        write_provenance(
            out,
            stage=stage,
            settings=None,
            arguments={},
            inputs=inputs,
            outputs=[out],
            started=STARTED,
        )

    def data(self, dataset):
        write_json(
            self.root / "decontaminate" / dataset / "report.json",
            {
                "samples": 13,
                "bad_rows": [],
                "bad_row_count": 0,
                "removed": [
                    {
                        "id": "sample-3",
                        "row": 3,
                        "benchmark": "easy",
                        "task_id": "Easy/1",
                        "what": "description",
                        "field": "instruction",
                        "text": f"Add two numbers. {EVIL}",
                        "position": 0,
                    }
                ],
                "removed_count": 1,
                "over_limit": 0,
                "kept": 12,
                "duplicates": 0,
                "exempt_texts": 2,
                "benchmarks": {"easy": {"problems": N, "texts": 18, "sha256": "0" * 64}},
                "rule": "A sample is removed if it holds a problem's text.",
            },
        )
        common = {"samples": 12, "without_code": 0, "samples_with_variant": 12, "seconds": 1.5}
        reports = {
            "generate": common
            | {"answers": 36, "usable": 20, "refused": {"same_code": 12, "no_code": 4}}
            | {"teacher": "tiny-teacher", "backend": "transformers", "temperature": 0.8},
            "mutate": common
            | {"mutants_tried": 60, "usable": 36, "refused": {"invalid": 20, "duplicate": 4}},
        }
        for source, made in reports.items():
            write_json(self.root / source / dataset / "report.json", made)
            write_json(
                self.root / "select" / dataset / source / "report.json",
                {
                    "samples": 12,
                    "with_variant": 12,
                    "without_variant": 0,
                    "similarity": {"mean": 0.9, "median": 0.91, "min": 0.8},
                    "embedder": "tiny-embedder",
                },
            )
            folder = self.root / "annotate" / dataset / source
            write_json(
                folder / "report.json",
                {
                    "samples": 12,
                    "pairs": 12,
                    "without_marked_response": 0,
                    "without_marked_variant": 1,
                    "changed_characters": {"response": 4.5, "variant": 5.0},
                    "changed_lines": {"response": 1.5, "variant": 1.25},
                },
            )
            write_parquet(folder / "spans.parquet", self.pairs())
            self.provenance(folder / "spans.parquet", "annotate")

    def pairs(self):
        variant = self.response.replace("a + b", "a - b")
        rows = [
            {
                "id": f"sample-{number}",
                "instruction": "Add two numbers.",
                "response": self.response,
                "variant": variant,
                "similarity": 0.8 + number / 60,
            }
            | dataclasses.asdict(segments(self.response, variant))
            for number in range(12)
        ]
        return pl.DataFrame(rows)

    def train(self, run, number):
        folder = self.root / "train" / run
        method = self.config.resolve(run.split("/")[2])
        steps = [
            {"step": step, "loss": 1 / step + number / 10, "nll": 0.9 / step, "p_response": None}
            | {"weight": None, "weighted_tokens": 0.0, "tokens_per_second": 1000.0 + step}
            for step in range(1, 9)
        ]
        if method.objective == "fgit":
            for step in steps:
                step |= {"p_response": 0.5 + step["step"] / 50, "p_variant": 0.4, "weight": 1.9}
                step |= {"weighted_tokens": 0.1, "mfu": 0.45}
        if method.objective == "dpo":
            steps = [{"step": s["step"], "loss": 0.69, "rewards/margins": 0.1} for s in steps]
        write_jsonl(folder / "steps.jsonl", steps)
        figures = {
            "p_response": 0.6,
            "p_variant": 0.5,
            "prefers_response": 0.75,
            "weight": 1.8,
        }
        write_json(
            folder / "metrics.json",
            {
                "counts": {"samples": 64, "paired": 60, "no_variant": 4},
                "held_out_counts": {"samples": 16},
                "held_out_before": {"nll": 1.25} | figures,
                "held_out_after": {"nll": 1.0 + number / 8} | figures | {"p_response": 0.7},
                "steps": 8,
                "seconds": 100.0 + number,
                "peak_memory_gb": 2.5,
                "relative_update": 1.5e-3,
            },
        )
        text = yaml.safe_dump({"model": "tiny", "train": method.model_dump()})
        write_text(folder / "run.yaml", text)
        if method.objective != "dpo":
            write_json(folder / "segments.json", self.segments(method))
        spans = self.root / "annotate" / run.split("/")[1] / method.variants / "spans.parquet"
        self.provenance(folder, "train", spans=spans)

    def segments(self, method):
        """What a training writes of its first pairs, in tokens that are words."""
        variant = self.response.replace("a + b", "a - b")
        found = segments(self.response, variant)
        sides = {}
        for side, text in (("response", self.response), ("variant", variant)):
            words = list(re.finditer(r" ?\w+|\s|[^\w\s]", text))
            offsets = np.array([word.span() for word in words])
            masks = {
                mask: overlap_mask(offsets, getattr(found, f"{side}_{spans}"), len(text)).tolist()
                for mask, spans in (("line", "lines"), ("token", "characters"))
            }
            hybrid = [sum(pair) for pair in zip(*masks.values(), strict=True)]
            marks = hybrid if method.granularity == "hybrid" else masks[method.granularity]
            sides[side] = {
                "tokens": [*(word[0] for word in words), "<|end|>"],
                **{mask: [*values, 0] for mask, values in masks.items()},
                "marks": [*marks, 0],
                "kept": len(words) + 1,
                "cut": False,
            }
        dynamic = method.objective == "fgit"
        return {
            "objective": method.objective,
            "granularity": method.granularity,
            "weight": None if dynamic else method.weight,
            "samples": [
                {
                    "id": f"sample-{number}",
                    "instruction": f"Add two numbers. {number}",
                    **sides,
                    "epochs": [
                        {
                            "epoch": epoch,
                            "step": 4 * epoch,
                            "weight": 1.9 - epoch / 4 if dynamic else None,
                            "p_response": 0.5 + epoch / 8 if dynamic else None,
                            "p_variant": 0.4 if dynamic else None,
                        }
                        for epoch in range(1, method.epochs + 1)
                    ],
                }
                for number in range(2)
            ],
        }

    def score(self, run, benchmark, passes, **changes):
        """Outcomes with these base passes; the plus tests fail the last of them too."""
        folder = self.root / "score" / run / benchmark
        kind = self.config.benchmarks[benchmark].kind
        n, passed = len(passes), {"base": sum(passes), "plus": None}
        rows = {
            "task_id": [f"Easy/{number}" for number in range(n)],
            "base_pass": passes,
            "plus_pass": [None] * n,
            "solution": ["pass"] * n,
        }
        more = {}
        if kind in ("humaneval", "mbpp"):
            passed["plus"] = max(0, passed["base"] - 1)
            last = max((number for number in range(n) if passes[number]), default=None)
            rows["plus_pass"] = [passes[number] and number != last for number in range(n)]
        if kind == "pairs":
            rows["p_correct"] = [0.75 if passes[number] else 0.25 for number in range(n)]
            rows["p_incorrect"] = [0.5] * n
            more["gap"] = {"mean": 0.125, "interval": [-0.0625, 0.25], "n": n - 1}
        schema = {"plus_pass": pl.Boolean}
        write_parquet(folder / "outcomes.parquet", pl.DataFrame(rows, schema_overrides=schema))
        summary = {
            "benchmark": kind,
            "n": n,
            "pass@1": {k: None if v is None else v / n for k, v in passed.items()},
            "interval": {k: None if v is None else wilson(v, n) for k, v in passed.items()},
            "one_bos": None,
            "problems_sha256": SHA256,
            "sandbox": None if kind == "pairs" else "bwrap",
        }
        write_json(folder / "summary.json", summary | more | changes)
        samples = [
            {"task_id": f"Easy/{number}", "solution": "pass", "tokens": 10, "truncated": False}
            for number in range(n)
        ]
        written = self.root / "evaluate" / run / benchmark / "samples.jsonl"
        write_jsonl(written, samples)
        model = {"model": self.root / "train" / run / "model"} if run.count("/") == 3 else {}
        self.provenance(written, "evaluate", **model)
        self.provenance(folder, "score", samples=written)

    def drawn(self, *parts: str) -> Path:
        """A file of the report, which stands in ``partial`` while something is missing."""
        partial = self.root / "partial"
        return (partial if partial.exists() else self.root).joinpath(*parts)

    def path(self, *parts):
        return self.root.joinpath(*parts)

    def table(self, name="main"):
        text = self.drawn("tables", f"{name}.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(text.splitlines()))

    def html(self):
        return self.drawn("report.html").read_text(encoding="utf-8")
