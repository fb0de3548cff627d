"""A figure inside a page: SVG whose letters are text, whose values show on hover, and whose values stand in a table.

matplotlib's SVG ──> presentation attributes instead of styles, which the page's policy refuses
                 ──> variables instead of colours, so that dark mode can change them
                 ──> <title> in each point that `name_point` named, and the same values as rows of a table
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from markupsafe import Markup, escape

from rango.errors import InputError
from rango.reports.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RUST, VALUES, VIOLET, Figure, svg_text

VARIABLES = {
    "#ffffff": "--paper",
    INK: "--ink-soft",
    FAINT: "--line-strong",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    VIOLET: "--violet",
    RUST: "--rust",
}
"""Colour of a figure → the variable of the page that stands for it, so that dark mode can lighten it."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page; where it cannot be drawn, `svg` is None and `reason` says why."""

    title: str
    svg: Markup | None
    reason: str = ""
    heads: tuple[str, ...] = ()
    """Of the table of its named points."""
    rows: tuple[tuple[str, ...], ...] = ()


def drawing(title: str, draw: Callable[[], Figure], *, prefix: str) -> Drawing:
    """Draw a figure for the page; if its input cannot be drawn, the error becomes the reason.

    Args:
        title: what a screen reader reads in place of the figure.
        draw: makes the figure.
        prefix: of the ids inside the SVG, unique on the page.
    """
    try:
        figure = draw()
    except InputError as error:
        return Drawing(title, None, str(error))
    return drawn(figure, title, prefix=prefix)


def drawn(figure: Figure, title: str, *, prefix: str) -> Drawing:
    """A figure for the page, with its named points as a table; arguments as of `drawing`."""
    text = svg_text(figure, for_page=True)
    points = [json.loads(unquote(values)) for values in re.findall(f'id="{VALUES}([^"]*)"', text)]
    heads = tuple(dict.fromkeys(key for point in points for key in point))
    rows = tuple(tuple(point.get(key, "") for key in heads) for point in points)
    return Drawing(title, _inline(text, title, prefix), heads=heads, rows=rows)


def inline_svg(figure: Figure, *, title: str, prefix: str) -> Markup:
    """A figure as an SVG element for HTML: sized by the page, ids under a prefix, colours as variables."""
    return _inline(svg_text(figure, for_page=True), title, prefix)


def _inline(text: str, title: str, prefix: str) -> Markup:
    text = text[text.index("<svg") :]
    # A style sheet inside one SVG would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Hovering reads the first title inside the element under the pointer, which must come first in its group.
    text = re.sub(f'<g id="{VALUES}([^"]*)">', _titled, text)
    # Groups that nothing refers to need no id, and a turn by nothing no transform: a third of the bytes.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", text)
    # Two figures of a page may have elements of the same id; a reference would then show the first one's.
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = re.sub(r' style="([^"]*)"', _as_attributes, text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Line breaks inside paths and the indentation between elements say nothing.
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    # Without width and height in points the figure takes the width that the page gives it.
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg {box.group()} role="img" aria-label="{escape(title)}" stroke-linejoin="round">'
    return Markup(head + text[text.index(">") + 1 :].strip())  # noqa: S704 - drawn by matplotlib, which escapes texts


def _titled(match: re.Match[str]) -> str:
    values = json.loads(unquote(match[1]))
    return f"<g><title>{escape(' · '.join(f'{key} {value}' for key, value in values.items()))}</title>"


def _as_attributes(match: re.Match[str]) -> str:
    """A style as presentation attributes; the font is the page's."""
    pairs = (pair.split(": ", 1) for pair in match[1].split("; ") if pair)
    return "".join(f' {name}="{value}"' for name, value in pairs if name != "font-family")
