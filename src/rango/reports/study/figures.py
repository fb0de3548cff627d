"""Figures of a study, chosen by its axes: dots for names, lines for numbers, learning curves where there are logs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rango.decisions import Estimate
from rango.reports.language import _, integer, localised
from rango.reports.run.figures import curve_points, running_mean
from rango.reports.run.findings import p_number
from rango.reports.study.sections import (
    Line,
    Section,
    as_number,
    label_of,
    metric_title,
    numeric_axis,
    sections,
    shown_cells,
    span_text,
    value_text,
    yardstick_name,
)
from rango.reports.style import (
    BLUE,
    DASHED,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PANEL,
    PURPLE,
    RUST,
    VIOLET,
    Figure,
    label_rows,
    name_point,
    styled,
)
from rango.reports.tables import column_named, interval, number
from rango.results.outcomes import Outcome
from rango.results.statistics import ALPHA, MetricOverSeeds
from rango.results.table import Block, StudyTable
from rango.studies.axes import TASK, axis_text, is_base, short_name

_DOTTED = (0, (1, 1.5))
# Orange is the base model's and green the true posterior's, so no other line has them.
_COLOURS = (BLUE, RUST, VIOLET, PURPLE)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), _DOTTED)
_MARKERS = "osD^vP"
_COLOURED = 10
"""More lines than this cannot be distinguished by colour and dashes."""
_ACROSS: dict[str, dict[str, Any]] = {
    "base": {"color": ORANGE, "linestyle": "-", "linewidth": 1.4},
    "prior": {"color": INK, "linestyle": _DOTTED, "linewidth": 1.0},
    "floor": {"color": GREEN, "linestyle": DASHED, "linewidth": 1.2},
}
"""The line of each yardstick through a panel."""
_FAR = 6
"""A loss further from the best than this many times the range of all better ones would make those look alike."""


def study_figures(
    table: StudyTable, outcomes: Sequence[Outcome] = (), *, metrics: Sequence[str] | None = None
) -> dict[str, Figure]:
    """The figures that fit the axes of a study.

    Args:
        table: from `study_table`.
        outcomes: the same configurations, for the learning curves of their logs.
        metrics: of the panels; None for the error rate (or accuracy) and the metric that selects (or NCE).

    Returns:
        Figures by name, which is also their file's: `changes` (one thing changes at a time: differences from the
        centre), `configurations` (no axis of numbers: a dot with its interval for each, a column for each task) or
        `by-AXIS` (an axis of numbers: lines over it), and `curves` where there are logs. Empty where nothing was
        measured.
    """
    figures: dict[str, Figure] = {}
    if table.blocks:
        names = tuple(metrics or panel_metrics(table))
        axis = numeric_axis(table)
        if table.has_centre:
            figures["changes"] = change_figure(table, metrics=names)
        elif axis is None:
            figures["configurations"] = dot_figure(table, metrics=names)
        else:
            figures[f"by-{axis}"] = line_figure(table, axis=axis, metrics=names)
    curves = study_curves(table, outcomes)
    return figures if curves is None else {**figures, "curves": curves}


def panel_metrics(table: StudyTable) -> tuple[str, ...]:
    """The metrics to draw: the first three that the study names, else one for decisions and one for posteriors.

    Where the references or `select` state the accuracy only, it takes the place of the error rate.
    """
    if table.first:
        return table.first[:3]
    stated = {reference.metric for reference in table.references} | {table.select}
    first = "accuracy" if "accuracy" in stated and "error_rate" not in stated else "error_rate"
    return first, "nce" if table.select in ("error_rate", "accuracy") else table.select


def _panel_grid(
    heights: Sequence[float], tasks: int, *, width: float, margin: float = 0.0
) -> tuple[Figure, list[list[Axes]]]:
    """Axes by metric and task. With one task the metrics stand side by side.

    Sizes are in inches: the height of each metric's panels, their width, and a margin on the left for labels.
    """
    rows, columns = (1, len(heights)) if tasks == 1 else (len(heights), tasks)
    height = max(heights) if tasks == 1 else sum(heights)
    figure = Figure(figsize=(margin + width * columns, height), layout="constrained")
    places = figure.add_gridspec(rows, columns, height_ratios=None if tasks == 1 else list(heights))
    axes = [[figure.add_subplot(places[row, column]) for column in range(columns)] for row in range(rows)]
    return figure, [[ax] for ax in axes[0]] if tasks == 1 else axes


def _with_legend(figure: Figure) -> Figure:
    """The figure with one legend of all panels below them, each name once; none where no line has a name."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        # 0.6 inches for the line of an entry and 0.075 for each letter; 0.19 inches for each row of entries.
        longest = max(len(label) for label in handles)
        columns = max(1, min(4, int(figure.get_figwidth() / (0.6 + 0.075 * longest)), len(handles)))
        figure.set_figheight(figure.get_figheight() + 0.12 + 0.19 * math.ceil(len(handles) / columns))
        figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=columns)
    return figure


