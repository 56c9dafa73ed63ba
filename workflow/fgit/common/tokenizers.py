"""Tokenizers: the ids of prompts and of texts that stand alone, and the text of ids.

Special tokens stand where a chat template or the tokenizer puts them, and nowhere else. The text of
one within a message (``<s>`` in a question about HTML) is text. Until a prompt is made to ids it is
marked there (:func:`marked`), so that it can be told from what the template wrote.
"""

import copy
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from fgit.common.adapters import refuse_adapter
from fgit.common.chat_templates import ends_of_turn, read_template, render, template_text
from fgit.common.errors import UserError
from fgit.common.models import loading_errors, source

# Around the id of a special token, in place of its text. Unicode keeps these characters out of
# texts.
MARK, MARKED = "\ufdd0{}\ufdd1", re.compile("\ufdd0(\\d+)\ufdd1")  # text within a message
STAND_IN = "\ufdd2{}\ufdd3"  # a token that the template wrote
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
UNKNOWN, BYTE = "\U0010fffe", re.compile("<0x[0-9A-F]{2}>")
BLANKS = " \t\r\n\ufeff"


# ------------------------------------------------------------------ loading


def load_tokenizer(path: str, revision: str | None = None, template: str = "own") -> Any:
    """A fast tokenizer with a padding token, and its chat template set to ``template``.

    Raises:
        UserError: if there is no tokenizer, or it is not a fast one (offsets are needed).
    """
    name, arguments = source(path)
    if not arguments and Path(name).is_dir():
        if not any(Path(name).glob("*token*")):
            refuse_adapter(path, name)
            raise UserError(
                f"{path}: no tokenizer in this folder (tokenizer.json); save the base model's there"
            )
        for pattern in ("chat_template.jinja", "additional_chat_templates/*.jinja"):
            for file in Path(name).glob(pattern):
                template_text(file)  # transformers would not name the file
    with loading_errors(path, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, **arguments, revision=revision, trust_remote_code=False
        )
    if not tokenizer.is_fast:
        raise UserError(f"{path}: FGit needs a fast tokenizer (tokenizer.json), for its offsets")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{path}: the tokenizer has neither pad_token nor eos_token; name one")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.template_source = path
    if template != "own":
        tokenizer.chat_template = read_template(template)
        tokenizer.template_source = template
    elif isinstance(own := tokenizer.chat_template, dict):
        tokenizer.chat_template = {name: without_mark(text) for name, text in own.items()}
    else:
        tokenizer.chat_template = without_mark(own)
    return tokenizer


def without_mark(template: Any) -> Any:
    """A chat template without the byte order mark that some editors write."""
    return template.removeprefix("\ufeff") if isinstance(template, str) else template


# ------------------------------------------------------------------ special tokens and their text


@dataclasses.dataclass(frozen=True)
class ControlTokens:
    """The tokens that no text within a message stands for: special ones, and what ends a turn.

    ids: by their text; never_text: those that ordinary text never gives; pattern: any of their
    texts; added: the text of any added token.
    """

    ids: Mapping[str, int]
    never_text: frozenset[int]
    pattern: re.Pattern[str]
    added: re.Pattern[str]


def control_tokens(tokenizer: Any) -> ControlTokens:
    return controls_with(tokenizer, str(tokenizer.chat_template))


@functools.lru_cache(maxsize=16)
def controls_with(tokenizer: Any, template: str) -> ControlTokens:
    """:func:`control_tokens` of a tokenizer while it has this template."""
    added = tokenizer.added_tokens_decoder
    ends = ends_of_turn(tokenizer)
    special = {token for token, content in added.items() if content.special}
    special.update(tokenizer.all_special_ids)
    # Blanks are text, whatever a tokenizer calls them.
    special = {token for token in special.intersection(added) if added[token].content.strip()}
    ids = sorted(special.union(ends).intersection(added))
    # What characters without a token of their own become.
    unknown = {token for token in ids if BYTE.fullmatch(added[token].content)}
    unknown.update(set(tokenizer(UNKNOWN, add_special_tokens=False)["input_ids"]).difference(ends))
    by_text = {added[token].content: token for token in ids if added[token].content}
    every = [token.content for token in added.values() if token.content]
    return ControlTokens(by_text, frozenset(ids) - unknown, any_of(by_text), any_of(every))


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Any of the texts; of several at one place the longest, as tokenizers look for them."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def marked(tokenizer: Any, text: str) -> str:
    """A text that goes into a prompt, with marks in place of the text of special tokens."""
    controls = control_tokens(tokenizer)
    return controls.pattern.sub(lambda match: MARK.format(controls.ids[match[0]]), text)


def unmarked(tokenizer: Any, text: str) -> str:
    """A prompt as it reads, without the marks of :func:`marked`."""
    if not MARKED.search(text):
        return text
    added = tokenizer.added_tokens_decoder
    return MARKED.sub(lambda match: added[int(match[1])].content, text)


