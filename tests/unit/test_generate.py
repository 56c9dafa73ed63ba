"""Asking for variants, reading answers, and the files of the stage."""

import collections
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit import variants
from fgit.common.code_blocks import code_blocks, parses
from fgit.common.errors import Stopped, UserError
from fgit.config import GenerateSettings
from fgit.gather import gather
from fgit.generate import generate, language_of, read_answer, teacher_prompt
from fgit.inference import engines
from fgit.inference.requests import PROMPT_TOO_LONG, Answer

CODE = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b"


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```\n"


def read(answer: str, code: str = CODE, language: str = "python", least: float = 0.5):
    return read_answer(answer, code, language, least)


# ------------------------------------------------------------------ reading answers


@pytest.mark.parametrize(
    "answer",
    [
        fenced(WRONG),
        fenced(WRONG, ""),
        fenced(WRONG, "py"),
        f"Here it is:\n\n{fenced(WRONG)}\nThe sign is wrong.",
        WRONG,
        f"\n{WRONG}\n\n",
        f"```python\n{WRONG}",  # cut behind the code
        f"Sure!\n```python\n{WRONG}\n",
        fenced(WRONG).replace("\n", "\r\n"),
        f"~~~python\n{WRONG}\n~~~",
        f"````markdown\n{WRONG}\n````",
        f"1. Wrong:\n   ```python\n   {WRONG.replace(chr(10), chr(10) + '   ')}\n   ```",
        fenced("x = 1") + fenced(WRONG),  # the longest
        fenced(WRONG) + fenced("def add(a, b): return (a - - - or this is much longer"),
        fenced("\n\n" + WRONG + "   \n\n"),
    ],
)
def test_the_code_of_an_answer_is_found(answer):
    assert read(answer) == (WRONG, None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no_code"),
        ("I cannot do that.", "no_code"),
        ("```python\n```", "no_code"),
        ("```", "no_code"),
        (fenced(CODE), "same_code"),
        (CODE, "same_code"),
        (fenced(CODE.replace("\n", "\r\n")), "same_code"),
        (fenced(CODE.replace("a + b", "(a + b)  # the sum")), "same_code"),
        (fenced('def add(a, b):\n    """Wrong."""\n    return a + b'), "same_code"),
        (fenced("def add(a, b):\n    return a +"), "does_not_parse"),
        ("```python\ndef add(a, b):\n    return (a", "does_not_parse"),
        (fenced("print('nothing of the kind, and at some length')"), "too_different"),
    ],
)
def test_what_is_no_variant_is_refused_with_its_reason(answer, reason):
    assert read(answer) == (None, reason)


def test_no_answer_is_too_different_where_the_limit_is_zero():
    other = "print('nothing of the kind')"
    assert read(fenced(other), least=0.0) == (other, None)


def test_other_languages_are_compared_as_text_and_not_parsed():
    code = "function add(a, b) { return a + b; }\n"
    wrong = "function add(a, b) { return a - b; }"
    assert read(fenced(wrong, "js"), code, "javascript") == (wrong, None)
    assert read(fenced(code + "  \n", "js"), code, "javascript") == (None, "same_code")
    assert read(wrong, code, "javascript") == (None, "no_code")


def test_a_fence_inside_a_longer_fence_belongs_to_the_code():
    code = f'TEXT = """\n```\n{"x" * 20}\n```\n"""\nN = 1'
    wrong = code.replace("N = 1", "N = 2")
    assert read(f"````python\n{wrong}\n````", code) == (wrong, None)


@given(st.text(max_size=200), st.sampled_from([CODE, "x", "", "\x00", "}{", "if"]), st.booleans())
def test_reading_never_raises(answer, code, python):
    variant, reason = read_answer(answer, code, "python" if python else "go", 0.0)
    assert (variant is None) != (reason is None)


