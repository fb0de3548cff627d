"""The fit of linear calibrators: derivatives, optima by hand and by scikit-learn, laws, and data that mislead."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import scipy.optimize
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from rango.decisions import Affine, Posteriors, fit_calibrator, logistic_fit
from rango.decisions.arrays import log_softmax
from rango.decisions.logistic_fit import Family, FitData, LinearMethod, fit, linear_family

METHODS = get_args(LinearMethod)


def data_of(posteriors: Posteriors, priors: np.ndarray | None = None) -> FitData:
    return FitData.of(posteriors.log_posteriors, posteriors.labels, priors=priors)


def mean_loss(family: Family, theta: np.ndarray, posteriors: Posteriors) -> float:
    """The cross-entropy of θ with the posteriors row by row, as nothing in the fit computes it."""
    k = family.n_classes
    weight = theta[:-k].reshape(k, k) if family.shape == "matrix" else np.eye(k) * theta[:-k]
    logits = [weight @ row + theta[-k:] for row in posteriors.log_posteriors]
    losses = [np.log(np.exp(z).sum()) - z[y] for z, y in zip(logits, posteriors.labels, strict=True)]
    return float(np.mean(losses))


@pytest.mark.parametrize("method", ["affine", "vector", "matrix"])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_and_hessians_are_those_of_differences(method: LinearMethod, padded: bool) -> None:
    k = 3
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, k))
    if padded and method != "matrix":
        scores[::5, 2] = -np.inf
    posteriors = Posteriors.from_scores(scores, rng.integers(0, 2, 40))
    family = linear_family(method, k, regularisation=0.1)
    for priors in (None, np.array([0.7, 0.3, 0.0])):
        data = data_of(posteriors, priors)
        observed = logistic_fit._observed(family, data)
        one_hot = np.eye(k)[:, data.labels] * data.weights
        np.testing.assert_allclose(observed, family.gradient(one_hot, data.scores), atol=1e-12)
        theta = family.identity + rng.normal(size=len(family.identity)) * 0.3
        hessian = np.diag(family.penalty)
        _, gradient = logistic_fit._cross_entropy(family, theta, data, observed, hessian)
        brier_gradient = logistic_fit._brier(family, theta, data)[1]
        for index, step in enumerate(np.eye(len(theta)) * 1e-6):
            up, down = (logistic_fit._cross_entropy(family, theta + side * step, data, observed) for side in (1, -1))
            assert (up[0] - down[0]) / 2e-6 == pytest.approx(gradient[index], abs=1e-7)
            np.testing.assert_allclose((up[1] - down[1]) / 2e-6, hessian[index], atol=1e-7)
            high, low = (logistic_fit._brier(family, theta + side * step, data)[0] for side in (1, -1))
            assert (high - low) / 2e-6 == pytest.approx(brier_gradient[index], abs=1e-7)


def test_a_bias_by_hand() -> None:
    """Scores that say nothing: the fitted posteriors are the shares of the classes."""
    data = FitData.of(np.log(np.full((8, 2), 0.5)), np.array([0] * 6 + [1] * 2), priors=None)
    optimum = fit(linear_family("bias", 2), data, objective="cross_entropy")
    assert optimum.theta[1] - optimum.theta[2] == pytest.approx(np.log(3), abs=1e-7)
    assert optimum.loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-9)


def test_a_temperature_by_hand() -> None:
    """Log-odds of 4 that are right three times in four ought to be ln 3."""
    data = FitData.of(log_softmax(np.array([[4.0, 0.0]] * 4)), np.array([0, 0, 0, 1]), priors=None)
    optimum = fit(linear_family("temperature", 2), data, objective="brier")
    assert optimum.theta[0] == pytest.approx(np.log(3) / 4, abs=1e-5)
    assert optimum.loss == pytest.approx(2 * 0.75 * 0.25, abs=1e-9)


@pytest.mark.parametrize("k", [2, 4])
def test_a_matrix_is_scikit_learns_logistic_regression(k: int) -> None:
    posteriors = make(n=400, k=k, sharpness=3)
    calibrated = fit_calibrator(posteriors, method="matrix", regularisation=0.0).apply(posteriors)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    reference.fit(posteriors.log_posteriors, posteriors.labels)
    expected = reference.predict_proba(posteriors.log_posteriors)
    np.testing.assert_allclose(np.exp(calibrated.log_posteriors), expected, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_better_parameters_are_near(method: LinearMethod) -> None:
    posteriors = make(n=150, sharpness=3)
    family = linear_family(method, 3)
    optimum = fit(family, data_of(posteriors), objective="cross_entropy")
    assert optimum.loss == pytest.approx(mean_loss(family, optimum.theta, posteriors), abs=1e-9)

    def loss(part: np.ndarray) -> float:
        theta = family.identity.copy()
        theta[family.free] = part
        return mean_loss(family, theta, posteriors)

    best = scipy.optimize.minimize(loss, optimum.theta[family.free], method="BFGS", options={"gtol": 1e-6})
    assert optimum.loss <= best.fun + 1e-9
    assert (optimum.theta[~family.free] == family.identity[~family.free]).all()


@given(st.integers(0, 10_000), st.sampled_from(METHODS), st.sampled_from(["cross_entropy", "brier"]))
@settings(deadline=None, max_examples=40)
def test_the_loss_is_never_above_the_start(seed: int, method: LinearMethod, objective: logistic_fit.Objective) -> None:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 5)), int(rng.integers(1, 60))
    posteriors = Posteriors.from_scores(rng.normal(size=(n, k)) * rng.uniform(0.3, 6), rng.integers(0, k, n))
    optimum = fit(linear_family(method, k), data_of(posteriors), objective=objective)
    assert optimum.loss <= getattr(posteriors, objective)() + 1e-7


@pytest.mark.parametrize("method", ["affine", "vector", "matrix"])
def test_lbfgs_and_newton_agree(method: LinearMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    data, family = data_of(make(n=300, sharpness=3)), linear_family(method, 3, regularisation=0.01)
    by_newton = fit(family, data, objective="cross_entropy")
    monkeypatch.setattr(logistic_fit, "_MAX_NEWTON", 0)
    by_lbfgs = fit(family, data, objective="cross_entropy")
    assert by_lbfgs.converged
    assert by_lbfgs.loss == pytest.approx(by_newton.loss, abs=1e-9)


@pytest.mark.parametrize("case", ["overlapping", "separated", "weighted"])
def test_the_steps_of_a_large_matrix_lead_where_its_hessian_does(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes without instances and separated ones bend the loss least; there L-BFGS alone does not arrive."""
    rng, k = np.random.default_rng(0), 12
    centres = rng.normal(size=(k, 4)) * (3.0 if case == "separated" else 1.0)
    labels = rng.integers(0, k - 2, 120)
    posteriors = Posteriors.from_scores((centres[labels] + rng.normal(size=(120, 4))) @ centres.T, labels)
    shares = np.bincount(labels, minlength=k) + np.arange(k) * (np.bincount(labels, minlength=k) > 0)
    data = data_of(posteriors, shares / shares.sum() if case == "weighted" else None)
    family = linear_family("matrix", k, regularisation=1e-3)

    def objective_of(theta: np.ndarray) -> float:
        return logistic_fit._cross_entropy(family, theta, data, logistic_fit._observed(family, data))[0]

    by_hessian = fit(family, data, objective="cross_entropy")
    monkeypatch.setattr(logistic_fit, "_MAX_NEWTON", 0)
    by_products = fit(family, data, objective="cross_entropy")
    assert by_hessian.converged
    assert by_products.converged
    assert objective_of(by_products.theta) == pytest.approx(objective_of(by_hessian.theta), abs=1e-4)
    # With few products for each step it does not arrive, and says so.
    monkeypatch.setattr(logistic_fit, "_MAX_PRODUCTS", 1)
    monkeypatch.setattr(logistic_fit, "_MAX_STEPS", 2)
    assert not fit(family, data, objective="cross_entropy").converged


