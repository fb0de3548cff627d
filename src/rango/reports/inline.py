"""Figures inside a page: SVG as part of the HTML, with colours that follow the page and ids of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from rango.errors import InputError
from rango.reports import canvas

# The page gives each colour of a figure a variable, so that dark mode can lighten it.
_VARIABLES = {
    canvas.INK: "--ink-soft",
    canvas.FAINT: "--line-strong",
    canvas.BLUE: "--blue",
    canvas.ORANGE: "--orange",
    canvas.GREEN: "--green",
    canvas.PINK: "--pink",
    canvas.SKY: "--sky",
    canvas.VERMILION: "--bad",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page; where it cannot be drawn, `svg` is None and `reason` says why."""

    title: str
    svg: Markup | None
    reason: str = ""


def drawing(title: str, draw: Callable[[], Figure], *, prefix: str) -> Drawing:
    """Draw a figure for the page; input that cannot be drawn becomes the reason.

    Args:
        title: read aloud in place of the figure.
        draw: makes the figure.
        prefix: of the ids inside the SVG, unique on the page.
    """
    try:
        return Drawing(title, inline_svg(draw(), title=title, prefix=prefix))
    except InputError as error:
        return Drawing(title, None, str(error))


def inline_svg(figure: Figure, *, title: str, prefix: str) -> Markup:
    """A figure as an SVG element for HTML: sized by the page, ids under a prefix, colours as variables."""
    text = canvas.svg_text(figure)
    text = text[text.index("<svg") :]
    # A style sheet inside one SVG would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg {box.group()} role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + text[text.index(">") + 1 :].strip())
