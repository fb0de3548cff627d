"""The metrics of a configuration over seeds and test instances, and which configurations are worse than the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rango.decisions import METRICS, Costs, Posteriors, Resampling, holm, paired_bootstrap
from rango.decisions.arrays import Array
from rango.decisions.bootstrap import LossTable, percentile_interval
from rango.errors import InputError, unknown_name
from rango.studies.study_costs import StudyCosts

LEVEL = 0.95
"""Nominal coverage of the intervals, a fraction."""


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


@dataclass(frozen=True, eq=False)
class SharedInstances:
    """The test instances that the configurations of a block share, in the order of the first."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None

    @classmethod
    def of(cls, systems: Sequence[Posteriors]) -> SharedInstances:
        """All instances of the systems, each once."""
        seen: dict[str, tuple[int, str]] = {}
        for system in systems:
            groups = system.ids if system.groups is None else system.groups
            for name, label, group in zip(system.ids, system.labels.tolist(), groups, strict=True):
                seen.setdefault(name, (label, group))
        grouped = any(system.groups is not None for system in systems)
        labels = np.array([label for label, _ in seen.values()], dtype=np.int64)
        return cls(tuple(seen), labels, tuple(group for _, group in seen.values()) if grouped else None)

    def rows(self, system: Posteriors) -> NDArray[np.intp]:
        """The place of each instance of a system among these."""
        if system.ids == self.ids:
            return np.arange(len(self.ids))
        place = {name: row for row, name in enumerate(self.ids)}
        return np.array([place[name] for name in system.ids], dtype=np.intp)


