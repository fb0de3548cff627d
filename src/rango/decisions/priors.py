"""Class priors: re-weighting posteriors, and finding unknown priors from unlabelled posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, check_log_posteriors, check_priors
from rango.decisions.posteriors import reweight_posteriors
from rango.errors import InputError

if TYPE_CHECKING:
    from rango.decisions.calibrators import Calibrator


@dataclass(frozen=True, eq=False)
class PriorAdaptation:
    """Priors found in unlabelled posteriors, and the posteriors under them."""

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
    step raises the likelihood of the priors. It holds only as far as the posteriors are calibrated under π⁰: see
    `adapt_priors_recalibrated`.

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
        new = priors * (ratios.T @ (1.0 / (ratios @ priors))) / len(ratios)
        moved = float(np.abs(new - priors).max())
        priors, iterations = new / new.sum(), iterations + 1
    adapted = reweight_posteriors(logs, priors=priors, training_priors=old)
    return PriorAdaptation(priors, adapted, iterations, moved <= tolerance)


def adapt_priors_recalibrated(
    log_posteriors: Array, *, calibrator: Calibrator, training_priors: ArrayLike
) -> PriorAdaptation:
    """`adapt_priors` of recalibrated posteriors: calibrate first, then find the priors.

    Args:
        log_posteriors: (N, K), nats, unlabelled.
        calibrator: fitted with a bias ("affine", "bias", "vector") on labelled instances with the training priors.
        training_priors: (K,), the class shares of those labelled instances.

    Raises:
        InputError: as `adapt_priors`; a calibrator of another number of choices.

    Source: Alexandari, Kundaje and Shrikumar (arXiv:1901.06852): bias-corrected calibration before the EM.
    """
    logs = check_log_posteriors(log_posteriors)
    return adapt_priors(calibrator.transform(logs), training_priors=training_priors)