PIECES = st.sampled_from(
    [
        "```",
        "```python",
        "~~~",
        "\n",
        "\r\n",
        CODE,
        WRONG,
        "    ",
        "return",
        '"""',
        "x = 1",
        "#",
        "(",
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_variant_parses_and_is_not_the_correct_code(answer):
    variant, _ = read_answer(answer, CODE, "python", 0.0)
    if variant is not None:
        assert parses(variant)
        assert variants.bytecode(variant) != variants.bytecode(CODE)
        assert variant == variants.normalised(variant)


# ------------------------------------------------------------------ the prompt


def test_the_prompt_holds_the_task_the_problem_and_the_solution():
    prompt = teacher_prompt("Use {code} and {instruction}.\n", "d = {}\n", "python")
    assert "incorrect" in prompt and "Markdown" in prompt
    assert prompt.index("incorrect") < prompt.index("Use {code} and {instruction}.")
    assert prompt.index("{instruction}.") < prompt.index("```python\nd = {}")


@pytest.mark.parametrize(
    ("said", "fence", "expected"),
    [
        ("English", "python", "python"),  # some data name the language of the text
        ("English", "Java", "java"),
        ("python", "text", "python"),
        ("Java", "", "java"),
        (None, "", "python"),
    ],
)
def test_the_language_of_the_code_is_the_fences_or_the_records(said, fence, expected):
    (block,) = code_blocks(f"```{fence}\nx = 1\n```")
    assert language_of(said, block, "x = 1") == expected


def test_the_fence_of_the_prompt_is_longer_than_any_in_the_code():
    code = 'TEXT = """\n````\nx\n````\n"""'
    blocks = code_blocks(teacher_prompt("Write a text.", code, "python"))
    assert [block.content for block in blocks] == [code + "\n"]


# ------------------------------------------------------------------ the stage


def write_records(path, responses, **columns):
    frame = pl.DataFrame(
        {
            "id": [f"sample-{number}" for number in range(len(responses))],
            "instruction": ["Add two numbers."] * len(responses),
            "response": responses,
            "language": pl.Series([None] * len(responses), dtype=pl.String),
            "tests": pl.Series([None] * len(responses), dtype=pl.String),
        }
    )
    frame.with_columns(**columns).write_parquet(path)
    return path


@pytest.fixture
def teacher(monkeypatch):
    """A teacher that gives the listed texts, the last request first."""

    def install(texts, refused=None):
        def answers(requests, settings, spent=0.0):
            teacher.requests = requests
            assert len(requests) == len(texts)
            return (
                Answer(index, texts[index], 10, refused) for index in reversed(range(len(texts)))
            )

        monkeypatch.setattr(engines, "answers", answers)
        monkeypatch.setattr(engines, "with_dtype", lambda settings, begun=None: settings)
        return install

    teacher = install
    return install


def test_every_answer_gets_a_row_in_the_records_order(tmp_path, teacher):
    records = write_records(tmp_path / "r.parquet", [f"A:\n{fenced(CODE)}", "Words.", CODE])
    teacher([fenced(WRONG), "no", fenced(CODE), fenced(WRONG)])
    generate(
        records,
        tmp_path / "out.parquet",
        tmp_path / "report.json",
        GenerateSettings(backend="openai", variants=2, min_similarity=0.5, seed=7),
    )
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert frame.schema == pl.Schema(variants.VARIANT_COLUMNS)
    assert frame["id"].to_list() == ["sample-0", "sample-0", "sample-2", "sample-2"]
    assert frame["k"].to_list() == [0, 1, 0, 1]
    assert frame["code"].to_list() == [WRONG, None, None, WRONG]
    assert frame["refused"].to_list() == [None, "no_code", "same_code", None]
    assert frame["seed"].to_list() == [
        variants.seed_of(7, sample, k) for sample in ("sample-0", "sample-2") for k in (0, 1)
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    expected = {
        "samples": 3,
        "without_code": 1,
        "answers": 4,
        "usable": 2,
        "samples_with_variant": 2,
        "refused": {"no_code": 1, "same_code": 1},
        "tokens": 40,
        "teacher": "Qwen/Qwen2.5-Coder-32B-Instruct",
        "backend": "openai",
        "same_text": "none",
        "shards": 1,
        "shard": 1,
    }
    assert {key: report[key] for key in expected} == expected
    requests = teacher.requests
    assert requests[0].prompt == requests[1].prompt and requests[0].seed != requests[1].seed


@pytest.mark.parametrize("refused", [None, PROMPT_TOO_LONG])
def test_no_usable_answer_at_all_is_an_error_that_counts_the_reasons(tmp_path, teacher, refused):
    records = write_records(tmp_path / "r.parquet", [CODE])
    teacher(["no", "never", fenced(CODE)], refused)
    counted = "no_code: 2, same_code: 1" if refused is None else "prompt_too_long: 3"
    with pytest.raises(UserError, match=counted):
        generate(records, tmp_path / "o.parquet", tmp_path / "r.json", GenerateSettings(variants=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.parquet", "state"]


@pytest.mark.parametrize(
    ("responses", "columns", "message"),
    [
        (["Words.", "Words."], {}, "none of the 2 responses has code"),
        ([], {}, "no records"),
        ([CODE, CODE], {"id": pl.lit("twin")}, r"rows 1 and 2: the same id 'twin' twice"),
        ([CODE], {"instruction": pl.lit(None, pl.String)}, "row 1: no field 'instruction'|null"),
    ],
)
def test_bad_records_are_refused(tmp_path, responses, columns, message):
    records = write_records(tmp_path / "r.parquet", responses, **columns)
    with pytest.raises(UserError, match=message):
        generate(records, tmp_path / "o.parquet", tmp_path / "r.json", GenerateSettings())


def test_missing_records_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.parquet: no such file"):
        generate(tmp_path / "nowhere.parquet", tmp_path / "o", tmp_path / "r", GenerateSettings())


@given(st.integers(0, 2**31), st.text(max_size=20), st.integers(0, 9))
def test_seeds_have_31_bits_and_are_stable(seed, sample, k):
    value = variants.seed_of(seed, sample, k)
    assert 0 <= value < 2**31 and value == variants.seed_of(seed, sample, k)


def test_seeds_differ_and_never_change():
    seeds = collections.Counter(
        variants.seed_of(seed, sample, k)
        for seed in (0, 1)
        for sample in ("a", "b", "1", "11")
        for k in range(50)
    )
    assert max(seeds.values()) == 1
    assert variants.seed_of(0, "a", 0) == 1386323084  # a change would change every answer


# ------------------------------------------------------------------ shards, kills


class Deaf(Exception):
    """What ends the teacher below."""


class Echo:
    """A teacher whose answer follows from the request, and which may end after some answers."""

    def __init__(self, monkeypatch):
        self.asked = []  # (id, k), over all calls
        self.spent = []
        self.patience = 10**9
        self.error = Deaf
        self.wrong = WRONG
        monkeypatch.setattr(engines, "answers", self.answers)
        monkeypatch.setattr(engines, "with_dtype", lambda settings, begun=None: settings)

    def answers(self, requests, settings, spent=0.0):
        self.spent.append(spent)
        for index, request in reversed(list(enumerate(requests))):
            if self.patience == 0:
                raise self.error
            self.patience -= 1
            self.asked.append((request.id, request.k))
            text = fenced(f"{self.wrong}  # {request.seed}")
            yield Answer(index, text, 7, cost=0.25)


@pytest.fixture
def echo(monkeypatch):
    return Echo(monkeypatch)


ASKED = GenerateSettings(backend="openai", variants=2)


def test_what_goes_on_keeps_the_dtype_of_the_first_answers(tmp_path, echo, monkeypatch):
    """On a machine that has no bf16, after one that has."""
    asked = GenerateSettings(variants=2)
    here = ["bfloat16", "float32"]

    def settled(settings, begun=None):
        return settings.model_copy(update={"dtype": begun or here.pop(0)})

    monkeypatch.setattr(engines, "with_dtype", settled)
    records = write_records(tmp_path / "records.parquet", [CODE] * 5)
    report = tmp_path / "1.json"
    echo.patience = 4
    with pytest.raises(Deaf):
        generate(records, tmp_path / "1.parquet", report, asked)
    echo.patience = 10**9
    assert generate(records, tmp_path / "1.parquet", report, asked).dtype == "bfloat16"
    assert json.loads(report.read_text())["dtype"] == "bfloat16"
    generate(records, tmp_path / "elsewhere" / "2.parquet", report, asked)
    assert json.loads(report.read_text())["dtype"] == "float32"


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "error",
    [Deaf, Stopped, OSError(28, "No space left on device")],
    ids=["kill", "SIGTERM", "disk"],
)
def test_a_generation_that_ends_early_asks_for_the_rest_later(tmp_path, echo, error):
    records = write_records(tmp_path / "records.parquet", [CODE] * 5)
    out = [tmp_path / "1.parquet", tmp_path / "1.json"]
    echo.patience, echo.error = 4, error
    with pytest.raises(error if isinstance(error, type) else type(error)) as raised:
        generate(records, *out, ASKED)
    if error is Stopped:
        assert raised.value.where == "answer 4 of 10"
    assert written(tmp_path) == ["records.parquet", "state/1/answers.jsonl"]
    echo.patience = 10**9
    generate(records, *out, ASKED)
    assert len(echo.asked) == len(set(echo.asked)) == 10
    assert echo.spent == [0, 1.0]
    assert written(tmp_path) == ["1.json", "1.parquet", "records.parquet", "state/1/answers.jsonl"]

    whole = [tmp_path / "whole" / "1.parquet", tmp_path / "whole" / "1.json"]
    generate(records, *whole, ASKED)
    assert pl.read_parquet(out[0]).equals(pl.read_parquet(whole[0]))
    counts = [json.loads(path.read_text()) for path in (out[1], whole[1])]
    for one in counts:
        for name in ("seconds", "load_seconds", "tokens_per_second"):
            del one[name]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"temperature": 0.5}, 0),
        ({"max_new_tokens": 9}, 0),
        ({"teacher": "another"}, 0),
        ({"seed": 1}, 0),
        ({"backend": "vllm"}, 0),
        ({"variants": 3}, 3),
        ({"variants": 1}, 1),
        ({"url": "http://elsewhere/v1"}, 3),
        ({"revision": "0123"}, 3),  # nothing that an endpoint is told
        ({"dtype": "float32"}, 3),
        ({"min_similarity": 0.1}, 3),
        ({"max_spend": 9.0, "price_per_million_input": 1.0}, 3),
        ({"price_per_million_input": 1.0, "price_per_million_output": 2.0}, 3),
        ({"requests_per_minute": 5, "tokens_per_minute": 5}, 3),
        ({"batch_size": 5, "tensor_parallel": 2}, 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_answers_that_are_there_count_if_they_would_be_given_again(tmp_path, echo, changes, kept):
    """After a kill, and after the output was written, and back again."""
    records = write_records(tmp_path / "records.parquet", [CODE] * 2)
    changed = GenerateSettings(**{**ASKED.model_dump(exclude_unset=True), **changes})
    out = [tmp_path / "1.parquet", tmp_path / "1.json"]
    echo.patience = 3
    with pytest.raises(Deaf):
        generate(records, *out, ASKED)
    echo.patience, echo.asked = 10**9, []
    generate(records, *out, changed)
    assert len(echo.asked) == 2 * changed.variants - kept
    assert len(pl.read_parquet(out[0])) == 2 * changed.variants
    generate(records, *out, ASKED)
    echo.asked = []
    for again in (changed, ASKED):
        generate(records, *out, again)
    assert echo.asked == []


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_teacher_of_ones_own_answers_by_its_files_and_dtype(tmp_path, echo, backend):
    """Its weights are not known by the folder's name, and it may move."""
    records = write_records(tmp_path / "records.parquet", [CODE] * 2)
    out = [tmp_path / "1.parquet", tmp_path / "1.json"]
    places = [tmp_path / name for name in ("a", "b")]
    places[0].mkdir()
    (places[0] / "config.json").write_text("{}")
    settings = GenerateSettings(
        backend=backend, teacher=str(places[0]), variants=2, dtype="float32"
    )

    def asked(**changes):
        before = len(echo.asked)
        generate(records, *out, settings.model_copy(update=changes))
        return len(echo.asked) - before

    assert asked() == 4
    assert asked(dtype="auto", revision="0123", tensor_parallel=2, batch_size=1) == 0
    assert asked(dtype="bfloat16") == 4
    assert asked(dtype="float32") == 0
    places[0].rename(places[1])
    assert asked(teacher=str(places[1])) == 0
    (places[1] / "config.json").write_text('{"other": 1}')
    assert asked(teacher=str(places[1])) == 4
    assert asked(teacher="on/the-hub") == 4
    assert asked(teacher="on/the-hub", revision="0123") == 4


def test_only_what_is_new_is_asked_when_records_or_shards_change(tmp_path, echo):
    responses = [CODE.replace("+", f"+ {number} *") for number in range(9)]
    records = write_records(tmp_path / "records.parquet", responses)
    names = pl.read_parquet(records)["id"].to_list()

    def in_parts(shards):
        settings = ASKED.model_copy(update={"shards": shards})
        echo.asked, echo.spent = [], []
        for shard in range(1, shards + 1):
            file = tmp_path / f"{shard}-of-{shards}.parquet"
            generate(records, file, file.with_suffix(".json"), settings, shard=shard)
        return sorted(echo.asked)

    assert len(in_parts(2)) == 18
    assert in_parts(3) == in_parts(2) == in_parts(1) == []
    frame = pl.read_parquet(records)
    changed = frame.with_columns(
        instruction=pl.when(pl.col("id") == names[4])
        .then(pl.lit("Another."))
        .otherwise("instruction")
    )
    changed.filter(pl.col("id") != names[0]).write_parquet(records)
    assert in_parts(3) == [(names[4], 0), (names[4], 1)]
    assert in_parts(2) == []
    frame.write_parquet(records)
    assert in_parts(3) == []
    # 20 answers at 0.25 were paid for: 18 by two jobs and 2 by the second of three.
    changed.with_columns(id="x" + pl.col("id")).write_parquet(records)
    assert len(in_parts(4)) == 18
    assert echo.spent == [5.0 / 4] * 4


def test_another_output_reads_what_lies_beside_it(tmp_path, echo):
    records = write_records(tmp_path / "records.parquet", [CODE] * 3)
    generate(records, tmp_path / "a.parquet", tmp_path / "a.json", ASKED)
    generate(records, tmp_path / "b.parquet", tmp_path / "b.json", ASKED)
    assert len(echo.asked) == 6
    more = ASKED.model_copy(update={"variants": 3})
    generate(records, tmp_path / "b.parquet", tmp_path / "b.json", more)
    assert len(echo.asked) == 9 and echo.spent == [0, 1.5]
    first, second = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    assert second.filter(pl.col("k") < 2).equals(first)


def test_an_answer_that_no_code_is_in_is_asked_for_again_when_all_are_so(tmp_path, echo):
    records = write_records(tmp_path / "records.parquet", [CODE] * 2)
    out = [tmp_path / "1.parquet", tmp_path / "1.json"]
    echo.wrong = "def"
    with pytest.raises(UserError, match="does_not_parse: 4"):
        generate(records, *out, ASKED)
    assert written(tmp_path) == ["records.parquet", "state/1/answers.jsonl"]  # what they cost
    echo.wrong = WRONG
    generate(records, *out, ASKED)
    assert len(echo.asked) == 8 and echo.spent == [0, 1.0]


@pytest.mark.parametrize(("count", "refused"), [(5, False), (6, True)])
def test_a_small_shard_may_have_no_usable_answer(tmp_path, echo, count, refused):
    records = write_records(tmp_path / "records.parquet", [CODE] * 2 * count)
    out = [tmp_path / "1.parquet", tmp_path / "1.json"]
    echo.wrong = "def"
    settings = ASKED.model_copy(update={"shards": 2})
    if refused:
        with pytest.raises(UserError, match="shard 1 of 2: none of the 12 answers"):
            generate(records, *out, settings, shard=1)
    else:
        generate(records, *out, settings, shard=1)
        assert json.loads(out[1].read_text())["usable"] == 0


def in_shards(folder, records, settings, shards):
    """Variants and report of the dataset, made in so many shards."""
    folder.mkdir()
    settings = settings.model_copy(update={"shards": shards})
    files = [folder / "shards" / f"{number}.parquet" for number in range(1, shards + 1)]
    for number, file in enumerate(files, start=1):
        generate(records, file, file.with_suffix(".json"), settings, shard=number)
    gather(files, records, folder / "variants.parquet", folder / "report.json")
    report = json.loads((folder / "report.json").read_text())
    return pl.read_parquet(folder / "variants.parquet"), report


@pytest.mark.parametrize("shards", [1, 3, 7, 20])
def test_shards_change_neither_ids_nor_prompts_nor_seeds_nor_counts(
    tmp_path, echo, monkeypatch, shards
):
    records = write_records(tmp_path / "records.parquet", [CODE, "Words.", *[CODE] * 9])
    out = [tmp_path / "whole.parquet", tmp_path / "whole.json"]
    prompts = []
    answers = echo.answers

    def noted(requests, settings, spent=0.0):
        prompts.extend((one.id, one.k, one.seed, one.prompt) for one in requests)
        return answers(requests, settings, spent)

    monkeypatch.setattr(engines, "answers", noted)
    generate(records, *out, ASKED)
    expected, prompts[:] = prompts.copy(), []
    frame, report = in_shards(tmp_path / "shards", records, ASKED, shards)
    assert prompts == expected
    assert frame.equals(pl.read_parquet(out[0]))
    whole = json.loads(out[1].read_text())
    counts = ["samples", "without_code", "answers", "usable", "samples_with_variant", "refused"]
    assert {name: report[name] for name in [*counts, "tokens"]} == {
        name: whole[name] for name in [*counts, "tokens"]
    }


def test_one_answer_at_a_time_has_the_same_text_in_any_shard(tmp_path, tiny_model, monkeypatch):
    """With real weights; they are random, so every text is taken for code."""
    monkeypatch.setattr("fgit.generate.read_answer", lambda text, *rest: (f"x = {text!r}", None))
    responses = [CODE.replace("+", f"+ {number} *") for number in range(8)]
    records = write_records(tmp_path / "records.parquet", responses)
    settings = GenerateSettings(
        backend="transformers",
        teacher=str(tiny_model),
        dtype="float32",
        batch_size=1,
        variants=2,
        max_new_tokens=12,
    )
    one, three = (in_shards(tmp_path / str(shards), records, settings, shards) for shards in (1, 3))
    assert one[1]["same_text"] == three[1]["same_text"] == "batch_1"
    assert one[0]["answer"].n_unique() == 16
    assert one[0].equals(three[0])


@pytest.mark.parametrize(
    ("shards", "shard", "message"),
    [
        (3, None, "--shards 3: which of them"),
        (3, 0, "--shard 0 of --shards 3: give a number from 1 to 3"),
        (3, 4, "--shard 4 of --shards 3"),
        (1, 2, "--shard 2 of --shards 1"),
    ],
)
def test_a_shard_that_is_none_is_refused(tmp_path, shards, shard, message):
    records = write_records(tmp_path / "records.parquet", [CODE])
    with pytest.raises(UserError, match=message):
        generate(
            records,
            tmp_path / "o.parquet",
            tmp_path / "r.json",
            ASKED.model_copy(update={"shards": shards}),
            shard=shard,
        )