@functools.lru_cache(maxsize=8)
def text_reader(tokenizer: Any, template: str) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """The tokenizer once more, with a stand-in for each control token, and whose ids these are.

    It takes control tokens for text, and their stand-ins, which have their flags, for tokens. So
    normalizer and pre-tokenizer see of a prompt what they see in the tokenizer itself.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    added = tokenizer.added_tokens_decoder
    ids = controls_with(tokenizer, template).ids.values()
    for special in (True, False):
        backend.add_tokens(
            [
                tokenizers.AddedToken(
                    added[token].content if special else STAND_IN.format(token),
                    special=special,
                    **{flag: getattr(added[token], flag) for flag in TOKEN_FLAGS},
                )
                for token in ids
            ]
        )
    backend.encode_special_tokens = True  # as text
    return backend, {backend.token_to_id(STAND_IN.format(token)): token for token in ids}


def text_encodings(tokenizer: Any, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Texts that stand alone, each byte for byte as given, as ids with offsets in characters.

    The text of a special token is text, and none is added.

    Raises:
        UserError: if the tokenizer takes it for the token nevertheless.
    """
    reader, _ = text_reader(tokenizer, str(tokenizer.chat_template))
    encodings = reader.encode_batch(list(texts), add_special_tokens=False)
    never = control_tokens(tokenizer).never_text
    for text, encoding in zip(texts, encodings, strict=True):
        if not never.isdisjoint(encoding.ids):
            raise UserError(not_text(tokenizer, text))
    return encodings


def not_text(tokenizer: Any, text: str) -> str:
    """What to tell of a text of which a special token cannot be kept out."""
    return (
        f"{tokenizer.name_or_path}: this tokenizer makes a special token of text in {text!r:.200}, "
        "and cannot be made to read it as text; leave that out of the data, or take another model"
    )


# ------------------------------------------------------------------ ids of prompts


def prompt_text(tokenizer: Any, instruction: str, history: Sequence[Mapping[str, str]] = ()) -> str:
    """The prompt x as at inference: a user message, and the generation prompt.

    Args:
        history: the messages (role, content) before it: a system turn, and earlier turns.
    """
    return unmarked(tokenizer, chat_prompt(tokenizer, instruction, history))


def chat_prompt(tokenizer: Any, instruction: str, history: Sequence[Mapping[str, str]] = ()) -> str:
    """:func:`prompt_text` with the text of special tokens within the messages :func:`marked`."""
    messages = [*history, {"role": "user", "content": instruction}]
    messages = [
        {**message, "content": marked(tokenizer, message["content"])} for message in messages
    ]
    return render(tokenizer, messages, generation_prompt=True)


def chat_ids(
    tokenizer: Any, instruction: str, history: Sequence[Mapping[str, str]] = ()
) -> list[int]:
    """Token ids of a user message, the messages before it and the generation prompt."""
    return prompt_ids(tokenizer, chat_prompt(tokenizer, instruction, history))


def prompt_ids(tokenizer: Any, text: str, *, always: bool = False) -> list[int]:
    """:func:`ids_of_prompts` of one prompt."""
    return ids_of_prompts(tokenizer, [text], always=always)[0]


def ids_of_prompts(
    tokenizer: Any, texts: Sequence[str], *, always: bool = False
) -> list[list[int]]:
    """Token ids of prompts, in training as at inference.

    Special tokens that the tokenizer puts in front are added unless the prompt begins with them, or
    with BOS, already; what it appends (EOS) is not, since the answer follows.

    Args:
        texts: at least one; what is no special token there is :func:`marked`.
        always: add them always, as EvalPlus does, which so gives BOS twice to a model whose
            template writes it.

    Raises:
        UserError: if the tokenizer cannot be made to read marked text as text.
    """
    front, _ = ids_around(tokenizer)
    controls = control_tokens(tokenizer)
    options = {"add_special_tokens": False, "split_special_tokens": False, "verbose": False}
    prompts = []
    for text, ids in zip(texts, tokenizer(list(texts), **options)["input_ids"], strict=True):
        written = len(controls.pattern.findall(text))
        if sum(token in controls.never_text for token in ids) > written:
            raise UserError(not_text(tokenizer, unmarked(tokenizer, text)))
        if MARKED.search(text):
            ids = ids_with_text(tokenizer, text, ids)
        begun = has_bos(tokenizer, text) or ids[: len(front)] == front
        prompts.append(ids if begun and not always else front + ids)
    return prompts


def ids_with_text(tokenizer: Any, text: str, ids: Sequence[int]) -> list[int]:
    """Token ids of a prompt with marked text.

    Args:
        ids: of the same, marks included: the special tokens in it are the template's.
    """
    controls = control_tokens(tokenizer)
    reader, tokens = text_reader(tokenizer, str(tokenizer.chat_template))

    def stand_in(match: re.Match[str]) -> str:
        token = controls.ids.get(match[0])
        return match[0] if token is None else STAND_IN.format(token)

    told_apart = controls.added.sub(stand_in, text)
    read = reader.encode(unmarked(tokenizer, told_apart), add_special_tokens=False).ids
    as_text = [tokens.get(token, token) for token in read]
    special, wanted = ([t for t in some if t in controls.never_text] for some in (as_text, ids))
    if special != wanted or sum(t in tokens for t in read) != told_apart.count(STAND_IN[0]):
        raise UserError(not_text(tokenizer, unmarked(tokenizer, text)))
    return as_text


def ids_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts in front of a text, and behind it."""
    text = next(iter(tokenizer.all_special_tokens), "a")  # one token of its own
    encoded = tokenizer(text, return_special_tokens_mask=True, split_special_tokens=False)
    ids, mask = encoded["input_ids"], encoded["special_tokens_mask"]
    if all(mask):
        return ids, []
    return ids[: mask.index(0)], ids[len(mask) - mask[::-1].index(0) :]


def has_bos(tokenizer: Any, text: str) -> bool:
    """Whether a prompt's text begins with BOS, as some templates write it, blanks aside."""
    return bool(tokenizer.bos_token) and text.lstrip(BLANKS).startswith(tokenizer.bos_token)


# ------------------------------------------------------------------ ids to text


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """What a model wrote, as text: without special tokens, its blanks as they are."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
