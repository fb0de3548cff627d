"""Class priors: re-weighting posteriors, and finding unknown priors from unlabelled posteriors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, check_priors, log_softmax
from rango.errors import InputError


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
        InputError: bad priors; a training prior of 0 for a class whose new prior is positive; a row left with nothing.

    Source: Saerens, Latinne and Decaestecker (2002), eq. 2.4.

    >>> logs = reweight_posteriors(np.log([[0.5, 0.5]]), priors=[0.9, 0.1], training_priors=[0.5, 0.5])
    >>> np.exp(logs).round(3).tolist()
    [[0.9, 0.1]]
    """
    n_classes = log_posteriors.shape[1]
    new = check_priors(priors, n_classes=n_classes)
    old = check_priors(training_priors, n_classes=n_classes, name="training_priors")
    if ((old == 0) & (new > 0)).any():
        k = int(((old == 0) & (new > 0)).argmax())
        raise InputError(f"training_priors[{k}] is 0 but priors[{k}] is {new[k]:g}; expected a positive training prior")
    shift = np.full(n_classes, -np.inf)
    shift[new > 0] = np.log(new[new > 0]) - np.log(old[new > 0])
    moved = log_posteriors + shift
    nothing = np.isneginf(moved.max(axis=1))
    if nothing.any():
        raise InputError(
            f"log_posteriors[{int(nothing.argmax())}] gives posterior 0 to every class of positive prior; "
            "expected at least one"
        )
    return log_softmax(moved)
