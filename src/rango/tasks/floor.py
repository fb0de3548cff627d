"""How good a posterior is when the true one is known: exact expectations over the labels, free of label noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rango.errors import InputError
from rango.tasks.instance import Instance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# numpy is imported where it is used: the command line reads this room before it knows what is asked of it.


def true_log_posteriors(instances: Sequence[Instance]) -> Array:
    """(N, K) the true log-posteriors of the instances in nats; -inf where an instance has fewer choices.

    Raises:
        InputError: no instances, or one whose true posterior is not known.
    """
    import numpy as np

    if not instances:
        raise InputError("no instances; expected at least one with a true posterior")
    rows = np.full((len(instances), max(len(instance.choices) for instance in instances)), -np.inf)
    for row, instance in zip(rows, instances, strict=True):
        if instance.log_posterior is None:
            raise InputError(f"instance {instance.id!r} has no true posterior; only simulated tasks know it")
        row[: len(instance.choices)] = instance.log_posterior
    return rows


def expected_scores(log_posteriors: Array, true: Array) -> dict[str, float]:
    """Error rate, cross-entropy and NCE that the posteriors have on average over labels drawn from the true ones.

    With p_i the true posterior, q_i the one in question and d_i = argmax_k q_ik (the first on ties):

        error_rate    = (1/N) Σ_i (1 - p_i(d_i))
        cross_entropy = -(1/N) Σ_i Σ_k p_ik ln q_ik                  (nats; a term with p_ik = 0 counts 0)
        nce           = cross_entropy / H(π),   π_k = (1/N) Σ_i p_ik   the expected priors

    At q = p these are the floor: no posterior has a lower expected cross-entropy or error rate.
    All three: lower is better. On labels actually drawn, the metrics of `Posteriors` scatter around these values.

    Args:
        log_posteriors: (N, K) the posteriors in question, nats.
        true: (N, K) the true ones, nats.

    Raises:
        InputError: the shapes differ or are not (N, K).
    """
    import numpy as np

    q, p = np.asarray(log_posteriors, dtype=np.float64), np.exp(np.asarray(true, dtype=np.float64))
    if q.shape != p.shape or q.ndim != 2 or not q.size:
        raise InputError(f"log_posteriors {q.shape} and true {p.shape}; expected the same shape (N, K)")
    hit = p[np.arange(len(p)), q.argmax(axis=1)]
    loss = -_dot(p, q).mean()
    priors = p.mean(axis=0)
    entropy = -_dot(priors, np.log(priors, out=np.zeros_like(priors), where=priors > 0))
    return {
        "error_rate": float(1 - hit.mean()),
        "cross_entropy": float(loss),
        "nce": float(loss / entropy),
    }


def _dot(p: Array, log_q: Array) -> Array:
    """Σ_k p_k log q_k over the last axis, where 0 · (-inf) counts 0."""
    import numpy as np

    products = np.multiply(p, log_q, out=np.zeros_like(p), where=p > 0)
    total: Array = products.sum(axis=-1)
    return total
