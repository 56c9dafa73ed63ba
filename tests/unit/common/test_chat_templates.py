"""Chat templates: word for word, each message in the text once, and what ends a turn."""

import importlib.resources
import json
import logging
import types

import pytest

from fgit.common.chat_templates import (
    TEACHER_PROMPT,
    end_of_turn,
    ends_of_turn,
    require_chat_template,
    write_ends,
)
from fgit.common.errors import UserError
from fgit.common.tokenizers import chat_ids, load_tokenizer, prompt_text
from tests.made_tokenizers import CHATML, KINDS, made_tokenizer

MAGICODER = (
    "<bos>You are an exceptionally intelligent coding assistant that consistently delivers "
    "accurate and reliable responses to user instructions.\n\n"
    "@@ Instruction\n{instruction}\n\n@@ Response\n"
)
SEMCODER = (
    "<bos>You are an exceptionally intelligent coding assistant that consistently delivers "
    "accurate and reliable <Code> according to <NL_Description>\n\n"
    "<NL_Description>\n{instruction}\n\n<Code>\n"
)
INSTRUCTIONS = ["Add two numbers.", "two\nlines\n\nand { braces } {{ x }} {% y %}", " <bos>é ", ""]


# ------------------------------------------------------------------ shipped, own and given ones


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize(("template", "text"), [("magicoder", MAGICODER), ("semcoder", SEMCODER)])
def test_shipped_templates_are_the_documented_text(folder, template, text, instruction):
    tokenizer = load_tokenizer(str(folder), template=template)
    assert prompt_text(tokenizer, instruction) == text.replace("{instruction}", instruction)


@pytest.mark.parametrize(("template", "text"), [("magicoder", MAGICODER), ("semcoder", SEMCODER)])
def test_a_conversation_goes_on_as_its_prompt_began(folder, template, text):
    tokenizer = load_tokenizer(str(folder), template=template)
    conversation = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], tokenize=False
    )
    assert conversation == text.replace("{instruction}", "Q") + "A<eos>\n"


def test_every_shipped_template_is_tested_here():
    shipped = {item.name for item in (importlib.resources.files("fgit") / "prompts").iterdir()}
    assert shipped == {"magicoder.jinja", "semcoder.jinja", f"{TEACHER_PROMPT}.jinja"}


def test_own_keeps_the_tokenizers_template(tokenizer, tiny_model, folder):
    assert load_tokenizer(str(tiny_model)).chat_template == tokenizer.chat_template
    assert prompt_text(tokenizer, "Hi").endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not load_tokenizer(str(folder)).chat_template


def test_a_template_from_a_file(folder, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}\n")
    tokenizer = load_tokenizer(str(folder), template=str(path))
    assert prompt_text(tokenizer, "Q") == "[Q]"


def test_the_template_is_saved_with_the_tokenizer(folder, tmp_path):
    load_tokenizer(str(folder), template="magicoder").save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    assert prompt_text(saved, "Q") == MAGICODER.replace("{instruction}", "Q")


@pytest.mark.parametrize(
    "template",
    ["magicoda", "teacher", "./none.jinja", "../templates/magicoder", "", CHATML[:90], "x\0"],
)
def test_an_unknown_template(folder, template):
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder), template=template)
    message = str(caught.value)
    assert repr(template) in message and "shipped: own, magicoder, semcoder" in message


def test_the_text_of_a_template_in_place_of_its_file(folder):
    with pytest.raises(UserError, match="no such Jinja file") as caught:
        load_tokenizer(str(folder), template=CHATML * 30)  # too long for a file's name
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}", "cannot be used"),
        ("{{ raise_exception('system first') }}", "cannot be used: system first"),
        ("{{ messages.__class__.__mro__ }}", "cannot be used: .*unsafe"),
    ],
    ids=["syntax", "refusal", "unsafe"],
)
def test_a_broken_template(folder, tmp_path, text, message):
    (tmp_path / "mine.jinja").write_text(text)
    tokenizer = load_tokenizer(str(folder), template=str(tmp_path / "mine.jinja"))
    with pytest.raises(UserError, match=message):
        prompt_text(tokenizer, "Q")


def test_no_template_is_told_with_the_way_out(folder):
    tokenizer = load_tokenizer(str(folder))
    with pytest.raises(UserError, match=r"no chat template; name one with template \(magicoder"):
        require_chat_template(tokenizer, str(folder))


# ------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory):
    """A folder of a tokenizer that puts BOS in front."""
    folder = tmp_path_factory.mktemp("with_bos")
    made_tokenizer(post="<s> $A").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("own", [False, True], ids=["a file", "the model's own"])
