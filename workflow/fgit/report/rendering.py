"""How the HTML pages are filled: their templates, and numbers in words."""

import functools
from typing import Any

import jinja2


@functools.cache
def page_templates() -> jinja2.Environment:
    """Where the templates are, and how they are filled: what is not marked safe is escaped.

    One for all pages, since it takes longer to read the templates than to fill them.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("fgit", "report/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["decimals"] = decimals
    return templates


def decimals(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def share(part: int, whole: int) -> str:
    return percent(part / whole if whole else None)


def distinct(texts: Any) -> list[str]:
    """The texts that are not empty, each once, in their order."""
    return [text for text in dict.fromkeys(texts) if text]
