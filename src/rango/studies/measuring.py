"""Every metric of a configuration: mean over seeds, spread over seeds, interval over test instances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rango.decisions import Costs, Posteriors, Resampling
from rango.decisions.arrays import Array
from rango.decisions.intervals import percentile_interval
from rango.decisions.replicates import LossTable
from rango.studies.study_costs import COST_METRICS, StudyCosts

LEVEL = 0.95
"""Nominal coverage of the intervals, a fraction."""


@dataclass(frozen=True)
class Measured:
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
class Units:
    """The test instances that the configurations of a block share, in the order of the first."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...] | None

    @classmethod
    def of(cls, systems: Sequence[Posteriors]) -> Units:
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
    units: Units,
    metrics: Sequence[str],
    costs: StudyCosts | None,
    replicates: int,
    seed: int,
) -> list[dict[str, Measured]]:
    """Each metric of each configuration, all resampled on the same draws of test instances.

    In every replicate each seed's metric is computed on the instances drawn (whole groups where there are any), and
    the mean over seeds is taken; the interval is that of this mean. Training noise is not in it: that is the spread.

    Args:
        configurations: for each, seed → posteriors; at least one seed.
        units: the instances of all of them.
        metrics: names; those of costs only where `costs` fit the number of choices.
        costs: of decisions, or None.
        replicates: bootstrap replicates; 0 for no intervals.
        seed: of the bootstrap.
    """
    names = [_applicable(metrics, seeds, costs) for seeds in configurations]
    drawn = _replicates(configurations, names, units, costs, replicates, seed) if replicates else None
    return [
        {name: _measured(seeds, name, costs, None if drawn is None else drawn[row][name]) for name in names[row]}
        for row, seeds in enumerate(configurations)
    ]


def _applicable(metrics: Sequence[str], seeds: Mapping[int, Posteriors], costs: StudyCosts | None) -> list[str]:
    fits = costs is not None and all(costs.fitting(system.n_choices) is not None for system in seeds.values())
    return [name for name in metrics if fits or name not in COST_METRICS]


def _replicates(
    configurations: Sequence[Mapping[int, Posteriors]],
    names: Sequence[Sequence[str]],
    units: Units,
    costs: StudyCosts | None,
    replicates: int,
    seed: int,
) -> list[dict[str, Array]]:
    """For each configuration, metric → (replicates,) means over its seeds."""
    resampling = Resampling(units.labels, seed=seed, groups=units.groups)
    column = np.empty(len(units.ids), dtype=np.intp)
    column[resampling.order] = np.arange(len(units.ids))
    tables = []
    for seeds, wanted in zip(configurations, names, strict=True):
        used = [_costs_for(system, costs) for system in seeds.values()]
        made = [LossTable(s, metrics=wanted, costs=c) for s, c in zip(seeds.values(), used, strict=True)]
        columns = [column[units.rows(s)[t.order]] for s, t in zip(seeds.values(), made, strict=True)]
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
    extra = [_costs_for(system, costs)] if name in COST_METRICS else []
    return float(getattr(system, name)(*extra))


def _measured(seeds: Mapping[int, Posteriors], name: str, costs: StudyCosts | None, drawn: Array | None) -> Measured:
    values = np.array([metric_of(system, name, costs) for system in seeds.values()])
    finite = bool(np.isfinite(values).all())
    interval = None if drawn is None else percentile_interval(drawn, level=LEVEL)
    low, high = interval or (None, None)
    return Measured(
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
