"""The metrics of a configuration over seeds and test instances, and which configurations are worse than the best.

Configurations that share their test instances are measured and compared together:

    measure   for each configuration and metric: mean over seeds, spread over seeds, bootstrap interval over instances
    losses    for each configuration: the loss of each instance behind the metric that selects, mean over seeds
    rank      the best mean, and for each other configuration a paired bootstrap of its losses against the best
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rango.decisions import METRICS, Costs, Posteriors, Resampling, holm
from rango.decisions.arrays import Array
from rango.decisions.bootstrap import LossTable, percentile_interval
from rango.decisions.normaliser import Normaliser, normalisers_of
from rango.decisions.significance import paired_p_values
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError, unknown_name

Mark = Literal["best", "tied", "worse", ""]
"""The best of its block, not significantly worse than the best, significantly worse, or not ranked."""
Side = Literal["better", "worse", "open"]
"""Significantly better or worse than the base model; open: the difference is not significant."""

LEVEL = 0.95
"""Nominal coverage of the intervals, a fraction."""
ALPHA = 0.05
"""Probability of calling any difference significant in a block where no configurations differ."""
# R replicates give no p below 1 / (R + 1), which the correction multiplies by the number of comparisons: with 50 each,
# the smallest corrected p is 0.02.
_REPLICATES_PER_COMPARISON = 50


@dataclass(frozen=True)
class Change:
    """By how much a configuration differs from the centre of its study in one metric."""

    value: float
    """Its mean over seeds less that of the centre."""
    low: float | None
    """Lower end of the paired 95 % bootstrap interval, for the sampling of test instances; None where there is none."""
    high: float | None
    """Upper end of it."""
    p: float | None = None
    """p-value of no difference, Holm-corrected over the block; None where the metric is no mean over instances."""


@dataclass(frozen=True)
class MetricOverSeeds:
    """One metric of one configuration. Two kinds of noise, kept apart."""

    mean: float
    """Mean over seeds; infinite or NaN where a seed's value is."""
    spread: float | None
    """Standard deviation over seeds (training noise), with n − 1; None for one seed or a value that is not finite."""
    low: float | None
    """Lower end of the 95 % bootstrap interval of the mean over seeds, for the sampling of test instances."""
    high: float | None
    """Upper end of it."""
    values: tuple[float, ...]
    """The value of each seed, in the order of the seeds."""
    note: str | None = None
    """What must be known to read the mean: why it is infinite or undefined."""
    change: Change | None = None
    """The difference from the centre, in a study that changes one thing at a time; None for the centre itself."""


def only_value(value: float) -> MetricOverSeeds:
    """A number that has neither seeds nor an interval, such as what a source states."""
    return MetricOverSeeds(value, None, None, None, (value,))


@dataclass(frozen=True, eq=False)
class SharedInstances:
    """The test instances that the configurations of a block share, in the order of the first configuration."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None

    @classmethod
    def of(cls, systems: Sequence[Posteriors]) -> SharedInstances:
        """All instances of the systems, each once."""
        label_and_group: dict[str, tuple[int, str]] = {}
        for system in systems:
            groups = system.ids if system.groups is None else system.groups
            for name, label, group in zip(system.ids, system.strata.tolist(), groups, strict=True):
                label_and_group.setdefault(name, (label, group))
        labels = np.array([label for label, _ in label_and_group.values()], dtype=np.int64)
        grouped = any(system.groups is not None for system in systems)
        return cls(tuple(label_and_group), labels, tuple(g for _, g in label_and_group.values()) if grouped else None)

    def rows(self, system: Posteriors) -> NDArray[np.intp]:
        """The place of each instance of a system among these."""
        if system.ids == self.ids:
            return np.arange(len(self.ids))
        place = {name: row for row, name in enumerate(self.ids)}
        return np.array([place[name] for name in system.ids], dtype=np.intp)


def fitting_costs(system: Posteriors, costs: StatedCosts | None) -> Costs:
    """The study's costs for the number of choices of a system; 0–1 costs where there are none that fit."""
    fitting = None if costs is None or not costs.applies_to(system) else costs.fitting(system.n_choices)
    return Costs.zero_one(system.n_choices) if fitting is None else system.match_costs(fitting)


