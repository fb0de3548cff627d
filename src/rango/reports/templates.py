"""Fills the HTML templates of the pages. Every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from rango import __version__
from rango.reports.tables import interval, number


def render(name: str, content: Mapping[str, Any], **filters: Any) -> str:
    """The page of a template with its content: self-contained, with the style inside.

    Args:
        name: the template's file in this room.
        content: what it names; a missing name is an error.
        filters: functions that the template applies beside `number` and `interval`.
    """
    # StrictUndefined: a misspelt name in a template is an error, not an empty place on the page.
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, **filters)
    page = environment.get_template(name).render(style=Markup(_source("page.css")), version=__version__, **content)
    return page.strip() + "\n"


def _source(name: str) -> str:
    return (resources.files("rango.reports") / name).read_text(encoding="utf-8")