@pytest.mark.parametrize(
    "written",
    [
        "",
        "\ufeff",
        "\n",
        "\r\n\r\n",
        "\ufeff\n",
        "{# by me #}\n",
        "{# by me #}\n\n",
        "  ",
        "{{ ' \\n' }}",
        "{% set x = 1 %}\n\n",
    ],
)
def test_bos_comes_once_whatever_is_written_before_it(with_bos, tmp_path, written, own):
    template = written + "{{ bos_token }}" + CHATML
    file = tmp_path / "mine.jinja"
    file.write_bytes(template.encode("utf-8"))
    if own:
        tokenizer = load_tokenizer(str(with_bos))
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "model")
        tokenizer = load_tokenizer(str(tmp_path / "model"))
    else:
        tokenizer = load_tokenizer(str(with_bos), template=str(file))
    ids = chat_ids(tokenizer, "Q")
    assert ids.count(tokenizer.bos_token_id) == 1
    assert "\ufeff" not in prompt_text(tokenizer, "Q")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_template_that_is_not_utf_8_is_named(with_bos, tmp_path, encoding):
    (tmp_path / "mine.jinja").write_bytes("{# é #}{{ messages }}".encode(encoding))
    with pytest.raises(UserError, match=r"mine\.jinja: not UTF-8 .* save the template as that"):
        load_tokenizer(str(with_bos), template=str(tmp_path / "mine.jinja"))
    load_tokenizer(str(with_bos)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_bytes("é".encode(encoding))
    with pytest.raises(UserError, match=r"chat_template\.jinja: not UTF-8"):
        load_tokenizer(str(tmp_path / "model"))


@pytest.mark.parametrize("names", [["rag"], ["tool_use", "rag"]])
def test_named_templates_without_a_default_are_listed(with_bos, tmp_path, names):
    tokenizer = load_tokenizer(str(with_bos))
    tokenizer.chat_template = dict.fromkeys(names, CHATML)
    tokenizer.save_pretrained(tmp_path / "m")
    tokenizer = load_tokenizer(str(tmp_path / "m"))  # completion mode asks without a template
    assert ends_of_turn(tokenizer) == [tokenizer.eos_token_id]
    with pytest.raises(UserError, match=rf"m: .* named {', '.join(sorted(names))}, and none named"):
        require_chat_template(tokenizer, "m")
    require_chat_template(load_tokenizer(str(tmp_path / "m"), template="magicoder"), "m")


def test_of_named_templates_the_default_is_used(with_bos, tmp_path):
    tokenizer = load_tokenizer(str(with_bos))
    tokenizer.chat_template = {"default": "\ufeff" + CHATML, "rag": "{{ 1 / 0 }}"}
    tokenizer.save_pretrained(tmp_path / "m")
    tokenizer = load_tokenizer(str(tmp_path / "m"))
    require_chat_template(tokenizer, "m")
    assert prompt_text(tokenizer, "Q").startswith("<|im_start|>user\nQ<|im_end|>")


def test_a_date_in_the_prompt_is_told(caplog):
    tokenizer = made_tokenizer(template="{{ strftime_now('%Y') }}" + CHATML)
    with caplog.at_level(logging.WARNING):
        require_chat_template(tokenizer, "m")
    assert "today's date" in caplog.text


OPENED = {
    "a thought": ("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "a thought begun": ("<bot><think>\n", "<bot>"),
    "a channel": ("<bot>", "<bot><|channel|>final<|message|>"),
    "nothing asks": ("", "<bot>"),
    "blanks alone": ("Assistant:", " Assistant:\n"),
    "the same": ("<bot>", "<bot>"),
}


@pytest.mark.parametrize(("asked", "opened"), OPENED.values(), ids=OPENED)
def test_an_answer_that_is_asked_for_at_another_place_than_it_is_given_is_told(
    asked, opened, caplog
):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% else %}OPENED"
        "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASKED{% endif %}"
    )
    template = template.replace("ASKED", asked + "{{ '' }}").replace("OPENED", opened)
    with caplog.at_level(logging.WARNING):
        require_chat_template(made_tokenizer(template=template), "m")
    assert ("asks for an answer" in caplog.text) == (asked.split() != opened.split())


# ------------------------------------------------------------------ messages