def _ends_of_axis(metric: str, cells: Iterable[MetricOverSeeds]) -> tuple[float | None, float]:
    """Where the axis of a metric has to begin and end, so that one bad value does not flatten all others.

    None and infinity where the axis takes its ends from its values. Only losses are cut: accuracies have an end of
    their own. What lies beyond is written at the edge.
    """
    if column_named(metric).direction != "lower":
        return None, math.inf
    low, high = math.inf, -math.inf
    finite = sorted((cell for cell in cells if math.isfinite(cell.mean)), key=lambda cell: cell.mean)
    for place, cell in enumerate(finite):
        # Two values always have room: with fewer there is nothing to flatten.
        if place >= 2 and low < high and cell.mean - low > _FAR * (high - low):
            return low - 0.06 * (high - low), high + 0.06 * (high - low)
        ends = [end for end in (cell.low, cell.high, *cell.values) if end is not None and math.isfinite(end)]
        low, high = min(low, *ends), max(high, *ends)
    return None, math.inf


@styled
def dot_figure(table: StudyTable, *, metrics: Sequence[str]) -> Figure:
    """Each configuration as a dot with its interval, a column of panels for each task.

    A full dot is the best of its task or not significantly worse, a hollow one is significantly worse; the faint dots
    below are single seeds. Below the configurations stands what they are compared with, the priors and the true
    posterior also as lines through the panel. The table has at least one block.
    """
    return _dots(sections(table), metrics)


@styled
def change_figure(table: StudyTable, *, metrics: Sequence[str]) -> Figure:
    """The difference of each configuration from the centre, with its paired interval, a column for each task.

    A full dot is a difference that is significant after Holm's correction over the task. The table has a centre.
    """
    parts = []
    for part in sections(table):
        lines = []
        for line in part.lines:
            changes = {name: cell.change for name, cell in line.cells.items() if cell.change is not None}
            cells = {
                name: MetricOverSeeds(change.value, None, change.low, change.high, (change.value,), change=change)
                for name, change in changes.items()
            }
            lines.append(replace(line, cells=cells))
        parts.append(replace(part, lines=tuple(lines)))
    return _dots(parts, metrics)


