"""Proper scoring rules, their means under class priors, and their values for the system that outputs the priors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from rango.decisions.arrays import Array, Labels, row_pieces
from rango.decisions.costs import Costs, bayes_decisions
from rango.errors import InputError

Rule: TypeAlias = Callable[[Array, Labels], Array]
"""A scoring rule: (log_posteriors (N, K), labels (N,)) → losses (N,), lower is better."""


def logarithmic_rule(log_posteriors: Array, labels: Labels) -> Array:
    """The logarithmic score −ln q_y, in nats; infinite where the posterior of the right class is 0.

    Source: reference thesis, eq. 3.5.

    >>> logarithmic_rule(np.log([[0.5, 0.5]]), np.array([1])).round(4).tolist()
    [0.6931]
    """
    at_label = np.take_along_axis(log_posteriors, labels[:, None], axis=1)[:, 0]
    # Subtracting from zero gives 0.0, not -0.0, for a posterior of one.
    return np.asarray(0.0 - at_label, dtype=np.float64)


def brier_rule(log_posteriors: Array, labels: Labels) -> Array:
    """The Brier score Σ_k (1[k = y] − q_k)², summed (not averaged) over classes: from 0 to 2.

    Source: Brier (1950), in the original sum over classes.

    >>> brier_rule(np.log([[0.5, 0.5]]), np.array([1])).round(4).tolist()
    [0.5]
    """
    losses = np.empty(len(labels), dtype=np.float64)
    for rows in row_pieces(*log_posteriors.shape):
        gap = np.exp(log_posteriors[rows])
        # 1 − q_y by expm1: exact where q_y is near one.
        at_label = np.take_along_axis(log_posteriors[rows], labels[rows, None], axis=1)
        np.put_along_axis(gap, labels[rows, None], -np.expm1(at_label), axis=1)
        losses[rows] = np.einsum("nk,nk->n", gap, gap)
    return losses


def cost_rule(costs: Costs) -> Rule:
    """The proper scoring rule that any costs construct: C*(k, q) = C[k, d_B(q)].

    Source: reference thesis, eq. 3.2; arXiv:2408.02841.

    >>> rule = cost_rule(Costs([[0, 1], [5, 0]]))
    >>> rule(np.log([[0.7, 0.3], [0.9, 0.1]]), np.array([0, 1])).tolist()
    [1.0, 5.0]
    """

    def rule(log_posteriors: Array, labels: Labels) -> Array:
        decisions = bayes_decisions(log_posteriors, costs=costs)
        return np.asarray(costs.matrix[labels, decisions], dtype=np.float64)

    return rule


def error_rule(log_posteriors: Array, labels: Labels) -> Array:
    """1 where the most probable class (the first on ties) is not the label: `cost_rule` of 0–1 costs."""
    return np.asarray(log_posteriors.argmax(axis=1) != labels, dtype=np.float64)


def entropy(priors: Array) -> Array:
    """Entropy H(π) = −Σ_k π_k ln π_k over the last axis, nats: the cross-entropy of the system that outputs π.

    >>> float(entropy(np.full(3, 1 / 3)).round(4))
    1.0986
    """
    logs = np.log(priors, out=np.zeros_like(priors), where=priors > 0)
    return np.asarray(0.0 - (priors * logs).sum(axis=-1), dtype=np.float64)


def brier_of_priors(priors: Array) -> Array:
    """Brier score of the system that outputs π: 1 − Σ_k π_k² over the last axis."""
    return np.asarray(1.0 - np.square(priors).sum(axis=-1), dtype=np.float64)


def score_of_priors(priors: Array, *, rule: Rule) -> float:
    """Mean of any rule for the system that outputs the priors: Σ_k π_k rule(k, π), with 0 · ∞ = 0.

    >>> round(score_of_priors(np.array([0.5, 0.5]), rule=brier_rule), 4)
    0.5
    """
    n_classes = len(priors)
    with np.errstate(divide="ignore"):
        constant = np.broadcast_to(np.log(priors), (n_classes, n_classes))
    losses = rule(constant, np.arange(n_classes))
    return float((priors[priors > 0] * losses[priors > 0]).sum())


def class_shares(labels: Labels, *, n_classes: int) -> Array:
    """Empirical priors p_k = N_k / N, shape (K,)."""
    return np.asarray(np.bincount(labels, minlength=n_classes) / len(labels), dtype=np.float64)


def weighted_mean(losses: Array, labels: Labels, *, n_classes: int, priors: Array | None = None) -> float:
    """Mean loss under target priors: Σ_k (π_k / N_k) Σ_{i: y(i) = k} loss_i = (1/N) Σ_i w_i loss_i, w_i = π_y / p_y.

    Without priors the plain mean. A class of prior 0 counts 0, infinite losses included.

    Args:
        losses: (N,).
        labels: (N,).
        n_classes: K.
        priors: (K,), or None for the empirical ones.

    Raises:
        InputError: a class of positive prior has no instance, so its mean is unknown.

    Source: reference thesis, eqs. 3.6 and 3.7.

    >>> weighted_mean(np.array([1.0, 1.0, 4.0]), np.array([0, 0, 1]), n_classes=2, priors=np.array([0.5, 0.5]))
    2.5
    """
    if priors is None:
        return float(losses.mean())
    counts = np.bincount(labels, minlength=n_classes)
    check_present(counts, priors)
    used = priors > 0
    sums = np.bincount(labels, weights=losses, minlength=n_classes)
    return float((priors[used] / counts[used] * sums[used]).sum())


def check_present(counts: Labels, priors: Array) -> None:
    """Raise InputError if a class of positive prior has no instance."""
    missing = (counts == 0) & (priors > 0)
    if missing.any():
        k = int(missing.argmax())
        raise InputError(
            f"priors[{k}] is {priors[k]:g} but no instance has label {k}; set it to 0 or add instances of that class"
        )
