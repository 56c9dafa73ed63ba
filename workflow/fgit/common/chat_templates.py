"""Chat templates: messages to text, with none left out, and what ends a turn."""

import contextlib
import functools
import itertools
import logging
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fgit
from fgit.common.errors import UserError
from fgit.common.files import read_json, write_json

log = logging.getLogger(__name__)

TEACHER_PROMPT = "teacher"  # in the folder of chat templates, and none of them
OTHER_TEMPLATE = "name another with template (magicoder, or a Jinja file)"
# What a message holds where a template is tried: whatever a template might change.
PROBE = "Message {}:\n\n  \"<é>\" & 'x' \\n\n\tend of it, {}."


def read_template(template: str) -> str:
    """A chat template by name, or from a Jinja file."""
    folder = Path(fgit.__file__).parent / "prompts"
    shipped = {path.stem: path for path in folder.glob("*.jinja") if path.stem != TEACHER_PROMPT}
    path = shipped.get(template, Path(template))
    try:
        is_there = path.is_file()
    except OSError:  # a template's text is too long for a file's name
        is_there = False
    if not is_there:
        raise UserError(
            f"template {template!r:.100}: no such Jinja file, and no shipped template; "
            f"shipped: own, {', '.join(sorted(shipped))}"
        )
    return template_text(path).strip("\n")  # blank lines around it are the editor's


def template_text(path: Path) -> str:
    """The text of a Jinja file."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save the template as that") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise UserError(f"{path}: not UTF-8 (it holds null bytes); save the template as that")
    return text


def require_chat_template(tokenizer: Any, path: str) -> None:
    """Raise a UserError unless the tokenizer has a chat template that takes a question and answer.

    So that it shows before a model is loaded or anything is computed.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{path}: the tokenizer has no chat template; name one with template "
            "(magicoder, or a Jinja file)"
        )
    question = {"role": "user", "content": "x"}
    asked = render(tokenizer, [question], generation_prompt=True)
    end_of_turn(tokenizer)
    answer = PROBE.format("answer", "answer")
    answered = render(tokenizer, [question, {"role": "assistant", "content": answer}])
    opened = answered.partition(answer)[0]
    if asked.split() != opened.split():
        log.warning(
            "%s: where the chat template asks for an answer, it ends in %r (responses are trained "
            "there), and in %r in front of one that is given (benchmarks ask there); for the same "
            "in both places, save it as a Jinja file, change it, and name that as template",
            *(template_name(tokenizer), asked[-60:], opened[-60:]),
        )
    if "strftime_now" in chat_template(tokenizer):
        log.warning(
            "%s: the chat template writes today's date, so prompts change from day to day; to keep "
            "them, save it as a Jinja file with a date of your own, and name that as template",
            template_name(tokenizer),
        )


# ------------------------------------------------------------------ messages to text


def chat_template(tokenizer: Any) -> str:
    """The template's own text; of several by name, the default one."""
    template = tokenizer.chat_template
    if isinstance(template, dict) and "default" not in template:
        raise UserError(
            f"{template_name(tokenizer)}: the tokenizer has chat templates named "
            f"{', '.join(sorted(template))}, and none named default; save the one to use as a "
            "Jinja file, and name that with template"
        )
    return str(template["default"] if isinstance(template, dict) else template or "")


def template_name(tokenizer: Any) -> str:
    """The file or model that the chat template is from."""
    return getattr(tokenizer, "template_source", tokenizer.name_or_path)


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool = False
) -> str:
    """Messages in the tokenizer's chat template, as text.

    Raises:
        UserError: if the chat template is broken, refuses the messages, or leaves one out.
    """
    roles = tuple(message["role"] for message in messages)
    forms = content_forms(tokenizer, chat_template(tokenizer), roles, generation_prompt)
    text = apply(tokenizer, messages, forms, generation_prompt)
    for place, message in enumerate(messages, start=1):
        # What an earlier answer thought aloud, some templates drop by design.
        if message["role"] == "assistant" and place < len(messages):
            continue
        if message["content"].strip() not in text:
            raise UserError(unwritten(tokenizer, message["role"], message["content"], text))
    return text


@functools.lru_cache(maxsize=64)
def content_forms(
    tokenizer: Any, template: str, roles: tuple[str, ...], generation_prompt: bool
) -> tuple[bool, ...]:
    """Of each message, whether the template takes its content as a list of parts and not as text.

    Raises:
        UserError: if no form brings each message into the text once.
    """
    probes = [PROBE.format(place, place) for place in range(len(roles))]
    messages = [{"role": role, "content": probe} for role, probe in zip(roles, probes, strict=True)]
    distinct = list(dict.fromkeys(roles))
    problem = None
    for choice in itertools.product((False, True), repeat=len(distinct)):
        forms = tuple(choice[distinct.index(role)] for role in roles)
        try:
            text = apply(tokenizer, messages, forms, generation_prompt)
        except UserError as error:
            problem = problem or error
            continue
        wrong = [place for place, probe in enumerate(probes) if text.count(probe) != 1]
        if not wrong:
            return forms
        first = wrong[0]
        problem = problem or UserError(unwritten(tokenizer, roles[first], probes[first], text))
    raise problem or AssertionError("a choice was tried")


