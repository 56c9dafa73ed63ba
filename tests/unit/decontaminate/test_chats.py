"""Chats in the layouts that people bring, and what is said of those that cannot be read."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common.files import BadRow
from fgit.decontaminate.chats import samples_of_rows

SYSTEM, USER, ANSWER = "Be brief.", "Add 2.", "x + 2"
SHARE = {"system": "system", "user": "human", "assistant": "gpt"}


def openai(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def share_gpt(*turns):
    return [{"from": SHARE[role], "value": content} for role, content in turns]


def in_parts(*turns):
    return [{"role": r, "content": [{"type": "text", "text": c, "image": None}]} for r, c in turns]


def in_columns(*turns):
    """As the library datasets has a sequence of objects."""
    roles, contents = zip(*turns, strict=True)
    return {"role": list(roles), "content": list(contents)}


def wide(*turns):
    """As Parquet has turns of different keys."""
    empty = {"name": None, "tool_calls": None, "function_call": [], "value": None, "weight": None}
    return [{"role": role, "content": content} | empty for role, content in turns]


LAYOUTS = {
    "openai": openai,
    "sharegpt": share_gpt,
    "parts": in_parts,
    "columns": in_columns,
    "wide": wide,
    "json": lambda *turns: json.dumps(openai(*turns)),
    "json of sharegpt": lambda *turns: json.dumps(share_gpt(*turns)),
    "object": lambda *turns: {"messages": openai(*turns), "source": "x"},
    "json of object": lambda *turns: json.dumps({"conversations": share_gpt(*turns)}),
    "texts": lambda *turns: [{"role": r, "content": [c[:1], c[1:]]} for r, c in turns],
    "capitals": lambda *turns: [{"role": r.upper(), "content": c} for r, c in turns],
    "developer": lambda *turns: openai(*((r.replace("system", "developer"), c) for r, c in turns)),
    "bot": lambda *turns: openai(*((r.replace("assistant", "bot"), c) for r, c in turns)),
    "model": lambda *turns: openai(*((r.replace("assistant", "model"), c) for r, c in turns)),
    "both": lambda *turns: [a | b for a, b in zip(openai(*turns), share_gpt(*turns), strict=True)],
    "text": lambda *turns: [{"from": SHARE[r], "text": c} for r, c in turns],
}


def read(row, fields, turns="last"):
    counts = Counter()
    return [row for _, row in samples_of_rows([(1, row)], "f", fields, turns, counts)], counts


@settings(max_examples=200)
@given(
    layout=st.sampled_from(list(LAYOUTS)),
    system=st.none() | st.text(min_size=1).filter(str.strip),
    texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=8),
)
def test_every_layout_gives_the_turns(layout, system, texts):
    texts = texts[: len(texts) // 2 * 2]
    turns = [("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)]
    whole = ([] if system is None else [("system", system)]) + turns
    samples, counts = read({"c": LAYOUTS[layout](*whole), "id": "a"}, {"chat": "c"}, "every")
    assert [(s["instruction"], s["response"]) for s in samples] == list(
        zip(texts[::2], texts[1::2], strict=True)
    )
    for n, sample in enumerate(samples, start=1):
        before = whole[: len(whole) - len(texts) + 2 * n - 2]
        assert json.loads(sample["history"] or "[]") == openai(*before)
        assert sample["id"] == f"a-turn-{n}"
    count = len(texts) // 2
    assert counts == {"chats": 1, "answers": count, "samples": count, "turns_left_out": 0}
    last, _ = read({"c": LAYOUTS[layout](*whole), "id": "a"}, {"chat": "c"})
    assert last == [samples[-1] | {"id": "a"}]


u, a, s = ("user", USER), ("assistant", ANSWER), ("system", SYSTEM)
BROKEN = {
    "assistant first": (openai(a, u, a), "assistant first"),
    "users": (openai(u, u, a), "two turns of one role"),
    "assistants": (openai(u, a, a), "two turns of one role"),
    "no answer": (openai(s, u), "no answer"),
    "only system": (openai(s), "no answer"),
    "ends with user": (openai(u, a, u), "no last answer"),
    "late system": (openai(u, s, a), "late system turn"),
    "system last": (openai(u, a, s), "late system turn"),
    "two systems": (openai(s, s, u, a), "two system turns"),
    "empty answer": (openai(u, ("assistant", " \n")), "empty turn"),
    "null answer": (openai(u, ("assistant", None)), "empty turn"),
    "no content": ([{"role": "user"}, *openai(a)], "empty turn"),
    "unknown role": (openai(("narrator", "x"), u, a), "unknown role"),
    "tool": (openai(u, a, ("tool", "3"), a), "tools"),
    "observation": ([{"from": "observation", "value": "3"}], "tools"),
    "calls": ([*openai(u), {"role": "assistant", "content": "x", "tool_calls": [{}]}], "tools"),
    "image": (openai(("user", [{"type": "image"}, {"type": "text", "text": "x"}]), a), "not text"),
    "number": (openai(("user", 3), a), "not text"),
    "object": (openai(("user", {"parts": ["x"]}), a), "not text"),
    "no role": ([{"content": "x"}, {"content": "y"}], "turn without role"),
    "texts": (["question", "answer"], "turn without role"),
    "pairs": ([["question", "answer"]], "turn without role"),
    "null turn": ([None], "turn without role"),
    "empty": ([], "no answer"),
    "null": (None, "null"),
    "text": ("User: x", "no chat"),
    "literal": ("[{'role': 'user'}]", "no chat"),
    "deep": ("[" * 100_000, "no chat"),
    "number of a chat": (3, "no chat"),
    "one turn": (openai(u)[0], "no chat"),
    "uneven": ({"role": ["user", "assistant"], "content": ["x"]}, "no chat"),
    "untrained": ([*openai(u), {"role": "assistant", "content": "x", "weight": 0}], "no answer"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("turns", ["last", "every"])
def test_what_is_no_chat_is_a_bad_row_of_its_kind(name, turns):
    chat, kind = BROKEN[name]
    (row,), counts = read({"messages": chat}, {"chat": "messages"}, turns)
    assert isinstance(row, BadRow) and row.kind == kind
    assert "messages" in row.reason and not counts["turns_left_out"]


def test_a_missing_column_is_named():
    (row,), _ = read({"messages": openai(u, a)}, {"chat": "conversations"})
    assert row.reason == "no field 'conversations' (it has: messages)"


@pytest.mark.parametrize("system", ["", " ", None])
def test_an_empty_system_turn_is_none(system):
    (row,), _ = read({"c": openai(("system", system), u, a), "system": system}, {"chat": "c"})
    assert row["history"] is None


def test_a_system_column_is_kept():
    """ShareGPT's, by its usual name; of rows that are read by fields, where it is named."""
    expected = json.dumps(openai(s))
    (row,), _ = read({"c": share_gpt(u, a), "system": SYSTEM}, {"chat": "c"})
    assert row["history"] == expected
    plain = {"system_prompt": SYSTEM, "question": USER, "response": ANSWER, "id": 3}
    (row,), _ = read(plain, {"system": "system_prompt", "instruction": "question"})
    texts = {"instruction": USER, "response": ANSWER, "history": expected}
    assert row == texts | {"id": 3, "language": None, "tests": None}
    (row,), _ = read({"c": openai(s, u, a), "system": SYSTEM}, {"chat": "c"})  # said twice
    assert row["history"] == expected
    for chat, system in ((openai(s, u, a), "Be long."), (openai(u, a), 3)):
        (row,), _ = read({"c": chat, "system": system}, {"chat": "c"})
        assert row.kind in ("two system turns", "not text")


