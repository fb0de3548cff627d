"""The metrics as functions on arrays: log-posteriors (N, K) in nats and labels (N,). Lower is better, but for accuracy.

Each checks its arrays once (see `Posteriors`, which also names the errors) and takes `priors` (K,): target class priors
that weigh the instances by w_i = π_y / p_y, never the posteriors. `normalised` means divided by the value of the system
that always outputs the priors: 1 = no better than that, NaN where that system loses nothing.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from rango.decisions.calibration_error import BINS, Spacing
from rango.decisions.costs import Costs
from rango.decisions.posteriors import Posteriors
from rango.decisions.scoring_rules import Rule


def epsr(log_posteriors: ArrayLike, labels: ArrayLike, *, rule: Rule, priors: ArrayLike | None = None) -> float:
    """Expected proper scoring rule: (1/N) Σ_i w_i rule(y_i, q_i).

    Source: reference thesis, eq. 3.3; arXiv:2408.02841.

    >>> import numpy as np
    >>> from rango.decisions import brier_rule
    >>> round(epsr(np.log([[0.5, 0.5], [0.8, 0.2]]), [0, 0], rule=brier_rule), 4)
    0.29
    """
    return Posteriors(log_posteriors, labels).score(rule, priors=priors)


def normalised_epsr(
    log_posteriors: ArrayLike, labels: ArrayLike, *, rule: Rule, priors: ArrayLike | None = None
) -> float:
    """EPSR / Σ_k π_k rule(k, π), for any rule."""
    return Posteriors(log_posteriors, labels).normalised_score(rule, priors=priors)


def cross_entropy(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """−Σ_k (π_k / N_k) Σ_{i: y(i) = k} ln q(i, k), nats (reference thesis, eqs. 3.5 to 3.7).

    >>> import numpy as np
    >>> round(cross_entropy(np.log([[0.5, 0.5], [0.5, 0.5]]), [0, 1]), 4)
    0.6931
    """
    return Posteriors(log_posteriors, labels).cross_entropy(priors=priors)


def nce(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """Normalised cross-entropy: cross-entropy / H(π)."""
    return Posteriors(log_posteriors, labels).nce(priors=priors)


def brier(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """Mean of Σ_k (1[k = y] − q_k)², summed over classes (some packages take the mean)."""
    return Posteriors(log_posteriors, labels).brier(priors=priors)


def normalised_brier(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """Brier score / (1 − Σ_k π_k²)."""
    return Posteriors(log_posteriors, labels).normalised_brier(priors=priors)


def error_rate(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """Share of instances whose most probable choice (the first on ties) is not the label."""
    return Posteriors(log_posteriors, labels).error_rate(priors=priors)


def accuracy(log_posteriors: ArrayLike, labels: ArrayLike, *, priors: ArrayLike | None = None) -> float:
    """1 − error rate; higher is better."""
    return Posteriors(log_posteriors, labels).accuracy(priors=priors)


def expected_cost(
    log_posteriors: ArrayLike, labels: ArrayLike, *, costs: Costs, priors: ArrayLike | None = None
) -> float:
    """Mean cost of the Bayes decisions: (1/N) Σ_i w_i C[y(i), d_B(q_i)], unit of the costs (arXiv:2209.05355)."""
    return Posteriors(log_posteriors, labels).expected_cost(costs, priors=priors)


def normalised_expected_cost(
    log_posteriors: ArrayLike, labels: ArrayLike, *, costs: Costs, priors: ArrayLike | None = None
) -> float:
    """Expected cost / min_d Σ_k π_k C[k, d] (arXiv:2209.05355)."""
    return Posteriors(log_posteriors, labels).normalised_expected_cost(costs, priors=priors)


def ece(
    log_posteriors: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = BINS,
    spacing: Spacing = "width",
    priors: ArrayLike | None = None,
) -> float:
    """Expected calibration error of the top label, a fraction: a diagnosis, not a verdict; see `reliability_bins`."""
    return Posteriors(log_posteriors, labels).ece(bins=bins, spacing=spacing, priors=priors)
