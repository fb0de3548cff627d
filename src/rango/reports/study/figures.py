"""Figures of a study, chosen by its axes: dots for names, lines for numbers, learning curves where there are logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rango.reports.run.figures import curve_points
from rango.reports.study.sections import (
    Line,
    Section,
    as_number,
    label_of,
    metric_title,
    metric_words,
    numeric_axis,
    sections,
    shown_cells,
)
from rango.reports.style import BLUE, FAINT, GREEN, INK, ORANGE, PANEL, PINK, SKY, VERMILION, styled
from rango.results.outcomes import Outcome
from rango.results.statistics import MetricOverSeeds
from rango.results.table import Block, StudyRow, StudyTable
from rango.studies.axes import TASK, axis_text, is_base, short_name

_PANELS = 3


def panel_metrics(table: StudyTable) -> tuple[str, ...]:
    """The metrics to draw: the first that the study names, or errors and what the posteriors are worth.

    Errors in the direction that the references use.
    """
    if table.first:
        return table.first[:_PANELS]
    errors = ("error_rate", "accuracy")
    stated = {reference.metric for reference in table.references} | {table.select}
    first = "accuracy" if "accuracy" in stated and "error_rate" not in stated else "error_rate"
    second = table.select if table.select not in errors else "nce"
    return first, second


def panel_grid(
    heights: Sequence[float], tasks: int, *, width: float, margin: float = 0.0
) -> tuple[Figure, list[list[Axes]]]:
    """Axes by metric and task. With one task the metrics stand side by side.

    Args:
        heights: of the panels of each metric, inches.
        tasks: how many.
        width: of a panel, inches.
        margin: more width on the left for labels, inches.
    """
    rows, columns = (1, len(heights)) if tasks == 1 else (len(heights), tasks)
    height = max(heights) if tasks == 1 else sum(heights)
    figure = Figure(figsize=(margin + width * columns, height), layout="constrained")
    places = figure.add_gridspec(rows, columns, height_ratios=None if tasks == 1 else list(heights))
    axes = [[figure.add_subplot(places[row, column]) for column in range(columns)] for row in range(rows)]
    return figure, [[ax] for ax in axes[0]] if tasks == 1 else axes


def finish(figure: Figure, *, columns: int = 4) -> Figure:
    """Put one legend of all panels below them, each name once; none where no line has a name."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        longest = max(len(label) for label in handles)
        fit = max(1, min(columns, int(figure.get_figwidth() / (0.6 + 0.075 * longest)), len(handles)))
        figure.set_figheight(figure.get_figheight() + 0.12 + 0.19 * -(-len(handles) // fit))
        figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=fit)
    return figure


_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_MARKERS = "osD^vP"
_COLOURED = 10
"""More lines than this cannot be told apart by colour and dashes."""


# Orange is the base model's and green the true posterior's.
_COLOURS = (BLUE, VERMILION, SKY, PINK)


@dataclass(frozen=True)
class _Look:
    colour: str
    dashes: Any
    marker: str

    @classmethod
    def number(cls, place: int) -> _Look:
        return cls(_COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % 3], _MARKERS[place % 6])


@styled
def line_figure(table: StudyTable, *, axis: str, metrics: Sequence[str]) -> Figure:
    """Metrics against an axis of numbers: a line for each value of the other axes, its 95 % interval as a band.

    A configuration without a value on the axis (the base model) is a line across. For NCE the priors are the line at 1;
    where the true posterior is known, the floor is a line too. The axis is logarithmic where its values span a factor
    of 8 or more.

    Args:
        table: from `study_table`, with at least one block.
        axis: the one of numbers.
        metrics: one row of panels each.
    """
    figure, grid = panel_grid([PANEL[1]] * len(metrics), len(table.blocks), width=PANEL[0])
    base = {_series(row, table, axis): _Look(ORANGE, "-", "s") for row in table.rows if is_base(row.axes)}
    series = dict.fromkeys(_series(row, table, axis) for row in table.rows if not is_base(row.axes))
    looks = {**base, **{name: _Look.number(place) for place, name in enumerate(series)}}
    for row, metric in enumerate(metrics):
        for column, block in enumerate(table.blocks):
            ax = grid[row][column]
            _lines(ax, table, block, axis, metric, looks)
            _levels(ax, block, metric)
            _number_axis(ax, table, axis)
            ax.set_ylabel(metric_title(metric))
            if row == 0 and TASK in table.varied:
                ax.set_title(axis_text(block.task))
    return finish(figure)


def _series(row: StudyRow, table: StudyTable, axis: str) -> str:
    return label_of(row, table, without=(axis,))


def _lines(ax: Axes, table: StudyTable, block: Block, axis: str, metric: str, looks: dict[str, _Look]) -> None:
    rows = [table.rows[place] for place in block.rows]
    for name, look in looks.items():
        points = []
        for row in rows:
            cell = shown_cells(row).get(metric)
            if cell is None or not math.isfinite(cell.mean) or _series(row, table, axis) != name:
                continue
            x = as_number(row.axes.get(axis))
            if x is None:
                ax.axhline(cell.mean, color=look.colour, linewidth=1.4, linestyle=look.dashes, label=_own(name, looks))
                continue
            low, high = (cell.mean if end is None else end for end in (cell.low, cell.high))
            points.append((x, cell.mean, low, high))
        if points:
            x_, mean, low_, high_ = np.array(sorted(points)).T
            ax.fill_between(x_, low_, high_, color=look.colour, alpha=0.1, linewidth=0)
            ax.plot(x_, mean, color=look.colour, linestyle=look.dashes, marker=look.marker, label=_own(name, looks))


