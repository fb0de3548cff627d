"""What figures and pages share: colours, fonts and sizes, equal bytes for equal data, named points, and templates."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import matplotlib as mpl
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from rango import __version__
from rango.errors import InputError
from rango.files import atomic_path, write_text
from rango.reports.language import _, integer, localised, ngettext, percent, spoken
from rango.reports.tables import better, interval, number

# After Okabe and Ito, moved apart until any two differ for colour-blind readers too, on white and on a dark page, which
# tests/reports/test_style.py measures; each state also has its own marker.
BLUE, ORANGE, GREEN, PURPLE, VIOLET = "#0072b2", "#e69f00", "#009e73", "#8a1c7c", "#7b5cf0"
RUST = "#a8320c"
# Greys of middle lightness on a transparent ground: legible on white paper and on a dark page.
INK, FAINT = "#6b7280", "#9ca3af"

COLOURS = {
    "prior": INK,
    "ngram": RUST,
    "base": ORANGE,
    "control": PURPLE,
    "adapted": BLUE,
    "calibrated": VIOLET,
    "floor": GREEN,
}
MARKERS = {"prior": "|", "ngram": "v", "base": "s", "control": "^", "adapted": "o", "calibrated": "D", "floor": "*"}
# For lines that are no state of a model, such as systems that are compared. Grey is the priors'.
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VIOLET, RUST)
CYCLE_MARKERS = ("o", "s", "^", "D", "v", "P")

DASHED = (0, (4, 3))
"""The line style of everything that is a reference and no result: priors, floor, diagonal."""
PANEL = (3.8, 2.9)
"""Width and height of one panel in inches: legible when a page or a phone shows it some 350 pixels wide."""

# The stubs want literal keys; matplotlib itself checks the names when they are set.
_STYLE: Any = {
    # DejaVu Sans comes with matplotlib; it is wider than a page's fonts, so that what fits in it fits in them.
    "font.family": "DejaVu Sans",
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


class Figure(mpl_figure.Figure):
    """A figure that a notebook shows by itself: no `%matplotlib inline` and no pyplot is needed."""

    def _repr_svg_(self) -> str:
        text = svg_text(self)
        return text[text.index("<svg") :]


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under the project's style, whatever the caller's matplotlib settings are; those are left unchanged."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            drawn = draw(*args, **kwargs)
            if isinstance(drawn, mpl_figure.Figure) and spoken() != "en":
                _localise_ticks(drawn)
            return drawn

    return wrapper


class _LocalisedTicks(ScalarFormatter):
    """matplotlib's own numbers of an axis with the decimal sign of the page, where it knows only the system's."""

    @staticmethod
    def fix_minus(s: str) -> str:
        return localised(ScalarFormatter.fix_minus(s))


def _localise_ticks(figure: mpl_figure.Figure) -> None:
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        # Names and numbers that a figure writes itself are in its language already.
        if type(axis.get_major_formatter()) is ScalarFormatter:
            axis.set_major_formatter(_LocalisedTicks())


def panel(*, height: float = PANEL[1]) -> tuple[Figure, Axes]:
    """A figure with one panel: the page has one figure for each, so that a phone can stack them."""
    figure = Figure(figsize=(PANEL[0], height), layout="constrained")
    return figure, figure.add_subplot()


def line_looks(keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each state, or of each system that is compared: its own, or the next free ones.

    The same systems in the same order look alike in every figure. The marker distinguishes a line for readers who do
    not see its colour.
    """
    taken = {COLOURS.get(key) for key in keys}
    free = itertools.cycle([look for look in zip(CYCLE, CYCLE_MARKERS, strict=True) if look[0] not in taken])
    looks = [(COLOURS[key], MARKERS[key]) if key in COLOURS else next(free) for key in keys]
    return {key: {"color": colour, "marker": marker} for key, (colour, marker) in zip(keys, looks, strict=True)}


def label_rows(ax: Axes, titles: Sequence[str]) -> None:
    """Turn the y axis into rows with names, the first on top: row i of n stands at y = n - 1 - i."""
    ax.set_yticks(range(len(titles)), list(reversed(titles)))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, len(titles) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)


def name_point(ax: Axes, x: float, y: float, values: Mapping[str, str]) -> None:
    """Give a place of a figure its values in words: a page shows them on hover, and in a table below the figure.

    Args:
        ax: the axes, whose limits the point does not change.
        x, y: the place, in the units of the axes.
        values: what is measured → its value; points of one figure have the same keys.
    """
    # An invisible disc, larger than any marker, so that the pointer meets it easily. The values travel as its id, where
    # matplotlib writes quotation marks in several ways.
    disc = ax.scatter([x], [y], s=170, alpha=0.0, linewidths=0, color=INK, zorder=9)
    disc.set_gid(VALUES + quote(json.dumps(dict(values))))


VALUES = "values:"
"""What the id of a named point begins with; `svg_text` removes such ids from files, `inline_svg` reads them."""


def outlier_limit(values: Iterable[float]) -> float | None:
    """The largest value that a scale should show where a few are so large that the others would look equal.

    A value is too large where it is more than three times the next smaller one and most values are smaller; None where
    there is none. Infinite values are too large beside any finite one; of NaN nothing is asked.

    >>> outlier_limit([0.45, 0.5, 1.0, 18.8]), outlier_limit([0.45, 0.5, 1.0, 2.0])
    (1.0, None)
    """
    ordered = sorted(value for value in values if value >= 0)
    for place in range((len(ordered) + 1) // 2, len(ordered)):
        if ordered[place] > 3 * ordered[place - 1] > 0:
            return ordered[place - 1]
    return None


def svg_text(figure: Figure, *, for_page: bool = False) -> str:
    """The figure as SVG without date or versions: the same figure gives the same text.

    Args:
        figure: what `styled` functions draw.
        for_page: letters stay text, in the page's font, and named points keep their values; in a file of its own
            letters are paths, as it may be opened where the font is missing.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.fonttype": "none" if for_page else "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue() if for_page else re.sub(rf' id="{VALUES}[^"]*"', "", buffer.getvalue())


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


def render(name: str, content: Mapping[str, Any], *, script: str = "", **filters: Any) -> str:
    """The page of a template with its content: self-contained, with style and script inside.

    The page's policy allows no request, and of styles and scripts only these two, by their hashes: nothing that comes
    from data can run.

    Args:
        name: the template's file in this room.
        content: what it names; a missing name is an error.
        script: the file of the page's script in this room, if it has one.
        filters: functions that the template applies beside those that write numbers.
    """
    # StrictUndefined: a misspelt name in a template is an error, not an empty place on the page.
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    # Lines of a template are broken where its source is: a sentence of the catalog has single spaces.
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(_, ngettext, newstyle=False)  # type: ignore[attr-defined]
    written = {
        "number": number,
        "interval": interval,
        "integer": integer,
        "percent": percent,
        "localised": localised,
        "better": better,
    }
    environment.filters.update(**written, **filters)
    # The hash is of every character between the tags.
    style, code = f"\n{_source('page.css')}", f"\n{_source(script)}" if script else ""
    policy = f"default-src 'none'; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    if code:
        policy += f"; script-src '{_hash(code)}'"
    page = environment.get_template(name).render(
        language=spoken(),
        style=Markup(style),  # noqa: S704 - files of the package
        script=Markup(code),  # noqa: S704
        policy=policy,
        version=__version__,
        **content,
    )
    return page.strip() + "\n"


def _hash(text: str) -> str:
    """A text as a Content Security Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _source(name: str) -> str:
    return (resources.files("rango.reports") / name).read_text(encoding="utf-8")
