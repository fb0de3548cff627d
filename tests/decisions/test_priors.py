from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Posteriors, adapt_priors, fit_calibrator, reweight_posteriors
from rango.decisions.arrays import log_softmax
from rango.errors import InputError

seeds = st.integers(0, 10_000)
MEANS = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])


def gaussians(priors: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods (N, 3) of unit Gaussians and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=priors)
    x = rng.normal(size=(n, 2)) + MEANS[labels]
    return -0.5 * ((x[:, None] - MEANS) ** 2).sum(axis=2), labels


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_reweighting_there_and_back_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = log_softmax(rng.normal(size=(10, 4)))
    old, new = rng.dirichlet(np.ones(4), size=2)
    moved = reweight_posteriors(logs, priors=new, training_priors=old)
    np.testing.assert_allclose(reweight_posteriors(moved, priors=old, training_priors=new), logs, atol=1e-10)
    np.testing.assert_allclose(reweight_posteriors(logs, priors=old, training_priors=old), logs, atol=1e-12)


def test_reweighting_is_bayes_rule_by_loops() -> None:
    rng = np.random.default_rng(0)
    q, (old, new) = rng.dirichlet(np.ones(3), size=5), rng.dirichlet(np.ones(3), size=2)
    found = np.exp(reweight_posteriors(np.log(q), priors=new, training_priors=old))
    for row, expected in zip(found, q, strict=True):
        products = [expected[k] * new[k] / old[k] for k in range(3)]
        np.testing.assert_allclose(row, [p / sum(products) for p in products])


def test_a_prior_of_zero_removes_the_class() -> None:
    logs = np.log([[0.2, 0.3, 0.5]])
    found = np.exp(reweight_posteriors(logs, priors=[0.5, 0.5, 0], training_priors=[0.4, 0.4, 0.2]))
    np.testing.assert_allclose(found, [[0.4, 0.6, 0]])


@pytest.mark.parametrize("target", [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]])
def test_em_recovers_simulated_priors(target: list[float]) -> None:
    training = np.array([0.5, 0.3, 0.2])
    likelihoods, labels = gaussians(np.array(target), 20_000, 0)
    found = adapt_priors(log_softmax(likelihoods + np.log(training)), training_priors=training)
    assert found.converged
    np.testing.assert_allclose(found.priors, target, atol=0.015)
    truth = Posteriors(log_softmax(likelihoods + np.log(target)), labels)
    adapted = Posteriors(found.log_posteriors, labels)
    unadapted = Posteriors(log_softmax(likelihoods + np.log(training)), labels)
    assert adapted.cross_entropy() == pytest.approx(truth.cross_entropy(), abs=0.002)
    assert adapted.cross_entropy() <= unadapted.cross_entropy() + 1e-6


@given(seeds)
@settings(deadline=None, max_examples=10)
def test_em_reaches_the_most_likely_priors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    training = rng.dirichlet(np.full(3, 5))
    q = rng.dirichlet(np.ones(3), size=50)
    found = adapt_priors(np.log(q), training_priors=training)

    def loss(free: np.ndarray) -> float:
        return float(-np.log((q / training) @ np.exp(log_softmax(np.append(free, 0.0)[None])[0])).mean())

    best = scipy.optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    reached = float(-np.log((q / training) @ found.priors).mean())
    assert reached <= best.fun + 1e-6


def test_recalibration_repairs_the_priors_of_overconfident_posteriors() -> None:
    training, target = np.array([0.5, 0.3, 0.2]), np.array([0.15, 0.25, 0.6])
    likelihoods, labels = gaussians(training, 20_000, 1)
    labelled = Posteriors(log_softmax(4 * (likelihoods + np.log(training)) + [1.5, 0, -1.5]), labels)
    calibrator = fit_calibrator(labelled, method="affine")
    unlabelled = log_softmax(4 * (gaussians(target, 20_000, 2)[0] + np.log(training)) + [1.5, 0, -1.5])
    shares = labelled.priors()
    plain = adapt_priors(unlabelled, training_priors=shares)
    repaired = adapt_priors(calibrator.transform(unlabelled), training_priors=shares)
    assert np.abs(repaired.priors - target).max() < 0.02
    assert np.abs(repaired.priors - target).max() < np.abs(plain.priors - target).max()


def test_too_few_iterations_say_so() -> None:
    q = np.random.default_rng(0).dirichlet(np.ones(3), size=50)
    found = adapt_priors(np.log(q), training_priors=[0.2, 0.3, 0.5], max_iterations=1)
    assert (found.converged, found.iterations) == (False, 1)


def test_bad_priors_are_named() -> None:
    logs = np.log([[0.5, 0.5]])
    with pytest.raises(InputError, match=re.escape("training_priors[1] is 0 but priors[1] is 0.5")):
        reweight_posteriors(logs, priors=[0.5, 0.5], training_priors=[1, 0])
    with pytest.raises(InputError, match=re.escape("log_posteriors[0] gives posterior 0 to every class of positive")):
        reweight_posteriors(np.array([[0.0, -np.inf]]), priors=[0, 1], training_priors=[0.5, 0.5])
    with pytest.raises(InputError, match=re.escape("training_priors[1] is 0; expected positive training priors")):
        adapt_priors(logs, training_priors=[1, 0])
    with pytest.raises(InputError, match="training_priors sum to 0.9"):
        adapt_priors(logs, training_priors=[0.5, 0.4])