def _dots(of_tasks: Sequence[Section], metrics: Sequence[str]) -> Figure:
    """Each line as a dot with its interval: what its cells hold, or where they are changes, the changes around 0."""
    parts = [part for part in of_tasks if any(line.cells for line in part.lines)]
    # The rows of the panels of each metric, the same for each task. With one task the metrics stand side by side and
    # share their rows.
    titles: dict[str, list[str]] = {}
    for metric in metrics:
        together = [metric] if len(parts) > 1 else metrics
        lines = [line for part in parts for line in part.lines if any(map(_drawable(line).get, together))]
        kinds = ("configuration", "base", "prior", "floor", "reference")
        titles[metric] = list(dict.fromkeys(line.title for kind in kinds for line in lines if line.kind == kind))

    longest = max(len(title) for rows in titles.values() for title in rows)
    heights = [0.75 + 0.27 * len(titles[metric]) for metric in metrics]
    figure, grid = _panel_grid(heights, len(parts), width=3.0, margin=0.075 * longest)
    for row, metric in enumerate(metrics):
        for column, part in enumerate(parts):
            ax = grid[row][column]
            cells = {line: cell for line in part.lines if (cell := _drawable(line).get(metric)) is not None}
            begin, end = _ends_of_axis(metric, cells.values())
            for line, cell in cells.items():
                y = len(titles[metric]) - 1 - titles[metric].index(line.title)
                if cell.mean > end or math.isinf(cell.mean):
                    beyond = f"{number(cell.mean)} →"
                    ax.annotate(beyond, (1, y), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
                elif math.isfinite(cell.mean):
                    _dot(ax, line, cell, y)
                    name_point(ax, cell.mean, y, _values(line.title, metric, cell))
            label_rows(ax, titles[metric])
            ax.margins(x=0.06)
            if begin is not None:
                # The values beyond stand right of all that is drawn, the line of the priors too.
                ax.set_xlim(begin, end + 0.28 * (end - begin))
            changes = any(cell.change is not None for cell in cells.values())
            if changes:
                ax.axvline(0.0, color=INK, linewidth=1.0, linestyle=_DOTTED, zorder=1)
                ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel(_change_title(metric) if changes else metric_title(metric))
            ax.tick_params(axis="y", labelleft=column == 0 and (len(parts) > 1 or row == 0))
            if part.title and row == 0:
                ax.set_title(part.title)
    return figure


def _change_title(metric: str) -> str:
    """A change of a metric as the label of an axis, with the better direction below it."""
    column = column_named(metric)
    side = _("above 0 is better") if column.direction == "higher" else _("below 0 is better")
    return _("%(metric)s, less that of the centre", metric=column.title) + f"\n({side})"


def _values(name: str, metric: str, cell: MetricOverSeeds) -> dict[str, str]:
    """What a point shows on hover, and in the table below its figure."""
    change = cell.change
    if change is not None:
        return {
            _("configuration"): name,
            column_named(metric).title: number(change.value, sign=True),
            _("95% interval"): interval(Estimate(change.value, change.low, change.high, 0, "none"), sign=True),
            "p": "–" if change.p is None else p_number(change.p),
        }
    values = {
        _("configuration"): name,
        column_named(metric).title: value_text(cell),
        _("95% interval"): span_text(cell),
    }
    return {title: value for title, value in values.items() if value}


def _drawable(line: Line) -> Mapping[str, MetricOverSeeds]:
    """The cells of a line without the calibration error of the priors: it is 0, which nothing is measured by."""
    if line.kind != "prior":
        return line.cells
    return {name: cell for name, cell in line.cells.items() if column_named(name).is_mean}


def _dot(ax: Axes, line: Line, cell: MetricOverSeeds, y: int) -> None:
    if line.kind == "floor":
        ax.axvline(cell.mean, color=GREEN, linewidth=1.0, linestyle=DASHED, zorder=1)
        ax.plot([cell.mean], [y], color=GREEN, marker="*", markersize=9, linestyle="none")
        return
    if line.kind == "prior":
        ax.axvline(cell.mean, color=INK, linewidth=1.0, linestyle=_DOTTED, zorder=1)
        ax.plot([cell.mean], [y], color=INK, marker="|", markersize=9, markeredgewidth=2, linestyle="none")
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
    # A hollow dot is filled with white (the paper's colour on the page), so that it covers its whisker.
    significant = cell.change is not None and cell.change.p is not None and cell.change.p < ALPHA
    full = line.mark in ("best", "tied") if cell.change is None else significant
    face = colour if full else "white"
    marker = "s" if line.is_base else "o"
    ax.plot(
        [cell.mean], [y], color=colour, marker=marker, markersize=6.0, linestyle="none", markerfacecolor=face, zorder=3
    )


def _look(place: int) -> dict[str, Any]:
    """How the line of this number is drawn: colours change fastest, then dashes."""
    dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": dashes,
        "marker": _MARKERS[place % len(_MARKERS)],
    }


@styled
def line_figure(table: StudyTable, *, axis: str, metrics: Sequence[str]) -> Figure:
    """Metrics against an axis of numbers: a line for each value of the other axes, its 95 % interval as a band.

    What has no value on the axis is a line across: the base model, the priors (for NCE the line at 1) and the true
    posterior, where it is known. The axis is logarithmic where its values span a factor of 8 or more. The table has at
    least one block.
    """
    figure, grid = _panel_grid([PANEL[1]] * len(metrics), len(table.blocks), width=PANEL[0])
    values = sorted({x for row in table.rows if (x := as_number(row.axes.get(axis))) is not None})
    base = {"color": ORANGE, "linestyle": "-", "marker": "s"}
    looks = {label_of(row, table, without=(axis,)): base for row in table.rows if is_base(row.axes)}
    others = dict.fromkeys(label_of(row, table, without=(axis,)) for row in table.rows if not is_base(row.axes))
    looks |= {name: _look(place) for place, name in enumerate(others)}
    for row, metric in enumerate(metrics):
        for column, block in enumerate(table.blocks):
            ax = grid[row][column]
            _lines(ax, table, block, axis, metric, looks)
            if values[0] > 0 and values[-1] / values[0] >= 8:
                ax.set_xscale("log")
                ax.xaxis.set_minor_locator(NullLocator())
            if len(values) <= 8:
                ax.xaxis.set_major_locator(FixedLocator(values))
            ax.xaxis.set_major_formatter(FuncFormatter(_tick))
            ax.set_xlabel({"train": _("training instances")}.get(axis, short_name(axis, table.axes)))
            ax.set_ylabel(metric_title(metric))
            if row == 0 and TASK in table.varied:
                ax.set_title(axis_text(block.task))
    return _with_legend(figure)


