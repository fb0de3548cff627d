"""Selective decisions: answering only where the posteriors promise enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rango.decisions import scoring_rules as rules
from rango.decisions.arrays import Array
from rango.decisions.costs import Costs, expected_costs
from rango.decisions.posteriors import Posteriors


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Mean loss of the most confident share of the instances, for every such share."""

    coverage: Array
    """(N,) shares 1/N, 2/N, …, 1."""
    risk: Array
    """(N,) mean loss of the covered instances; within a tie of confidence, its mean over all orders."""
    possible: NDArray[np.bool_]
    """(N,) False inside a tie, where no threshold on confidence stops."""

    @property
    def area(self) -> float:
        """Area under the curve: the mean of the risk over the coverages 1/N … 1. Lower is better."""
        return float(self.risk.mean())

    def coverage_at(self, risk: float) -> float:
        """The largest coverage a threshold on confidence can give at this risk or less; 0 if none does."""
        # Rounding of a mean must not cost an instance.
        reached = np.flatnonzero((self.risk <= risk + 1e-12) & self.possible)
        return float(self.coverage[reached[-1]]) if reached.size else 0.0


def risk_coverage(posteriors: Posteriors, *, costs: Costs | None = None) -> RiskCoverage:
    """The risk–coverage curve of the Bayes decisions, most confident instances first.

    risk(m/N) = (1/m) Σ loss over the m instances of least expected cost min_d Σ_k C[k, d] q_k. Without costs: the
    errors of the most probable choice, by its posterior, compared as a logarithm so that 1 − 1e-20 is less sure than
    1 − 1e-30.

    Args:
        posteriors: N instances.
        costs: (K, D); None for 0–1 costs.

    Raises:
        InputError: costs of another number of classes.

    Source: El-Yaniv and Wiener (2010); Geifman and El-Yaniv (arXiv:1705.08500).

    >>> curve = risk_coverage(Posteriors(np.log([[0.9, 0.1], [0.6, 0.4]]), [0, 1]))
    >>> curve.risk.tolist(), curve.area, curve.coverage_at(0.1)
    ([0.0, 0.5], 0.25, 0.5)
    """
    logs = posteriors.log_posteriors
    if costs is None or costs.is_zero_one:
        doubt = -logs.max(axis=1)
        losses = rules.error_rule(logs, posteriors.labels)
    else:
        doubt = expected_costs(logs, costs=costs).min(axis=1)
        losses = rules.cost_rule(costs)(logs, posteriors.labels)
    order = np.argsort(doubt, kind="stable")
    n = len(order)
    last = np.append(doubt[order][1:] != doubt[order][:-1], True)
    ends = np.flatnonzero(last) + 1
    # Over all orders of a tie the mean loss grows evenly through it.
    totals = np.interp(np.arange(1, n + 1), np.append(0, ends), np.append(0.0, np.cumsum(losses[order])[ends - 1]))
    counts = np.arange(1, n + 1)
    return RiskCoverage(counts / n, totals / counts, last)