def measure(
    configurations: Sequence[Mapping[int, Posteriors]],
    *,
    instances: SharedInstances,
    metrics: Sequence[str],
    costs: StatedCosts | None,
    replicates: int,
    seed: int,
    centre: int | None = None,
) -> list[dict[str, MetricOverSeeds]]:
    """Each metric of each configuration, all resampled on the same draws of test instances.

    In every replicate each seed's metric is computed on the instances drawn (whole groups where there are any), and
    the mean over seeds is taken; the interval is that of this mean. Training noise is not in it: that is the spread.

    Args:
        configurations: for each, seed → posteriors; at least one seed.
        instances: the instances of all of them.
        metrics: names; those of costs only where `costs` fit the number of choices.
        costs: of decisions, or None.
        replicates: bootstrap replicates; 0 for no intervals.
        seed: of the bootstrap.
        centre: the configuration from which the changes are measured, on the same draws.
    """
    resampling = Resampling(instances.labels, seed=seed, groups=instances.groups)
    prepared = [
        [
            _Resampled.of(system, _measurable(metrics, seeds, costs), instances, resampling, costs)
            for system in seeds.values()
        ]
        for seeds in configurations
    ]
    replicate_means = _replicate_means(prepared, resampling, replicates)
    result = []
    for seeds, systems, means in zip(configurations, prepared, replicate_means, strict=True):
        cells = {}
        for name in _measurable(metrics, seeds, costs):
            values = np.array([s.metric(name, costs=fitting_costs(s, costs)) for s in seeds.values()])  # (seeds,)
            finite, mean = bool(np.isfinite(values).all()), float(values.mean())
            # Only replicates that are corrected for few instances per class can leave the mean outside.
            held = mean if METRICS[name].reference is not None else math.nan
            low, high = (percentile_interval(means[name], level=LEVEL, value=held) if means else None) or (None, None)
            notes = [each.normalisers[name].note for each in systems if name in each.normalisers]
            cells[name] = MetricOverSeeds(
                mean=mean,
                spread=float(values.std(ddof=1)) if finite and len(values) > 1 else None,
                low=low,
                high=high,
                values=tuple(values.tolist()),
                note=next(filter(None, notes), None) if finite else _why_not_finite(seeds, values.tolist()),
            )
        result.append(cells)
    if centre is not None:
        _add_changes(result, configurations, replicate_means, centre, instances, costs, replicates, seed)
    return result


def _add_changes(
    cells: Sequence[dict[str, MetricOverSeeds]],
    configurations: Sequence[Mapping[int, Posteriors]],
    drawn: Sequence[Mapping[str, Array]],
    centre: int,
    instances: SharedInstances,
    costs: StatedCosts | None,
    replicates: int,
    seed: int,
) -> None:
    """Say in every cell by how much it differs from that of the centre, in the metrics that both have."""
    tests: dict[object, list[float | None]] = {}
    for name, of_centre in cells[centre].items():
        metric = METRICS[name]
        rows = [
            row
            for row, own in enumerate(cells)
            if row != centre and name in own and math.isfinite(own[name].mean - of_centre.mean)
        ]
        # Metrics of one rule, such as NCE and cross-entropy, have one test.
        if metric.is_mean and replicates and metric.definition not in tests:
            loss = [
                losses(seeds, select=name, instances=instances, costs=costs) if row in {centre, *rows} else np.empty(0)
                for row, seeds in enumerate(configurations)
            ]
            partners = [centre if row in rows else None for row in range(len(cells))]
            tests[metric.definition] = _corrected_p(loss, partners, instances, replicates, seed)
        for row in rows:
            value = cells[row][name].mean - of_centre.mean
            low, high = None, None
            if replicates:
                held = value if metric.reference is not None else math.nan
                low, high = percentile_interval(drawn[row][name] - drawn[centre][name], level=LEVEL, value=held) or (
                    None,
                    None,
                )
            p = tests[metric.definition][row] if metric.definition in tests else None
            cells[row][name] = replace(cells[row][name], change=Change(value, low, high, p))


