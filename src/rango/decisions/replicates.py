"""Metrics of many resamplings at once.

Every metric here is a function of a few sums over instances: for each class, how many there are and what they lose in
total. A bootstrap replicate only changes how often an instance counts, so the sums of a block of replicates are matrix
products of their counts with the losses, and the losses are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rango.decisions import scoring_rules as rules
from rango.decisions.arrays import Array
from rango.decisions.calibration_error import BINS, bin_edges, bin_index
from rango.decisions.costs import Costs, naive_cost
from rango.decisions.posteriors import Posteriors

_RULE_OF = {
    "nce": "logarithmic",
    "cross_entropy": "logarithmic",
    "error_rate": "error",
    "accuracy": "error",
    "brier": "brier",
    "normalised_brier": "brier",
    "expected_cost": "cost",
    "normalised_expected_cost": "cost",
}


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over instances for R resamplings, by class."""

    counts: Array
    """(R, K) instances."""
    losses: dict[str, Array]
    """For each rule (R, K): finite losses."""
    infinite: Array
    """(R, K) instances of infinite logarithmic score."""
    gaps: Array | None
    """(R, K, M) sums of right − confidence in each of the M bins."""

    def metrics(self, names: Sequence[str], *, costs: Costs, priors: Array | None) -> dict[str, Array]:
        """The metrics of each resampling, (R,) each; NaN where one is undefined."""
        totals = self.counts.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = self.counts / totals if priors is None else np.broadcast_to(priors, self.counts.shape)
            # The mean loss is Σ_k weights_k · (sum of losses of class k); a class of prior 0 counts 0.
            weights = np.broadcast_to(1.0 / totals, shares.shape)
            if priors is not None:
                weights = np.where(shares > 0, shares / self.counts, 0.0)
                # A class that this resampling lost has no mean: the metric is undefined there.
                weights = np.where(np.isinf(weights), np.nan, weights)
            return {name: self._metric(name, weights, shares, costs) for name in names}

    def _metric(self, name: str, weights: Array, shares: Array, costs: Costs) -> Array:
        if name == "ece":
            assert self.gaps is not None
            return np.asarray(np.abs(np.einsum("rk,rkm->rm", weights, self.gaps)).sum(axis=1))
        rule = _RULE_OF[name]
        value = np.asarray((weights * self.losses[rule]).sum(axis=1))
        if rule == "logarithmic":
            value[((self.infinite > 0) & (weights > 0)).any(axis=1)] = np.inf
        if name == "accuracy":
            return np.asarray(1.0 - value)
        constants = {
            "nce": lambda: rules.entropy(shares),
            "normalised_brier": lambda: rules.brier_of_priors(shares),
            "normalised_expected_cost": lambda: naive_cost(shares, costs=costs),
        }
        if name not in constants:
            return value
        constant = constants[name]()
        return np.asarray(np.where(constant > 0, value / constant, np.nan))


