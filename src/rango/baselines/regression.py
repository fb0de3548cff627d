"""Logistic regressions over the choices of instances, with the strength of their penalty chosen on validation.

Two kinds, of scikit-learn's LogisticRegression:

    classes   one row of features for each instance, K classes   posterior = softmax of the K scores
    choices   one row for each choice, right or wrong            posterior = softmax of the log-odds

A softmax of log-odds is the posterior of independent rows given that exactly one of them is right. What all rows of an
instance have in common cancels in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rango.decisions import Posteriors
from rango.options import Split
from rango.scoring.scorer import as_posteriors
from rango.tasks import Instance, Task
from rango.training.evaluate import check_not_empty

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Values of C, the inverse of the penalty, that are tried."""

_MOST_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a baseline gives for a task."""

    posteriors: Mapping[Split, Posteriors]
    """On validation and test."""
    trainable_parameters: int
    facts: Mapping[str, Any]
    """What was chosen on validation, for the record."""
    notes: tuple[str, ...] = ()


def check_fittable(task: Task) -> None:
    """Raise InputError for a task without instances to learn from, or to choose by."""
    check_not_empty(task.train, shots=0)
    check_not_empty(task.validation, shots=0)


def fit_classes(features: Mapping[Split, Any], task: Task) -> Fitted:
    """Fit a multinomial regression, whose classes are the places of the choices.

    A class without a training instance is given one whose features are 0: its posterior would be 0 otherwise, and one
    test instance of it would cost infinitely much.

    Args:
        features: of each split, an array or sparse matrix (instances, features).
        task: the instances of the splits, in the same order.
    """
    labels = np.array([instance.answer for instance in task.train])
    rows, lacking = features["train"], np.setdiff1d(np.arange(task.n_choices), labels)
    if len(lacking):
        rows, labels = _with_zero_rows(rows, len(lacking)), np.concatenate([labels, lacking])

    def scores(regression: Any, split: Split) -> np.ndarray:
        values = regression.decision_function(features[split])  # (N, K), or (N,) of two classes
        values = np.stack([np.zeros(len(values)), values], axis=1) if values.ndim == 1 else values
        counts = np.array([len(instance.choices) for instance in task.split(split)])
        # A choice that the instance does not have gets no posterior, whatever its class scores.
        return np.where(np.arange(values.shape[1]) < counts[:, None], values, -np.inf)

    return _choose(rows, labels, scores, task)


def fit_choices(features: Mapping[Split, Any], task: Task) -> Fitted:
    """Fit one regression of right and wrong choices.

    Args:
        features: of each split, an array or sparse matrix (choices of all instances, features).
        task: the instances of the splits, in the same order.
    """
    rights = [k == instance.answer for instance in task.train for k in range(len(instance.choices))]

    def scores(regression: Any, split: Split) -> np.ndarray:
        return per_instance(regression.decision_function(features[split]), task.split(split))

    return _choose(features["train"], np.array(rights, dtype=np.int64), scores, task)


def per_instance(values: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """Values of all choices, one after the other, as (N, K); -inf where an instance has no such choice.

    >>> two = Instance("a", "c", "q", ("x", "y"), 0, "a"), Instance("b", "c", "q", ("x", "y", "z"), 0, "b")
    >>> per_instance(np.arange(5.0), two).tolist()
    [[0.0, 1.0, -inf], [2.0, 3.0, 4.0]]
    """
    counts = np.array([len(instance.choices) for instance in instances])
    scores = np.full((len(instances), counts.max()), -np.inf)
    scores[np.arange(counts.max()) < counts[:, None]] = values
    return scores


def _choose(rows: Any, labels: np.ndarray, scores: Any, task: Task) -> Fitted:
    """The regression whose C gives the least cross-entropy on validation; of equal ones the strongest penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    best: tuple[float, float, Any] | None = None
    losses: dict[str, float] = {}
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            # A fit that has not converged is noted where it is the one that is taken.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression = LogisticRegression(C=strength, max_iter=_MOST_STEPS).fit(rows, labels)
        loss = as_posteriors(scores(regression, "validation"), task.validation).cross_entropy()
        # Strengths rise from the strongest penalty on, so that a tie keeps the simpler regression.
        losses[f"{strength:g}"] = round(loss, 6)
        if best is None or loss < best[0]:
            best = loss, strength, regression
    assert best is not None
    _, strength, regression = best
    converged = int(np.max(regression.n_iter_)) < _MOST_STEPS
    return Fitted(
        posteriors={
            "validation": as_posteriors(scores(regression, "validation"), task.validation),
            "test": as_posteriors(scores(regression, "test"), task.test),
        },
        trainable_parameters=int(regression.coef_.size + regression.intercept_.size),
        facts={"c": strength, "validation_cross_entropy": losses},
        notes=() if converged else (f"the logistic regression with C {strength:g} did not converge",),
    )


def _with_zero_rows(rows: Any, count: int) -> Any:
    from scipy import sparse

    if sparse.issparse(rows):
        return sparse.vstack([rows, sparse.csr_array((count, rows.shape[1]), dtype=rows.dtype)], format="csr")
    return np.concatenate([rows, np.zeros((count, rows.shape[1]), dtype=rows.dtype)])
