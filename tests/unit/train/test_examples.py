import copy

import numpy as np
import polars as pl
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from fgit.annotate import with_spans
from fgit.common.chat_templates import end_of_turn
from fgit.common.errors import UserError
from fgit.common.tokenizers import prompt_ids, prompt_text
from fgit.config import TrainSettings
from fgit.masks import TokenMasks
from fgit.train import examples as module
from fgit.train.examples import (
    Example,
    build,
    check_used,
    examples,
    fork,
    marked_share_bins,
    prompts_of,
    split_held_out,
)
from tests.reference import plain_masks, plain_segments

END = 99


def side(tokens, line, token=None):
    return TokenMasks(
        tokens=np.array(tokens, dtype=np.int64),
        line=np.array(line, dtype=np.int8),
        token=np.array(token if token is not None else line, dtype=np.int8),
    )


def make(response, variant, max_length=100, granularity="hybrid", prompt=(1, 2)):
    return build(
        id="s",
        prompt=np.array(prompt),
        end=END,
        response=response,
        variant=variant,
        granularity=granularity,
        max_length=max_length,
    )


def test_marks_and_end_of_turn():
    example, counted = make(side([5, 6], [1, 1], [0, 1]), side([5, 7], [1, 1], [0, 1]))
    assert example.response.tolist() == [5, 6, END]
    assert example.response_marks.tolist() == [1, 2, 0]
    assert example.variant_marks.tolist() == [1, 2, 0]
    assert example.paired
    assert counted == []


@pytest.mark.parametrize(
    ("granularity", "marks"), [("line", [1, 1, 0]), ("token", [0, 1, 0]), ("hybrid", [1, 2, 0])]
)
def test_granularity(granularity, marks):
    one = side([5, 6], [1, 1], [0, 1])
    example, _ = make(one, side([5, 7], [1, 1], [0, 1]), granularity=granularity)
    assert example.response_marks.tolist() == marks


def test_fork_stands_for_an_empty_side():
    """y = a c, y' = a b c: y has no marked token; at the fork it goes on with c instead of b."""
    example, counted = make(side([1, 3], [0, 0]), side([1, 2, 3], [0, 1, 0]))
    assert example.response_marks.tolist() == [0, 1, 0]
    assert counted == ["fork_for_response"]
    example, counted = make(side([1, 2, 3], [0, 1, 0]), side([1, 3], [0, 0]))
    assert example.variant_marks.tolist() == [0, 1, 0]
    assert counted == ["fork_for_variant"]


def test_fork_may_be_the_end_of_turn():
    """The variant goes on where the response ends."""
    example, _ = make(side([1], [0]), side([1, 2], [0, 1]))
    assert example.response_marks.tolist() == [0, 1]


def test_truncation_that_empties_a_side_leaves_weight_one():
    response, variant = side([1, 2, 3], [0, 0, 1]), side([1, 2, 4], [0, 0, 1])
    example, counted = make(response, variant, max_length=4)
    assert example.response.tolist() == [1, 2]
    assert not example.paired
    assert not example.response_marks.any()
    assert counted == ["cut", "marks_cut"]


def test_the_fork_is_found_before_the_cut():
    example, counted = make(side([1, 2, 3], [0, 0, 0]), side([1, 2, 9], [0, 0, 1]), max_length=4)
    assert not example.paired
    assert "marks_cut" in counted


def test_marks_on_what_is_the_same_up_to_the_cut_set_nothing_apart():
    """The changed line begins before the cut, and what is changed in it stands behind."""
    one, other = side([1, 2, 3], [1, 1, 1], [0, 0, 1]), side([1, 2, 9], [1, 1, 1], [0, 0, 1])
    assert make(one, other, max_length=5)[0].paired
    example, counted = make(one, other, max_length=4)
    assert not example.response_marks.any() and not example.variant_marks.any()
    assert counted == ["cut", "marks_cut"]


def test_no_variant():
    example, counted = make(side([1, 2], [0, 0]), None)
    assert not example.paired
    assert len(example.variant) == 0
    assert counted == ["no_variant"]