PARTS = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
EACH = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
ENDED = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SYSTEM = {"role": "system", "content": "Be brief."}
HISTORY = [SYSTEM, {"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
WRITTEN = {
    "text": CHATML,
    "trimmed": EACH + "{{ m.content | trim }}" + ENDED,
    "stripped": EACH + "{{ m['content'].strip() }}" + ENDED,
    "parts": EACH + PARTS + ENDED,
    "selected parts": EACH
    + "{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}{% endfor %}"
    + ENDED,
    "the first part": EACH + "{{ m.content[0]['text'] }}" + ENDED,
    "the first part, or an error": EACH + "{{ m.content[0]['text'].strip() }}" + ENDED,
    "text or parts": EACH
    + "{% if m.content is string %}{{ m.content }}{% else %}{{ 1 / 0 }}{% endif %}"
    + ENDED,
    "the user's parts, others as text": EACH
    + "{% if m.role == 'user' %}"
    + PARTS
    + "{% else %}{{ m.content + '' }}{% endif %}"
    + ENDED,
    "a system turn within the first question": (
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}[INST] {% if loop.first and system is defined %}"
        "<<SYS>>{{ system }}<</SYS>>{% endif %}"
        "{{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "a system turn of its own": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    )
    + CHATML,
    "thoughts are cut from earlier answers": EACH
    + "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}" + ENDED,
    "what a message says is looked at": (
        "{% if 'Q' in messages[-1].content %}Think.{% endif %}" + CHATML
    ),
}


@pytest.mark.parametrize("template", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("question", ["Q?", "  def f(x):\n\treturn {{ x }}\n", "", "assistant"])
def test_each_message_is_in_the_prompt(template, question):
    tokenizer = made_tokenizer(template=template)
    require_chat_template(tokenizer, "m")
    for history in ([], [SYSTEM], HISTORY):
        text = prompt_text(tokenizer, question, history)
        at = [text.index(message["content"]) for message in history]
        assert at == sorted(at)
        assert question.strip() in text
        assert text.count("Be brief.") == (1 if history else 0)
    if "</think>" in template:
        thought = [*HISTORY[:2], {"role": "assistant", "content": "Hm.</think>B."}]
        assert "Hm." not in prompt_text(tokenizer, "Q", thought)


LEFT_OUT = {
    "no question": "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}",
    "no answer": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "the first message alone": "<s>{{ messages[0].content }}",
    "twice": "{% for m in messages %}{{ m.content }}\n{{ m.content }}{% endfor %}",
    "another key": "{% for m in messages %}{{ m.value }}{% endfor %}",
    "nothing": "Hello",
    "characters": "{% for m in messages %}{{ m.content | join(' ') }}{% endfor %}",
    "escaped": "{% for m in messages %}{{ m.content | e }}{% endfor %}",
    "JSON": "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
    "lower case": "{% for m in messages %}{{ m.content | lower }}{% endfor %}",
    "one line": "{% for m in messages %}{{ m.content.replace('\n', ' ') }}{% endfor %}",
    "cut": "{% for m in messages %}{{ m.content[:20] }}{% endfor %}",
    "parts as they are": "{% for m in messages %}{{ m.content | list }}{% endfor %}",
}


@pytest.mark.parametrize("template", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_template_that_leaves_out_or_changes_is_refused(template):
    tokenizer = made_tokenizer(template=template)
    tokenizer.template_source = "mine.jinja"
    with pytest.raises(UserError, match=r"mine\.jinja: the chat template writes a message of role"):
        require_chat_template(tokenizer, "m")


def test_what_depends_on_the_messages_is_refused_too():
    tokenizer = made_tokenizer(
        template="{% for m in messages if 'drop' not in m.content %}{{ m.content }}{% endfor %}"
    )
    require_chat_template(tokenizer, "m")
    with pytest.raises(UserError, match="role user not as it is, or not at all: 'drop it'"):
        prompt_text(tokenizer, "drop it")
    with pytest.raises(UserError, match="role system not as it is, or not at all: 'drop me'"):
        prompt_text(tokenizer, "Q", [{"role": "system", "content": "drop me"}])


def test_a_system_turn_that_a_template_drops_is_refused():
    template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    tokenizer = made_tokenizer(template=template)
    require_chat_template(tokenizer, "m")
    with pytest.raises(UserError, match="a message of role system not as it is, or not at all"):
        prompt_text(tokenizer, "Q", [SYSTEM])


RAISING = {
    "TypeError": "{{ 'x' + 1 }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "ValueError": "{{ '%z' % 1 }}",
    "RecursionError": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "OverflowError": "{{ range(10 ** 9) }}",
    "TypeError of a method": "{{ 'x'.join(messages) }}",
    "refused": "{{ raise_exception('no system turn') }}",
    "undefined": "{{ x.y.z }}",
    "syntax": "{% for m in messages %}",
    "no such filter": "{{ messages | nofilter }}",
    "unsafe": "{{ messages.__class__.__mro__ }}",
    "no such template": "{% include 'x' %}",
    "a number": 5,
    "a number by name": {"default": 5},
    "templates within one": {"default": {"default": CHATML}},
}


@pytest.mark.parametrize("template", RAISING.values(), ids=RAISING)
def test_whatever_a_template_raises_names_it(template):
    tokenizer = made_tokenizer(template=template)
    tokenizer.template_source = "mine.jinja"
    with pytest.raises(UserError, match=r"mine\.jinja: the chat template cannot be used: "):
        prompt_text(tokenizer, "Q")


# ------------------------------------------------------------------ ends of a turn

MARKED = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
ROLES = "{% for m in messages %}{% if m.role == 'user' %}"
ENDS = {
    "ChatML": (CHATML, "<|im_end|>"),
    "EOS": ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "</s>"),
    "EOS and a newline": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}",
        "</s>",
    ),
    "a blank and EOS": (
        ROLES + "[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} </s>{% endif %}"
        "{% endfor %}",
        "</s>",
    ),
    "text": (
        ROLES + "Q: {{ m.content }}\n{% else %}A: {{ m.content }}\n### End\n{% endif %}"
        "{% endfor %}",
        "</s>",
    ),
    "two tokens": (MARKED + "<|im_end|>{{ eos_token }}{% endfor %}", "<|im_end|>"),
    "text and a token": (MARKED + "\n(end)<|im_end|>{% endfor %}", "<|im_end|>"),
    "a token that is not special": (MARKED + "<stop>\n{% endfor %}", "<stop>"),
    "blanks that are a token": (MARKED + "    \n\n{% endfor %}", "</s>"),
    "between turns alone": (
        MARKED + "{% if not loop.last %}<|im_end|>\n{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
    "between turns alone, behind a system turn": (
        "<|im_start|>system\nHelp.<|im_end|>\n"
        + MARKED
        + "{% if not loop.last %}<|im_end|>\n{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
    "another one behind the last": (
        MARKED + "{% if loop.last %}<return>{% else %}<|im_end|>{% endif %}{% endfor %}",
        "<return>",
    ),
    "the next turn begins": (
        ROLES + "<user>{{ m.content }}{% else %}<bot>{{ m.content }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "the next answer begins, asked for or not": (
        ROLES + "<user>{{ m.content }}{% else %}<bot>{{ m.content }}{% endif %}{% endfor %}<bot>",
        "</s>",
    ),
    "one question only": (
        "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}" + CHATML,
        "<|im_end|>",
    ),
    "parts": (
        "{% for m in messages %}" + PARTS + "<|im_end|>{% endfor %}",
        "<|im_end|>",
    ),
    "the answer is stripped": (
        "{% for m in messages %}{{ m.content.strip() }}\n<|im_end|>{% endfor %}",
        "<|im_end|>",
    ),
    "a thought before the answer": (
        "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
        "{% endif %}{{ m.content }}<|im_end|>{% endfor %}",
        "<|im_end|>",
    ),
    "BOS before each question": (
        ROLES + "{{ bos_token }}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}",
        "</s>",
    ),
}


@pytest.mark.parametrize(("template", "token"), ENDS.values(), ids=ENDS)
def test_what_ends_a_turn(template, token, tmp_path):
    more = ["<stop>", "<return>", "<user>", "<bot>", "<think>", "</think>", "    ", "\n\n"]
    tokenizer = made_tokenizer(template=template, more=more)
    end = end_of_turn(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == token
    for kind in KINDS:  # some have no token for a newline
        other = made_tokenizer(kind, template=template, more=more)
        assert other.convert_ids_to_tokens(end_of_turn(other)) == token
    eos = tokenizer.eos_token_id
    for configured in (None, eos, 7, [7], [7, 8, end], -1, "7", [[7]], []):
        config = types.SimpleNamespace(eos_token_id=configured)
        several = configured if isinstance(configured, list) else [configured]
        wanted = {end, eos, *(token for token in several if token in (eos, 7, 8, end))}
        assert sorted(ends_of_turn(tokenizer, config)) == sorted(wanted)
        file = tmp_path / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": configured, "pad_token_id": -1, "top_k": 3}))
        write_ends(tokenizer, file)
        config = types.SimpleNamespace(**json.loads(file.read_text()))
        assert isinstance(config.eos_token_id, list) == (len(wanted) > 1)
        assert set(ends_of_turn(tokenizer, config)) == wanted
        assert config.pad_token_id == tokenizer.pad_token_id and config.top_k == 3


@pytest.mark.parametrize("template", [None, "", "{{ 1 / 0 }}", LEFT_OUT["no answer"]])
def test_without_a_template_that_works_eos_ends_a_turn(template):
    tokenizer = made_tokenizer(template=template)
    assert ends_of_turn(tokenizer) == [tokenizer.eos_token_id]
    config = types.SimpleNamespace(eos_token_id=[5, 6])
    assert ends_of_turn(tokenizer, config) == [5, 6, tokenizer.eos_token_id]


def test_nothing_ends_a_turn():
    tokenizer = made_tokenizer(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        end_of_turn(tokenizer)
