"""Stages that write what they read, with provenance: a chain from the data to a score."""

import datetime
import pathlib

from fgit.common.files import write_text
from fgit.common.provenance import reading, write_provenance
from fgit.config import (
    DecontaminateSettings,
    EvaluateSettings,
    GenerateSettings,
    ScoreSettings,
    SelectSettings,
    TrainSettings,
)
from fgit.scores import write_summary

STARTED = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
RUN = "tiny/data/fgit/seed-0"
NAMES = [
    "decontaminate/data/records.parquet",
    "generate/data/variants.parquet",
    "select/data/generate/pairs.parquet",
    "annotate/data/generate/spans.parquet",
    f"train/{RUN}",
    f"evaluate/{RUN}/mbpp/samples.jsonl",
    f"score/{RUN}/mbpp",
]


class Workflow:
    """Stages that write what they read, with provenance, as the workflow runs them."""

    def __init__(self, folder, name="paper"):
        self.folder = folder
        self.results = folder / "results" / name
        self.as_named = pathlib.Path("results") / name
        self.minute = 0

    def file(self, place, text=None):
        write_text(self.results / place, text or place)
        return self.as_named / place

    def stage(self, stage, out, inputs, settings=None, outputs=(), arguments=None):
        self.minute += 1
        named = {
            name: pathlib.Path(path) if path.count("/") < 2 else self.as_named / path
            for name, path in inputs.items()
        }
        with reading(named) as read:
            write_provenance(
                self.as_named / out,
                stage=stage,
                settings=settings,
                arguments=arguments or {},
                inputs=read,
                outputs=[self.as_named / place for place in (out, *outputs)],
                started=STARTED + datetime.timedelta(minutes=self.minute),
            )

    def data(self):
        self.file(NAMES[0])
        self.file("decontaminate/data/report.json")
        self.stage(
            "decontaminate",
            NAMES[0],
            {"data": "data.jsonl", "benchmark mbpp": "mbpp.jsonl"},
            DecontaminateSettings(),
            ["decontaminate/data/report.json"],
            {"split": "train", "limit": 80},
        )
        self.file(NAMES[1])
        teacher = GenerateSettings(teacher="teacher.gguf", seed=7)
        self.stage("generate", NAMES[1], {"records": NAMES[0], "teacher": "teacher.gguf"}, teacher)
        self.file(NAMES[2])
        self.stage(
            "select", NAMES[2], {"records": NAMES[0], "variants": NAMES[1]}, SelectSettings()
        )
        self.file(NAMES[3])
        self.stage("annotate", NAMES[3], {"pairs": NAMES[2]})

    def train(self, run=RUN, weights="weights", **settings):
        for name in ("config.json", "model.safetensors"):
            self.file(f"train/{run}/model/{name}", weights)
        self.file(f"train/{run}/run.yaml")
        self.stage(
            "train",
            f"train/{run}",
            {"model": "org/base", "template": "own", "spans": NAMES[3]},
            TrainSettings(**settings),
        )

    def evaluate(self, run=RUN, benchmark="mbpp"):
        place = f"evaluate/{run}/{benchmark}"
        self.file(f"{place}/samples.jsonl")
        self.file(f"{place}/samples_one_bos.jsonl")
        self.stage(
            "evaluate",
            f"{place}/samples.jsonl",
            {"model": f"train/{run}/model", "problems": "mbpp.jsonl"},
            EvaluateSettings(),
            [f"{place}/samples_one_bos.jsonl"],
            {"mode": "chat", "benchmark": "mbpp"},
        )

    def score(self, run=RUN, benchmark="mbpp", seconds=1.0):
        summary = {
            "benchmark": "mbpp",
            "n": 1,
            "pass@1": {"base": 1.0, "plus": None},
            "interval": {"base": [0.2, 1.0], "plus": None},
            "problems_sha256": "0" * 64,
            "sandbox": "bwrap",
            "versions": {"fgit": "0", "python": "3.10.1", "numpy": "1"},
            "seconds": seconds,
        }
        for place, read in {
            f"score/canonical/{benchmark}": {},
            f"score/{run}/{benchmark}": {
                "samples": f"evaluate/{run}/{benchmark}/samples.jsonl",
                "one_bos": f"evaluate/{run}/{benchmark}/samples_one_bos.jsonl",
                "ground_truth": f"score/canonical/{benchmark}/summary.json",
            },
        }.items():
            write_summary(self.results / place, summary)
            self.file(f"{place}/outcomes.parquet")
            self.stage("score", place, {"problems": "mbpp.jsonl"} | read, ScoreSettings())

    def all(self):
        for name in ("data.jsonl", "mbpp.jsonl", "teacher.gguf"):
            write_text(self.folder / name, name)
        self.data()
        self.train()
        self.evaluate()
        self.score()
        return self


def loaded(*_):
    return {"org/base": {"revision": "main", "commit": "abc"}}
