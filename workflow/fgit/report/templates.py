"""The templates of the HTML pages."""

from __future__ import annotations

import functools

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """Where the templates are, and how they are filled: what is not marked safe is escaped.

    One for all pages, since it takes longer to read the templates than to fill them.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fgit", "report_templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