@pytest.mark.parametrize("marks", [[0, 0], [1, 1]])
def test_identical_sides_have_no_weight(marks):
    """A tokenizer may give two texts that differ, and are marked, the same tokens."""
    example, counted = make(side([1, 2], marks), side([1, 2], marks))
    assert not example.paired
    assert counted == ["no_difference"]


def test_prompt_that_fills_the_length():
    example, counted = make(side([1], [0]), None, max_length=2)
    assert example is None
    assert counted == ["prompt_too_long"]


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_fork_is_the_first_difference(y, v):
    at = fork(np.array([*y, END]), np.array([*v, END]))
    if at is None:
        assert y == v
    else:
        assert [*y, END][:at] == [*v, END][:at]
        assert [*y, END][at] != [*v, END][at]


def test_end_of_turn(tokenizer):
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<|im_end|>"


def test_ids_are_never_tokenized_jointly(tokenizer):
    rows = [
        {"id": "a", "instruction": "Add.", "response": " x = 1", "variant": " x = 2"},
        {"id": "b", "instruction": "Add.", "response": "x", "variant": None},
    ]
    (first, second), counts = examples(map(with_spans, rows), tokenizer)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add."}], add_generation_prompt=True, tokenize=False
    )
    assert first.prompt.tolist() == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert first.response.tolist() == [
        *tokenizer(" x = 1", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert first.paired
    assert not second.paired
    assert counts == {"samples": 2, "paired": 1, "no_variant": 1}


TEXTS = st.text(alphabet="ab =1\n", max_size=12)


@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS, st.none() | TEXTS), max_size=7),
    max_length=st.sampled_from([12, 1024]),
)
def test_examples_equal_the_plain_form(tokenizer, pairs, max_length):
    """A sample at a time, from the definition of its parts; and all of them in batches of three."""
    rows, expected = [], []
    end = end_of_turn(tokenizer)
    for number, (instruction, y, v) in enumerate(pairs):
        row = {"id": str(number), "instruction": instruction, "response": y, "variant": v}
        spans = None if v is None else vars(plain_segments(y, v))
        sides = {"response": (y, [], []), "variant": None}
        if spans is not None:
            sides = {
                name: (text, spans[f"{name}_lines"], spans[f"{name}_characters"])
                for name, text in (("response", y), ("variant", v))
            }
        built, counted = build(
            id=row["id"],
            prompt=np.array(prompt_ids(tokenizer, prompt_text(tokenizer, instruction))),
            end=end,
            granularity="hybrid",
            max_length=max_length,
            **{
                name: given and side(*plain_masks(tokenizer, *given))
                for name, given in sides.items()
            },
        )
        expected.append((built, counted))
        rows.append(row | (spans or dict.fromkeys(module.SPAN_COLUMNS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", 3)
        found, counts = examples(iter(rows), tokenizer, max_length=max_length)
    training = [one for one, _ in expected if one is not None]
    assert all(fork(one.response, one.variant) is not None for one in training if one.paired)
    assert [as_lists(one) for one in found] == [as_lists(one) for one in training]
    wanted = {"samples": len(rows), "paired": sum(one.paired for one in training)}
    for _, counted in expected:
        for name in counted:
            wanted[name] = wanted.get(name, 0) + 1
    assert {name: count for name, count in counts.items() if count} == {
        name: count for name, count in wanted.items() if count
    }


def as_lists(example):
    return {
        name: value if isinstance(value, str) else (value.dtype, value.tolist())
        for name, value in vars(example).items()
        if name != "needs"  # is filled as training asks
    }


def test_prompts_of_templates_that_may_write_bos(tokenizer):
    """Special tokens are added to those prompts alone that do not begin with BOS."""
    other = copy.deepcopy(tokenizer)
    bos = other.bos_token
    other.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, other.bos_token_id)]
    )
    other.chat_template = (
        "{% if messages[0].content == 'b' %}{{ bos_token }}{% endif %}{{ messages[0].content }}"
    )
    instructions = ["a", "b", "b", "a"]
    found = prompts_of(other, [{"instruction": text} for text in instructions])
    assert [ids.tolist() for ids in found] == [
        prompt_ids(other, prompt_text(other, instruction)) for instruction in instructions
    ]
    assert [ids.tolist().count(other.bos_token_id) for ids in found] == [1] * 4


