"""Figures for acting on posteriors: risk against coverage, cost curves, the threshold of two classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from rango.decisions import Costs, Posteriors
from rango.decisions.risk import bayes_threshold, risk_curve, threshold_curve
from rango.decisions.selective import risk_coverage
from rango.errors import InputError
from rango.reports.canvas import COLOURS, CYCLE, INK, MARKERS, PANEL, panels, styled
from rango.reports.tables import number, state_named

# Points of a curve that are drawn: more cannot be seen, and a million would make the file as large as the data.
_DRAWN = 400


@styled
def risk_coverage_curves(states: Mapping[str, Posteriors], *, costs: Costs | None = None) -> Figure:
    """Mean loss of the most confident share of instances against that share, one line per state.

    Args:
        states: posteriors by state ("base", "adapted", ...) or by any name.
        costs: (K, D); None for 0–1 costs, where the loss is the error rate.

    Raises:
        InputError: no states, or costs of another number of classes.
    """
    figure, (ax,) = panels(1)
    for key, colour in _colours(states).items():
        curve = risk_coverage(states[key], costs=costs)
        where = np.flatnonzero(curve.possible)
        # The leftmost points rest on a handful of instances and would set the scale by chance.
        where = where[curve.coverage[where] >= min(0.02, float(curve.coverage[where[-1]]))]
        shown = where[_thinned(len(where))]
        ax.plot(
            curve.coverage[shown],
            curve.risk[shown],
            label=f"{state_named(key).title} (area {number(curve.area)})",
            **_line(key, colour),
        )
    ax.set(xlabel="coverage (share answered, surest first)", xlim=(0, 1), ylim=(0, None))
    ax.set_ylabel("error rate of the answered" if costs is None or costs.is_zero_one else "mean cost of the answered")
    _legend(figure)
    return figure


@styled
def cost_curves(
    states: Mapping[str, Posteriors], *, family: Mapping[float, Costs], label: str, normalised: bool = True
) -> Figure:
    """Expected cost of the Bayes decisions as the costs vary, one line per state (Drummond and Holte 2006).

    Args:
        states: posteriors by state or by any name.
        family: what varies (a cost, a ratio of costs) → the costs; drawn in rising order.
        label: of the axis: what varies.
        normalised: divide by the best constant decision under the same costs, which is then the line at 1.

    Raises:
        InputError: no states, an empty family, costs of another number of classes, or nothing to normalise by.
    """
    figure, (ax,) = panels(1)
    points = sorted(family)
    for key, colour in _colours(states).items():
        curve = risk_curve(states[key], family=[family[point] for point in points])
        values = curve.normalised if normalised else curve.expected
        if not np.isfinite(values).any():
            raise InputError(
                f"the best constant decision costs nothing on the {len(states[key]):,} instances of "
                f"{state_named(key).title!r}, so nothing normalises; give instances with more than one label"
            )
        ax.plot(points, values, label=state_named(key).title, **_line(key, colour))
        naive = curve.naive
    if normalised:
        ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="Best constant decision")
    else:
        ax.plot(points, naive, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="Best constant decision")
    ax.set(xlabel=label, ylim=(0, None), xlim=(points[0], points[-1]) if len(points) > 1 else None)
    ax.set_ylabel("normalised expected cost" if normalised else "expected cost")
    _legend(figure)
    return figure


def abstention_costs(n_classes: int, *, points: int = 40) -> dict[float, Costs]:
    """0–1 costs with one more decision, abstaining, at a cost from near 0 to where guessing is as good: 1 − 1/K."""
    wrong = Costs.zero_one(n_classes)
    top = 1.0 - 1.0 / n_classes
    return {float(cost): wrong.with_abstention(float(cost)) for cost in np.linspace(top / points, top, points)}


@styled
def threshold_plot(states: Mapping[str, Posteriors], *, costs: Costs) -> Figure:
    """Two classes: expected cost against the threshold on the posterior of class 1, one line per state.

    The dashed line is the threshold of the Bayes decision, a / (a + b) with a, b what a wrong 1 and a wrong 0 cost more
    than being right; a circle marks the least cost on these very instances. Calibrated posteriors need no search: the
    nearer the two, the better calibrated where it matters.

    Args:
        states: posteriors of two classes by state or by any name.
        costs: (2, 2).

    Raises:
        InputError: no states, not two classes, costs that are not 2 by 2 or that reward an error.
    """
    figure, (ax,) = panels(1)
    bayes = float(expit(bayes_threshold(costs, priors=[0.5, 0.5])))
    for key, colour in _colours(states).items():
        curve = threshold_curve(states[key], costs=costs)
        # On the posterior, -inf and +inf are the ends 0 and 1.
        shares = expit(curve.thresholds)
        shown = _thinned(len(shares))
        ax.plot(
            shares[shown],
            curve.expected[shown],
            drawstyle="steps-pre",
            label=state_named(key).title,
            **_line(key, colour),
        )
        ax.plot([float(expit(curve.best))], [curve.least], "o", color=colour, markersize=10, markerfacecolor="none")
    ax.axvline(bayes, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=f"Bayes threshold {bayes:.2f}")
    ax.set(xlabel=f"threshold on the posterior of {costs.classes[1]!r}", xlim=(0, 1), ylim=(0, None))
    ax.set_ylabel("expected cost")
    _legend(figure)
    return figure


def _colours(states: Mapping[str, Posteriors]) -> dict[str, str]:
    """A colour for each state, its own or the next free one."""
    if not states:
        raise InputError("no posteriors to draw; give at least one state")
    free = iter([colour for colour in CYCLE if colour not in {COLOURS.get(key) for key in states}] * len(states))
    return {key: COLOURS[key] if key in COLOURS else next(free) for key in states}


def _thinned(count: int) -> np.ndarray:
    """Indices of at most _DRAWN points, the ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, _DRAWN)).round().astype(np.int64))


def _line(key: str, colour: str) -> dict[str, Any]:
    """How the line of a state looks: told apart by its marker too, where colours are not seen."""
    return {"color": colour, "marker": MARKERS.get(key), "markevery": 0.2, "markersize": 5}


def _legend(figure: Figure) -> None:
    """A legend above the axes, where it hides nothing, on room of its own."""
    ax = figure.axes[0]
    handles, _ = ax.get_legend_handles_labels()
    figure.set_size_inches(PANEL[0], PANEL[1] + 0.17 * len(handles))
    figure.legend(handles=handles, loc="outside upper left")
