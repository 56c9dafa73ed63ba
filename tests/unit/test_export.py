import json
import shutil

import numpy as np
import polars as pl
import pytest

from fgit import cli
from fgit.annotate import segments, with_spans
from fgit.common.errors import UserError
from fgit.common.files import read_json
from fgit.common.models import load_model
from fgit.common.tokenizers import load_tokenizer, prompt_ids, prompt_text
from fgit.export import export_model, export_pairs, score_table, trained_runs
from fgit.lineage import Lineage
from fgit.train.examples import examples
from fgit.train.model_card import read_front_matter
from tests.conftest import annotated
from tests.results_folder import score_summary

RUN = "tiny/data/fgit/seed-0"


def chat(*texts):
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def pairs():
    return [
        {
            "id": f"s{i}",
            "instruction": f"Add {i}.",
            "response": f"x + {i}",
            "variant": f"x - {i}" if i % 3 else None,
        }
        for i in range(9)
    ]


# ------------------------------------------------------------------ pairs


def test_pairs_are_what_trl_reads(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    out = tmp_path / "pairs.jsonl"
    export_pairs(annotated(tmp_path, pairs()), out)
    rows = datasets.Dataset.from_json(str(out), cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == ["s1", "s2", "s4", "s5", "s7", "s8"]
    assert trl.is_conversational(rows[0])
    as_text = trl.apply_chat_template(rows[0], tokenizer)
    assert as_text["prompt"] == prompt_text(tokenizer, "Add 1.")
    assert as_text["chosen"].startswith("x + 1<|im_end|>")
    assert as_text["rejected"].startswith("x - 1<|im_end|>")
    assert rows[0]["prompt"] == [{"role": "user", "content": "Add 1."}]
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "x + 1"}]
    assert rows[0]["rejected"] == [{"role": "assistant", "content": "x - 1"}]
    found = segments("x + 1", "x - 1")
    assert rows[0]["variant_characters"] == [list(span) for span in found.variant_characters]


def test_the_turns_before_an_instruction_are_in_the_prompt(tmp_path, tiny_model, tokenizer):
    """In what is exported as in training; the pairs' file may have none, for some or for all."""
    history = [{"role": "system", "content": "Be brief."}, *chat("Add 0.", "x + 0")]
    rows = [row | {"history": history if row["id"] == "s1" else None} for row in pairs()[:3]]
    spans, out = annotated(tmp_path, rows), tmp_path / "pairs.jsonl"
    export_pairs(spans, out, str(tiny_model))
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["prompt"] == [*history, *chat("Add 1.")] and second["prompt"] == chat("Add 2.")
    assert first["prompt_ids"] == prompt_ids(tokenizer, prompt_text(tokenizer, "Add 1.", history))
    trained, _ = examples(pl.read_parquet(spans).iter_rows(named=True), tokenizer)
    assert [e.prompt.tolist() for e in trained[1:]] == [first["prompt_ids"], second["prompt_ids"]]


def test_ids_and_masks_are_those_of_training(tmp_path, tiny_model):
    spans = annotated(tmp_path, pairs())
    out = tmp_path / "pairs.jsonl"
    flags = ["--spans", str(spans), "--out", str(out), "--tokenizer", str(tiny_model)]
    assert cli.main(["export", "pairs", *flags, "--template", "magicoder"]) == 0
    rows = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    tokenizer = load_tokenizer(str(tiny_model), template="magicoder")
    for example in examples((with_spans(p) for p in pairs() if p["variant"]), tokenizer)[0]:
        row = rows[example.id]
        assert row["prompt_ids"] == example.prompt.tolist()
        for side in ("response", "variant"):
            assert row[f"{side}_ids"] == getattr(example, side).tolist()
            assert row[f"{side}_hybrid"] == getattr(example, f"{side}_marks").tolist()
            both = np.add(row[f"{side}_line"], row[f"{side}_token"])
            assert both.tolist() == row[f"{side}_hybrid"]
    text = prompt_text(tokenizer, "Add 1.")
    assert rows["s1"]["prompt_ids"] == prompt_ids(tokenizer, text)
    assert read_json(f"{out}.provenance.json")["stage"] == "export pairs"