def test_share_of_marked_tokens():
    """Bin 2 begins at 10 %; the end of turn does not count, where a side has it."""

    def pair(response, variant):
        y, v = (np.array(marks, dtype=np.int8) for marks in (response, variant))
        ids = [np.array([*[1] * (len(marks) - 1), END]) for marks in (y, v)]
        return Example("s", np.array([7]), ids[0], y, ids[1], v)

    found = marked_share_bins(
        [
            pair([2, *[0] * 9, 0], [1, 2, 0]),  # 1 of 10; 2 of 2
            pair([*[0] * 21, 1, 0], [0, 1, 1]),  # 1 of 22; 1 of 2, and the end of turn
            pair([0, 1, 0], [1]),  # 1 of 2; the end of turn alone
            pair([0, 0, 0], [0, 0]),  # not paired
        ],
        END,
    )
    bins = {"response": {0: 1, 2: 1, 10: 1}, "variant": {0: 1, 10: 1, 19: 1}}
    assert found == {name: [filled.get(at, 0) for at in range(20)] for name, filled in bins.items()}


def test_share_of_a_side_that_was_cut():
    """Its last token is one of the text."""
    cut, whole = np.array([1, 2]), np.array([1, END])
    marks = np.array([0, 1], dtype=np.int8), np.array([1, 0], dtype=np.int8)
    found = marked_share_bins([Example("s", np.array([7]), cut, marks[0], whole, marks[1])], END)
    assert (found["response"][10], found["variant"][19]) == (1, 1)


def test_held_out_does_not_depend_on_the_other_samples():
    ids = [f"sample-{i}" for i in range(50)]
    frame = pl.DataFrame({"id": ids})
    training, held_out = split_held_out(frame, 10, seed=3)
    assert held_out.height == 10
    assert sorted([*training["id"], *held_out["id"]]) == sorted(ids)
    fewer = frame.filter(pl.col("id").is_in(held_out["id"].to_list()) | (pl.col("id") > "sample-3"))
    assert split_held_out(fewer, 10, seed=3)[1]["id"].to_list() == held_out["id"].to_list()
    assert split_held_out(frame, 10, seed=4)[1]["id"].to_list() != held_out["id"].to_list()


def test_nothing_left_to_train_on():
    with pytest.raises(UserError, match="held_out is 2, but there are only 2"):
        split_held_out(pl.DataFrame({"id": ["a", "b"]}), 2, seed=0)


# ------------------------------------------------------------------ what the objective can use


LONG = "Add one to each of these numbers, and then add up what that gives, number after number. "
FGIT, FIXED, SFT, DPO = (
    {"objective": "fgit"},
    {"objective": "fixed", "weight": 2.0},
    {"objective": "fixed"},
    {"objective": "dpo"},
)
NO_VARIANT, EQUAL, CASE = {"variant": None}, {"variant": "y = a + 1\n"}, {"variant": "Y = A + 1\n"}
LONG_PROMPT = {"instruction": LONG * 9}
# Changed behind what is kept; and the same in a line that begins before the cut.
LATE = {"response": "a = 1\n" * 60 + "b = 2\n", "variant": "a = 1\n" * 60 + "b = 3\n"}
LATE_IN_LINE = {"response": "x = " + "a + " * 60 + "b", "variant": "x = " + "a + " * 60 + "c"}
INSERTED = {"variant": "y = a + 1\ny = y + 1\n"}
BY_SPACE = {"variant": "y = a +  1\n"}
UNMARKED = {name: [] for name in module.SPAN_COLUMNS}
ADVICE = "; or choose standard SFT (objective fixed, weight 1), which this nearly is"
VARIANT = "see why in the reports of select, and of generate or mutate"

