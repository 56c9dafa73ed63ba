"""Requests for the engines, and settings of the tiny teacher that answers them."""

from fgit.config import GenerateSettings
from fgit.inference.engines import answers
from fgit.inference.requests import Answer, Request

PROMPTS = ["Say a.", "Say something rather longer than that.", "Say b."]


def requests_for(prompts, count=2):
    return [
        Request(f"s{number}", k, 100 * number + k, prompt)
        for number, prompt in enumerate(prompts)
        for k in range(count)
    ]


def texts(requests, settings):
    found = {one.index: one for one in answers(requests, settings) if isinstance(one, Answer)}
    assert sorted(found) == list(range(len(requests)))
    return [found[index].text for index in range(len(requests))]


def tiny_settings(tiny, **changes):
    values = {
        "backend": "transformers",
        "teacher": str(tiny),
        "dtype": "float32",
        "max_new_tokens": 16,
        "batch_size": 4,
    }
    return GenerateSettings(**values | changes)
