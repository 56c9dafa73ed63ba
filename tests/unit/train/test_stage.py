import json
import shutil

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fgit.common.errors import UserError
from fgit.common.files import sha256
from fgit.common.models import load_model, settled
from fgit.common.tokenizers import load_tokenizer, prompt_ids, prompt_text
from fgit.config import TrainSettings
from fgit.train.examples import split_held_out
from fgit.train.model_card import read_front_matter
from fgit.train.stage import train
from tests.conftest import annotated

SETTINGS = TrainSettings(
    batch_size=4, token_budget=64, learning_rate=1e-3, held_out=2, max_length=64
)


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    rows = [
        {
            "id": f"s{i}",
            "instruction": f"Add {i}.",
            "response": f"x + {i}",
            "variant": f"x - {i}" if i % 3 else None,
        }
        for i in range(9)
    ]
    return annotated(folder, rows)


@pytest.mark.parametrize("objective", ["fgit", "fixed", "dpo"])
def test_a_run_is_saved_whole(tmp_path, tiny_model, spans, objective, caplog):
    caplog.set_level("INFO")
    settings = SETTINGS.model_copy(update={"objective": objective})
    train(str(tiny_model), spans, tmp_path / "run", settings, template="magicoder")
    out = tmp_path / "run"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["counts"]["samples"] == 7
    assert metrics["held_out_counts"]["samples"] == 2
    assert sum(metrics["marked_share"]["response"]) == metrics["counts"]["paired"]
    used = 7 if objective == "fixed" else metrics["counts"]["paired"]
    assert (metrics["used"], metrics["used_share"]) == (used, used / 7)
    given = {"fgit": "a dynamic weight", "fixed": "weight 1", "dpo": "a preference"}[objective]
    last = f"Trained with {given} on {used} of 7 samples ({used / 7:.1%})"
    assert caplog.messages[-1] == last
    assert f" {last}." in (out / "model" / "README.md").read_text()
    assert metrics["relative_update"] > 0
    assert 0 < metrics["changed_weights"] <= 1
    assert metrics["held_out_before"]["nll"] != metrics["held_out_after"]["nll"]
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == metrics["steps"] > 0
    assert all("loss" in step for step in steps)
    samples = pl.read_parquet(out / "samples.parquet")
    assert len(samples) == sum(step["samples"] for step in steps)
    segments = json.loads((out / "segments.json").read_text())
    assert (segments["objective"], segments["weight"]) == (
        objective,
        1.0 if objective == "fixed" else None,
    )
    assert segments["samples"][0].keys() == {"id", "instruction", "response", "variant", "epochs"}
    run = yaml.safe_load((out / "run.yaml").read_text())
    assert run["template"] == "magicoder"
    found = TrainSettings(**run["train"])
    assert found == settled(settings, "precision")
    assert found.precision == metrics["precision"] != "auto"
    # The checkpoint: safetensors of the asked dtype, other weights than the base, its template.
    saved = load_file(out / "model" / "model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert any(not torch.equal(saved[name], base[name].bfloat16()) for name in saved)
    assert "@@ Response" in load_tokenizer(str(out / "model")).chat_template
    load_model(str(out / "model"))


def test_the_card_says_what_it_is_and_how_to_use_it(tmp_path, tiny_model, spans):
    train(str(tiny_model), spans, tmp_path / "run", SETTINGS, template="magicoder", licence="mine")
    folder = tmp_path / "run" / "model"
    card = (folder / "README.md").read_text()
    front = read_front_matter(card)
    assert front == {
        "library_name": "transformers",
        "license": "other",
        "license_name": "mine",
        "pipeline_tag": "text-generation",
        "tags": ["code", "fgit", "fault-guided"],
    }
    assert "`model`. Its licence: mine." in card
    assert f"`{sha256(spans)}`): 7 samples, " in card
    assert "learning_rate: 0.001" in card
    assert "| loss (−log P per response token) | " in card
    assert "## Scores\n\nNot evaluated yet" in card
    assert str(tmp_path) not in card
    code = card.partition("```python\n")[2].partition("```")[0]
    found = {}
    exec(code.replace("path/to/this/folder", str(folder)), found)
    asked = "Write a function that adds two numbers."
    tokenizer = load_tokenizer(str(folder))
    expected = prompt_ids(tokenizer, prompt_text(tokenizer, asked))
    assert found["prompt"]["input_ids"].tolist() == [expected]
    assert found["model"].dtype == torch.bfloat16


def test_licence_of_the_base_models_own_card(tmp_path, tiny_model, spans):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Base\n")
    train(str(base), spans, tmp_path / "run", SETTINGS)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert read_front_matter(card)["license"] == "mit"
    train(str(tiny_model), spans, tmp_path / "other", SETTINGS)
    card = (tmp_path / "other" / "model" / "README.md").read_text()
    assert "license" not in read_front_matter(card)
    assert "Its licence is not known here" in card


def test_base_model_is_left_as_it_was(tmp_path, tiny_model, spans):
    before = (tiny_model / "model.safetensors").read_bytes()
    train(str(tiny_model), spans, tmp_path / "run", SETTINGS)
    assert (tiny_model / "model.safetensors").read_bytes() == before


def test_two_runs_are_equal(tmp_path, tiny_model, spans):
    for name in ("a", "b"):
        train(str(tiny_model), spans, tmp_path / name, SETTINGS)
    for file in ("model/model.safetensors", "model/README.md", "samples.parquet", "segments.json"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("a", "b"))
        assert first == second, file


def test_a_training_goes_on_with_other_settings_of_speed(tmp_path, tiny_model, spans, monkeypatch):
    """The parameters by which a checkpoint is recognised."""

    class Begun(Exception):
        pass

    def begin(folder, parameters):
        raise Begun(parameters)

    monkeypatch.setattr("fgit.train.stage.State", begin)
    speed = dict.fromkeys(TrainSettings.speed_fields(), 1) | {"min_share": 0.5}
    begun = []
    for changes in ({}, speed, {"save_dtype": "float32"}, {"alpha": 7.0}):
        with pytest.raises(Begun) as caught:
            train(str(tiny_model), spans, tmp_path, SETTINGS.model_copy(update=changes))
        begun.append(caught.value.args[0])
    assert begun[0] == begun[1] == begun[2] != begun[3]


def test_prompts_that_leave_no_room(tmp_path, tiny_model, spans):
    with pytest.raises(UserError, match=r"none of 7 .* \(prompt as long as max_length 7\): raise"):
        train(
            str(tiny_model), spans, tmp_path / "run", SETTINGS.model_copy(update={"max_length": 8})
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["fgit", "dpo"])
def test_nothing_to_learn_from_is_said_before_the_model_is_loaded(
    tmp_path, tiny_model, monkeypatch, objective
):
    monkeypatch.setattr("fgit.train.stage.load_model", None)
    rows = [
        {"id": str(i), "instruction": "Add.", "response": "x + 1", "variant": "x + 1"}
        for i in range(8)
    ]
    settings = SETTINGS.model_copy(update={"objective": objective})
    with pytest.raises(UserError, match=r"none of 6 samples .* the same tokens 6"):
        train(str(tiny_model), annotated(tmp_path, rows), tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "s0"}, r"rows 1 and 2: the same id 's0' twice"),
        ({"response": " \n"}, r"the response of 1 samples is empty, such as that of 's1'"),
    ],
)
def test_samples_that_cannot_be_told_apart_or_say_nothing(tmp_path, tiny_model, changes, message):
    rows = [
        {"id": f"s{i}", "instruction": "Add.", "response": "x + 1", "variant": "x - 1"}
        for i in range(3)
    ]
    rows[1] |= changes
    with pytest.raises(UserError, match=message):
        train(str(tiny_model), annotated(tmp_path, rows), tmp_path / "run", SETTINGS)


