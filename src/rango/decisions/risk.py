"""Costs that are not settled: risk over a family of costs, and the thresholds of two classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions import scoring_rules as rules
from rango.decisions.arrays import Array, check_priors
from rango.decisions.costs import Costs, naive_cost
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """Expected cost under each member of a family of costs, in the unit of the costs."""

    expected: Array
    """(F,) expected cost of the Bayes decisions."""
    naive: Array
    """(F,) expected cost of the best constant decision."""
    normalised: Array
    """(F,) expected / naive; NaN where the naive cost is 0."""


def risk_curve(posteriors: Posteriors, *, family: Iterable[Costs], priors: ArrayLike | None = None) -> RiskCurve:
    """The expected cost of the Bayes decisions as the costs vary.

    Args:
        posteriors: N instances.
        family: F costs (K, D_f), such as `[costs.with_abstention(c) for c in (0.1, 0.2)]`.
        priors: (K,) target priors that weigh the instances.

    Raises:
        InputError: an empty family; costs of another number of classes.

    Source: Drummond and Holte (2006), cost curves; arXiv:2209.05355.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6]]), [0, 1])
    >>> risk_curve(posteriors, family=[Costs.class_weighted([1, w]) for w in (1, 5)]).expected.tolist()
    [0.0, 0.5]
    """
    members = list(family)
    if not members:
        raise InputError("the family of costs is empty; give at least one")
    shares = posteriors.priors() if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
    expected = np.array([posteriors.expected_cost(costs, priors=priors) for costs in members])
    naive = np.array([float(naive_cost(shares, costs=costs)) for costs in members])
    normalised = np.divide(expected, naive, out=np.full(len(members), np.nan), where=naive > 0)
    return RiskCurve(expected, naive, normalised)


def bayes_threshold(costs: Costs, *, priors: ArrayLike) -> float:
    """The log-likelihood ratio ln p(x|1)/p(x|0) above which class 1 is decided: ln(π₀ a / (π₁ b)).

    a = C[0, 1] − C[0, 0] and b = C[1, 0] − C[1, 1] are what the two errors cost more than being right. With equal
    priors it is also the threshold on the posterior log-odds.

    Args:
        costs: (2, 2).
        priors: (2,), π.

    Raises:
        InputError: costs that are not 2 by 2, or an error that costs no more than being right; bad priors.

    Source: arXiv:2209.05355.

    >>> round(bayes_threshold(Costs([[0, 1], [5, 0]]), priors=[0.5, 0.5]), 4)
    -1.6094
    """
    matrix = _two_by_two(costs)
    a, b = matrix[0, 1] - matrix[0, 0], matrix[1, 0] - matrix[1, 1]
    if not (a > 0 and b > 0):
        raise InputError(f"errors cost {a:g} and {b:g} more than being right; expected both positive for a threshold")
    share = check_priors(priors, n_classes=2)
    with np.errstate(divide="ignore"):
        return float(np.log(share[0] * a) - np.log(share[1] * b))


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Expected cost when class 1 is decided where the log-odds ln q₁/q₀ are at or above a threshold."""

    thresholds: Array
    """(T,) rising, from -inf (always class 1) to +inf (always class 0)."""
    expected: Array
    """(T,) expected cost at each."""

    @property
    def best(self) -> float:
        """The threshold of least expected cost (the first on ties)."""
        return float(self.thresholds[self.expected.argmin()])

    @property
    def least(self) -> float:
        """The least expected cost: what is reached with the best threshold for these very instances."""
        return float(self.expected.min())


def threshold_curve(posteriors: Posteriors, *, costs: Costs, priors: ArrayLike | None = None) -> ThresholdCurve:
    """Expected cost of two classes at every threshold on the log-odds that separates some instances.

    At the thresholds chosen on the same instances the cost is optimistic: choose on validation data.

    Args:
        posteriors: N instances of two classes.
        costs: (2, 2).
        priors: (2,) target priors that weigh the instances.

    Raises:
        InputError: not two classes, costs that are not 2 by 2, bad priors.

    Source: arXiv:2209.05355.
    """
    if posteriors.n_choices != 2:
        raise InputError(f"thresholds are for 2 classes but there are {posteriors.n_choices}; use risk_curve")
    matrix = _two_by_two(costs)
    shares = posteriors.priors() if priors is None else check_priors(priors, n_classes=2)
    counts = np.bincount(posteriors.labels, minlength=2)
    rules.check_present(counts, shares)
    odds = posteriors.log_posteriors[:, 1] - posteriors.log_posteriors[:, 0]
    points, index = np.unique(odds, return_inverse=True)
    # Share of each class strictly below every threshold: those are decided as class 0.
    below = np.zeros((2, len(points) + 1))
    for k in range(2):
        at = np.bincount(index[posteriors.labels == k], minlength=len(points))
        below[k, 1:] = np.cumsum(at) / max(1, int(counts[k]))
    expected = shares @ (matrix[:, [0]] * below + matrix[:, [1]] * (1.0 - below))
    thresholds = np.concatenate([[-np.inf], points[1:], [np.inf]])
    return ThresholdCurve(thresholds, expected)


def _two_by_two(costs: Costs) -> Array:
    if costs.matrix.shape != (2, 2):
        raise InputError(f"costs have shape {costs.matrix.shape}; thresholds need 2 classes and 2 decisions")
    return costs.matrix
