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
from fgit.common.files import write_json, write_jsonl, write_parquet, write_text
from fgit.common.provenance import reading, write_provenance
from fgit.common.statistics import wilson
from fgit.config import parse_config
from fgit.masks import overlap_mask
from fgit.report.places import numbers_folder, numbers_path
from fgit.report.results import results
from fgit.runs import all_runs, evaluations
from fgit.scores import write_summary

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


def score_summary(kind, n, base, plus=None, **changes):
    """The summary.json of a score in which so many of n problems pass."""
    passed = {"base": base, "plus": plus}
    return {
        "benchmark": kind,
        "n": n,
        "pass@1": {k: None if v is None else v / n for k, v in passed.items()},
        "interval": {k: None if v is None else list(wilson(v, n)) for k, v in passed.items()},
        "one_bos": None,
        "problems_sha256": SHA256,
        "sandbox": None if kind == "pairs" else "bwrap",
    } | changes


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
        with reading(inputs) as read:
            write_provenance(
                out,
                stage=stage,
                settings=None,
                arguments={},
                inputs=read,
                outputs=[out],
                started=STARTED,
            )

    def data(self, dataset):
        """Of 43 rows, 40 are records, and 36 of these have a variant."""
        removed = {
            "id": "sample-3",
            "row": 3,
            "removed": True,
            "rule": "ngram",
            "benchmark": "easy",
            "task_id": "Easy/1",
            "what": "description",
            "field": "instruction",
            "position": 12,
            "share": 0.75,
            "text": f"Add two numbers. {EVIL}",
            "found": f"add 2 numbers! {EVIL}",
        }
        left = {
            "id": "sample-4",
            "row": 4,
            "removed": False,
            "rule": "text",
            "share": None,
            "found": "ADD two numbers",
        }
        matches = {"matches": 2, "samples": 1, "only": 0}
        write_json(
            self.root / "decontaminate" / dataset / "report.json",
            {
                "rows": 43,
                "samples": 42,
                "bad_rows": [f"{dataset}.jsonl, row 9: 'response' is empty"],
                "bad_row_count": 1,
                "bad_rows_by_reason": {"'response' is empty": 1},
                "mode": "strict",
                "rule": "A sample is removed if it holds a problem's text.",
                "rules": {"verbatim": matches, "text": matches, "ngram": matches | {"only": 1}},
                "removed": [removed],
                "removed_count": 1,
                "removed_by_benchmark": {"easy": 1},
                "removed_matches": 3,
                "not_removed": [removed | left],
                "not_removed_count": 1,
                "over_limit": 1,
                "kept": 40,
                "duplicates": {"exact": 1, "same_text": 2, "same_instruction": 3},
                "exempt_texts": 2,
                "unprotected": {"easy": ["Easy/8", "Easy/9"]},
                "benchmarks": {"easy": {"problems": N, "texts": 18, "sha256": "0" * 64}},
            },
        )
        common = {"samples": 40, "without_code": 1, "samples_with_variant": 38, "seconds": 1.5}
        reports = {
            "generate": common
            | {"answers": 117, "usable": 100, "refused": {"same_code": 12, "no_code": 5}}
            | {"teacher": "tiny-teacher", "backend": "transformers", "temperature": 0.8},
            "mutate": common
            | {"mutants_tried": 120, "usable": 96, "refused": {"invalid": 20, "duplicate": 4}},
        }
        lost = {"no_code": 1, "no_usable_variant": 1, "same_as_response": 2, "passes_its_tests": 0}
        for source, report in reports.items():
            write_json(self.root / source / dataset / "report.json", report)
            write_json(
                self.root / "select" / dataset / source / "report.json",
                {
                    "samples": 40,
                    "with_variant": 36,
                    "without_variant": 4,
                    "lost": lost,
                    "forms": {"one_block": 30, "bare_code": 9, "no_code": 1, "tabs": 2},
                    "similarity": {"mean": 0.9, "median": 0.91, "min": 0.8},
                    "distribution": [
                        [0.8, 0.85, 9],
                        [0.85, 0.9, 7],
                        [0.9, 0.95, 0],
                        [0.95, 1.0, 20],
                    ],
                    "embedder": "tiny-embedder",
                },
            )
            folder = self.root / "annotate" / dataset / source
            write_json(
                folder / "report.json",
                {
                    "samples": 40,
                    "pairs": 36,
                    "no_difference": 0,
                    "without_marked_response": 0,
                    "without_marked_variant": 1,
                    "changed_characters": {"response": 4.5, "variant": 5.0},
                    "changed_lines": {"response": 1.5, "variant": 1.25},
                    "distribution": {
                        "changed_lines": {
                            "response": [[0, 0, 0], [1, 1, 30], [2, 3, 6]],
                            "variant": [[0, 0, 1], [1, 1, 35]],
                        },
                        "changed_characters": {
                            "response": [[0, 0, 0], [1, 1, 20], [2, 3, 16]],
                            "variant": [[0, 0, 1], [1, 1, 19], [2, 3, 15], [4, 7, 1]],
                        },
                    },
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
                "similarity": 0.8 + number / 200,
            }
            | dataclasses.asdict(segments(self.response, variant))
            for number in range(40)
        ]
        for row in rows[2:6]:  # nothing is paired
            row |= dict.fromkeys(
                [key for key in row if key not in ("id", "instruction", "response")]
            )
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
                "counts": {
                    "samples": 32,
                    "prompt_too_long": 1,
                    "no_variant": 3,
                    "marks_cut": 2,
                    "no_difference": 1,
                    "fork_for_variant": 1,
                    "cut": 3,
                    "paired": 25,
                },
                "used": 25,
                "used_share": 25 / 32,
                "held_out_counts": {"samples": 8, "no_variant": 1, "paired": 7},
                "marked_share": {
                    "response": [20, 5, *[0] * 18],
                    "variant": [18, 6, 1, *[0] * 17],
                },
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
        changed = segments(self.response, variant)
        sides = {}
        for side, text in (("response", self.response), ("variant", variant)):
            words = list(re.finditer(r" ?\w+|\s|[^\w\s]", text))
            offsets = np.array([word.span() for word in words])
            masks = {
                mask: overlap_mask(offsets, getattr(changed, f"{side}_{spans}"), len(text)).tolist()
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
            del rows["base_pass"], rows["plus_pass"]
            rows["prefers"] = passes
            rows["p_correct"] = [0.75 if passes[number] else 0.25 for number in range(n)]
            rows["p_incorrect"] = [0.5] * n
            more["gap"] = {"mean": 0.125, "interval": [-0.0625, 0.25], "n": n - 1}
        frame = pl.DataFrame(rows, schema_overrides={"plus_pass": pl.Boolean})
        write_parquet(folder / "outcomes.parquet", frame)
        write_summary(folder, score_summary(kind, n, **passed) | more | changes)
        samples = [
            {"task_id": f"Easy/{number}", "solution": "pass", "tokens": 10, "truncated": False}
            for number in range(n)
        ]
        written = self.root / "evaluate" / run / benchmark / "samples.jsonl"
        write_jsonl(written, samples)
        model = {"model": self.root / "train" / run / "model"} if run.count("/") == 3 else {}
        self.provenance(written, "evaluate", **model)
        self.provenance(folder, "score", samples=written)

    def gather(self):
        """The numbers of every table, as the results stage writes them."""
        for table in self.config.tables:
            folder = numbers_folder(self.config, self.root, table)
            results(self.config, self.root, table, numbers_path(folder, table))

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
