import copy
import math

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from fgit.annotate import with_spans
from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.config import TrainSettings
from fgit.train.engine import Engine
from fgit.train.examples import examples
from fgit.train.loop import batches, make_optimizer, make_scheduler, train_loop
from fgit.train.samples import SCHEMA
from tests.conftest import sums
from tests.reference import two_pass

SETTINGS = TrainSettings(
    batch_size=3, token_budget=60, learning_rate=1e-3, precision="fp32", warmup_ratio=0.0
)


@pytest.fixture
def model(tiny_model):
    return load_model(str(tiny_model), dtype="float32")


@pytest.fixture(scope="module")
def samples(tokenizer):
    return examples(map(with_spans, sums(7, lines=3, alone=4)), tokenizer)[0]


def weights_of(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def test_batches_cover_every_sample_once_an_epoch(samples):
    found = list(batches(samples, SETTINGS.model_copy(update={"epochs": 2})))
    assert [len(batch) for batch in found] == [3, 3, 1, 3, 3, 1]
    for epoch in (found[:3], found[3:]):
        assert sorted(e.id for batch in epoch for e in batch) == sorted(e.id for e in samples)
    again = list(batches(samples, SETTINGS))
    assert [e.id for e in again[0]] == [e.id for e in found[0]]
    other = list(batches(samples, SETTINGS.model_copy(update={"seed": 1})))
    assert [e.id for batch in other for e in batch] != [e.id for b in again for e in b]


@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
def test_a_step_does_not_depend_on_its_rows(model, samples, loss_mean):
    """The loss is normalised over the whole step, so one row and many give the same weights."""
    results = []
    for budget in (8, 10_000):
        trained = copy.deepcopy(model)
        settings = SETTINGS.model_copy(
            update={"token_budget": budget, "batch_size": 7, "loss_mean": loss_mean}
        )
        train_loop(trained, samples, settings)
        results.append(weights_of(trained))
    moved = (results[0] - weights_of(model)).norm()
    assert moved > 0
    # AdamW's first step is the gradient's sign, so tiny gradients may differ: compare the whole.
    assert (results[0] - results[1]).norm() / moved < 0.05


def test_first_step_is_the_gradient_of_the_mean_loss(model, samples):
    """grad_norm of a logged step against the gradient of the mean over all response tokens."""
    settings = SETTINGS.model_copy(update={"batch_size": 7, "max_grad_norm": 1e9})
    reference = copy.deepcopy(model)
    output = two_pass(reference, samples, settings)
    (output.loss.sum() / output.tokens.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    history = train_loop(model, samples, settings).history
    assert history[0]["grad_norm"] == pytest.approx(expected.item(), rel=1e-4)
    mean = output.loss.sum() / output.tokens.sum()
    assert history[0]["loss"] == pytest.approx(mean.item(), rel=1e-5)


def test_training_lowers_the_loss_and_is_reproducible(model, samples):
    settings = SETTINGS.model_copy(update={"epochs": 8, "learning_rate": 1e-2})
    runs = []
    for _ in range(2):
        trained = copy.deepcopy(model)
        history = train_loop(trained, samples, settings).history
        runs.append(weights_of(trained))
        epochs = [sum(entry["loss"] for entry in history[e : e + 3]) for e in (0, 21)]
        assert epochs[1] < epochs[0]
        assert [entry["step"] for entry in history] == list(range(1, 25))
        assert history[-1]["epoch"] == 8
    assert torch.equal(runs[0], runs[1])


@pytest.mark.parametrize("objective", ["fgit", "fixed"])
def test_history_shows_the_weight(model, samples, objective):
    settings = SETTINGS.model_copy(update={"objective": objective})
    entry = train_loop(model, samples, settings).history[0]
    assert entry["tokens"] > 0
    assert entry["tokens_per_second"] > 0
    assert entry["model_tokens_per_second"] > entry["tokens_per_second"]
    assert entry["seconds"] > 0
    if objective == "fgit":
        assert 1.0 <= entry["weight"] <= 2.0
        assert 0 < entry["p_variant"] < 1
        assert 0 < entry["weighted_tokens"] < 1
    else:
        assert entry["weight"] is None


@pytest.mark.parametrize("objective", ["fgit", "fixed", "dpo"])
def test_each_sample_is_noted_in_each_epoch(model, samples, objective):
    """Sums over the samples of a step are the step's own figures."""
    settings = SETTINGS.model_copy(update={"objective": objective, "epochs": 2})
    trained = train_loop(model, samples, settings)
    noted = trained.samples
    assert dict(noted.schema) == SCHEMA
    used = [e for e in samples if len(e.variant)] if objective == "dpo" else samples
    order = [(e.id, len(e.response)) for batch in batches(used, settings) for e in batch]
    assert noted.select("id", "tokens").rows() == order
    for entry in trained.history:
        step = noted.filter(pl.col("step") == entry["step"])
        assert step["epoch"].unique().to_list() == [entry["epoch"]]
        assert len(step) == entry["samples"]
        assert step["nll"].sum() / step["tokens"].sum() == pytest.approx(entry["nll"], rel=1e-5)
        per = len(step) if objective == "dpo" else step["tokens"].sum()
        assert step["loss"].sum() / per == pytest.approx(entry["loss"], rel=1e-5)
        for name in ("weight", "p_response", "p_variant", "margin"):
            expected = entry[name]
            assert step[name].mean() == (expected and pytest.approx(expected, rel=1e-4, abs=1e-4))
    paired = {e.id for e in samples if e.paired} if objective == "fgit" else set()
    assert set(noted.filter(pl.col("weight").is_not_null())["id"]) == paired


def test_bf16_trains(model, samples):
    before = weights_of(model)
    train_loop(model, samples, SETTINGS.model_copy(update={"precision": "bf16"}))
    assert next(model.parameters()).dtype == torch.float32
    assert not torch.equal(before, weights_of(model))


def test_a_loss_that_is_not_finite_names_the_sample(model, samples, monkeypatch):
    """Only the broken one, though all share a row."""
    logprobs = Engine.logprobs

    def broken(self, row):
        found = logprobs(self, row)
        if "s3" not in row.names:
            return found
        s3 = row.response_sample == row.names.index("s3")
        return torch.cat([torch.where(s3, float("nan"), found[: len(s3)]), found[len(s3) :]])

    monkeypatch.setattr(Engine, "logprobs", broken)
    settings = SETTINGS.model_copy(update={"batch_size": 7, "token_budget": 10_000})
    with pytest.raises(UserError, match=r"the loss is nan in step 1, on samples s3: lower"):
        train_loop(model, samples, settings)


def test_a_gradient_that_is_not_finite(model, samples, monkeypatch):
    monkeypatch.setattr(
        "accelerate.Accelerator.clip_grad_norm_", lambda *arguments: torch.tensor(float("inf"))
    )
    with pytest.raises(UserError, match=r"the gradient's norm is inf in step 1.*samples: s\d"):
        train_loop(model, samples, SETTINGS)


@pytest.mark.parametrize(
    ("budget", "advice"), [(10_000, "lower token_budget, now 10000"), (8, "lower max_length")]
)
def test_out_of_memory_says_what_to_lower(model, samples, monkeypatch, budget, advice):
    def forward(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fgit.train.engine.Engine.forward", forward)
    settings = SETTINGS.model_copy(update={"token_budget": budget})
    with pytest.raises(UserError, match=advice):
        train_loop(model, samples, settings)


def test_out_of_memory_of_the_optimizer(model, samples, monkeypatch):
    def step(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.optim.AdamW.step", step)
    with pytest.raises(UserError, match="16 bytes a parameter; train adapters"):
        train_loop(model, samples, SETTINGS)


def test_a_sliding_window_shorter_than_the_longest_sample(model, samples):
    model.config.sliding_window = 12
    with pytest.raises(UserError, match="sees 12 tokens back, and the longest sample has"):
        train_loop(model, samples, SETTINGS)


def test_each_step_is_a_line(model, samples, capsys):
    train_loop(model, samples, SETTINGS)
    lines = capsys.readouterr().err.splitlines()
    shown = [line for line in lines if "p̄" in line]
    assert len(shown) == 3
    for part in ("step 1/3", "loss ", "tokens/s", "weight ", "% of the tokens", "p̄′"):
        assert part in shown[0]


def test_a_token_budget_smaller_than_a_sample(model, samples, caplog):
    train_loop(model, samples, SETTINGS.model_copy(update={"token_budget": 8}))
    assert "7 of 7 samples have more tokens than token_budget (8; the longest" in caplog.text


@pytest.mark.parametrize("objective", ["fgit", "fixed", "dpo"])
def test_held_out_is_measured_as_fgit_sees_it(model, samples, objective):
    with torch.no_grad():
        expected = two_pass(model, samples, SETTINGS)
    settings = SETTINGS.model_copy(update={"objective": objective})
    trained = train_loop(model, samples, settings, held_out=samples)
    found = trained.held_out_before
    assert found["loss"] == pytest.approx((expected.loss.sum() / expected.tokens.sum()).item())
    assert found["nll"] == pytest.approx((expected.nll.sum() / expected.tokens.sum()).item())
    assert found["p_response"] == pytest.approx(expected.p_response.nanmean().item())
    assert found["weight"] == pytest.approx(expected.weight.nanmean().item())
    assert found["weighted_samples"] == 5
    assert trained.held_out_after["nll"] != found["nll"]
    without = train_loop(trained.model, samples, settings)
    assert without.held_out_before == without.held_out_after == {}


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]))
def test_every_training_has_a_learning_rate(steps, ratio, schedule):
    """A single step its whole one; of more, all but the first where there is a warm-up."""
    settings = TrainSettings(warmup_ratio=ratio, schedule=schedule, learning_rate=1e-3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = make_scheduler(optimizer, settings, steps)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 1e-3 for rate in rates[1:])
    assert rates[0] == (1e-3 if steps == 1 or ratio == 0 else 0)
    if steps > 1:
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        name = "constant_with_warmup" if schedule == "constant" else schedule
        expected = get_scheduler(name, theirs, math.ceil(ratio * steps), steps)
        for rate in rates:
            assert rate == expected.get_last_lr()[0]
            theirs.step()
            expected.step()


def test_weight_decay_is_for_matrices(model):
    settings = SETTINGS.model_copy(update={"weight_decay": 0.1})
    decayed, others = make_optimizer(model, settings).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_gradient_checkpointing_changes_nothing(model, samples):
    results = []
    for on in (False, True):
        trained = copy.deepcopy(model)
        train_loop(trained, samples, SETTINGS.model_copy(update={"gradient_checkpointing": on}))
        results.append(weights_of(trained))
    assert torch.allclose(results[0], results[1], atol=1e-5)


# ------------------------------------------------------------------ DPO, adapters


def test_dpo_equals_trl(model, samples, tokenizer, tmp_path):
    """Losses, margins and weights after an epoch are those of TRL's DPOTrainer."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *arguments, **options):
            return dataset  # ids already: the same as ours

        def _get_train_sampler(self, *arguments):
            return None  # in order, as given

    settings = SETTINGS.model_copy(
        update={"objective": "dpo", "batch_size": 2, "beta": 0.3, "schedule": "linear"}
    )
    pairs = [e for e in samples if len(e.variant)]
    order = [e for batch in batches(pairs, settings) for e in batch]
    theirs = copy.deepcopy(model)
    trainer = Trainer(
        model=theirs,
        args=DPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=settings.max_grad_norm,
            max_length=settings.max_length,
            beta=settings.beta,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            precompute_ref_log_probs=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            dataloader_drop_last=False,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt_ids": e.prompt.tolist(),
                    "chosen_ids": e.response.tolist(),
                    "rejected_ids": e.variant.tolist(),
                }
                for e in order
            ]
        ),
        processing_class=tokenizer,
    )
    trainer.train()
    expected = [entry for entry in trainer.state.log_history if "loss" in entry]
    found = train_loop(model, samples, settings).history
    assert len(found) == len(expected) == 3
    for ours, trl in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(trl["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(trl["grad_norm"], rel=1e-3)
        assert settings.beta * ours["margin"] == pytest.approx(trl["rewards/margins"], abs=1e-4)
    moved = (weights_of(model) - weights_of(theirs)).norm()
    assert moved / weights_of(model).norm() < 1e-4


def test_adapters_are_trained_and_merged(model, samples):
    before = copy.deepcopy(model)
    settings = SETTINGS.model_copy(update={"lora_rank": 2, "epochs": 8, "learning_rate": 3e-2})
    trained = train_loop(model, samples, settings)
    first, last = (sum(e["loss"] for e in trained.history[at : at + 3]) for at in (0, 21))
    assert last < first
    assert type(trained.model) is type(before)
    old, new = dict(before.named_parameters()), dict(trained.model.named_parameters())
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name.split(".")[-2] for name in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    for name in changed:  # of low rank
        assert torch.linalg.matrix_rank(new[name] - old[name], rtol=1e-3) <= 2
