"""The engine against the two-pass reference: losses and gradients, in fp32."""

import copy
import json

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.annotate import with_spans
from fgit.common.errors import UserError
from fgit.common.models import load_model
from fgit.config import TrainSettings
from fgit.train.engine import Engine, check_exact, check_fits, check_supported
from fgit.train.examples import Example, examples
from fgit.train.rows import lay_out, pack
from fgit.train.weights_and_losses import preference_loss
from fgit.train.weights_of_pairs import weights
from tests.architectures import tiny, tiny_config, trains
from tests.reference import two_pass
from tests.speed.pairs import humanevalpack

PAIRS = [
    {"id": "a", "instruction": "Add one.", "response": "x + 1\nok", "variant": "x - 1\nok"},
    {"id": "b", "instruction": "Return.", "response": "return a", "variant": "return a, b"},
    {"id": "c", "instruction": "Stop.", "response": "while True:\n    pass", "variant": None},
]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,  # far from uniform, so that errors show
}
ARCHITECTURES = {
    "llama": lambda size: transformers.LlamaConfig(
        vocab_size=size, num_key_value_heads=4, tie_word_embeddings=False, **SHAPE
    ),
    "qwen2, biases and tied embeddings": lambda size: transformers.Qwen2Config(
        vocab_size=size, num_key_value_heads=4, tie_word_embeddings=True, **SHAPE
    ),
    "qwen3, grouped queries and norms on them": lambda size: transformers.Qwen3Config(
        vocab_size=size, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, **SHAPE
    ),
    "starcoder2, layer norms with biases": lambda size: transformers.Starcoder2Config(
        vocab_size=size, num_key_value_heads=1, tie_word_embeddings=True, **SHAPE
    ),
}


def random_model(architecture, size):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](size))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero when made
                parameter.normal_(0, 0.2)
    return model.eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def small(architecture):
    """A random model with a vocabulary of 40."""
    return random_model(architecture, 40)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])


def assert_equal(model, batch, setting, budget=10**6):
    """Engine and reference: loss and means of each sample, gradient of their sum."""
    engine = Engine(model, setting)
    rows = pack(batch, budget, setting.objective)
    expected = two_pass(model, [e for row in rows for e in row], setting)
    expected_gradient = gradient(model, expected.loss.sum())
    found = [engine(lay_out(row, setting.objective)) for row in rows]
    for name in ("loss", "nll", "p_response", "p_variant", "weight", "tokens"):
        values = torch.cat([getattr(output, name) for output in found])
        torch.testing.assert_close(
            values, getattr(expected, name), rtol=1e-5, atol=0, equal_nan=True
        )
    found_gradient = gradient(model, sum(output.loss.sum() for output in found))
    error = (found_gradient - expected_gradient).norm() / expected_gradient.norm()
    assert error < 1e-5


SETTINGS = [
    {},
    {"alpha": 5.0, "gap": "absolute"},
    {"weight_gradient": False},
    {"objective": "fixed", "weight": 2.5},
    {"objective": "fixed", "weight": 1.0},
]


@st.composite
def samples(draw):
    """Pairs of token ids that share a beginning, with any marks; cut on both sides alike."""
    ids = st.integers(0, 39)
    found = []
    for number in range(draw(st.integers(1, 5))):
        prompt = draw(st.lists(ids, min_size=1, max_size=6))
        shared = draw(st.lists(ids, max_size=6))
        y = shared + draw(st.lists(ids, min_size=0 if shared else 1, max_size=6))
        v = draw(st.sampled_from([[], shared + draw(st.lists(ids, max_size=6)), y]))
        room = draw(st.integers(1, 12))
        y, v = y[:room], v[:room]
        marks = [
            draw(st.lists(st.integers(0, 2), min_size=len(side), max_size=len(side)))
            for side in (y, v)
        ]
        arrays = [np.array(side, dtype=np.int64) for side in (prompt, y, v)]
        h, g = (np.array(side, dtype=np.int8) for side in marks)
        found.append(Example(str(number), arrays[0], arrays[1], h, arrays[2], g))
    return found


