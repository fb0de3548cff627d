"""Figures of a run: learning curves, states with their intervals, reliability. Each function returns a `Figure`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import stats

from rango.decisions import Estimate, Posteriors
from rango.decisions.calibration_error import ReliabilityBins, reliability_bins
from rango.errors import InputError
from rango.reports.canvas import BLUE, COLOURS, FAINT, INK, MARKERS, PANEL, panels, styled
from rango.reports.tables import Table, column_named, state_named

Records = Sequence[Mapping[str, Any]]
"""The records of a log.jsonl."""


@styled
def learning_curves(
    records: Records, *, curves: Sequence[str] = ("train_loss", "nce", "error_rate"), loss_unit: str = "nats"
) -> Figure:
    """Train loss and validation metrics against optimizer steps, one panel each, the best checkpoint marked.

    Args:
        records: of a log.jsonl: `step`, `train_loss`, and at validation steps `validation` and `best`.
        curves: "train_loss" or names of validation metrics.
        loss_unit: unit of the train loss; a Brier loss has none.

    Raises:
        InputError: a curve without a single finite point.
    """
    figure, axes = panels(len(curves))
    for ax, name in zip(axes, curves, strict=True):
        steps, values = curve_points(records, name)
        if not len(steps):
            raise InputError(f"the log has no finite value of {name!r}; expected at least one to draw its curve")
        if name == "train_loss":
            _train_loss(ax, steps, values, loss_unit)
        else:
            _validation(ax, name, steps, values, best_step(records))
        ax.set_xlabel("optimizer steps")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlim(0, 1.04 * max(1, *(float(record.get("step", 0)) for record in records)))
    return figure


def curve_points(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one curve, finite values only."""
    pairs = []
    for record in records:
        source = record if name == "train_loss" else record.get("validation") or {}
        value = source.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            pairs.append((float(record["step"]), float(value)))
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def best_step(records: Records) -> int | None:
    """The step of the last record that was marked the best so far: that of the checkpoint `adapter/best`."""
    return next((int(record["step"]) for record in reversed(records) if record.get("best")), None)


def _train_loss(ax: Axes, steps: np.ndarray, values: np.ndarray, unit: str) -> None:
    ax.set_title("Train loss")
    window = len(values) // 12
    if window < 3:
        ax.plot(steps, values, color=INK, marker="o" if len(values) == 1 else None)
        ax.set_ylabel(unit)
        return
    # Single batches are noisy: the raw losses stay visible behind their mean, which starts where it is complete.
    ax.plot(steps, values, color=FAINT, linewidth=0.8, alpha=0.7)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(steps[window - 1 :], mean, color=INK)
    ax.set_ylabel(f"{unit} (line: mean of {window})".strip())