def test_answers_of_weight_0_are_read_and_not_learnt():
    chat = openai(u, a, u, a, u, a)
    chat[1]["weight"] = chat[5]["weight"] = 0
    (row,), counts = read({"c": chat, "id": 1}, {"chat": "c"}, "every")
    assert row["id"] == "1-turn-2" and json.loads(row["history"]) == openai(u, a)
    assert counts["turns_left_out"] == 2


CHAT = openai(s, u, a, u, a)


@pytest.mark.parametrize(
    ("instruction", "response", "expected"),
    [
        ("m.0.content", "m.1.content", "turn 0 of 'm' is the system's; .*{chat: m}"),
        ("m.0.content", "m.-1.content", "turn 0 of 'm' is the system's"),
        ("m.2.content", "m.4.content", "turn 2 of 'm' is the assistant's"),
        ("m.1.content", "m.3.content", "turn 3 of 'm' is the user's"),
        ("m.1.content", "m.4.content", "turn 4 of 'm' is no answer to turn 1"),
        ("m.3.content", "m.2.content", "turn 2 of 'm' is no answer to turn 3"),
        ("{m.0.content}", "m.2.content", "turn 0 of 'm' is the system's"),
        ("{m.1.content} {m.2.content}", "m.4.content", "turn 2 of 'm' is the assistant's"),
        ("m", "m.2.content", "'m' is a list of turns, not text; fields: {chat: COLUMN}"),
        ("task", "answer", "no field 'task', but 'm' is a chat; .*{chat: m}"),
        ("m.1.content", "m.2.content", 3),
        ("m.-2.content", "m.-1.content", 3),
        ("{m.0.content}\n{m.1.content}", "m.2.content", 2),
        ("other.0.text", "m.-1.content", 0),
    ],
)
def test_a_path_into_a_chat_takes_the_right_turn(instruction, response, expected):
    row = {"m": CHAT, "other": [{"text": "x"}]}
    (found,), counts = read(row, {"instruction": instruction, "response": response})
    if isinstance(expected, str):
        assert isinstance(found, BadRow)
        assert re.search(expected, found.reason), found.reason
    else:
        assert found is row and counts["turns_left_out"] == expected


def test_rows_that_are_no_chats_are_passed_on():
    bad = BadRow("f", 2, "broken JSON", "broken JSON")
    rows = [(1, {"instruction": "x", "response": "y"}), (2, bad), (3, {"instruction": None})]
    assert list(samples_of_rows(rows, "f", {}, "last", Counter())) == rows