@settings(max_examples=60)
@given(samples(), st.sampled_from(SETTINGS), st.sampled_from([10**6, 20]))
def test_random_pairs(small, batch, changes, budget):
    assert_equal(small, batch, TrainSettings(**changes), budget)


def sample(prompt, y, v, marks, variant_marks, name="s"):
    def array(values, dtype):
        return np.array(values, dtype=dtype)

    return Example(
        name,
        array(prompt, np.int64),
        array(y, np.int64),
        array(marks, np.int8),
        array(v, np.int64),
        array(variant_marks, np.int8),
    )


CASES = {
    "fork at the first token": ([5, 6, 7], [8, 6, 7], [1, 0, 0], [2, 0, 0]),
    "fork at the last token": ([5, 6, 7], [5, 6, 8], [0, 0, 1], [0, 0, 1]),
    "nothing marked behind the fork": ([5, 6, 7], [5, 6, 8], [1, 0, 1], [1, 0, 0]),
    "the last token is marked": ([5, 6, 7], [5, 8, 9, 9, 4], [0, 1, 0], [0, 1, 0, 0, 1]),
    "marks before and behind the fork": ([5, 6, 7, 8], [5, 6, 9, 8], [2, 1, 2, 0], [1, 0, 2, 1]),
    "the variant begins with the response": ([5, 6], [5, 6, 7, 8], [0, 1], [0, 0, 1, 1]),
    "the response begins with the variant": ([5, 6, 7, 8], [5, 6], [0, 0, 1, 1], [0, 1]),
    "equal sides": ([5, 6], [5, 6], [1, 0], [0, 1]),
    "one token": ([5], [6], [1], [1]),
    "no marks in the response": ([5, 6], [5, 7], [0, 0], [0, 1]),
    "no marks in the variant": ([5, 6], [5, 7], [0, 1], [0, 0]),
    "no variant": ([5, 6], [], [0, 1], []),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(small, case):
    y, v, marks, variant_marks = CASES[case]
    one = sample([1, 2, 3], y, v, marks, variant_marks, "one")
    other = sample([4], [9, 9, 9], [9, 8, 9], [0, 1, 0], [0, 1, 1], "other")
    for changes in ({}, {"objective": "fixed", "weight": 3.0}):
        assert_equal(small, [one], TrainSettings(**changes))
        assert_equal(small, [one, other, one], TrainSettings(**changes))


@pytest.mark.parametrize("step", [24, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("max_length", [1024, 160])
def test_real_pairs(architecture, tokenizer, shared_data, max_length, step):
    """humanevalpack's pairs, whole and cut."""
    built, counts = examples(
        map(with_spans, humanevalpack(shared_data / "pairs" / "humanevalpack-python.jsonl.gz")),
        tokenizer,
        max_length=max_length,
    )
    assert bool(counts["cut"]) == (max_length == 160)
    model = random_model(architecture, len(tokenizer))
    assert_equal(model, built[::step], TrainSettings(max_length=max_length), budget=2048)


def test_flex_attention_equals_sdpa(small):
    """FlexAttention's block mask, uncompiled; its backward pass needs a GPU (tests/gpu)."""
    batch = [sample([1, 2, 3], *case, name) for name, case in CASES.items()]
    row = lay_out(batch, "fgit")
    engine = Engine(small, TrainSettings(attention="sdpa"))
    with torch.no_grad():
        expected = engine(row)
        engine.attention = "flex"
        found = engine(row)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-5, atol=0, equal_nan=True)


def test_preference(small):
    """DPO's loss and gradient against log probabilities of plain forward passes."""
    batch = [sample([1, 2, 3], *case, name) for name, case in CASES.items() if case[1]]
    setting = TrainSettings(objective="dpo", beta=0.3)
    reference = torch.linspace(-1, 1, len(batch))
    small.set_attn_implementation("sdpa")

    def total(example, side):
        ids = torch.tensor([[*example.prompt, *side]])
        logs = small(input_ids=ids).logits[0].log_softmax(-1)
        start = len(example.prompt) - 1
        return sum(logs[start + t, token] for t, token in enumerate(side.tolist()))

    margins = torch.stack([total(e, e.response) - total(e, e.variant) for e in batch])
    expected = preference_loss(margins, reference, setting.beta)
    expected_gradient = gradient(small, expected.sum())
    output = Engine(small, setting)(lay_out(batch, "dpo"), reference=reference)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.margin, margins - reference, rtol=1e-4, atol=1e-5)
    error = (gradient(small, output.loss.sum()) - expected_gradient).norm()
    assert error / expected_gradient.norm() < 1e-5


# ------------------------------------------------------------------ with a tokenizer


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), dtype="float32")