def test_pairs_that_cannot_be_exported(tmp_path):
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x.parquet: no column .*instruction.*fgit annotate"):
        export_pairs(tmp_path / "x.parquet", tmp_path / "out.jsonl")
    without = [row | {"variant": None} for row in pairs()]
    with pytest.raises(UserError, match="none of its 9 samples has a variant"):
        export_pairs(annotated(tmp_path, without), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(UserError, match=r"out.parquet: pairs are written as JSONL"):
        export_pairs(annotated(tmp_path, pairs()), tmp_path / "out.parquet")


# ------------------------------------------------------------------ a model


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    """A results folder with one training, by the command line."""
    folder = tmp_path_factory.mktemp("results")
    flags = {
        "model": tiny_model,
        "spans": annotated(folder, pairs()),
        "out": folder / "train" / RUN,
        "learning-rate": 1e-3,
        "batch-size": 4,
        "max-length": 64,
        "licence": "apache-2.0",
    }
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    assert cli.main(["train", *given]) == 0
    return folder


def summary(passed, digest="ab" * 32, **changes):
    values = {
        "interval": {"base": [passed / 40 - 0.1, passed / 40 + 0.1], "plus": None},
        "problems": "somewhere/problems.jsonl",
        "problems_sha256": digest,
    }
    return score_summary("tests", 40, passed) | values | changes


@pytest.fixture
def score(trained):
    """Writes a score's summary; the scores are gone after the test."""

    def write(run, benchmark, content):
        folder = trained / "score" / run / benchmark
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(content))

    yield write
    shutil.rmtree(trained / "score", ignore_errors=True)
    (trained / "config.yaml").unlink(missing_ok=True)


def test_a_model_to_publish(tmp_path, trained, score, monkeypatch):
    monkeypatch.setattr(Lineage, "identity", lambda lineage, run, benchmark: "0123456789ab")
    plus = {
        "pass@1": {"base": 0.6, "plus": 0.5},
        "interval": {"base": [0.0, 1.0], "plus": [0.3, 0.7]},
    }
    score(RUN, "humaneval", summary(24, benchmark="humaneval", **plus))
    score("tiny/base", "humaneval", summary(20, benchmark="humaneval", **plus))
    score(RUN, "own", summary(30))
    (trained / "config.yaml").write_text(
        "benchmarks: {humaneval: {problems: 'release:v0.1.10', limit: 40}}"
    )
    out = tmp_path / "published"
    arguments = ["--results", str(trained), "--run", RUN, "--out", str(out)]
    assert cli.main(["export", "model", *arguments]) == 0
    model = trained / "train" / RUN / "model"
    assert {p.name for p in out.iterdir()} == {p.name for p in model.iterdir()}
    assert (out / "model.safetensors").samefile(model / "model.safetensors")
    load_model(str(out))
    load_tokenizer(str(out))
    card = (out / "README.md").read_text()
    assert read_front_matter(card)["license"] == "apache-2.0"
    problems = "release:v0.1.10, the first 40, SHA-256 abababababab | 0123456789ab |"
    assert (
        f"| humaneval+ | 50.0 (30.0 to 70.0) of 40 | 50.0 (30.0 to 70.0) of 40 | {problems}" in card
    )
    assert (
        "| own | 75.0 (65.0 to 85.0) of 40 | – | problems.jsonl, SHA-256 abababababab | "
        "0123456789ab |"
    ) in card
    assert "Not evaluated yet" not in card
    assert "## Provenance" in card
    assert "Not evaluated yet" in (model / "README.md").read_text()


def test_a_base_scored_on_other_problems_is_not_beside_it(trained, score):
    score(RUN, "own", summary(30))
    score("tiny/base", "own", summary(20, digest="cd" * 32))
    assert "| own | 75.0 (65.0 to 85.0) of 40 | – |" in score_table(trained, RUN)


def test_without_scores(trained):
    assert score_table(trained, RUN).startswith("Not evaluated yet")


def test_what_cannot_be_exported(tmp_path, trained, score):
    assert trained_runs(trained) == [RUN]
    with pytest.raises(UserError, match=f"other: no such trained run in .*there are: {RUN}"):
        export_model(trained, "other", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing was trained there yet"):
        export_model(tmp_path / "empty", RUN, tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        export_model(trained, RUN, tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        export_model(tmp_path / "nowhere", RUN, tmp_path / "out")
    old = summary(30)
    del old["interval"]
    score(RUN, "own", old)
    with pytest.raises(
        UserError, match=r"summary.json, key 'interval': missing.*run the score stage"
    ):
        export_model(trained, RUN, tmp_path / "out")
    gone = tmp_path / "results" / "train" / RUN
    gone.mkdir(parents=True)
    (gone / "run.yaml").touch()
    with pytest.raises(UserError, match=r"the weights of .* are not there; with keep_models"):
        export_model(tmp_path / "results", RUN, tmp_path / "out")
    assert not (tmp_path / "out").exists()