def _validation(ax: Axes, name: str, steps: np.ndarray, values: np.ndarray, best: int | None) -> None:
    title = column_named(name).title
    ax.set_title(f"Validation {title if title.isupper() else title.lower()}")
    ax.plot(steps, values, color=BLUE, marker="o")
    if name == "nce" and values.max() > 0.8 and values.min() < 1.25:
        ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.annotate("priors", (1, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    where = np.flatnonzero(steps == best)
    if len(where):
        x, y = steps[where[0]], values[where[0]]
        ax.plot([x], [y], marker="o", markersize=10, markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.6)
        right, rising = x > steps.mean(), column_named(name).direction == "higher"
        ax.annotate(
            f"best: {y:.3f} at step {best}",
            (x, y),
            # A falling curve leaves room below its best point, a rising one above.
            xytext=(8 if right else -8, 12 if rising else -12),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if rising else "top",
            fontsize=8.5,
        )
        ax.margins(y=0.2)


@styled
def state_intervals(table: Table, *, metrics: Sequence[str] = ("nce", "error_rate")) -> Figure:
    """Each state of the model as a dot with its interval, one panel per metric: how far from priors and floor.

    Args:
        table: from `result_rows`.
        metrics: columns of the table to draw; those it lacks are left out.

    Raises:
        InputError: the table has none of the metrics.
    """
    keys = [column.key for column in table.columns]
    shown = [metric for metric in metrics if metric in keys]
    if not shown:
        raise InputError(f"the table has none of {', '.join(metrics)}; expected at least one of: {', '.join(keys)}")
    figure, axes = panels(len(shown), height=0.9 + 0.33 * len(table.rows))
    for ax, metric in zip(axes, shown, strict=True):
        column = column_named(metric)
        _dots(ax, table, keys.index(metric))
        ax.set_xlabel(f"{column.title} ({column.direction} is better)")
        if ax is not axes[0]:
            ax.tick_params(axis="y", labelleft=False)
    return figure


def _dots(ax: Axes, table: Table, index: int) -> None:
    count = len(table.rows)
    for position, row in enumerate(table.rows):
        cell, key = row.cells[index], row.state.key
        if cell is None or not math.isfinite(cell.value):
            continue
        colour, y = COLOURS.get(key, INK), count - 1 - position
        if key in ("prior", "floor"):
            ax.axvline(cell.value, color=colour, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        _whisker(ax, cell, y, colour)
        marker = MARKERS.get(key, "o")
        ax.plot([cell.value], [y], color=colour, marker=marker, markersize=9 if marker in "*|" else 6, linestyle="none")
    ax.set_yticks(range(count), [row.state.title for row in reversed(table.rows)])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.6, count - 0.4)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.08)


def _whisker(ax: Axes, cell: Estimate, y: float, colour: str) -> None:
    if cell.low is not None and cell.high is not None and math.isfinite(cell.low) and math.isfinite(cell.high):
        ax.plot([cell.low, cell.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")


@styled
def reliability_diagram(states: Mapping[str, Posteriors], *, bins: int = 15) -> Figure:
    """Accuracy against confidence of the most probable choice, one panel per state, with the counts below.

    The grey bars are consistency bars (Bröcker and Smith 2007, Weather and Forecasting 22, 651): where the accuracy of
    a bin falls in 95 of 100 samples of this size if the posteriors are calibrated. A point outside is evidence; a point
    inside is not a proof.

    Args:
        states: posteriors by state ("base", "adapted", ...).
        bins: of equal width over [0, 1]; empty ones are not drawn.
    """
    figure = Figure(figsize=(PANEL[0] * len(states), PANEL[1] * 1.25), layout="constrained")
    grid = figure.add_gridspec(2, len(states), height_ratios=[4, 1], hspace=0.0)
    for column, (key, posteriors) in enumerate(states.items()):
        top = figure.add_subplot(grid[0, column])
        below = figure.add_subplot(grid[1, column], sharex=top)
        top.set_title(state_named(key).title)
        _reliability(top, below, posteriors, bins, COLOURS.get(key, BLUE), MARKERS.get(key, "o"))
    return figure


def consistency_bars(bins: ReliabilityBins, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Where the accuracy of each bin falls with this probability if the posteriors are calibrated: low, high (M,).

    Quantiles of Binomial(N_b, confidence_b) / N_b; NaN in an empty bin. The exact law, a sum of Bernoulli variables
    with the instances' own confidences, is never wider (Hoeffding 1956).
    """
    counts = np.maximum(bins.counts, 1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = (np.asarray(stats.binom.ppf(tail, counts, bins.confidence)) / counts for tail in tails)
    return low, high


def _reliability(top: Axes, below: Axes, posteriors: Posteriors, bins: int, colour: str, marker: str) -> None:
    binned = reliability_bins(posteriors.log_posteriors, posteriors.labels, bins=bins)
    low, high = consistency_bars(binned)
    top.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    width = 0.55 / bins
    for x, bottom, end in zip(binned.confidence, low, high, strict=True):
        if math.isfinite(x):
            top.add_patch(Rectangle((x - width / 2, bottom), width, end - bottom, color=FAINT, alpha=0.45, linewidth=0))
    filled = binned.counts > 0
    top.plot(binned.confidence[filled], binned.accuracy[filled], color=colour, marker=marker, markersize=5.5)
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy")
    top.tick_params(labelbottom=False)
    centres, widths = (binned.edges[1:] + binned.edges[:-1]) / 2, np.diff(binned.edges)
    below.bar(centres, binned.counts, width=widths * 0.86, color=colour, alpha=0.75)
    below.set(xlabel="confidence (posterior of the most probable choice)", ylabel="count")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.grid(visible=False, axis="x")
