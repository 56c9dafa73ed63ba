"""Tokenizers and chat templates: the ids of a prompt, and what ends a turn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import transformers

import fgit
from fgit.common.errors import UserError
from fgit.common.models import loading_errors, source

TEACHER_PROMPT = "teacher"  # in the folder of chat templates, and none of them


def load_tokenizer(path: str, revision: str | None = None, template: str = "own") -> Any:
    """A fast tokenizer with a padding token, and its chat template set to ``template``.

    Raises:
        UserError: if there is no tokenizer, or it is not a fast one (offsets are needed).
    """
    name, arguments = source(path)
    if not arguments and Path(name).is_dir() and not any(Path(name).glob("*token*")):
        raise UserError(
            f"{path}: no tokenizer in this folder (tokenizer.json); save the base model's there"
        )
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
    if template != "own":
        tokenizer.chat_template = read_template(template)
    return tokenizer


def require_chat_template(tokenizer: Any, path: str) -> None:
    if not tokenizer.chat_template:
        raise UserError(
            f"{path}: the tokenizer has no chat template; name one with template "
            "(magicoder, or a Jinja file)"
        )


def read_template(template: str) -> str:
    """A chat template by name, or from a Jinja file."""
    folder = Path(fgit.__file__).parent / "prompts"
    shipped = {path.stem: path for path in folder.glob("*.jinja") if path.stem != TEACHER_PROMPT}
    path = shipped.get(template, Path(template))
    if not path.is_file():
        raise UserError(
            f"template {template!r}: no such Jinja file, and no shipped template; "
            f"shipped: own, {', '.join(sorted(shipped))}"
        )
    return path.read_text(encoding="utf-8").rstrip("\n")


def prompt_text(tokenizer: Any, instruction: str, history: Sequence[Mapping[str, str]] = ()) -> str:
    """The prompt x as at inference: a user message, and the generation prompt.

    Args:
        history: the messages (role, content) before it: a system turn, and earlier turns.
    """
    messages = [*map(dict, history), {"role": "user", "content": instruction}]
    return render(tokenizer, messages, generation_prompt=True)


def render(
    tokenizer: Any, messages: list[dict[str, str]], *, generation_prompt: bool = False
) -> str:
    """Messages in the tokenizer's chat template, as text.

    Raises:
        UserError: if the chat template is broken, or refuses the messages.
    """
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template cannot be used: {error}") from error


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt, in training as at inference.

    The tokenizer's special tokens are added unless the text begins with BOS already; EvalPlus
    always adds them, and so gives BOS twice to a model whose template writes it.
    """
    return tokenizer(text, add_special_tokens=not has_bos(tokenizer, text))["input_ids"]


def chat_ids(tokenizer: Any, instruction: str) -> list[int]:
    """Token ids of one user message and the generation prompt."""
    return prompt_ids(tokenizer, prompt_text(tokenizer, instruction))


def has_bos(tokenizer: Any, text: str) -> bool:
    """Whether a prompt's text begins with BOS, as some templates write it."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends a response: the first special token behind it in the chat template.

    A template that ends a response without one leaves the tokenizer's end-of-sequence token.
    """
    marker = "fgit-response"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
    rendered = render(tokenizer, messages)
    behind = rendered.rpartition(marker)[2] if marker in rendered else ""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in tokenizer(behind, add_special_tokens=False)["input_ids"]:
        if token in special:
            return token
    if tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
    return tokenizer.eos_token_id