USED = {  # by name: settings, how many samples are how, and how many are used, or why not
    "ordinary": (FGIT, [(10, {})], 10),
    "a tenth": (FGIT, [(2, {}), (18, NO_VARIANT)], 2),
    "inserted alone, by the token mask": (FGIT | {"granularity": "token"}, [(4, INSERTED)], 4),
    "whitespace": (FGIT, [(4, BY_SPACE)], 4),
    "the line mask, cut late": (FGIT | {"max_length": 400}, [(4, LATE_IN_LINE)], 4),
    "SFT needs no variant": (SFT, [(8, NO_VARIANT)], 8),
    "SFT, nor a difference": (SFT, [(8, EQUAL)], 8),
    "alpha 1 is SFT": (FGIT | {"alpha": 1.0}, [(8, NO_VARIANT)], 8),
    "DPO": (DPO, [(3, {}), (5, EQUAL)], 3),
    "DPO needs no marks": (DPO, [(4, UNMARKED)], 4),
    "a lower share": (FGIT | {"min_share": 1e-9}, [(1, {}), (30, NO_VARIANT)], 1),
    "no variants": (FGIT, [(8, NO_VARIANT)], f"a dynamic weight (no variant 8): {VARIANT}{ADVICE}"),
    "few variants": (
        FGIT,
        [(1, {}), (19, NO_VARIANT)],
        f"only 1 of 20 samples can be trained on with a dynamic weight (no variant 19): {VARIANT}"
        f"; or lower min_share, now 0.1, and say so{ADVICE}",
    ),
    "all equal": (
        FGIT,
        [(8, EQUAL)],
        f"(response and variant have the same tokens 8): give other variants{ADVICE}",
    ),
    "a tokenizer without case": (FGIT, [(8, CASE)], "have the same tokens 8"),
    "cut": (FGIT, [(8, LATE)], "(no difference within max_length 8): raise max_length, now 64"),
    "cut within a line": (FGIT, [(8, LATE_IN_LINE)], "(no difference within max_length 8)"),
    "the line mask, cut": (
        FGIT | {"granularity": "line"},
        [(8, LATE_IN_LINE)],
        "(no difference within max_length 8)",
    ),
    "long prompts": (
        FGIT,
        [(1, {}), (30, LONG_PROMPT)],
        "only 1 of 31 samples can be trained on with a dynamic weight (prompt as long as "
        "max_length 30): raise max_length, now 64; or lower min_share, now 0.1, and say so",
    ),
    "several reasons": (
        FGIT,
        [(3, NO_VARIANT), (4, LATE), (2, EQUAL), (1, LONG_PROMPT)],
        "none of 10 samples can be trained on with a dynamic weight (no variant 3, no difference "
        "within max_length 4, response and variant have the same tokens 2, prompt as long as "
        "max_length 1): raise max_length, now 64; or choose",
    ),
    "not annotated well": (FGIT, [(8, UNMARKED)], "(no token is marked 8): annotate the pairs"),
    "a fixed weight": (FIXED, [(8, EQUAL)], "none of 8 samples can be trained on with weight 2 ("),
    "SFT, long prompts": (SFT, [(8, LONG_PROMPT)], "weight 1 (prompt as long as max_length 8)"),
    "DPO, equal": (DPO, [(8, EQUAL)], "a preference (response and variant have the same tokens 8)"),
    "DPO, cut": (DPO, [(8, LATE_IN_LINE)], "a preference (no difference within max_length 8)"),
    "DPO, no variant": (DPO, [(8, NO_VARIANT)], "a preference (no variant 8)"),
}


@pytest.mark.parametrize("name", USED)
def test_a_method_that_its_data_leave_nothing_to_do_is_refused(tokenizer, name):
    changes, kinds, expected = USED[name]
    if "without case" in name:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    settings = TrainSettings(**{"max_length": 64} | changes)
    texts = {"instruction": "Add.", "response": "y = a + 1\n", "variant": "y = a - 1\n"}
    rows = []
    for count, how in kinds:
        spans = {key: how[key] for key in how if key in module.SPAN_COLUMNS}
        rows += [with_spans(texts | how) | spans | {"id": str(len(rows) + i)} for i in range(count)]
    limits = {"granularity": settings.granularity, "max_length": settings.max_length}
    built, counts = examples(rows, tokenizer, **limits)
    arguments = "s.parquet", built, counts["samples"], settings, end_of_turn(tokenizer)
    if isinstance(expected, int):
        assert check_used(*arguments) == expected
        return
    with pytest.raises(UserError) as refused:
        check_used(*arguments)
    assert str(refused.value).startswith("s.parquet: ")
    assert expected in str(refused.value)
    assert ("standard SFT" in str(refused.value)) == (
        changes not in (SFT, DPO) and "long" not in name
    )