def test_held_out_samples_that_cannot_be_measured_are_said(tmp_path, tiny_model, caplog):
    """Those that are held out are chosen by their ids: here, just those without a variant."""
    rows = [
        {"id": f"s{i}", "instruction": "Add.", "response": f"x + {i}", "variant": f"x - {i}"}
        for i in range(6)
    ]
    held_out = split_held_out(pl.DataFrame(rows), 2, SETTINGS.seed)[1]["id"].to_list()
    for row in rows:
        row["variant"] = None if row["id"] in held_out else row["variant"]
    train(str(tiny_model), annotated(tmp_path, rows), tmp_path / "run", SETTINGS)
    assert "none of the 2 samples that are held out is a pair that differs" in caplog.text
    for row in rows:
        row["instruction"] = "Add. " * 40 if row["id"] in held_out else row["instruction"]
    train(str(tiny_model), annotated(tmp_path, rows), tmp_path / "other", SETTINGS)
    assert "nothing will be measured on them" in caplog.text
    card = (tmp_path / "other" / "model" / "README.md").read_text()
    assert "2 were kept out of training, but their prompts are too long" in card


def test_one_step_with_the_default_warm_up_moves_the_weights(tmp_path, tiny_model, spans):
    settings = TrainSettings(max_length=64, save_dtype="float32")
    train(str(tiny_model), spans, tmp_path / "run", settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 1 and metrics["changed_weights"] > 0


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("bfloat16", "than bfloat16 can show; set save_dtype: float32, or raise the learning rate"),
        ("float32", "than float32 can show; raise the learning rate"),
    ],
)
def test_updates_too_small_to_be_seen(tmp_path, tiny_model, spans, dtype, advice):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-60, "save_dtype": dtype})
    with pytest.raises(UserError, match=advice):
        train(str(tiny_model), spans, tmp_path / "run", settings)