def _measurable(metrics: Sequence[str], seeds: Mapping[int, Posteriors], costs: StatedCosts | None) -> list[str]:
    """The metrics without those of costs where the costs fit no choices, and of levels where choices have no order."""
    fits = costs is not None and all(
        costs.applies_to(system) and costs.fitting(system.n_choices) is not None for system in seeds.values()
    )
    ordered = all(system.is_ordered for system in seeds.values())
    return [
        name
        for name in metrics
        if (fits or not METRICS[name].needs_costs) and (ordered or not METRICS[name].needs_order)
    ]


@dataclass(frozen=True, eq=False)
class _Resampled:
    """One seed of a configuration, ready for resampling the instances of its block."""

    names: list[str]
    table: LossTable
    rows: NDArray[np.intp]
    """(N,) for each instance of the table, its place in the counts of a replicate."""
    costs: Costs
    normalisers: Mapping[str, Normaliser]

    @classmethod
    def of(
        cls,
        system: Posteriors,
        names: list[str],
        instances: SharedInstances,
        resampling: Resampling,
        costs: StatedCosts | None,
    ) -> _Resampled:
        used = fitting_costs(system, costs)
        table = LossTable(system, metrics=names, costs=used)
        # Counts are in class order; a system needs those of its own instances, in its own class order.
        place = np.empty(len(instances.ids), dtype=np.intp)
        place[resampling.order] = np.arange(len(instances.ids))
        rows = place[instances.rows(system)[table.order]]
        units = resampling.unit_of[rows]
        return cls(names, table, rows, used, normalisers_of(names, table.votes, costs=used, units=units))

    def replicates(self, counts: Array) -> dict[str, Array]:
        """Each metric, (R,), for how often each instance of the block was drawn, (R, instances)."""
        sums = self.table.sums(counts[:, self.rows])
        return sums.metrics(self.names, costs=self.costs, priors=None, normalisers=self.normalisers)


def _replicate_means(
    configurations: Sequence[Sequence[_Resampled]], resampling: Resampling, replicates: int
) -> list[dict[str, Array]]:
    """For each configuration, metric → (replicates,) means over its seeds; nothing where there are no replicates."""
    blocks: list[list[dict[str, Array]]] = [[] for _ in configurations]
    # Block by block, so that the counts of all replicates are never held together.
    for counts in resampling.counts(replicates) if replicates else ():  # (R, instances)
        for seeds, parts in zip(configurations, blocks, strict=True):
            of_seeds = [seed.replicates(counts) for seed in seeds]
            parts.append({name: np.mean([values[name] for values in of_seeds], axis=0) for name in seeds[0].names})
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        for parts in blocks
    ]


def _why_not_finite(seeds: Mapping[int, Posteriors], values: Sequence[float]) -> str:
    reasons = []
    for (seed, system), value in zip(seeds.items(), values, strict=True):
        if math.isinf(value):
            count = len(system.zero_posterior_ids())
            reasons.append(f"infinite at seed {seed}: posterior 0 at the label of {count} instance{'s' * (count != 1)}")
        elif math.isnan(value):
            reasons.append(f"undefined at seed {seed}: the priors lose nothing, so nothing normalises")
    return "; ".join(reasons)


def check_selection(select: str, *, costs: StatedCosts | None) -> None:
    """Raise InputError unless a metric can choose: it must be a mean over instances, to be compared in pairs."""
    known = [metric.name for metric in METRICS.values() if metric.is_mean]
    if select not in METRICS:
        raise unknown_name("metric to select by", select, known)
    if select not in known:
        raise InputError(f"select is {select!r}, which is no mean over instances; expected one of {', '.join(known)}")
    if METRICS[select].needs_costs and costs is None:
        raise InputError(f"select is {select!r} but there are no costs; give costs or select by nce")


