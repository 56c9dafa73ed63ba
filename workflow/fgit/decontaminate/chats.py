"""Rows that hold a chat: their turns, read by role, as samples.

A sample of a chat is an answer of the assistant, the user's turn before it, and as its ``history``
all turns before these. Formats: OpenAI's (role, content), ShareGPT's (from, value), a JSON text of
either, and a turn's content as text or as a list of text parts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fgit.common.dataset_fields import inside, paths_in, value_of, why_nothing
from fgit.common.files import BadRow

ROLES = {
    name: role
    for role, names in {
        "system": ("system", "developer"),
        "user": ("user", "human", "prompter"),
        "assistant": ("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"),
    }.items()
    for name in names
}
OF_TOOLS = {"tool", "function", "observation", "ipython", "function_call", "tool_call"} | {
    "function_response",
    "tool_response",
    "tool_result",
}
CALLS = ("tool_calls", "function_call", "tool_call_id")  # keys of a turn that uses tools
CHAT_NAMES = ("messages", "conversations", "conversation")
TEXT_PARTS = (None, "text", "input_text", "output_text")
# What a sample of a chat takes from the row as it is.
BESIDE = ("id", "language", "tests")


class BadChat(ValueError):
    """Why a chat cannot be used: in a sentence, and in a word or three."""

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.reason, self.kind = reason, kind


def samples_of_rows(
    rows: Iterable[tuple[int, Mapping[str, Any] | BadRow]],
    source: str,
    fields: Mapping[str, str],
    turns: str,
    counts: Counter[str],
) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Numbered rows, with their chats as rows of our own names.

    Args:
        fields: our name -> the data's; with ``chat`` the rows are read by role, with ``system`` a
            text stands before each. Rows of neither are passed on, unless a path takes the wrong
            turn of a chat.
        turns: ``last`` or ``every``: which answers of a chat become samples.
        counts: is updated with the rows that are ``chats``, their ``answers``, the ``samples`` of
            these, and the ``turns_left_out`` that are in none.
    """
    for number, row in rows:
        if isinstance(row, BadRow):
            yield number, row
            continue
        try:
            samples: list[Mapping[str, Any]]
            if "chat" in fields:
                samples = samples_of(row, fields, turns, counts)
            else:
                samples = [plain_sample(row, fields, counts)]
        except BadChat as error:
            yield number, BadRow(source, number, error.reason, error.kind)
        else:
            for sample in samples:
                yield number, sample


def samples_of(
    row: Mapping[str, Any], fields: Mapping[str, str], turns: str, counts: Counter[str]
) -> list[Mapping[str, Any]]:
    """The samples of a row's chat: instruction, response, history (JSON), and :data:`BESIDE`.

    With ``every``, ids end in ``-turn-N``, N from 1 over the chat's answers.

    Raises:
        BadChat: if its turns cannot be used.
    """
    name = fields["chat"]
    chat = read_turns(value_of(row, name), row, name)
    begins = [(turn["role"], turn["content"]) for turn in chat[:1]]
    beside_it = system_turn(row, fields.get("system", "system"))
    # Some data say it in both places.
    chat = [*(t for t in beside_it if (t["role"], t["content"]) not in begins), *chat]
    check_order(chat, name)
    beside = {ours: value_of(row, fields.get(ours, ours)) for ours in BESIDE}
    answers = [place for place, turn in enumerate(chat) if turn["role"] == "assistant"]
    # OpenAI's mark of answers that are there to be read, not to be learnt.
    chosen = [(n, place) for n, place in enumerate(answers, 1) if chat[place]["weight"] != 0]
    if not chosen:
        raise BadChat(f"{name!r}: every answer has the weight 0", "no answer")
    if turns == "last":
        chosen = chosen[-1:]
    left_out = len(chat) - 1 - chosen[-1][1]
    counts.update(chats=1, answers=len(answers), samples=len(chosen), turns_left_out=left_out)
    samples: list[Mapping[str, Any]] = []
    for n, place in chosen:
        history = [{key: t[key] for key in ("role", "content")} for t in chat[: place - 1]]
        sample = beside | {
            "instruction": chat[place - 1]["content"],
            "response": chat[place]["content"],
            "history": history_text(history),
        }
        of_row = beside["id"]
        is_id = isinstance(of_row, str | int) and not isinstance(of_row, bool)
        if turns == "every" and is_id and str(of_row).strip():
            sample["id"] = f"{of_row}-turn-{n}"
        samples.append(sample)
    return samples