def test_not_annotated(tmp_path, tiny_model):
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "spans.parquet")
    with pytest.raises(UserError, match=r"no column instruction, .*name what fgit annotate wrote"):
        train(str(tiny_model), tmp_path / "spans.parquet", tmp_path / "run", SETTINGS)


def test_tokenizer_without_a_chat_template(tmp_path, tiny_model, spans, tokenizer):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model, folder)
    for name in ("chat_template.jinja",):
        (folder / name).unlink()
    with pytest.raises(UserError, match="has no chat template"):
        train(str(folder), spans, tmp_path / "run", SETTINGS)


def test_missing_model(tmp_path, spans):
    with pytest.raises(UserError, match="no such model folder"):
        train("./nowhere", spans, tmp_path / "run", SETTINGS)


def test_the_saved_model_knows_every_token_that_ends_a_turn(tmp_path, tiny_model, spans):
    base, template = tmp_path / "base", tmp_path / "mine.jinja"
    shutil.copytree(tiny_model, base)
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.content }}<file_sep>\n{% endfor %}"
    )
    for configured, chosen in ((None, "own"), ([7, 9], str(template))):
        # Without do_sample, which transformers would not save once it was changed.
        config = {"eos_token_id": configured, "top_p": 0.9, "temperature": 0.9}
        (base / "generation_config.json").write_text(json.dumps(config))
        train(str(base), spans, tmp_path / chosen[-8:], SETTINGS, template=chosen)
    tokenizer = load_tokenizer(str(base))
    one, several = (
        json.loads((tmp_path / name / "model" / "generation_config.json").read_text())
        for name in ("own", template.name[-8:])
    )
    assert one["eos_token_id"] == tokenizer.eos_token_id
    separator = tokenizer.convert_tokens_to_ids("<file_sep>")
    assert several["eos_token_id"] == [7, 9, separator, tokenizer.eos_token_id]
    assert one["pad_token_id"] == several["pad_token_id"] == tokenizer.pad_token_id
    assert several["top_p"] == 0.9
