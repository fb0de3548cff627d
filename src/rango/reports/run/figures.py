"""Figures of a run: learning curves, states with intervals, reliability, and what helps to act on posteriors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import stats
from scipy.special import expit

from rango.decisions import Costs, Gate, Judgement, Posteriors
from rango.decisions.gates import GateSample
from rango.decisions.reliability import ReliabilityBins, reliability_bins
from rango.decisions.risk import bayes_threshold, risk_coverage, risk_curve, threshold_curve
from rango.decisions.thresholds import binomial_interval
from rango.errors import InputError
from rango.reports.language import _, integer, localised, percent
from rango.reports.style import (
    BLUE,
    DASHED,
    FAINT,
    INK,
    ORANGE,
    PANEL,
    Figure,
    label_rows,
    line_looks,
    name_point,
    outlier_limit,
    panel,
    styled,
)
from rango.reports.tables import Table, better, column_named, interval, number, state_named

Records = Sequence[Mapping[str, Any]]
"""The records of a log.jsonl."""

_DRAWN = 400
"""Points of a curve that are drawn: more cannot be seen, and a million would make the file as large as the data."""


@styled
def learning_curve(records: Records, name: str, *, loss_unit: str = "nats") -> Figure:
    """Train loss or a validation metric against optimizer steps, the best checkpoint marked.

    Args:
        records: of a log.jsonl: `step`, `train_loss`, and at validation steps `validation` and `best`.
        name: "train_loss" or a validation metric.
        loss_unit: unit of the train loss; a Brier loss has none.

    Raises:
        InputError: a curve without a single finite point.
    """
    figure, ax = panel()
    steps, values = curve_points(records, name)
    if not len(steps):
        raise InputError(f"the log has no finite value of {name!r}; expected at least one to draw its curve")
    if name == "train_loss":
        _train_loss(ax, steps, values, loss_unit)
    else:
        _validation(ax, name, steps, values, best_step(records))
    ax.set_xlabel(_("optimizer steps"))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    # All curves of a run end at its last step, also those of validation, which may have been some steps earlier.
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


def curve_names(records: Records) -> list[str]:
    """What a log has curves of: the train loss, and the metrics of its validations."""
    names = dict.fromkeys(name for record in records for name in record.get("validation") or {})
    return [name for name in ("train_loss", *names) if len(curve_points(records, name)[0])]


def best_step(records: Records) -> int | None:
    """The step of the last record that was marked the best so far: that of the checkpoint `adapter/best`."""
    return next((int(record["step"]) for record in reversed(records) if record.get("best")), None)


def running_mean(steps: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the last `window` values against steps, from the first step where it is complete."""
    return steps[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def _train_loss(ax: Axes, steps: np.ndarray, values: np.ndarray, unit: str) -> None:
    ax.set_title(_("Train loss"))
    for place in _spread(len(values)):
        named = {_("step"): f"{steps[place]:.0f}", _("train loss"): number(values[place])}
        name_point(ax, steps[place], values[place], named)
    window = len(values) // 12
    if window < 3:
        ax.plot(steps, values, color=INK, marker="o" if len(values) == 1 else None)
        ax.set_ylabel(unit)
        return
    # Single batches are noisy: the raw losses stay visible behind their mean.
    ax.plot(steps, values, color=FAINT, linewidth=0.8, alpha=0.7)
    ax.plot(*running_mean(steps, values, window), color=INK)
    ax.set_ylabel(_("%(unit)s (line: mean of %(window)s)", unit=unit, window=window).strip())


def _validation(ax: Axes, name: str, steps: np.ndarray, values: np.ndarray, best: int | None) -> None:
    column = column_named(name)
    title = column.title if column.title.isupper() else column.title.lower()
    heading = _("Validation %(metric)s", metric=title)
    ax.set_title(heading[0].upper() + heading[1:])
    ax.plot(steps, values, color=BLUE, marker="o")
    for step, value in zip(steps, values, strict=True):
        name_point(ax, step, value, {_("step"): f"{step:.0f}", column.title: number(value)})
    # A first validation of a model that answers nonsense must not flatten what was learnt afterwards.
    limit = outlier_limit(values) if column.direction == "lower" else None
    if limit is not None:
        beyond = values > limit
        span = limit - float(values.min())
        ax.set_ylim(values.min() - 0.3 * span, limit + 0.25 * span)
        for place in np.flatnonzero(beyond).tolist():
            # Right of where the line comes back into the panel, so that it crosses neither the words nor the axis.
            step = float(steps[min(place + 1, len(steps) - 1)])
            words, last = f"  {number(float(values[place]))} ↑", place + 1 == len(steps)
            _beyond(ax, words, (step, 0.99), ha="right" if last else "left", va="top", x_in_data=True)
    # The line of the priors is left out where it is so far away that the curve would look flat.
    if name == "nce" and values.max() > 0.8 and values.min() < 1.25:
        ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=DASHED)
        ax.annotate(_("priors"), (1, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    # Chosen by one metric: of another one it need not be the best value.
    where = np.flatnonzero(steps == best)
    if len(where):
        x, y = steps[where[0]], values[where[0]]
        ax.plot([x], [y], marker="o", markersize=10, markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.6)
        right, rising = x > steps.mean(), column.direction == "higher"
        ax.annotate(
            _("chosen: %(value)s at step %(step)s", value=localised(f"{y:.3f}"), step=best),
            (x, y),
            # A falling curve leaves room below its best point, a rising one above.
            xytext=(8 if right else -8, 12 if rising else -12),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if rising else "top",
            fontsize=8.5,
        )
        if limit is None:
            # Room for two rows of text, so that the words stand neither on the ticks nor on the title.
            ax.margins(y=0.28)


def _beyond(ax: Axes, text: str, place: tuple[float, float], *, ha: str, va: str, x_in_data: bool) -> None:
    """Write what lies beyond the scale at its edge; one of the two coordinates is a share of the axes."""
    transform = ax.get_xaxis_transform() if x_in_data else ax.get_yaxis_transform()
    ax.text(*place, text, transform=transform, ha=ha, va=va, fontsize=8.5, color=INK)


@styled
def state_intervals(table: Table, metric: str) -> Figure:
    """Each state of the model as a dot with its interval, priors and floor as lines: how far from either.

    A state that is far worse than the others stands at the edge with an arrow and its value.

    Args:
        table: from `result_rows`.
        metric: one of its columns.
    """
    index = [column.name for column in table.columns].index(metric)
    title = table.columns[index].title
    figure, ax = panel(height=0.9 + 0.33 * len(table.rows))
    cells = [row.cells[index] for row in table.rows]
    values = [cell.value for cell in cells if cell is not None]
    limit = outlier_limit(values) if table.columns[index].direction == "lower" else None
    if limit is not None:
        # The scale holds the intervals of what it shows, unless one alone is so wide that it would flatten the rest.
        kept = [cell for cell in cells if cell is not None and cell.value <= limit]
        ends = [
            end for cell in kept for end in (cell.low, cell.value, cell.high) if end is not None and end <= 2 * limit
        ]
        span = max(ends) - min(ends) or max(ends) or 1.0
        ax.set_xlim(min(ends) - 0.08 * span, max(ends) + 0.55 * span)
    looks = line_looks([row.state.key for row in table.rows])
    for position, (row, cell) in enumerate(zip(table.rows, cells, strict=True)):
        key, y = row.state.key, len(table.rows) - 1 - position
        if cell is None or math.isnan(cell.value):
            continue
        colour, marker = looks[key]["color"], looks[key]["marker"]
        named = {_("state"): row.state.title, title: number(cell.value), _("95% interval"): interval(cell)}
        if math.isinf(cell.value) or (limit is not None and cell.value > limit):
            _beyond(ax, f"{number(cell.value)} →", (0.99, y), ha="right", va="center", x_in_data=False)
            name_point(ax, ax.get_xlim()[1] if limit is not None else 1.0, y, named)
            continue
        if key in ("prior", "floor"):
            # The two ends of the scale are lines, so that the distance of every state to them can be seen.
            ax.axvline(cell.value, color=colour, linewidth=1.0, linestyle=DASHED, zorder=1)
        if cell.low is not None and cell.high is not None and math.isfinite(cell.low) and math.isfinite(cell.high):
            ax.plot([cell.low, cell.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
        size = 9 if marker in "*|" else 6
        ax.plot([cell.value], [y], color=colour, marker=marker, markersize=size, linestyle="none")
        name_point(ax, cell.value, y, named)
    label_rows(ax, [row.state.title for row in table.rows])
    if limit is None:
        ax.margins(x=0.08)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(f"{title} ({better(table.columns[index].direction)})")
    return figure


@styled
def reliability_diagram(
    posteriors: Posteriors, state: str, *, bins: int = 15, look: Mapping[str, str] | None = None
) -> Figure:
    """Accuracy against confidence of the most probable choice, with the counts below.

    The grey bars are consistency bars (Bröcker and Smith 2007, Weather and Forecasting 22, 651): where the accuracy of
    a bin falls in 95 of 100 samples of this size if the posteriors are calibrated. A point outside is evidence; a point
    inside is not a proof.

    Args:
        posteriors: with labels.
        state: of the model ("base", "adapted", ...), for title and colour.
        bins: of equal width over [0, 1]; empty ones are not drawn.
        look: colour and marker, as `line_looks` gives them to systems that are compared; those of the state if absent.
    """
    figure = Figure(figsize=(PANEL[0], PANEL[1] * 1.25), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[4, 1], hspace=0.0)
    colour, marker = (look or line_looks([state])[state]).values()
    truth = posteriors.labels if posteriors.targets is None else posteriors.targets
    binned = reliability_bins(posteriors.log_posteriors, truth, bins=bins)

    top = figure.add_subplot(grid[0, 0])
    top.set_title(state_named(state).title)
    top.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=DASHED, zorder=1)
    width = 0.55 / bins
    for x, low, high in zip(binned.confidence, *consistency_bars(binned), strict=True):
        # The confidence of an empty bin is NaN. Shares of annotators spread less than one label does: no bars.
        if math.isfinite(x) and posteriors.targets is None:
            top.add_patch(Rectangle((x - width / 2, low), width, high - low, color=FAINT, alpha=0.45, linewidth=0))
    filled = binned.counts > 0
    points = binned.confidence[filled], binned.accuracy[filled]
    top.plot(*points, color=colour, marker=marker, markersize=5.5, clip_on=False)
    for place in np.flatnonzero(filled):
        named = {
            _("confidence"): number(float(binned.confidence[place])),
            _("accuracy"): number(float(binned.accuracy[place])),
            _("instances"): integer(binned.counts[place]),
        }
        name_point(top, float(binned.confidence[place]), float(binned.accuracy[place]), named)
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel=_("accuracy"))
    top.tick_params(labelbottom=False)

    below = figure.add_subplot(grid[1, 0], sharex=top)
    centres, widths = (binned.edges[1:] + binned.edges[:-1]) / 2, np.diff(binned.edges)
    below.bar(centres, binned.counts, width=widths * 0.86, color=colour, alpha=0.75)
    below.set(xlabel=_("posterior of the most probable choice"), ylabel=_("count"))
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.grid(visible=False, axis="x")
    return figure


def consistency_bars(bins: ReliabilityBins, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Where the accuracy of each bin falls with this probability if the posteriors are calibrated: low, high (M,).

    Quantiles of Binomial(N_b, confidence_b) / N_b; NaN in an empty bin. The exact law, a sum of Bernoulli variables
    with the instances' own confidences, is never wider (Hoeffding 1956).
    """
    counts = np.maximum(bins.counts, 1)  # (M,)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = (np.asarray(stats.binom.ppf(tail, counts, bins.confidence)) / counts for tail in tails)
    return low, high


@styled
def risk_coverage_curves(states: Mapping[str, Posteriors], *, costs: Costs | None = None) -> Figure:
    """Mean loss of the most confident share of instances against that share, one line per state.

    Args:
        states: posteriors by state ("base", "adapted", ...) or by any name.
        costs: (K, D); None for 0–1 costs, where the loss is the error rate.

    Raises:
        InputError: no states, or costs of another number of classes.
    """
    figure, ax = panel()
    errors = costs is None or costs.is_zero_one
    risk = _("error rate") if errors else _("mean cost")
    for key, look in _looks_of(states).items():
        curve = risk_coverage(states[key], costs=costs)
        where = np.flatnonzero(curve.possible)
        # The leftmost points are means of a handful of instances, which would set the scale by chance.
        where = where[curve.coverage[where] >= min(0.02, float(curve.coverage[where[-1]]))]
        shown = where[_thinned(len(where))]
        ax.plot(
            curve.coverage[shown],
            curve.risk[shown],
            label=_("%(state)s (area %(area)s)", state=state_named(key).title, area=number(curve.area)),
            **look,
        )
        for place in where[_spread(len(where))]:
            named = {
                _("state"): state_named(key).title,
                _("coverage"): number(curve.coverage[place]),
                risk: number(curve.risk[place]),
            }
            name_point(ax, float(curve.coverage[place]), float(curve.risk[place]), named)
    ax.set(xlabel=_("coverage (share answered, surest first)"), xlim=(0, 1), ylim=(0, None))
    ax.set_ylabel(_("error rate of the answered") if errors else _("mean cost of the answered"))
    _legend(figure)
    return figure


@styled
def gate_curve(gate: Gate | None, judgement: Judgement | None, posteriors: Posteriors) -> Figure:
    """Error of what is acted on against coverage as the threshold varies, with a band, and the chosen gate.

    The band is the exact binomial interval at each coverage, one at a time. Of several thresholds, by class, one and
    the same limit on the doubt of every class is drawn.

    Args:
        gate: chosen for one aim; None to act on the surest, where every error costs the same.
        judgement: of the gate; its point has the intervals of both axes.
        posteriors: N instances with labels, those that judged it.
    """
    figure, ax = panel()
    if gate is None:
        doubt = -posteriors.log_posteriors.max(axis=1)  # (N,) rises with 1 − q, also where q rounds to one
        wrong, level = posteriors.log_posteriors.argmax(axis=1) != posteriors.labels, 0.95
    else:
        sample, level = GateSample.of(gate, posteriors), gate.level
        doubt, wrong = sample.doubt, sample.wrong
    order = np.argsort(doubt, kind="stable")
    counts, errors = np.arange(1, len(order) + 1), np.cumsum(wrong[order])
    # A limit never parts equal doubts, and of the first few instances an error rate says nothing.
    steps = np.flatnonzero(np.append(np.diff(doubt[order]) > 0, True))
    steps = steps[counts[steps] >= min(10, len(order))]
    steps = steps[_thinned(len(steps))]
    coverage = counts[steps] / len(order)
    ends = np.array([binomial_interval(int(errors[i]), int(counts[i]), level=level) for i in steps])  # (steps, 2)
    band, share = _("%(level)s interval", level=percent(level)), _("coverage")
    ax.fill_between(coverage, *ends.T, color=BLUE, alpha=0.18, linewidth=0, label=band)
    ax.plot(coverage, errors[steps] / counts[steps], color=BLUE)
    for place in _spread(len(steps)):
        x, y = float(coverage[place]), float(errors[steps[place]] / counts[steps[place]])
        low, high = map(float, ends[place])
        words = _("%(low)s to %(high)s", low=number(low), high=number(high))
        name_point(ax, x, y, {share: number(x), _("error rate"): number(y), band: words})
    wanted = gate.max_error if gate is not None else None
    if wanted is not None:
        ax.axhline(wanted, color=INK, linewidth=1.0, linestyle=DASHED, label=_("largest error wanted"))
    if judgement is not None and judgement.coverage.value > 0:
        spans = []
        for each in (judgement.coverage, judgement.error):
            low, high = (each.value if end is None else end for end in (each.low, each.high))
            spans.append([[max(0.0, each.value - low)], [max(0.0, high - each.value)]])
        x, y = judgement.coverage.value, judgement.error.value
        ax.errorbar([x], [y], xerr=spans[0], yerr=spans[1], color=ORANGE, marker="D", label=_("the gate"))
        named = {share: number(x), _("error rate"): number(y), band: interval(judgement.error)}
        name_point(ax, x, y, named)
    top = max(float(errors[-1] / len(order)), wanted or 0.0, 0.02)
    ax.set(xlabel=_("coverage (share acted on)"), xlim=(0, 1), ylim=(0, 1.6 * top))
    ax.set_ylabel(_("error of what is acted on"))
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
    figure, ax = panel()
    points = sorted(family)
    measure = _("normalised expected cost") if normalised else _("expected cost")
    highest: dict[str, float] = {}
    lines = {}
    for key, look in _looks_of(states).items():
        curve = risk_curve(states[key], family=[family[point] for point in points])
        values = curve.normalised if normalised else curve.expected
        if not np.isfinite(values).any():
            raise InputError(
                f"the best constant decision costs nothing on the {len(states[key]):,} instances of "
                f"{state_named(key).title!r}, so nothing normalises; give instances with more than one label"
            )
        (lines[key],) = ax.plot(points, values, label=state_named(key).title, **look)
        for place in _spread(len(points)):
            if np.isfinite(values[place]):
                title = state_named(key).title
                named = {_("state"): title, label: number(points[place]), measure: number(values[place])}
                name_point(ax, points[place], values[place], named)
        highest[key] = float(np.nanmax(values))
        naive = curve.naive  # the same in every pass: it depends on the labels only
    if normalised:
        ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=DASHED, label=_("Best constant decision"))
    else:
        ax.plot(points, naive, color=INK, linewidth=1.0, linestyle=DASHED, label=_("Best constant decision"))
    ax.set(xlabel=label, ylim=(0, None), xlim=(points[0], points[-1]) if len(points) > 1 else None)
    ax.set_ylabel(measure)
    limit = outlier_limit([*highest.values(), 1.0] if normalised else highest.values())
    if limit is not None:
        ax.set_ylim(0, 1.2 * limit)
        # Inside the panel the words would lie on the lines that are kept.
        for key, high in highest.items():
            if high > limit:
                words = _("%(state)s up to %(value)s", state=state_named(key).title, value=number(high))
                lines[key].set_label(f"{words} ↑")
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
    figure, ax = panel()
    bayes = float(expit(bayes_threshold(costs, priors=[0.5, 0.5])))
    for key, look in _looks_of(states).items():
        curve = threshold_curve(states[key], costs=costs)
        # The thresholds are log odds; on the posterior, -inf and +inf are the ends 0 and 1.
        posterior = expit(curve.thresholds)
        shown = _thinned(len(posterior))
        ax.plot(posterior[shown], curve.expected[shown], drawstyle="steps-pre", label=state_named(key).title, **look)
        best = float(expit(curve.best))
        ax.plot([best], [curve.least], "o", color=look["color"], markersize=10, markerfacecolor="none")
    ax.axvline(
        bayes,
        color=INK,
        linewidth=1.0,
        linestyle=DASHED,
        label=_("Bayes threshold %(value)s", value=localised(f"{bayes:.2f}")),
    )
    ax.set(xlabel=_("threshold on the posterior of %(name)r", name=costs.classes[1]), xlim=(0, 1), ylim=(0, None))
    ax.set_ylabel(_("expected cost"))
    _legend(figure)
    return figure


def _looks_of(states: Mapping[str, Posteriors]) -> dict[str, dict[str, Any]]:
    """How the line of each state looks."""
    if not states:
        raise InputError("no posteriors to draw; give at least one state")
    return {key: {**look, "markevery": 0.2, "markersize": 5} for key, look in line_looks(list(states)).items()}


def _thinned(count: int) -> np.ndarray:
    """Indices of at most _DRAWN points, the ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, _DRAWN)).round().astype(np.int64))


def _spread(count: int) -> np.ndarray:
    """Indices of some ten points of a curve, the ends included: those whose values are named."""
    return np.unique(np.linspace(0, count - 1, min(count, 11)).round().astype(np.int64))


def _legend(figure: Figure) -> None:
    """Put a legend above the axes, where it hides nothing, and make the figure higher by as much."""
    ax = figure.axes[0]
    handles = ax.get_legend_handles_labels()[0]
    figure.set_size_inches(PANEL[0], PANEL[1] + 0.17 * len(handles))
    figure.legend(handles=handles, loc="outside upper left")