def measure(
    configurations: Sequence[Mapping[int, Posteriors]],
    *,
    instances: SharedInstances,
    metrics: Sequence[str],
    costs: StudyCosts | None,
    replicates: int,
    seed: int,
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
    """
    names = [_applicable(metrics, seeds, costs) for seeds in configurations]
    drawn = _replicates(configurations, names, instances, costs, replicates, seed) if replicates else None
    return [
        {name: _measured(seeds, name, costs, None if drawn is None else drawn[row][name]) for name in names[row]}
        for row, seeds in enumerate(configurations)
    ]


def _applicable(metrics: Sequence[str], seeds: Mapping[int, Posteriors], costs: StudyCosts | None) -> list[str]:
    fits = costs is not None and all(costs.fitting(system.n_choices) is not None for system in seeds.values())
    return [name for name in metrics if fits or not METRICS[name].needs_costs]


def _replicates(
    configurations: Sequence[Mapping[int, Posteriors]],
    names: Sequence[Sequence[str]],
    instances: SharedInstances,
    costs: StudyCosts | None,
    replicates: int,
    seed: int,
) -> list[dict[str, Array]]:
    """For each configuration, metric → (replicates,) means over its seeds."""
    resampling = Resampling(instances.labels, seed=seed, groups=instances.groups)
    column = np.empty(len(instances.ids), dtype=np.intp)
    column[resampling.order] = np.arange(len(instances.ids))
    tables = []
    for seeds, wanted in zip(configurations, names, strict=True):
        used = [_costs_for(system, costs) for system in seeds.values()]
        made = [LossTable(s, metrics=wanted, costs=c) for s, c in zip(seeds.values(), used, strict=True)]
        columns = [column[instances.rows(s)[t.order]] for s, t in zip(seeds.values(), made, strict=True)]
        tables.append(list(zip(made, columns, used, strict=True)))
    pieces: list[dict[str, list[Array]]] = [{name: [] for name in wanted} for wanted in names]
    for counts in resampling.counts(replicates):
        for wanted, members, kept in zip(names, tables, pieces, strict=True):
            found = [table.sums(counts[:, at]).metrics(wanted, costs=c, priors=None) for table, at, c in members]
            for name in wanted:
                kept[name].append(np.mean([each[name] for each in found], axis=0))
    return [{name: np.concatenate(parts) for name, parts in kept.items()} for kept in pieces]


def _costs_for(system: Posteriors, costs: StudyCosts | None) -> Costs:
    fitting = None if costs is None else costs.fitting(system.n_choices)
    return Costs.zero_one(system.n_choices) if fitting is None else fitting


def metric_of(system: Posteriors, name: str, costs: StudyCosts | None = None) -> float:
    """One metric of one system."""
    return system.metric(name, costs=_costs_for(system, costs))


def _measured(
    seeds: Mapping[int, Posteriors], name: str, costs: StudyCosts | None, drawn: Array | None
) -> MetricOverSeeds:
    values = np.array([metric_of(system, name, costs) for system in seeds.values()])
    finite = bool(np.isfinite(values).all())
    interval = None if drawn is None else percentile_interval(drawn, level=LEVEL)
    low, high = interval or (None, None)
    return MetricOverSeeds(
        mean=float(values.mean()),
        spread=float(values.std(ddof=1)) if finite and len(values) > 1 else None,
        low=low,
        high=high,
        values=tuple(values.tolist()),
        note=None if finite else _why(seeds, values.tolist()),
    )


def _why(seeds: Mapping[int, Posteriors], values: Sequence[float]) -> str:
    """Why a mean is not finite."""
    parts = []
    for (seed, system), value in zip(seeds.items(), values, strict=True):
        if math.isinf(value):
            count = len(system.zero_posterior_ids())
            parts.append(f"infinite at seed {seed}: posterior 0 at the label of {count} instance{'s' * (count != 1)}")
        elif math.isnan(value):
            parts.append(f"undefined at seed {seed}: the priors lose nothing, so nothing normalises")
    return "; ".join(parts)


Mark = Literal["best", "tied", "worse", ""]
"""The best of its block, not to be told from the best, told from it (worse), or not ranked."""
Side = Literal["better", "worse", "open"]
"""How a configuration stands to the base model; open: not to be told."""

ALPHA = 0.05
"""Probability of telling any two apart in a block where none differ."""
# R replicates give no p below 1 / (R + 1), which the correction multiplies by the number of comparisons: with 50 each,
# the smallest corrected p is 0.02.
_REPLICATES_PER_COMPARISON = 50


def check_selection(select: str, *, costs: StudyCosts | None) -> None:
    """Raise InputError unless a metric can choose: it must be a mean over instances, to be compared in pairs."""
    known = [metric.name for metric in METRICS.values() if metric.is_mean]
    if select not in METRICS:
        raise unknown_name("metric to select by", select, known)
    if select not in known:
        raise InputError(f"select is {select!r}, which is no mean over instances; expected one of {', '.join(known)}")
    if METRICS[select].needs_costs and costs is None:
        raise InputError(f"select is {select!r} but there are no costs; give costs or select by nce")


def losses(
    seeds: Mapping[int, Posteriors], *, select: str, instances: SharedInstances, costs: StudyCosts | None
) -> Array:
    """The loss behind a metric for each instance of `instances` (U,), mean over the seeds that have the instance."""
    total, count = np.zeros(len(instances.ids)), np.zeros(len(instances.ids))
    for system in seeds.values():
        # Where the costs fit no number of choices, nothing is ranked by a metric that needs them.
        rule = METRICS[select].rule_for(_costs_for(system, costs))
        rows = instances.rows(system)
        np.add.at(total, rows, rule(system.log_posteriors, system.labels))
        np.add.at(count, rows, 1.0)
    return np.asarray(total / count)


@dataclass(frozen=True)
class Marks:
    """How the configurations of one block compare, in their order."""

    best: int | None
    marks: tuple[Mark, ...]
    p: tuple[float | None, ...]
    """Against the best, Holm-corrected; None for the best itself."""
    against_base: tuple[Side | None, ...]
    """None for the base itself and where the block has no base."""


def unranked(count: int) -> Marks:
    """Marks of configurations that nothing selects."""
    nothing: list[Mark] = [""] * count
    return Marks(None, tuple(nothing), (None,) * count, (None,) * count)


def mark(
    loss: Sequence[Array],
    means: Sequence[float],
    *,
    base: Sequence[int | None],
    instances: SharedInstances,
    replicates: int,
    seed: int,
) -> Marks:
    """Mark the best by the mean of `select` and all that cannot be told from it.

    Args:
        loss: for each configuration (U,), of the metric that selects.
        means: for each configuration, that metric as it is shown, turned so that lower is better.
        base: for each configuration, the one it is held against as its base model, or None.
        instances: the instances.
        replicates: bootstrap replicates of each comparison; more are drawn where the correction needs them.
        seed: of the bootstrap.
    """
    ranked = [row for row, mean in enumerate(means) if math.isfinite(mean)]
    best = min(ranked, key=lambda row: means[row], default=None)
    to_best = [None if row == best or math.isnan(means[row]) else best for row in range(len(loss))]
    p = _adjusted(loss, to_best, instances, replicates, seed)
    marks: list[Mark] = ["" if value is None else "worse" if value < ALPHA else "tied" for value in p]
    if best is not None:
        marks[best] = "best"
    of_base = _adjusted(loss, base, instances, replicates, seed)
    sides = [_side(loss, row, base[row], value) for row, value in enumerate(of_base)]
    return Marks(best, tuple(marks), tuple(p), tuple(sides))


def _side(loss: Sequence[Array], row: int, base: int | None, p: float | None) -> Side | None:
    if base is None or p is None:
        return None
    if p >= ALPHA:
        return "open"
    return "better" if loss[row].mean() < loss[base].mean() else "worse"


def _adjusted(
    loss: Sequence[Array], partners: Sequence[int | None], instances: SharedInstances, replicates: int, seed: int
) -> list[float | None]:
    """The Holm-corrected p of each configuration against its partner; None where it has none."""
    pairs = [(row, partner) for row, partner in enumerate(partners) if partner is not None]
    drawn = max(replicates, _REPLICATES_PER_COMPARISON * len(pairs))
    found = [_p(loss[row], loss[partner], instances, drawn, seed) for row, partner in pairs]
    result: list[float | None] = [None] * len(loss)
    for (row, _), value in zip(pairs, holm(found) if found else (), strict=True):
        result[row] = float(value)
    return result


def _p(a: Array, b: Array, instances: SharedInstances, replicates: int, seed: int) -> float:
    """Two-sided p of equal mean loss on the same instances."""
    if (a == b).all():
        return 1.0
    ends = [bool(np.isfinite(each).all()) for each in (a, b)]
    if not all(ends):
        # One right answer that was ruled out makes the mean over all questions infinite, whatever else is drawn.
        return 1.0 if ends[0] == ends[1] else 0.0
    return float(paired_bootstrap(a, b, groups=instances.groups, replicates=replicates, seed=seed).p)