def history_text(history: Sequence[Mapping[str, str]]) -> str | None:
    # As characters, so that what is no UTF-8 is found as in any text.
    return json.dumps(history, ensure_ascii=False) if history else None


def system_turn(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """What a row says in a column of its own, as a turn; none if that is empty."""
    text = value_of(row, name)
    if text is not None and not isinstance(text, str):
        raise BadChat(f"{name!r} is {type(text).__name__}, not text: {text!r:.60}", "not text")
    turn = {"role": "system", "content": text, "weight": None}
    return [turn] if text and text.strip() else []


# ------------------------------------------------------------------ turns


def read_turns(value: Any, row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A chat's turns: role (system, user or assistant), content and weight. An empty system turn
    is none.

    Raises:
        BadChat: if it is no chat, or a turn has something else than text of one of these.
    """
    if value is None:
        raise BadChat(*why_nothing(row, name))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadChat(f"{name!r} is text, and no JSON of a chat ({error})", "no chat") from None
    turns = as_list(value)
    if turns is None:
        raise BadChat(
            f"{name!r} is no list of turns: {value!r:.60}; fields: {{chat: COLUMN}} names the list",
            "no chat",
        )
    read = [read_turn(turn, f"turn {n} of {name!r}") for n, turn in enumerate(turns, start=1)]
    return [turn for turn in read if turn["role"] != "system" or turn["content"].strip()]


def as_list(value: Any) -> list[Any] | None:
    """The list of turns: as it is, in an object under its usual name, or as an object of lists
    (how the library ``datasets`` keeps a sequence of objects)."""
    if isinstance(value, Mapping):
        for name in CHAT_NAMES:
            if isinstance(value.get(name), list):
                return value[name]
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        if role_of(columns) is None or len({*map(len, columns.values())}) != 1:
            return None
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, turn, strict=True)) for turn in rows]
    return value if isinstance(value, list) else None


def role_of(turn: Mapping[str, Any]) -> Any:
    """Who speaks, as a turn says it; None if it does not."""
    return next((turn[key] for key in ("role", "from") if turn.get(key) is not None), None)


def read_turn(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise BadChat(
            f"{where} is no object of role and content: {turn!r:.60}", "turn without role"
        )
    said = role_of(turn)
    if said is None:
        has = ", ".join(map(str, turn))
        raise BadChat(f"{where} has neither role nor from (it has: {has})", "turn without role")
    name = str(said).strip().lower()
    if name in OF_TOOLS or any(turn.get(key) for key in CALLS):
        raise BadChat(f"{where} calls a tool, or is one's answer (role {said!r})", "tools")
    if name not in ROLES:
        raise BadChat(f"{where} has the role {said!r}; {', '.join(ROLES)} are read", "unknown role")
    role = ROLES[name]
    content = next((turn[k] for k in ("content", "value", "text") if turn.get(k) is not None), None)
    if isinstance(content, list | tuple):
        content = "".join(part_text(part, where) for part in content)
    if content is None and role != "system":
        raise BadChat(f"the content of {where} ({role}) is missing or null", "empty turn")
    if content is not None and not isinstance(content, str):
        what = type(content).__name__
        raise BadChat(f"the content of {where} is {what}, not text: {content!r:.60}", "not text")
    if role != "system" and not str(content).strip():
        raise BadChat(f"the content of {where} ({role}) is empty", "empty turn")
    return {"role": role, "content": content or "", "weight": turn.get("weight")}


def part_text(part: Any, where: str) -> str:
    """The text of a part of a turn's content."""
    if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS:
        part = part.get("text")
    if not isinstance(part, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise BadChat(f"the content of {where} has a part that is no text ({kind})", "not text")
    return part


def check_order(chat: Sequence[Mapping[str, Any]], name: str) -> None:
    """Perhaps a system turn, then user and assistant in turn, the assistant last."""
    roles = [turn["role"] for turn in chat]
    if "assistant" not in roles:
        raise BadChat(f"{name!r} has no turn of the assistant", "no answer")
    if roles[:2] == ["system", "system"]:
        raise BadChat(f"{name!r} has two system turns", "two system turns")
    begin = int(roles[0] == "system")
    for n, role in enumerate(roles[begin:]):
        if role == ("user", "assistant")[n % 2]:
            continue
        if role == "system":
            reason = f"{name!r}: a system turn stands behind others (turn {begin + n + 1})"
            raise BadChat(reason, "late system turn")
        if n == 0:
            raise BadChat(f"{name!r} begins with the assistant", "assistant first")
        raise BadChat(
            f"{name!r}: the turns {begin + n} and {begin + n + 1} are both the {role}'s",
            "two turns of one role",
        )
    if roles[-1] == "user":
        raise BadChat(f"{name!r} ends with a turn of the user", "no last answer")


# ------------------------------------------------------------------ rows that are read by field


def plain_sample(
    row: Mapping[str, Any], fields: Mapping[str, str], counts: Counter[str]
) -> Mapping[str, Any]:
    """A row that is read by its fields; with ``system``, it has a history.

    Raises:
        BadChat: if a field is a chat, or a path takes a turn of the wrong role.
    """
    taken: dict[str, list[tuple[str, int, int, str]]] = {"instruction": [], "response": []}
    for ours, turns in taken.items():
        name = fields.get(ours, ours)
        value = row.get(name)
        if value is None:
            turns += filter(None, (turn_at(row, path) for path in paths_in(name)))
            value = value_of(row, name)
        if is_chat(value):
            raise BadChat(
                f"{name!r} is a list of turns, not text; fields: {{chat: COLUMN}} reads a column "
                "that has all turns of a chat (where prompt and answer are two lists, join them)",
                "not text",
            )
        if value is None and (chat := next((key for key in row if is_chat(row[key])), None)):
            raise BadChat(
                f"no field {name!r}, but {chat!r} is a chat; read it by role, "
                f"fields: {{chat: {chat}}}",
                "missing field",
            )
    if taken["instruction"] or taken["response"]:
        check_paths(taken, counts)
    if "system" in fields:
        history = history_text(
            [{k: t[k] for k in ("role", "content")} for t in system_turn(row, fields["system"])]
        )
        columns = ("instruction", "response", *BESIDE)
        return {c: value_of(row, fields.get(c, c)) for c in columns} | {"history": history}
    return row


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and str(role_of(value[0])).strip().lower() in ROLES
    )


def turn_at(row: Mapping[str, Any], path: str) -> tuple[str, int, int, str] | None:
    """The chat that a path leads into, which of its turns, of how many, and whose; None if into
    none."""
    if path in row:
        return None
    value: Any = row
    for n, key in enumerate(keys := path.split(".")):
        if is_chat(value) and isinstance(turn := inside(value, key), Mapping) and role_of(turn):
            role = str(role_of(turn)).strip().lower()
            return ".".join(keys[:n]), int(key) % len(value), len(value), ROLES.get(role, role)
        value = inside(value, key)
    return None


def check_paths(
    taken: Mapping[str, Sequence[tuple[str, int, int, str]]], counts: Counter[str]
) -> None:
    """The instruction's path ends in a turn of the user, the response's in the answer to it."""
    instruction, response = taken["instruction"], taken["response"]
    for ours, turns, roles in (
        ("instruction", instruction, ("system", "user")),
        ("response", response, ("assistant",)),
    ):
        wrong = [turn for turn in turns if turn[-1] not in roles]
        if turns and turns[-1][-1] != roles[-1]:
            wrong.append(turns[-1])
        if wrong:
            chat, place, _, role = wrong[0]
            raise BadChat(
                f"{ours}: turn {place} of {chat!r} is the {role}'s; read the chat by role, "
                f"fields: {{chat: {chat}}}",
                "wrong turn",
            )
    if instruction and response:
        (chat, asked, count, _), (other, answered, _, _) = instruction[-1], response[0]
        if chat == other and answered != asked + 1:
            raise BadChat(
                f"response: turn {answered} of {chat!r} is no answer to turn {asked}; read the "
                f"chat by role, fields: {{chat: {chat}}}",
                "wrong turn",
            )
        if chat == other:
            left = count - len({place for _, place, _, _ in (*instruction, *response)})
            counts["turns_left_out"] += left