class LossTable:
    """The losses of every instance, sorted by class (and bin), ready to be summed over many resamplings."""

    def __init__(self, posteriors: Posteriors, *, metrics: Sequence[str], costs: Costs) -> None:
        """Compute each loss that `metrics` need, once."""
        logs, labels = posteriors.log_posteriors, posteriors.labels
        self.n, self.n_classes = len(posteriors), posteriors.n_choices
        self.bins = BINS if "ece" in metrics else 1
        bins = np.zeros(self.n, dtype=np.int64)
        gap = None
        if "ece" in metrics:
            confidence = np.exp(logs.max(axis=1))
            bins = bin_index(confidence, bin_edges(confidence, bins=BINS, spacing="width"))
            gap = (logs.argmax(axis=1) == labels) - confidence
        cell = labels * self.bins + bins
        self.order = np.argsort(cell, kind="stable")
        self.cells, self.starts = np.unique(cell[self.order], return_index=True)
        self.labels = labels[self.order]
        self.gap = None if gap is None else gap[self.order]
        functions = {
            "logarithmic": rules.logarithmic_rule,
            "error": rules.error_rule,
            "brier": rules.brier_rule,
            "cost": rules.cost_rule(costs),
        }
        self.rules = sorted({_RULE_OF[name] for name in metrics if name in _RULE_OF})
        self.columns = np.ones((self.n, len(self.rules) + 1))
        self.infinite = np.empty(0, dtype=np.int64)
        for column, rule in enumerate(self.rules, start=1):
            losses = functions[rule](logs, labels)[self.order]
            if rule == "logarithmic":
                # Zero times infinity is not a number: infinite losses are counted beside the matrix product.
                self.infinite = np.flatnonzero(np.isinf(losses))
                losses[self.infinite] = 0.0
            self.columns[:, column] = losses
        present = np.flatnonzero(np.bincount(labels, minlength=self.n_classes))
        bounds = np.searchsorted(self.labels, np.arange(self.n_classes + 1))
        self.segments = [(int(k), slice(int(bounds[k]), int(bounds[k + 1]))) for k in present]

    def sums(self, counts: Array) -> Sums:
        """Sums for R resamplings given by how often each instance counts, (R, N) in the posteriors' order."""
        sorted_counts = counts[:, self.order]
        totals = np.zeros((len(counts), self.n_classes, self.columns.shape[1]))
        for k, segment in self.segments:
            totals[:, k] = sorted_counts[:, segment] @ self.columns[segment]
        infinite = np.zeros((len(counts), self.n_classes))
        for row in self.infinite:
            infinite[:, self.labels[row]] += sorted_counts[:, row]
        gaps = None
        if self.gap is not None:
            flat = np.zeros((len(counts), self.n_classes * self.bins))
            flat[:, self.cells] = np.add.reduceat(sorted_counts * self.gap, self.starts, axis=1)
            gaps = flat.reshape(len(counts), self.n_classes, self.bins)
        return self._named(totals, infinite, gaps)

    def leave_one_out(self, unit_of: NDArray[np.intp]) -> Iterator[Sums]:
        """Sums without each unit in turn (an instance, or a group), a piece of the units at a time."""
        total = self.sums(np.ones((1, self.n)))
        units = unit_of[self.order]
        by_unit = np.argsort(units, kind="stable")
        n_units = int(units.max()) + 1
        starts = np.searchsorted(units[by_unit], np.arange(n_units + 1))
        step = max(1, (1 << 20) // (self.n_classes * (self.bins + self.columns.shape[1])))
        for start in range(0, n_units, step):
            stop = min(start + step, n_units)
            rows = by_unit[starts[start] : starts[stop]]
            own = self._sums_of_units(rows, units[rows] - start, stop - start)
            gaps = None if total.gaps is None or own.gaps is None else total.gaps - own.gaps
            losses = {rule: total.losses[rule] - own.losses[rule] for rule in self.rules}
            yield Sums(total.counts - own.counts, losses, total.infinite - own.infinite, gaps)

    def _sums_of_units(self, rows: NDArray[np.intp], unit: NDArray[np.intp], n_units: int) -> Sums:
        labels = self.labels[rows]
        totals = np.zeros((n_units, self.n_classes, self.columns.shape[1]))
        np.add.at(totals, (unit, labels), self.columns[rows])
        infinite = np.zeros((n_units, self.n_classes))
        lost = np.isin(rows, self.infinite)
        np.add.at(infinite, (unit[lost], labels[lost]), 1.0)
        gaps = None
        if self.gap is not None:
            cell = np.repeat(self.cells, np.diff(np.append(self.starts, self.n)))[rows]
            gaps = np.zeros((n_units, self.n_classes, self.bins))
            np.add.at(gaps, (unit, labels, cell % self.bins), self.gap[rows])
        return self._named(totals, infinite, gaps)

    def _named(self, totals: Array, infinite: Array, gaps: Array | None) -> Sums:
        losses = {rule: totals[:, :, column] for column, rule in enumerate(self.rules, start=1)}
        return Sums(totals[:, :, 0], losses, infinite, gaps)