@pytest.fixture
def batch(tokenizer):
    return examples(map(with_spans, PAIRS), tokenizer)[0]


def run(model, batch, setting):
    return Engine(model, setting)(lay_out(batch, setting.objective))


def plain(model, example, settings):
    """The objective of one sample from plain forward passes and Python sums, in float64."""
    model.set_attn_implementation("eager")

    def logs(target):
        ids = torch.tensor([[*example.prompt, *target]])
        found = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        start = len(example.prompt)
        return [found[start + t - 1, token] for t, token in enumerate(target.tolist())]

    y = logs(example.response)
    weight = 1.0
    if example.paired:
        v = logs(example.variant)
        p = sum(h * lp.exp() for h, lp in zip(example.response_marks.tolist(), y, strict=True))
        p = p / int(example.response_marks.sum())
        q = sum(h * lp.exp() for h, lp in zip(example.variant_marks.tolist(), v, strict=True))
        q = q / int(example.variant_marks.sum())
        gap = abs(p - q) if settings.gap == "absolute" else max(0 * p, p - q)
        weight = 1 + (settings.alpha - 1) * (1 - gap / (p + q))
    marks = example.response_marks.tolist()
    return -sum((weight if h else 1.0) * lp for h, lp in zip(marks, y, strict=True))


@pytest.mark.parametrize("gap", ["clipped", "absolute"])
def test_the_reference_is_the_formula(model, batch, gap):
    setting = TrainSettings(alpha=3.0, gap=gap)
    found = two_pass(model, batch, setting).loss.sum()
    found_gradient = gradient(model, found)
    expected = sum(plain(model, example, setting) for example in batch)
    expected_gradient = gradient(model, expected)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (found_gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-5


def test_fixed_one_is_cross_entropy(model, batch):
    """Standard SFT: the loss is transformers' own cross entropy over the response tokens."""
    output = run(model, batch, TrainSettings(objective="fixed", weight=1.0))
    found = (output.loss.sum() / output.tokens.sum()).item()
    model.set_attn_implementation("sdpa")
    total = count = 0.0
    for example in batch:
        ids = torch.tensor([[*example.prompt, *example.response]])
        labels = ids.clone()
        labels[:, : len(example.prompt)] = -100
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        total += loss * len(example.response)
        count += len(example.response)
    assert found == pytest.approx(total / count, rel=1e-6)


def test_alpha_one_is_standard_sft(model, batch):
    fgit = run(model, batch, TrainSettings(alpha=1.0)).loss
    sft = run(model, batch, TrainSettings(objective="fixed", weight=1.0)).loss
    torch.testing.assert_close(fgit, sft, rtol=1e-6, atol=0)


def test_unpaired_samples_have_no_weight(model, batch):
    output = run(model, batch, TrainSettings())
    assert output.weight.isnan().tolist() == [False, False, True]
    assert output.loss[2].item() == pytest.approx(output.nll[2].item())
    assert output.weighted_tokens[2] == 0
    assert 0 < output.weighted_tokens[0] < output.tokens[0]


def test_variant_gets_gradient_only_through_the_weight(model, batch):
    """Without the weight's gradient, the parameters' gradient does not depend on y' at all."""
    one = batch[:1]
    output = run(model, one, TrainSettings(weight_gradient=False))
    found = gradient(model, output.loss.sum())
    fixed = TrainSettings(objective="fixed", weight=output.weight.item())
    expected = gradient(model, run(model, one, fixed).loss.sum())
    assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logits_scaling"])
def test_a_model_that_rescales_its_logits_is_refused(model, key):
    changed = copy.deepcopy(model)
    setattr(changed.config, key, 30.0)
    with pytest.raises(UserError, match=key):
        check_supported(changed)


def test_a_model_whose_attention_cannot_be_replaced_is_refused():
    shape = {"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    model = transformers.BloomForCausalLM(transformers.BloomConfig(**shape))  # ALiBi
    with pytest.raises(UserError, match="BloomForCausalLM"):
        Engine(model, TrainSettings())(lay_out([sample([1], [2], [], [0], [])], "fgit"))


def test_a_sliding_window_shorter_than_a_sample_is_refused():
    shape = SHAPE | {"num_key_value_heads": 2}
    config = transformers.MistralConfig(vocab_size=40, sliding_window=8, **shape)
    model = transformers.MistralForCausalLM(config).eval()
    short = sample([1, 2], [3, 4], [3, 5], [0, 1], [0, 1])
    assert_equal(model, [short] * 3, TrainSettings())
    long = sample([1] * 8, [3, 4], [3, 5], [0, 1], [0, 1])
    with pytest.raises(UserError, match="sees 8 tokens back"):
        run(model, [long], TrainSettings())


def test_check_exact(small):
    check_exact(Engine(small, TrainSettings()))


def test_layers_that_carry_more_than_attention_are_refused():
    """Convolutions along the row would mix samples, and the branch with the trunk."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = transformers.Lfm2Config(
        vocab_size=40,
        num_key_value_heads=2,
        num_hidden_layers=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.5,
        **shape,
    )
    torch.manual_seed(0)
    model = transformers.Lfm2ForCausalLM(config)
    with pytest.raises(UserError, match="Lfm2ForCausalLM gives log probabilities that differ by"):
        check_exact(Engine(model, TrainSettings()))


@pytest.mark.parametrize("kind", ["deepseek_v32", "llama4_text", "qwen3_5_text", "gemma4_text"])
def test_layers_that_fail_on_a_packed_row_are_refused_by_name(kind):
    assert trains(tiny(tiny_config(kind))) == "refused"


def test_a_model_without_attention_is_refused():
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1)
    )
    with pytest.raises(UserError, match="MambaForCausalLM has no attention heads"):
        Engine(model, TrainSettings())


def test_a_multimodal_or_quantised_model_is_refused_as_such(model):
    config = transformers.Gemma3Config(
        text_config=SHAPE | {"vocab_size": 40, "num_hidden_layers": 1},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "image_size": 16, "patch_size": 8},
        mm_tokens_per_image=4,
    )
    with torch.device("meta"):
        multimodal = transformers.Gemma3ForConditionalGeneration(config)
    with pytest.raises(UserError, match="Gemma3ForConditionalGeneration is multimodal"):
        Engine(multimodal, TrainSettings())
    changed = copy.deepcopy(model)
    changed.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(UserError, match="its weights are quantised"):
        Engine(changed, TrainSettings())


@pytest.mark.parametrize(("length", "fits"), [(40, True), (41, False)])
def test_samples_longer_than_the_models_positions(tokenizer, caplog, length, fits):
    """Learned positions end; rotary ones go on, which is said."""
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "max_position_embeddings": 40}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    learned = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    rotary = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    long = sample([1] * 10, [2, 3], [4] * (length - 10), [0, 1], [0] * (length - 10))
    samples = [sample([1], [2], [3], [1], [1]), long]
    if fits:
        check_fits(learned, tokenizer, samples)
    else:
        with pytest.raises(UserError, match=r"1 samples are longer than the 40 positions .* to 40"):
            check_fits(learned, tokenizer, samples)
    caplog.clear()
    check_fits(rotary, tokenizer, samples)
    assert ("1 of 2 samples are longer than the 40 positions" in caplog.text) is not fits


def test_tokens_that_the_model_has_no_rows_for(tiny_model, tokenizer, tmp_path):
    """Before any step: as a token that ends each turn, added without resizing the model."""
    folder = tmp_path / "m"
    load_model(str(tiny_model), dtype="float32").save_pretrained(folder)
    wider = copy.deepcopy(tokenizer)
    wider.add_special_tokens({"eos_token": "<|end|>"})
    wider.chat_template = wider.chat_template.replace("<|im_end|>", "<|end|>")
    wider.save_pretrained(folder)
    pairs = tmp_path / "pairs.jsonl"
    row = {"id": "s", "instruction": "Add.", "response": "a + b", "variant": "a - b"}
    pairs.write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"the token '<\|end\|>' has the id 49152, but the model's"):
        weights(str(folder), pairs, tmp_path / "w.parquet", TrainSettings())


def test_dropout_is_off_in_training():
    shape = SHAPE | {"num_key_value_heads": 1}
    config = transformers.Starcoder2Config(
        vocab_size=40, attention_dropout=0.5, residual_dropout=0.5, **shape
    )
    model = transformers.Starcoder2ForCausalLM(config)
    engine = Engine(model, TrainSettings()).train()
    row = lay_out([sample([1, 2], [3, 4], [3, 5], [0, 1], [0, 1])], "fgit")
    assert torch.equal(engine(row).loss, engine(row).loss)


def test_flex_without_a_gpu_falls_back(model, caplog):
    if torch.cuda.is_available():
        pytest.skip("not run: there is a GPU here, so nothing falls back")
    from fgit.train.attention import backend

    backend.cache_clear()
    assert Engine(model, TrainSettings(attention="flex")).attention == "sdpa"
    assert "FlexAttention cannot be used here (there is no GPU); taking sdpa" in caplog.text
    caplog.clear()
    assert Engine(model, TrainSettings(attention="auto")).attention == "sdpa"
    assert not caplog.text


# ------------------------------------------------------------------ fgit weights


def test_weights_contract(tmp_path, tiny_model, model, tokenizer):
    """`fgit weights` on a JSONL file gives what the formula gives."""
    pairs = [row for row in PAIRS if row["variant"]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    weights(str(tiny_model), path, tmp_path / "w.parquet", TrainSettings(alpha=3.0))
    frame = pl.read_parquet(tmp_path / "w.parquet")
    assert frame.columns == ["id", "p_response", "p_variant", "weight", "loss"]
    built, _ = examples(map(with_spans, pairs), tokenizer)
    for row, example in zip(frame.iter_rows(named=True), built, strict=True):
        with torch.no_grad():
            expected = plain(model, example, TrainSettings(alpha=3.0)).item()
        assert row["loss"] == pytest.approx(expected / len(example.response), rel=1e-5)
        gap = max(0, row["p_response"] - row["p_variant"])
        w = 1 + 2 * (1 - gap / (row["p_response"] + row["p_variant"]))
        assert row["weight"] == pytest.approx(w, rel=1e-5)


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_weights_of_real_pairs(tmp_path, tiny_model, model, tokenizer, shared_data, step):
    """humanevalpack against the two passes."""
    pairs = humanevalpack(shared_data / "pairs" / "humanevalpack-python.jsonl.gz")[::step]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    weights(str(tiny_model), path, tmp_path / "w.parquet", TrainSettings())
    frame = pl.read_parquet(tmp_path / "w.parquet")
    built, _ = examples(map(with_spans, pairs), tokenizer)
    with torch.no_grad():
        expected = two_pass(model, built, TrainSettings())
    for name in ("p_response", "p_variant", "weight"):
        torch.testing.assert_close(
            frame[name].to_torch().float(), getattr(expected, name), rtol=1e-5, atol=0
        )
    loss = frame["loss"].to_torch().float() * expected.tokens
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)


def test_weights_of_a_prompt_that_is_too_long(tmp_path, tiny_model):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n")
    with pytest.raises(UserError, match="'a' leaves no room"):
        weights(str(tiny_model), path, tmp_path / "w.parquet", TrainSettings(max_length=8))
    assert not (tmp_path / "w.parquet").exists()
