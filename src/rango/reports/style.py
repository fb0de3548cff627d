"""What figures and pages share: colours, fonts and sizes, equal bytes for equal data, SVG in a page, and templates."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rango import __version__
from rango.errors import InputError
from rango.files import atomic_path, write_text
from rango.reports.tables import interval, number

# Okabe and Ito's palette, which colour-blind readers can distinguish; each state also has its own marker.
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"
VERMILION = "#d55e00"
# Greys of middle lightness on a transparent ground: legible on white paper and on a dark page.
INK, FAINT = "#6b7280", "#9ca3af"

COLOURS = {
    "prior": INK,
    "ngram": VERMILION,
    "base": ORANGE,
    "control": PINK,
    "adapted": BLUE,
    "calibrated": SKY,
    "floor": GREEN,
}
MARKERS = {"prior": "|", "ngram": "v", "base": "s", "control": "^", "adapted": "o", "calibrated": "D", "floor": "*"}
# For lines that are no state of a model, such as the configurations of a study.
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, INK)

DASHED = (0, (4, 3))
"""The line style of everything that is a reference and no result: priors, floor, diagonal."""
PANEL = (3.8, 2.9)
"""Width and height of one panel in inches: legible when a page or a phone shows it some 350 pixels wide."""

# The stubs want literal keys; matplotlib itself checks the names when they are set.
_STYLE: Any = {
    # DejaVu Sans comes with matplotlib, and glyphs are drawn as paths: no font of the system is used.
    "font.family": "DejaVu Sans",
    "svg.fonttype": "path",
    # Without a salt matplotlib's ids are random, and the bytes differ each time.
    "svg.hashsalt": "rango",
    "pdf.fonttype": 42,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under the project's style, whatever the caller's matplotlib settings are; those are left unchanged."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return wrapper


def panel(*, height: float = PANEL[1]) -> tuple[Figure, Axes]:
    """A figure with one panel: the page has one figure for each, so that a phone can stack them."""
    figure = Figure(figsize=(PANEL[0], height), layout="constrained")
    return figure, figure.add_subplot()


def label_rows(ax: Axes, titles: Sequence[str]) -> None:
    """Turn the y axis into rows with names, the first on top: row i of n stands at y = n - 1 - i."""
    ax.set_yticks(range(len(titles)), list(reversed(titles)))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, len(titles) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)


def svg_text(figure: Figure) -> str:
    """The figure as SVG without date or versions: the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically as SVG, PNG (200 dots per inch) or PDF, by the ending of the path.

    Raises:
        InputError: another ending.
    """
    # Dates and versions are left out of the files, so that the same figure gives the same bytes.
    without: dict[str, dict[str, None]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    ending = path.suffix.lower()
    if ending == ".svg":
        write_text(path, svg_text(figure))
    elif ending in without:
        with mpl.rc_context(_STYLE), atomic_path(path) as temporary:
            figure.savefig(temporary, format=ending[1:], dpi=200, metadata=without[ending])
    else:
        raise InputError(f"{path}: ending {path.suffix!r} is not a figure's; expected .svg, .png or .pdf")


# The page has a variable for each colour of a figure, so that dark mode can lighten it.
_VARIABLES = {
    "#ffffff": "--paper",
    INK: "--ink-soft",
    FAINT: "--line-strong",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PINK: "--pink",
    SKY: "--sky",
    VERMILION: "--bad",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page; where it cannot be drawn, `svg` is None and `reason` says why."""

    title: str
    svg: Markup | None
    reason: str = ""


def drawing(title: str, draw: Callable[[], Figure], *, prefix: str) -> Drawing:
    """Draw a figure for the page; if its input cannot be drawn, the error becomes the reason.

    Args:
        title: what a screen reader reads in place of the figure.
        draw: makes the figure.
        prefix: of the ids inside the SVG, unique on the page.
    """
    try:
        return Drawing(title, inline_svg(draw(), title=title, prefix=prefix))
    except InputError as error:
        return Drawing(title, None, str(error))


def inline_svg(figure: Figure, *, title: str, prefix: str) -> Markup:
    """A figure as an SVG element for HTML: sized by the page, ids under a prefix, colours as variables."""
    text = svg_text(figure)
    text = text[text.index("<svg") :]
    # A style sheet inside one SVG would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Two figures of a page may have elements of the same id; a reference would then show the first one's.
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Without width and height in points the figure takes the width that the page gives it.
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg {box.group()} role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + text[text.index(">") + 1 :].strip())


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