def losses(
    seeds: Mapping[int, Posteriors], *, select: str, instances: SharedInstances, costs: StatedCosts | None
) -> Array:
    """The loss behind a metric for each of the shared instances (N,), mean over the seeds that have the instance."""
    total, count = np.zeros(len(instances.ids)), np.zeros(len(instances.ids))
    for system in seeds.values():
        if METRICS[select].needs_order and not system.is_ordered:
            raise InputError(f"select is {select}, which is for ordered levels, but the choices have no order")
        rule = METRICS[select].rule_for(fitting_costs(system, costs), weights=system.votes.weights)
        rows = instances.rows(system)
        np.add.at(total, rows, system.losses(rule))
        np.add.at(count, rows, 1.0)
    return np.asarray(total / count)


@dataclass(frozen=True)
class Standing:
    """How a configuration compares within its block."""

    mark: Mark = ""
    p: float | None = None
    """p-value of the difference from the best, Holm-corrected; None for the best itself and where nothing is ranked."""
    against_base: Side | None = None
    """None for the base itself and where the block has no base."""


def rank(
    loss: Sequence[Array],
    means: Sequence[float],
    *,
    base: Sequence[int | None],
    instances: SharedInstances,
    replicates: int,
    seed: int,
) -> list[Standing]:
    """Mark the best mean, and say which other configurations are significantly worse than it.

    Args:
        loss: for each configuration (N,), of the metric that selects.
        means: for each configuration, that metric as it is shown, turned so that lower is better.
        base: for each configuration, the one it is compared with as its base model, or None.
        instances: the N instances.
        replicates: bootstrap replicates of each comparison; more are drawn where the correction needs them.
        seed: of the bootstrap.
    """
    finite = [row for row, mean in enumerate(means) if math.isfinite(mean)]
    best = min(finite, key=lambda row: means[row], default=None)
    rivals = [None if row == best or math.isnan(means[row]) else best for row in range(len(loss))]
    to_best = _corrected_p(loss, rivals, instances, replicates, seed)
    to_base = _corrected_p(loss, base, instances, replicates, seed)
    standings = []
    for row, (p, p_base, base_row) in enumerate(zip(to_best, to_base, base, strict=True)):
        mark: Mark = "best" if row == best else "" if p is None else "worse" if p < ALPHA else "tied"
        side: Side | None = None
        if p_base is not None and base_row is not None:
            better = loss[row].mean() < loss[base_row].mean()
            side = "open" if p_base >= ALPHA else "better" if better else "worse"
        standings.append(Standing(mark, p, side))
    return standings


def _corrected_p(
    loss: Sequence[Array], partners: Sequence[int | None], instances: SharedInstances, replicates: int, seed: int
) -> list[float | None]:
    """Two-sided p of equal mean loss of each configuration and its partner, Holm-corrected; None where it has none."""
    pairs = [(row, partner) for row, partner in enumerate(partners) if partner is not None]
    p_values = np.ones(len(pairs))
    tested = []
    for place, (row, partner) in enumerate(pairs):
        finite = [bool(np.isfinite(loss[each]).all()) for each in (row, partner)]
        if all(finite) and (loss[row] != loss[partner]).any():
            tested.append(place)
        elif finite[0] != finite[1]:
            # One right answer of posterior 0 makes the mean over all instances infinite, whatever else is drawn.
            p_values[place] = 0.0
    if tested:
        gaps = np.stack([loss[pairs[place][1]] - loss[pairs[place][0]] for place in tested], axis=1)  # (N, tested)
        drawn = max(replicates, _REPLICATES_PER_COMPARISON * len(pairs))
        p_values[tested] = paired_p_values(gaps, groups=instances.groups, replicates=drawn, seed=seed)
    corrected: list[float | None] = [None] * len(loss)
    for (row, _), p in zip(pairs, holm(p_values).tolist(), strict=True):
        corrected[row] = p
    return corrected