def _tick(x: float, _place: int | None) -> str:
    return integer(x) if x >= 1000 else localised(f"{x:g}")


def _lines(ax: Axes, table: StudyTable, block: Block, axis: str, metric: str, looks: dict[str, dict[str, Any]]) -> None:
    rows = [table.rows[place] for place in block.rows]
    yardsticks = [(kind, row) for kind, row in block.yardsticks if metric in row.cells]
    measured = [shown_cells(row) for row in (*rows, *(row for _, row in yardsticks))]
    begin, end = _ends_of_axis(metric, [cells[metric] for cells in measured if metric in cells])
    beyond: dict[float | None, list[str]] = {}

    right = max(x for row in table.rows if (x := as_number(row.axes.get(axis))) is not None)

    def across(cell: MetricOverSeeds, name: str, **look: Any) -> None:
        if cell.mean > end:
            beyond.setdefault(None, []).append(f"{name} {number(cell.mean)}")
        elif math.isfinite(cell.mean):
            ax.axhline(cell.mean, **look)
            name_point(ax, right, cell.mean, _values(name, metric, cell))

    for name, look in looks.items():
        # A single line needs no name: the axes of the panel say what it is.
        legend = name if len(looks) > 1 else None
        points, named = [], []
        for row in rows:
            cell = shown_cells(row).get(metric)
            if cell is None or not math.isfinite(cell.mean) or label_of(row, table, without=(axis,)) != name:
                continue
            x = as_number(row.axes.get(axis))
            if x is None:
                across(cell, name, **{**look, "marker": None}, linewidth=1.4, label=legend)
                continue
            if cell.mean > end:
                beyond.setdefault(x, []).append(number(cell.mean))
            else:
                named.append((x, cell.mean, cell))
            low, high = (cell.mean if limit is None else limit for limit in (cell.low, cell.high))
            points.append((x, cell.mean, low, high))
        if points:
            for x, value, cell in named:
                name_point(ax, x, value, {**_values(name, metric, cell), short_name(axis, table.axes): axis_text(x)})
            xs, means, lows, highs = np.array(sorted(points)).T
            ax.fill_between(xs, lows, highs, color=look["color"], alpha=0.1, linewidth=0)
            ax.plot(xs, means, **look, label=legend)
    for kind, row in yardsticks:
        # The calibration error of the priors is 0, which nothing is measured by.
        if kind != "prior" or column_named(metric).is_mean:
            name = yardstick_name(kind, row, table)
            across(shown_cells(row)[metric], name, **_ACROSS[kind], label=name)
    if begin is not None:
        ax.set_ylim(begin, end + 0.2 * (end - begin))  # with room for what is written at the edge
    # Values beyond the end of the axis stand at its edge, those of lines across in the corner.
    for x, texts in beyond.items():
        where, align = ((0.02, "axes fraction"), "left") if x is None else ((x, "data"), "center")
        ax.annotate(
            "\n".join(f"↑ {text}" for text in texts), (where[0], 0.98), xycoords=(where[1], "axes fraction"),
            ha=align, va="top", fontsize=8,
        )  # fmt: skip


def curve_names(table: StudyTable, outcomes: Sequence[Outcome]) -> list[str]:
    """The curves that the logs have: the validation metric that selects (else NCE), and the train loss."""
    chosen = table.select if _has_curve(outcomes, table.select) else "nce"
    return [name for name in (chosen, "train_loss") if _has_curve(outcomes, name)]