def unwritten(tokenizer: Any, role: str, content: str, text: str) -> str:
    """What to tell of a message that is not in the text once."""
    how = "more than once" if text.count(content.strip()) > 1 else "not as it is, or not at all"
    return (
        f"{template_name(tokenizer)}: the chat template writes a message of role {role} {how}: "
        f"{content!r:.80} became {text!r:.300}; {OTHER_TEMPLATE}"
    )


def apply(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    forms: Sequence[bool],
    generation_prompt: bool,
) -> str:
    """Messages in the chat template, each content as text or (``forms``) as a list of parts."""
    turns = [
        {**message, "content": [{"type": "text", "text": message["content"]}]} if parts else message
        for message, parts in zip(messages, forms, strict=True)
    ]
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation_prompt
        )
    except Exception as error:  # a template is a program: it may raise whatever Python has
        kind = "" if type(error).__module__.startswith("jinja2") else f"{type(error).__name__}: "
        raise UserError(
            f"{template_name(tokenizer)}: the chat template cannot be used: {kind}{error}; "
            f"{OTHER_TEMPLATE}"
        ) from error


def as_evalplus_asks(tokenizer: Any) -> Any:
    """What EvalPlus and BigCodeBench use of a tokenizer: a template that leaves nothing out."""
    return types.SimpleNamespace(
        chat_template=tokenizer.chat_template,
        apply_chat_template=lambda messages, tokenize: render(tokenizer, messages),
    )


# ------------------------------------------------------------------ what ends a turn


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends a response: the first special token behind it in the chat template.

    A template that ends a response without one leaves the tokenizer's end-of-sequence token.

    Raises:
        UserError: if the template cannot be used, or writes no answers.
    """
    question, answer, more = (PROBE.format(name, name) for name in ("question", "answer", "more"))
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": more},
    ]
    text = render(tokenizer, messages[:2])
    before, _, behind = text.partition(answer)
    opening, _, between = before.partition(question)
    opened, turned, ends = (added_tokens_in(tokenizer, text) for text in (opening, between, behind))
    try:
        goes_on = render(tokenizer, messages).partition(answer)[2].partition(more)[0]
    except UserError:  # it takes one question only
        closing = ends
    else:
        closing = added_tokens_in(tokenizer, goes_on)
    # Behind the last answer a template may begin a further turn, or write nothing.
    tries = [
        [token for token in ends if token in closing],
        [token for token in ends if token not in turned],
        # What ends questions too; what comes first of all begins a turn.
        [t for t in closing if t not in opened or (t in turned[:1] and t != opened[0])],
        [tokenizer.eos_token_id],
    ]
    end = next(tokens[0] for tokens in tries if tokens)
    if end is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
    return end


def added_tokens_in(tokenizer: Any, text: str) -> list[int]:
    """The ids of added tokens, special or not, that a template's text holds, but for blanks."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    written = {token: added[token].content for token in ids if token in added}
    # Not in the text are those that stand for an unknown character.
    return [t for t in ids if t in written and written[t].strip() and written[t] in text]


def ends_of_turn(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Every token that ends an answer, in training, evaluation and the saved model alike.

    The generation config's, what the chat template puts behind a response, and the tokenizer's
    end-of-sequence token. A template that cannot be used, where a model is asked without one, adds
    nothing.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    ends = list(configured) if isinstance(configured, list | tuple) else [configured]
    if tokenizer.chat_template:
        with contextlib.suppress(UserError):
            ends.append(end_of_turn(tokenizer))
    ends.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(end for end in ends if isinstance(end, int) and end >= 0))


def write_ends(tokenizer: Any, generation_config: Path) -> None:
    """Let a saved model's generation config have all its ends of turn, and a padding token.

    In its file: transformers saves a published config whatever it says, but none that was changed
    and has, say, a temperature without ``do_sample`` (Vicuna's).
    """
    settings = read_json(generation_config)
    ends = ends_of_turn(tokenizer, types.SimpleNamespace(**settings))
    settings["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if settings.get("pad_token_id") in (None, -1):
        settings["pad_token_id"] = tokenizer.pad_token_id
    write_json(generation_config, settings)
