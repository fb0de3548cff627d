"""Posteriors under other class priors, and the priors of instances without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, check_log_posteriors, check_priors, log_softmax
from rango.errors import InputError

# Rows of a bootstrap sample of priors; with more, fewer are drawn and the spread is scaled.
_MOST_DRAWN = 5_000
# How near to its end each estimate of a bootstrap sample is followed, and how long at most.
_DRAWN_TOLERANCE, _DRAWN_ITERATIONS = 1e-5, 2_000


def reweight_posteriors(log_posteriors: Array, *, priors: ArrayLike, training_priors: ArrayLike) -> Array:
    """Posteriors under other class priors: q'_k ∝ q_k π_k / π⁰_k.

    It changes what is decided. The other use of new priors, weighing the instances of a metric, is the `priors`
    argument of the metrics.

    Args:
        log_posteriors: (N, K), nats.
        priors: (K,), the new priors π.
        training_priors: (K,), the priors π⁰ behind the posteriors.

    Returns:
        (N, K), nats.

    Raises:
        InputError: bad priors; a training prior of 0 for a class whose new prior is positive; a row whose posteriors
            all become 0.

    Source: Saerens, Latinne and Decaestecker (2002), eq. 2.4.

    >>> logs = reweight_posteriors(np.log([[0.5, 0.5]]), priors=[0.9, 0.1], training_priors=[0.5, 0.5])
    >>> np.exp(logs).round(3).tolist()
    [[0.9, 0.1]]
    """
    n_classes = log_posteriors.shape[1]
    new = check_priors(priors, n_classes=n_classes)
    old = check_priors(training_priors, n_classes=n_classes, name="training_priors")
    unseen = (old == 0) & (new > 0)
    if unseen.any():
        k = int(unseen.argmax())
        raise InputError(f"training_priors[{k}] is 0 but priors[{k}] is {new[k]:g}; expected a positive training prior")
    # Only classes of positive new prior get a shift, since 0 / 0 is none: the rest get posterior 0.
    shift = np.full(n_classes, -np.inf)
    shift[new > 0] = np.log(new[new > 0]) - np.log(old[new > 0])
    moved = log_posteriors + shift  # (N, K)
    empty = np.isneginf(moved.max(axis=1))
    if empty.any():
        raise InputError(
            f"log_posteriors[{int(empty.argmax())}] gives posterior 0 to every class of positive prior; "
            "expected at least one"
        )
    return log_softmax(moved)


@dataclass(frozen=True, eq=False)
class PriorAdaptation:
    """Priors estimated from unlabelled posteriors, and the posteriors under them."""

    priors: Array
    """(K,)"""
    log_posteriors: Array
    """(N, K), nats, re-weighted to `priors`."""
    iterations: int
    converged: bool
    """Whether the priors stood still to the tolerance."""


def adapt_priors(
    log_posteriors: Array,
    *,
    training_priors: ArrayLike,
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
) -> PriorAdaptation:
    """The class priors of unlabelled instances by expectation-maximisation, and the posteriors under them.

    From π = π⁰: π_k ← (1/N) Σ_i q_ik π_k/π⁰_k / Σ_j q_ij π_j/π⁰_j, until no prior moves by more than `tolerance`. Each
    step raises the likelihood of the priors. The priors are right only as far as the posteriors are calibrated under
    π⁰: calibrate them first, with a method that has a bias (Alexandari, Kundaje and Shrikumar, arXiv:1901.06852).

    Args:
        log_posteriors: (N, K), nats, under the training priors.
        training_priors: (K,), π⁰.
        tolerance: largest change of a prior at which the iteration stands still.
        max_iterations: at most; the result says whether they were enough.

    Raises:
        InputError: bad posteriors or training priors; a training prior of 0.

    Source: Saerens, Latinne and Decaestecker (2002), eq. 2.9.
    """
    logs = check_log_posteriors(log_posteriors)
    old = check_priors(training_priors, n_classes=logs.shape[1], name="training_priors")
    if not (old > 0).all():
        raise InputError(f"training_priors[{int((old == 0).argmax())}] is 0; expected positive training priors")
    priors = old
    # Rows as likelihood ratios; the scale of a row cancels, so its largest entry is made one.
    ratios = logs - np.log(old)
    ratios = np.exp(ratios - ratios.max(axis=1, keepdims=True))
    moved, iterations = np.inf, 0
    while moved > tolerance and iterations < max_iterations:
        # The expected share of each class under the present priors becomes its prior.
        new = priors * (ratios.T @ (1.0 / (ratios @ priors))) / len(ratios)  # (K,)
        moved = float(np.abs(new - priors).max())
        priors, iterations = new / new.sum(), iterations + 1
    adapted = reweight_posteriors(logs, priors=priors, training_priors=old)
    return PriorAdaptation(priors, adapted, iterations, moved <= tolerance)


def adapted_priors_interval(
    log_posteriors: Array,
    *,
    training_priors: ArrayLike,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[PriorAdaptation, Array]:
    """The priors of `adapt_priors`, and a bootstrap interval for each of them.

    The interval is for the drawing of the instances. It knows nothing of how well the posteriors are calibrated, on
    which the estimate rests too. Of more than 5,000 instances as many are drawn, and the deviations from the estimate
    are scaled by √(drawn / N).

    Args:
        log_posteriors: (N, K), nats, under the training priors.
        training_priors: (K,), π⁰.
        replicates: bootstrap samples.
        level: nominal coverage.
        seed: of the bootstrap.

    Returns:
        The estimate, and (2, K) lower and upper ends.

    Raises:
        InputError: as `adapt_priors`.

    Source: Saerens, Latinne and Decaestecker (2002); Bickel, Götze and van Zwet (1997) for drawing fewer than N.
    """
    estimate = adapt_priors(log_posteriors, training_priors=training_priors)
    logs, n = np.asarray(log_posteriors), len(log_posteriors)
    ratios = logs - np.log(check_priors(training_priors, n_classes=logs.shape[1], name="training_priors"))
    ratios = np.exp(ratios - ratios.max(axis=1, keepdims=True))  # (N, K)
    rng, drawn, samples = np.random.default_rng(seed), min(n, _MOST_DRAWN), []
    for _ in range(replicates):
        rows = ratios[rng.integers(0, n, size=drawn)]  # (n, K)
        # From the estimate of all, but inside: a prior that is 0 would stay so in every sample.
        priors = 0.99 * estimate.priors + 0.01 / logs.shape[1]
        for _ in range(_DRAWN_ITERATIONS):
            new = priors * (rows.T @ (1.0 / (rows @ priors))) / drawn
            moved, priors = float(np.abs(new - priors).max()), new
            if moved <= _DRAWN_TOLERANCE:
                break
        samples.append(priors)
    tails = [(1 - level) / 2, (1 + level) / 2]
    deviations = np.quantile(np.array(samples) - estimate.priors, tails, axis=0)  # (2, K)
    return estimate, np.clip(estimate.priors + np.sqrt(drawn / n) * deviations, 0.0, 1.0)