@pytest.mark.parametrize("method", METHODS)
def test_pieces_sum_to_the_whole(method: LinearMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    posteriors, priors = make(n=100), np.array([0.2, 0.3, 0.5])
    data, family = data_of(posteriors, priors), linear_family(method, 3, regularisation=0.01)
    shares = np.bincount(posteriors.labels) / 100
    np.testing.assert_allclose(data.weights, (priors / shares / 100)[posteriors.labels])
    whole = fit(family, data, objective="cross_entropy")
    monkeypatch.setattr(logistic_fit, "_PIECE", 7 * 3 * 8)
    assert [len(piece.labels) for piece in data.pieces()] == [7] * 14 + [2]
    np.testing.assert_allclose(fit(family, data, objective="cross_entropy").theta, whole.theta, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", ["cross_entropy", "brier"])
def test_separated_data_stay_finite(method: LinearMethod, objective: logistic_fit.Objective) -> None:
    data = FitData.of(log_softmax(np.array([[3.0, 0.0], [0.0, 3.0]])), np.array([0, 1]), priors=None)
    optimum = fit(linear_family(method, 2), data, objective=objective)
    assert optimum.converged
    assert np.isfinite(optimum.theta).all()


@pytest.mark.parametrize("case", ["separated", "backward", "one class"])
def test_a_misleading_sample_does_not_lead_a_large_fit_astray(case: str) -> None:
    """Every fifth instance, of which the sample is made, is unlike the others."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30_000, 3)) * 2
    labels = (0.5 * scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    part = scores[::5]
    labels[::5] = {"separated": part.argmax(axis=1), "backward": part.argmin(axis=1), "one class": 0}[case]
    family, data = linear_family("affine", 3), data_of(Posteriors.from_scores(scores, labels))
    optimum = fit(family, data, objective="cross_entropy")
    from_identity = logistic_fit._newton(family, data, family.identity)
    assert optimum.converged
    assert optimum.loss == pytest.approx(from_identity.loss, abs=1e-9)


def test_a_large_separated_set_has_the_scale_of_an_independent_minimiser() -> None:
    scores = np.random.default_rng(0).normal(size=(30_000, 3)) * 2
    posteriors = Posteriors.from_scores(scores, scores.argmax(axis=1))
    gaps = posteriors.log_posteriors - posteriors.log_posteriors.max(axis=1, keepdims=True)

    def objective(scale: float) -> float:
        loss = np.log(np.exp(scale * gaps).sum(axis=1)).mean()
        return float(loss + 0.5 * logistic_fit.RIDGE * (scale - 1) ** 2)

    best = scipy.optimize.minimize_scalar(objective, bounds=(1, 1e4), method="bounded", options={"xatol": 1e-6})
    optimum = fit(linear_family("temperature", 3), data_of(posteriors), objective="cross_entropy")
    assert optimum.theta[0] == pytest.approx(best.x, rel=1e-5)


def test_a_fit_without_enough_steps_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_fit, "_MAX_STEPS", 1)
    fitted = fit_calibrator(make(sharpness=8), method="affine")
    assert isinstance(fitted, Affine)
    assert fitted.report is not None
    assert not fitted.report.converged