def curve_words(name: str) -> str:
    """A curve inside a sentence: "train loss", "validation NCE"."""
    return _("train loss") if name == "train_loss" else _("validation %(metric)s", metric=column_named(name).words)


def _has_curve(outcomes: Sequence[Outcome], name: str) -> bool:
    return any(len(curve_points(records, name)[0]) for outcome in outcomes for records in outcome.logs.values())


@styled
def study_curves(
    table: StudyTable, outcomes: Sequence[Outcome], *, names: Sequence[str] | None = None
) -> Figure | None:
    """Learning curves: a line for each configuration, the mean over its seeds, with the seeds faint behind it.

    Configurations of the same runs (with and without a calibrator) are one line. Of more than ten configurations only
    the best and those not significantly worse have a colour.

    Args:
        table: from `study_table`.
        outcomes: the same configurations, or some of them.
        names: "train_loss" or validation metrics; None for those of `curve_names`.

    Returns:
        None where the logs have not a single point.
    """
    marked = {label_of(row, table) for row in table.rows if row.mark in ("best", "tied")}
    logged = _one_for_each_run([outcome for outcome in outcomes if any(outcome.logs.values())], table, marked)
    shown = curve_names(table, logged) if names is None else [name for name in names if _has_curve(logged, name)]
    if not shown:
        return None
    tasks = list(dict.fromkeys(axis_text(outcome.axes.get(TASK)) for outcome in logged))
    titles = [label_of(outcome, table) for outcome in logged]
    coloured = list(dict.fromkeys(titles))
    if len(coloured) > _COLOURED:
        coloured = [title for title in coloured if title in marked][:_COLOURED]
    looks = {title: _look(place) for place, title in enumerate(coloured)}
    figure, grid = _panel_grid([PANEL[1]] * len(shown), len(tasks), width=PANEL[0])
    for row, name in enumerate(shown):
        for column, task in enumerate(tasks):
            ax = grid[row][column]
            # Grey lines first, so that those with a colour lie on top.
            for title, outcome in sorted(zip(titles, logged, strict=True), key=lambda pair: pair[0] in looks):
                if axis_text(outcome.axes.get(TASK)) == task:
                    _curve(ax, outcome, name, title, looks.get(title))
            if row == 0 and TASK in table.varied:
                ax.set_title(task)
            ax.set_ylabel(_("train loss (running mean)") if name == "train_loss" else curve_words(name))
            ax.set_xlabel(_("optimizer steps"))
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.set_xlim(0, None)
    return _with_legend(figure)


def _one_for_each_run(outcomes: Sequence[Outcome], table: StudyTable, marked: set[str]) -> list[Outcome]:
    """One outcome for each set of runs, of several that read the same ones a marked one if there is any."""
    groups: list[list[Outcome]] = []
    for outcome in outcomes:
        group = next((group for group in groups if group[0].logs == outcome.logs), None)
        if group is None:
            groups.append([outcome])
        else:
            group.append(outcome)
    return [next((each for each in group if label_of(each, table) in marked), group[0]) for group in groups]


def _curve(ax: Axes, outcome: Outcome, name: str, title: str, look: dict[str, Any] | None) -> None:
    curves = [curve_points(records, name) for records in outcome.logs.values()]
    curves = [(steps, values) for steps, values in curves if len(steps)]
    if name == "train_loss":
        # Single batches are noisy.
        curves = [running_mean(steps, values, max(1, len(values) // 12)) for steps, values in curves]
    if not curves:
        return
    if len(curves) > 1 and name != "train_loss" and look is not None:
        for steps, values in curves:
            ax.plot(steps, values, color=look["color"], linewidth=0.7, alpha=0.35)
    # A seed may have stopped early: the mean is taken over the steps that all seeds have.
    shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    mean = np.mean([values[np.isin(steps, shared)] for steps, values in curves], axis=0)  # (steps,)
    # Validations are few; the train loss has hundreds of points, none of which anyone looks up.
    for step, value in zip(shared, mean.tolist(), strict=True) if name != "train_loss" else ():
        named = {_("configuration"): title, _("steps"): f"{step:.0f}", column_named(name).title: number(value)}
        name_point(ax, step, value, named)
    if look is None:
        ax.plot(shared, mean, color=FAINT, linewidth=1.0, alpha=0.6, label=_("others"))
    else:
        ax.plot(shared, mean, **{**look, "marker": None}, linewidth=1.8, label=title)
