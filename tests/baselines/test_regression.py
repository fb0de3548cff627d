"""Regressions over the choices of instances: what is fitted, what is chosen, and which posteriors follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.toy import CLASSES, class_task, toy_task
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from rango.baselines.regression import STRENGTHS, check_fittable, fit_choices, fit_classes, per_instance
from rango.decisions.arrays import log_softmax
from rango.errors import InputError
from rango.options import SPLITS
from rango.tasks import Task


def features_of_classes(task: Task, *, noise: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        split: np.eye(3)[[i.answer for i in task.split(split)]] + noise * rng.normal(size=(len(task.split(split)), 3))
        for split in SPLITS
    }


def features_of_choices(task: Task) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rights = {split: [k == i.answer for i in task.split(split) for k in range(len(i.choices))] for split in SPLITS}
    return {split: np.array(right)[:, None] * 1.0 + rng.normal(size=(len(right), 2)) for split, right in rights.items()}


def test_classes_are_scikit_learns_regression_with_the_c_that_validation_prefers() -> None:
    task = class_task()
    features = features_of_classes(task)
    fitted = fit_classes(features, task)
    labels = {split: [i.answer for i in task.split(split)] for split in SPLITS}
    losses = {}
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, max_iter=2000).fit(features["train"], labels["train"])
        logs = regression.predict_log_proba(features["validation"])
        losses[strength] = -logs[np.arange(len(logs)), labels["validation"]].mean()
    assert fitted.facts["c"] == min(losses, key=losses.__getitem__)
    assert list(fitted.facts["validation_cross_entropy"].values()) == pytest.approx(list(losses.values()), abs=1e-5)
    regression = LogisticRegression(C=fitted.facts["c"], max_iter=2000).fit(features["train"], labels["train"])
    expected = regression.predict_log_proba(features["test"])
    np.testing.assert_allclose(fitted.posteriors["test"].log_posteriors, expected, atol=1e-8)
    assert fitted.posteriors["test"].ids == tuple(instance.id for instance in task.test)
    assert fitted.trainable_parameters == 3 * 3 + 3


def test_choices_have_the_posterior_given_that_exactly_one_is_right() -> None:
    """With independent probabilities p_k of being right, P(k alone) is p_k times all 1 − p_j of the others."""
    task = toy_task()
    features = features_of_choices(task)
    fitted = fit_choices(features, task)
    rights = [k == i.answer for i in task.train for k in range(len(i.choices))]
    regression = LogisticRegression(C=fitted.facts["c"], max_iter=2000).fit(features["train"], rights)
    p = regression.predict_proba(features["test"])[:, 1]
    start = 0
    for row, instance in enumerate(task.test):
        own = p[start : start + len(instance.choices)]
        alone = np.array([q * np.prod(np.delete(1 - own, k)) for k, q in enumerate(own)])
        posterior = np.exp(fitted.posteriors["test"].log_posteriors[row])
        np.testing.assert_allclose(posterior[: len(own)], alone / alone.sum(), atol=1e-8)
        assert posterior[len(own) :].sum() == 0
        start += len(own)
    assert fitted.trainable_parameters == 3


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_a_class_without_training_instances_keeps_a_posterior(kind: type) -> None:
    task = class_task()
    task = replace(task, train=tuple(instance for instance in task.train if instance.label != 2))
    features = features_of_classes(task)
    fitted = fit_classes({split: kind(rows) for split, rows in features.items()}, task)
    posteriors = fitted.posteriors["test"]
    assert posteriors.n_choices == len(CLASSES)
    assert np.isfinite(posteriors.log_posteriors).all()
    seen = np.exp(posteriors.log_posteriors[posteriors.labels != 2, 2])
    assert seen.mean() < 0.2


def test_two_classes_have_one_row_of_weights() -> None:
    task = class_task()
    halves = {
        split: tuple(replace(i, choices=CLASSES[:2]) for i in task.split(split) if i.label != 2) for split in SPLITS
    }
    task = replace(task, **halves)
    fitted = fit_classes(features_of_classes(task), task)
    assert fitted.posteriors["test"].n_choices == 2
    assert fitted.posteriors["test"].error_rate() < 0.5
    np.testing.assert_allclose(np.exp(fitted.posteriors["test"].log_posteriors).sum(axis=1), 1)


def test_letters_that_an_instance_lacks_are_impossible() -> None:
    task = toy_task()
    features = {split: np.ones((len(task.split(split)), 1)) for split in SPLITS}
    posteriors = fit_classes(features, task).posteriors["test"]
    lacking = np.array([len(instance.choices) == 3 for instance in task.test])
    assert np.isneginf(posteriors.log_posteriors[lacking, 3]).all()
    assert np.isfinite(posteriors.log_posteriors[~lacking]).all()


def test_values_are_laid_out_by_instance() -> None:
    task = toy_task()
    counts = [len(instance.choices) for instance in task.test]
    values = np.arange(float(sum(counts)))
    scores = per_instance(values, task.test)
    assert [row[np.isfinite(row)].tolist() for row in scores] == [
        part.tolist() for part in np.split(values, np.cumsum(counts)[:-1])
    ]
    assert log_softmax(scores).shape == (len(counts), 4)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_task_without_instances_to_learn_from_is_refused(split: str) -> None:
    with pytest.raises(InputError, match="the split holds no instances"):
        check_fittable(replace(class_task(), **{split: ()}))
