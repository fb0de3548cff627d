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
from rango.decisions.resampling import class_order

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
    """The losses of every instance in class order, ready to be summed over many resamplings."""

    def __init__(self, posteriors: Posteriors, *, metrics: Sequence[str], costs: Costs) -> None:
        """Compute each loss that `metrics` need, once."""
        self.order = class_order(posteriors.labels)
        self.labels = posteriors.labels[self.order]
        self.n, self.n_classes = len(posteriors), posteriors.n_choices
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
            losses = functions[rule](posteriors.log_posteriors, posteriors.labels)[self.order]
            if rule == "logarithmic":
                # Zero times infinity is not a number: infinite losses are counted beside the matrix product.
                self.infinite = np.flatnonzero(np.isinf(losses))
                losses[self.infinite] = 0.0
            self.columns[:, column] = losses
        bounds = np.searchsorted(self.labels, np.arange(self.n_classes + 1)).tolist()
        self.segments = [
            (k, slice(bounds[k], bounds[k + 1])) for k in range(self.n_classes) if bounds[k] < bounds[k + 1]
        ]
        self.gaps = _Gaps(posteriors, self.order) if "ece" in metrics else None

    def sums(self, counts: Array) -> Sums:
        """Sums for R resamplings given by how often each instance counts, (R, N) in class order."""
        totals = np.zeros((len(counts), self.n_classes, self.columns.shape[1]))
        for k, segment in self.segments:
            totals[:, k] = counts[:, segment] @ self.columns[segment]
        infinite = np.zeros((len(counts), self.n_classes))
        for row in self.infinite:
            infinite[:, self.labels[row]] += counts[:, row]
        return self._named(totals, infinite, None if self.gaps is None else self.gaps.sums(counts))

    def leave_one_out(self, unit_of: NDArray[np.intp]) -> Iterator[Sums]:
        """Sums without each unit in turn (an instance, or a group), a piece of the units at a time.

        `unit_of` (N,) is the unit of each instance in class order.
        """
        total = self.sums(np.ones((1, self.n)))
        by_unit = np.argsort(unit_of, kind="stable")
        n_units = int(unit_of.max()) + 1
        starts = np.searchsorted(unit_of[by_unit], np.arange(n_units + 1))
        step = max(1, (1 << 20) // (self.n_classes * (BINS + self.columns.shape[1])))
        for start in range(0, n_units, step):
            stop = min(start + step, n_units)
            rows = by_unit[starts[start] : starts[stop]]
            own = self._sums_of_units(rows, unit_of[rows] - start, stop - start)
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
        if self.gaps is not None:
            gaps = np.zeros((n_units, self.n_classes, BINS))
            np.add.at(gaps, (unit, labels, self.gaps.bins[rows]), self.gaps.values[rows])
        return self._named(totals, infinite, gaps)

    def _named(self, totals: Array, infinite: Array, gaps: Array | None) -> Sums:
        losses = {rule: totals[:, :, column] for column, rule in enumerate(self.rules, start=1)}
        return Sums(totals[:, :, 0], losses, infinite, gaps)


class _Gaps:
    """Right − confidence of every instance, and its bin: what the expected calibration error sums."""

    def __init__(self, posteriors: Posteriors, order: NDArray[np.intp]) -> None:
        logs, labels = posteriors.log_posteriors, posteriors.labels
        confidence = np.exp(logs.max(axis=1))
        self.values = ((logs.argmax(axis=1) == labels) - confidence)[order]
        self.bins = bin_index(confidence, bin_edges(confidence, bins=BINS, spacing="width"))[order]
        # Sorted by (class, bin), each cell's sum is a sum over a slice.
        cell = labels[order] * BINS + self.bins
        self.by_cell = np.argsort(cell, kind="stable")
        self.cells, self.starts = np.unique(cell[self.by_cell], return_index=True)
        self.sorted_values = self.values[self.by_cell]
        self.n_classes = posteriors.n_choices

    def sums(self, counts: Array) -> Array:
        """(R, K, M) sums of the gaps in every class and bin."""
        weighted = counts.take(self.by_cell, axis=1)
        weighted *= self.sorted_values
        flat = np.zeros((len(counts), self.n_classes * BINS))
        flat[:, self.cells] = np.add.reduceat(weighted, self.starts, axis=1)
        return flat.reshape(len(counts), self.n_classes, BINS)
