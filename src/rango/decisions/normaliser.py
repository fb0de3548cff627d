"""What an interval of a normalised metric divides by: the best constant system's loss, without the bias of a sample.

The reference of class frequencies is too low, since they fit their own sample best. With K classes and N instances the
entropy lacks about (K − 1) / 2N nats, and frequencies that are resampled lack as much again. A replicate is divided by

    (1/N) Σ_k n*_k loss_k + correction        n*_k: instances of class k in the replicate

loss_k is what the constant system of the full sample's frequencies loses on class k. The sum is linear in the counts,
so that resampling adds no bias, and the correction takes away that of the full sample:

    entropy, Brier    jackknife over instances or groups: (U − 1) (reference − mean of the references without one)
    costs             the constant decision that is best on one half of the units, paid for on the other half
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array
from rango.decisions.costs import Costs
from rango.decisions.instances import Votes
from rango.decisions.metrics import METRICS, Metric

# Random halves, over which the cost of a constant decision is averaged.
_HALVES = 20
# Entries of a block of class counts: 4 MB, whatever the number of units.
_BLOCK = 1 << 19
# With more instances for each class, the bias of a normaliser is less than half a standard error (docs/decisions.md).
_FEW_PER_CLASS = 10
# A smaller bias, as a fraction of the value, is not worth a note.
_SMALL_BIAS = 0.01


@dataclass(frozen=True, eq=False)
class Normaliser:
    """An estimate of the population's reference, for each of many resamplings of one sample."""

    losses: Array
    """(K,) what the constant system of the sample's class frequencies loses on each class; 0 on classes without any."""
    correction: float
    """How much the sample's own reference is too low."""
    bias: float
    """The correction divided by the sample's own reference: so much too large is the metric, as a fraction."""
    note: str | None
    """Says so where the sample is small for its number of classes."""

    @classmethod
    def of(cls, metric: Metric, votes: Votes, *, costs: Costs, units: NDArray[np.intp], seed: int = 0) -> Normaliser:
        """The normaliser of a metric on the sample with these votes of what is right.

        Args:
            metric: one that has a reference.
            votes: of N instances.
            costs: (K, D), for a metric of costs; K is the number of classes of every metric.
            units: (N,) the unit that is resampled (an instance or a group) of each instance.
            seed: of the halves.
        """
        assert metric.reference is not None
        # The instances may be some of those that are resampled.
        units = np.unique(units, return_inverse=True)[1]
        n, n_classes = len(units), len(costs.matrix)
        units = units[votes.rows]  # (M,) of each vote
        counts = votes.counts(n_classes)
        priors = counts / counts.sum()
        with np.errstate(divide="ignore"):
            constant = np.broadcast_to(np.log(priors), (n_classes, n_classes))
        losses = np.where(counts > 0, metric.rule_for(costs)(constant, np.arange(n_classes)), 0.0)
        reference = float(metric.reference(priors, costs))
        if reference <= 0 or units.max() == 0:
            return cls(losses, 0.0, 0.0, None)
        if metric.needs_costs:
            # At a tie of two decisions the minimum has a kink, where a jackknife fails.
            correction = _cost_on_other_half(votes, units, costs, seed) - reference
        else:
            total, n_units = 0.0, 0.0
            for others, times in _without_one(votes, units, counts):
                total += float(times @ metric.reference(others / others.sum(axis=1, keepdims=True), costs))
                n_units += float(times.sum())
            correction = (n_units - 1) * (reference - total / n_units)
        bias, present = correction / reference, int((counts > 0).sum())
        note = None
        if n < _FEW_PER_CLASS * present and bias >= _SMALL_BIAS:
            note = (
                f"{n:,} instances are few for {present:,} classes: {metric.words} comes out about "
                f"{bias:.1%} too large, for which its interval is corrected"
            )
        return cls(losses, correction, bias, note)

    def of_counts(self, counts: Array) -> Array:
        """What to divide by, (R,), for the class counts (R, K) of resamplings."""
        return np.asarray(counts @ self.losses / counts.sum(axis=1) + self.correction)


def normalisers_of(
    names: Iterable[str], votes: Votes, *, costs: Costs, units: NDArray[np.intp], seed: int = 0
) -> dict[str, Normaliser]:
    """The normalisers of those metrics that have a reference; arguments as of `Normaliser.of`."""
    normalised = [METRICS[name] for name in names if METRICS[name].reference is not None]
    return {metric.name: Normaliser.of(metric, votes, costs=costs, units=units, seed=seed) for metric in normalised}


def _without_one(votes: Votes, units: NDArray[np.intp], counts: Array) -> Iterator[tuple[Array, Array]]:
    """Class counts without each unit in turn, (n, K) at a time, and how many units leave the same counts, (n,)."""
    n_units, n_classes = int(units.max()) + 1, len(counts)
    if n_units == len(units):
        # Instances of one class leave the same counts. Targets that are no single choice have more votes than units.
        present = np.flatnonzero(counts)
        yield counts - np.eye(n_classes)[present], counts[present]
        return
    weights = np.ones(len(units)) if votes.weights is None else votes.weights
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], np.arange(n_units + 1))
    step = max(1, _BLOCK // n_classes)
    for first in range(0, n_units, step):
        last = min(first + step, n_units)
        rows = order[starts[first] : starts[last]]
        own = np.zeros((last - first, n_classes))
        np.add.at(own, (units[rows] - first, votes.labels[rows]), weights[rows])
        yield counts - own, np.ones(last - first)


def _cost_on_other_half(votes: Votes, units: NDArray[np.intp], costs: Costs, seed: int) -> float:
    """Mean cost of the constant decision that is best on the other half of the units."""
    rng = np.random.default_rng(seed)
    n_units, paid = int(units.max()) + 1, 0.0
    counts = votes.counts(len(costs.matrix))
    for _ in range(_HALVES):
        in_half = (rng.permutation(n_units) < n_units // 2)[units]  # (M,)
        weights = in_half if votes.weights is None else votes.weights * in_half
        half = np.bincount(votes.labels, weights=weights, minlength=len(counts))
        # The costs of each decision on each half: (2, D).
        totals = np.stack([half, counts - half]) @ costs.matrix
        paid += totals[0, totals[1].argmin()] + totals[1, totals[0].argmin()]
    return float(paid / (_HALVES * counts.sum()))
