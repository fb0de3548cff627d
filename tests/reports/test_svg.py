from __future__ import annotations

import re
from typing import Any

from matplotlib.figure import Figure

from rango.errors import InputError
from rango.reports.run.figures import learning_curve
from rango.reports.style import name_point, panel, styled
from rango.reports.svg import drawing, drawn, inline_svg

Log = list[dict[str, Any]]


def test_inline_svg_keeps_to_itself(log: Log) -> None:
    text = str(inline_svg(learning_curve(log, "nce"), title='a "<title>"', prefix="one"))
    assert text.startswith("<svg viewBox=")
    assert 'aria-label="a &#34;&lt;title&gt;&#34;"' in text
    assert "<style" not in text
    assert "http://www.w3.org/1999/xlink" not in text
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    references = [part.split('"')[0] for part in text.split('href="#')[1:]]
    references += [part.split(")")[0] for part in text.split("url(#")[1:]]
    assert references
    assert set(references) <= set(ids)
    assert "var(--blue)" in text
    assert "#0072b2" not in text


def test_what_cannot_be_drawn_becomes_the_reason(log: Log) -> None:
    def refused() -> Figure:
        raise InputError("no points")

    missing = drawing("a curve", refused, prefix="a")
    assert (missing.svg, missing.reason) == (None, "no points")
    drawn = drawing("a curve", lambda: learning_curve(log, "nce"), prefix="a")
    assert drawn.svg is not None
    assert drawn.reason == ""


def test_white_of_a_figure_is_the_paper_of_the_page() -> None:
    @styled
    def hollow() -> Figure:
        figure, ax = panel()
        ax.plot([1.0], [1.0], marker="o", markerfacecolor="white")
        return figure

    text = str(inline_svg(hollow(), title="a dot", prefix="a"))
    assert 'fill="var(--paper)"' in text
    assert "#ffffff" not in text


def test_letters_are_text_in_the_font_of_the_page(log: Log) -> None:
    text = str(inline_svg(learning_curve(log, "nce"), title="a curve", prefix="a"))
    assert ">optimizer steps</text>" in text
    assert "font-family" not in text
    assert " style=" not in text, "the policy of the page refuses styles in attributes"


def test_named_points_show_on_hover_and_stand_in_a_table() -> None:
    @styled
    def dots() -> Figure:
        figure, ax = panel()
        for step, value in ((1, "0.5"), (2, '<b>"&')):
            name_point(ax, step, 0.5, {"step": str(step), "NCE": value})
        return figure

    picture = drawn(dots(), "dots", prefix="a")
    assert picture.heads == ("step", "NCE")
    assert picture.rows == (("1", "0.5"), ("2", '<b>"&'))
    titles = re.findall(r"<g><title>(.*?)</title>", str(picture.svg))
    assert titles == ["step 1 · NCE 0.5", "step 2 · NCE &lt;b&gt;&#34;&amp;"]
    assert "values:" not in str(picture.svg)
