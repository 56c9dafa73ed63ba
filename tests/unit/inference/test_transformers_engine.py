"""The teacher by transformers: a tiny random Llama."""

import pytest
import torch
import transformers

from fgit.common.errors import UserError
from fgit.inference import transformers_engine
from fgit.inference.engines import answers
from fgit.inference.requests import PROMPT_TOO_LONG, Answer
from fgit.inference.transformers_engine import GumbelSampling, fence_closed
from tests.requests import PROMPTS, requests_for, texts, tiny_settings


def test_a_text_is_its_seeds_whatever_is_beside_it(tiny):
    """In fp32 the batch's effect on the logits is far below the gaps between noisy ones."""
    requests = requests_for(PROMPTS)
    together = texts(requests, tiny_settings(tiny, batch_size=6))
    assert texts(requests, tiny_settings(tiny, batch_size=4)) == together
    alone = [texts([request], tiny_settings(tiny, batch_size=1))[0] for request in requests]
    assert alone == together
    assert texts(requests[::-1], tiny_settings(tiny)) == together[::-1]
    assert len(set(together)) == len(together)


def test_temperature_zero_is_greedy(tiny):
    requests = requests_for(PROMPTS)
    found = texts(requests, tiny_settings(tiny, temperature=0))
    assert found[::2] == found[1::2]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    for prompt, text in zip(PROMPTS, found[::2], strict=True):
        ids = tokenizer(f"<user>{prompt}<end>", add_special_tokens=False)["input_ids"]
        start = len(ids)
        while len(ids) < start + 16 and (len(ids) == start or ids[-1] != 0):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_gumbel_noise_samples_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = 20_000
    sampling = GumbelSampling(range(rows), 0.8, torch.device("cpu"))
    drawn = sampling(logits.expand(rows, 4), list(range(rows)))
    shares = torch.bincount(drawn, minlength=4) / rows
    expected = torch.softmax(logits / 0.8, -1)
    # Five standard deviations of a share from 20,000 draws are at most 0.018.
    assert torch.allclose(shares, expected, atol=0.018)


def test_a_prompt_longer_than_the_context_is_refused_alone(tiny):
    requests = requests_for(["Say a.", "x" * 300], 1)
    found = {answer.index: answer for answer in answers(requests, tiny_settings(tiny))}
    assert found[1] == Answer(1, "", 0, PROMPT_TOO_LONG)
    assert found[0].refused is None and found[0].tokens > 0


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("```python\nx\n```\n", True),
        ("Here:\n```\nx\n```\nand", True),
        ("```python\nx\n```", False),  # may yet become an opening fence with a language
        ("```python\nx\n", False),
        ("```\n```\n", False),
        ("````\n```\nx\n```\n", False),
        ("x\n\n", False),
    ],
)
def test_a_closed_fence_is_seen(text, closed):
    assert fence_closed(text) is closed


def test_generation_stops_behind_the_code(tiny, monkeypatch):
    """A model that writes the same text for ever is cut once its code block is closed."""
    script = "```\nab\n```\nand on and on and on"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(script, add_special_tokens=False)["input_ids"]

    class Scripted:
        def __init__(self):
            self.written = 0

        def __call__(self, logits, rows):
            self.written += 1
            return torch.full((len(rows),), ids[self.written - 1])

    monkeypatch.setattr(transformers_engine, "GumbelSampling", lambda *_: Scripted())
    found = list(answers(requests_for(PROMPTS[:1]), tiny_settings(tiny, max_new_tokens=30)))
    assert [answer.text for answer in found] == ["```\nab\n```\n"] * 2
    assert [answer.tokens for answer in found] == [11, 11]


def test_a_teacher_without_chat_template_is_refused(tiny, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        answers(requests_for(PROMPTS), tiny_settings(tmp_path))


def test_a_missing_teacher_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        answers(requests_for(PROMPTS), tiny_settings(tmp_path / "nowhere"))
