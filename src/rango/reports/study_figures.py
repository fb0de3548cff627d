"""Figures of a study, chosen by its axes: dots for names, lines for numbers, learning curves where there are logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rango.reports.canvas import BLUE, FAINT, GREEN, INK, ORANGE, styled
from rango.reports.study_lines import line_figure, study_curves
from rango.reports.study_panels import finish, panel_grid, panel_metrics
from rango.reports.study_sections import Line, Section, metric_title, numeric_axis, sections
from rango.studies.measuring import Measured
from rango.studies.outcomes import Outcome
from rango.studies.table import StudyTable


def study_figures(
    table: StudyTable, outcomes: Sequence[Outcome] = (), *, metrics: Sequence[str] | None = None
) -> dict[str, Figure]:
    """The figures that fit the axes of a study.

    Args:
        table: from `study_table`.
        outcomes: the same configurations, for the learning curves of their logs.
        metrics: of the panels; None for the error rate (or accuracy) and the metric that selects (or NCE).

    Returns:
        Figures by name, which is also their file's: `configurations` (no axis of numbers: a dot with its interval for
        each, a column for each task) or `by-AXIS` (an axis of numbers: lines over it), and `curves` where there are
        logs. Empty where nothing was measured.
    """
    figures: dict[str, Figure] = {}
    if table.blocks:
        names = tuple(metrics or panel_metrics(table))
        axis = numeric_axis(table)
        if axis is None:
            figures["configurations"] = dot_figure(table, metrics=names)
        else:
            figures[f"by-{axis}"] = line_figure(table, axis=axis, metrics=names)
    curves = study_curves(table, outcomes)
    return figures if curves is None else {**figures, "curves": curves}


@styled
def dot_figure(table: StudyTable, *, metrics: Sequence[str]) -> Figure:
    """Each configuration as a dot with its interval, a column of panels for each task.

    A full dot is the best of its task or not told from it, a hollow one is told from it; the faint dots below are
    single seeds.

    Args:
        table: from `study_table`, with at least one block.
        metrics: one row of panels each.
    """
    parts = [part for part in sections(table) if any(line.cells for line in part.lines)]
    # With one task the metrics stand side by side and share their rows.
    shared = [[metric] if len(parts) > 1 else list(metrics) for metric in metrics]
    titles = {metric: _titles(parts, together) for metric, together in zip(metrics, shared, strict=True)}
    longest = max(len(title) for each in titles.values() for title in each)
    heights = [0.75 + 0.27 * len(titles[metric]) for metric in metrics]
    figure, grid = panel_grid(heights, len(parts), width=3.0, margin=0.075 * longest)
    for row, metric in enumerate(metrics):
        for column, part in enumerate(parts):
            ax = grid[row][column]
            _dots(ax, part, metric, titles[metric])
            ax.tick_params(axis="y", length=0, labelleft=column == 0 and (len(parts) > 1 or row == 0))
            if part.title and row == 0:
                ax.set_title(part.title)
    return finish(figure)


def _titles(parts: Sequence[Section], metrics: Sequence[str]) -> list[str]:
    """The rows of the panels of some metrics, the same for each task: configurations, true posterior, references."""
    lines = [line for part in parts for line in part.lines if any(metric in line.cells for metric in metrics)]
    kinds = ("configuration", "floor", "reference")
    return list(dict.fromkeys(line.title for kind in kinds for line in lines if line.kind == kind))


def _dots(ax: Axes, part: Section, metric: str, titles: Sequence[str]) -> None:
    count = len(titles)
    for line in part.lines:
        cell = line.cells.get(metric)
        if cell is not None and math.isfinite(cell.mean):
            _dot(ax, line, cell, count - 1 - titles.index(line.title))
    ax.set_yticks(range(count), list(reversed(titles)))
    ax.set_ylim(-0.6, count - 0.4)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.06)
    ax.set_xlabel(metric_title(metric))


def _dot(ax: Axes, line: Line, cell: Measured, y: int) -> None:
    if line.kind == "floor":
        ax.axvline(cell.mean, color=GREEN, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        ax.plot([cell.mean], [y], color=GREEN, marker="*", markersize=9, linestyle="none")
        return
    if line.kind == "reference":
        ax.plot([cell.mean], [y], color=INK, marker="D", markersize=4.5, markerfacecolor="none", linestyle="none")
        return
    colour = ORANGE if line.is_base else BLUE
    if cell.low is not None and cell.high is not None and math.isfinite(cell.high) and math.isfinite(cell.low):
        ax.plot([cell.low, cell.high], [y, y], color=colour, linewidth=2.0, alpha=0.55, solid_capstyle="round")
    if len(cell.values) > 1:
        below = [y - 0.27] * len(cell.values)
        ax.plot(cell.values, below, color=FAINT, marker=".", markersize=4, linestyle="none")
    full = line.mark in ("best", "tied")
    marker: Any = {"color": colour, "marker": "s" if line.is_base else "o", "markersize": 6.0, "linestyle": "none"}
    # A hollow dot still covers the whisker: it is filled with white, which stands on dark paper too.
    ax.plot([cell.mean], [y], markerfacecolor=colour if full else "white", **marker, zorder=3)