def _own(name: str, looks: dict[str, _Look]) -> str | None:
    # A single line needs no name: the axes say what it is.
    return name if len(looks) > 1 else None


def _levels(ax: Axes, block: Block, metric: str) -> None:
    """The priors and the floor, where they are near enough to be seen with the rest."""
    if metric == "nce":
        low, high = ax.get_ylim()
        if high > 0.85 or low > 1:
            ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)), label="priors")
    if metric in block.floor:
        ax.axhline(block.floor[metric], color=GREEN, linewidth=1.2, linestyle=(0, (4, 3)), label="true posterior")


def _number_axis(ax: Axes, table: StudyTable, axis: str) -> None:
    values = sorted({x for row in table.rows if (x := as_number(row.axes.get(axis))) is not None})
    if values[0] > 0 and values[-1] / values[0] >= 8:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 8:
        ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1000 else f"{x:g}"))
    ax.set_xlabel({"train": "training instances"}.get(axis, short_name(axis, table.axes)))


@styled
def _curve_figure(table: StudyTable, outcomes: Sequence[Outcome], names: Sequence[str]) -> Figure:
    tasks = list(dict.fromkeys(axis_text(outcome.axes.get(TASK)) for outcome in outcomes))
    figure, grid = panel_grid([PANEL[1]] * len(names), len(tasks), width=PANEL[0])
    titles = [label_of(outcome, table) for outcome in outcomes]
    looks = _chosen(table, list(dict.fromkeys(titles)))
    for row, name in enumerate(names):
        for column, task in enumerate(tasks):
            ax = grid[row][column]
            # Grey lines first, so that those with a colour lie on top.
            for title, outcome in sorted(zip(titles, outcomes, strict=True), key=lambda pair: pair[0] in looks):
                if axis_text(outcome.axes.get(TASK)) == task:
                    _curve(ax, outcome, name, looks.get(title), title if title in looks else "others")
            if row == 0 and TASK in table.varied:
                ax.set_title(task)
            ax.set_ylabel("train loss (running mean)" if name == "train_loss" else f"validation {metric_words(name)}")
            ax.set_xlabel("optimizer steps")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.set_xlim(0, None)
    return finish(figure)


def curve_names(table: StudyTable, outcomes: Sequence[Outcome]) -> list[str]:
    """The curves that the logs have: the validation metric that selects (else NCE), and the train loss."""
    chosen = table.select if _has(outcomes, table.select) else "nce"
    return [name for name in (chosen, "train_loss") if _has(outcomes, name)]


def study_curves(
    table: StudyTable, outcomes: Sequence[Outcome], *, names: Sequence[str] | None = None
) -> Figure | None:
    """Learning curves: a line for each configuration, the mean over its seeds, with the seeds faint behind it.

    Configurations of the same runs (with and without a calibrator) are one line. Of more than ten configurations only
    the best and those not told from it have a colour.

    Args:
        table: from `study_table`.
        outcomes: the same configurations, or some of them.
        names: "train_loss" or validation metrics; None for those of `curve_names`.

    Returns:
        None where the logs have not a single point.
    """
    logged = _distinct(table, [outcome for outcome in outcomes if any(outcome.logs.values())])
    shown = curve_names(table, logged) if names is None else [name for name in names if _has(logged, name)]
    return _curve_figure(table, logged, shown) if shown else None


def _distinct(table: StudyTable, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes without those that read the same runs as an earlier one."""
    alike: list[list[Outcome]] = []
    for outcome in outcomes:
        for members in alike:
            if members[0].logs == outcome.logs:
                members.append(outcome)
                break
        else:
            alike.append([outcome])
    marked = _marked(table)
    return [next((each for each in members if label_of(each, table) in marked), members[0]) for members in alike]


def _marked(table: StudyTable) -> set[str]:
    return {label_of(row, table) for row in table.rows if row.mark in ("best", "tied")}


def _has(outcomes: Sequence[Outcome], name: str) -> bool:
    return any(len(curve_points(records, name)[0]) for each in outcomes for records in each.logs.values())


def _chosen(table: StudyTable, titles: Sequence[str]) -> dict[str, _Look]:
    """The look of each configuration that gets a colour: all, or of too many the best and those not told from it."""
    chosen = list(titles)
    if len(titles) > _COLOURED:
        chosen = [title for title in titles if title in _marked(table)][:_COLOURED]
    return {title: _Look.number(place) for place, title in enumerate(chosen)}


def _curve(ax: Axes, outcome: Outcome, name: str, look: _Look | None, label: str) -> None:
    curves = [curve_points(records, name) for records in outcome.logs.values()]
    curves = [_smooth(*curve) if name == "train_loss" else curve for curve in curves if len(curve[0])]
    if not curves:
        return
    colour = FAINT if look is None else look.colour
    if len(curves) > 1 and name != "train_loss" and look is not None:
        for steps, values in curves:
            ax.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
    shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    mean = np.mean([values[np.isin(steps, shared)] for steps, values in curves], axis=0)
    ax.plot(
        shared,
        mean,
        color=colour,
        linewidth=1.0 if look is None else 1.8,
        alpha=0.6 if look is None else 1.0,
        linestyle="-" if look is None else look.dashes,
        label=label,
    )


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A running mean over a twelfth of the curve, where it is complete: single batches are noisy."""
    window = max(1, len(values) // 12)
    return steps[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


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


def _dot(ax: Axes, line: Line, cell: MetricOverSeeds, y: int) -> None:
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
