from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from rango.errors import InputError
from rango.reports.run.figures import learning_curve
from rango.reports.style import drawing, inline_svg, label_rows, panel, save_figure, styled, svg_text

Log = list[dict[str, Any]]


def test_drawing_leaves_matplotlib_as_it_was(log: Log) -> None:
    before = dict(mpl.rcParams)
    save_figure_text = svg_text(learning_curve(log, "train_loss"))
    assert save_figure_text
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_files_are_the_same_each_time(tmp_path: Path, log: Log, ending: str) -> None:
    for name in ("a", "b"):
        save_figure(learning_curve(log, "nce"), tmp_path / f"{name}.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_unknown_ending_of_a_figure(tmp_path: Path, log: Log) -> None:
    with pytest.raises(
        InputError, match=r"figure\.bmp: ending '\.bmp' is not a figure's; expected \.svg, \.png or \.pdf"
    ):
        save_figure(learning_curve(log, "train_loss"), tmp_path / "figure.bmp")
    assert list(tmp_path.iterdir()) == []


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


def test_rows_of_names_stand_from_top_to_bottom() -> None:
    _, ax = panel()
    label_rows(ax, ["first", "second", "third"])
    names = {label.get_text(): y for label, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    assert names == {"first": 2, "second": 1, "third": 0}


def test_white_of_a_figure_is_the_paper_of_the_page() -> None:
    @styled
    def hollow() -> Figure:
        figure, ax = panel()
        ax.plot([1.0], [1.0], marker="o", markerfacecolor="white")
        return figure

    text = str(inline_svg(hollow(), title="a dot", prefix="a"))
    assert "fill: var(--paper)" in text
    assert "#ffffff" not in text
