"""Fitting calibrators: optima of an independent optimiser, laws, hand-computed cases, and what the report says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from rango.decisions import (
    Affine,
    Calibrator,
    Posteriors,
    fit_calibrator,
)
from rango.errors import InputError

LINEAR = ["temperature", "bias", "affine", "vector", "matrix"]


def fitted(posteriors: Posteriors, method: str, **options: object) -> Calibrator:
    return fit_calibrator(posteriors, method=method, **options)  # type: ignore[arg-type]


def random_posteriors(seed: int, n: int = 60, k: int = 3) -> Posteriors:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k)) * rng.uniform(0.3, 4)
    labels = (scores * rng.uniform(0, 1) + rng.gumbel(size=(n, k)) + rng.normal(size=k)).argmax(axis=1)
    return Posteriors.from_scores(scores, labels)


@pytest.mark.parametrize("objective", ["cross_entropy", "brier"])
@pytest.mark.parametrize("method", ["temperature", "bias", "affine", "vector"])
def test_the_optimum_is_that_of_scipy(method: str, objective: str) -> None:
    posteriors = make(n=400, sharpness=3)
    logs, y, k = posteriors.log_posteriors, posteriors.labels, 3
    one_hot = np.eye(k)[y]

    def loss(theta: np.ndarray) -> float:
        scale, bias = {
            "temperature": (theta[0], 0),
            "bias": (1, theta[:k]),
            "affine": (theta[0], theta[1:]),
            "vector": (theta[:k], theta[k:]),
        }[method]
        log_q = scipy.special.log_softmax(logs * scale + bias, axis=1)
        if objective == "brier":
            return float(((np.exp(log_q) - one_hot) ** 2).sum(axis=1).mean())
        return float(-log_q[np.arange(len(y)), y].mean())

    sizes = {"temperature": 1, "bias": k, "affine": 1 + k, "vector": 2 * k}
    start = np.where(np.arange(sizes[method]) < {"bias": 0, "vector": k}.get(method, 1), 1.0, 0.0)
    best = scipy.optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-9}).fun
    calibrator = fitted(posteriors, method, objective=objective)
    assert calibrator.report is not None
    assert calibrator.report.converged
    assert calibrator.report.loss_after == pytest.approx(best, abs=1e-7)
    assert getattr(calibrator.apply(posteriors), objective)() == pytest.approx(calibrator.report.loss_after, abs=1e-9)
    assert getattr(posteriors, objective)() == pytest.approx(calibrator.report.loss_before)


def test_affine_is_the_optimum_of_torch_to_a_millionth() -> None:
    torch = pytest.importorskip("torch")
    posteriors = make(n=2000, k=4, sharpness=3)
    logs = torch.tensor(np.array(posteriors.log_posteriors))
    labels = torch.tensor(np.array(posteriors.labels))
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scale, bias], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> object:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(scale * logs + bias, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    calibrator = fitted(posteriors, "affine")
    assert isinstance(calibrator, Affine)
    assert calibrator.scale == pytest.approx(scale.item(), abs=1e-6)
    np.testing.assert_allclose(calibrator.bias, (bias - bias.mean()).detach().numpy(), atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(LINEAR), st.sampled_from(["cross_entropy", "brier"]))
@settings(deadline=None, max_examples=60)
def test_calibration_never_worsens_the_fitting_set(seed: int, method: str, objective: str) -> None:
    posteriors = random_posteriors(seed)
    after = fitted(posteriors, method, objective=objective).apply(posteriors)
    assert getattr(after, objective)() <= getattr(posteriors, objective)() + 1e-7


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_isotonic_never_worsens_either_score_and_keeps_the_order(seed: int) -> None:
    posteriors = random_posteriors(seed, k=2)
    after = fitted(posteriors, "isotonic").apply(posteriors)
    assert after.cross_entropy() <= posteriors.cross_entropy() + 1e-9
    assert after.brier() <= posteriors.brier() + 1e-9
    order = np.argsort(posteriors.log_posteriors[:, 1])
    assert (np.diff(np.exp(after.log_posteriors[order, 1])) >= -1e-12).all()


@given(st.integers(0, 10_000), st.sampled_from(["temperature", "affine"]))
@settings(deadline=None, max_examples=30)
def test_calibrating_twice_is_calibrating_once(seed: int, method: str) -> None:
    posteriors = random_posteriors(seed, n=200)
    once = fitted(posteriors, method).apply(posteriors)
    again = fitted(once, method).apply(once)
    assert again.cross_entropy() == pytest.approx(once.cross_entropy(), abs=1e-7)


def test_richer_families_fit_better() -> None:
    posteriors = make(n=500, sharpness=3)
    losses = {method: fitted(posteriors, method).report for method in ("temperature", "affine", "vector")}
    assert losses["vector"].loss_after <= losses["affine"].loss_after <= losses["temperature"].loss_after  # type: ignore[union-attr]


def test_affine_finds_what_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60_000, 3)) * 2
    labels = (0.5 * scores + [0.4, 0.0, -0.4] + rng.gumbel(size=scores.shape)).argmax(axis=1)
    calibrator = fitted(Posteriors.from_scores(scores, labels), "affine")
    assert isinstance(calibrator, Affine)
    assert calibrator.scale == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(calibrator.bias, [0.4, 0.0, -0.4], atol=0.03)


def test_bias_makes_the_mean_posterior_the_priors() -> None:
    posteriors = make()
    mean = np.exp(fitted(posteriors, "bias").apply(posteriors).log_posteriors).mean(axis=0)
    np.testing.assert_allclose(mean, posteriors.priors(), atol=1e-6)


def test_target_priors_are_read_as_priors() -> None:
    """Scores that are scaled likelihoods, fitted under any priors, give those priors' posteriors."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [3000, 1000])
    x = rng.normal(loc=2.0 * labels)
    ratio = 2 * x - 2  # ln p(x | 1) / p(x | 0) of unit Gaussians at 0 and 2
    posteriors = Posteriors.from_scores(np.stack([np.zeros(4000), ratio], axis=1), labels)
    calibrator = fitted(posteriors, "affine", priors=[0.1, 0.9])
    assert isinstance(calibrator, Affine)
    assert calibrator.scale == pytest.approx(1, abs=0.1)
    assert calibrator.bias[1] - calibrator.bias[0] == pytest.approx(0, abs=0.2)
    assert calibrator.priors == (0.1, 0.9)
    loss = calibrator.apply(posteriors).cross_entropy(priors=[0.1, 0.9])
    assert calibrator.report is not None
    assert loss == pytest.approx(calibrator.report.loss_after)
    without = fitted(posteriors, "bias", priors=[1, 0])
    assert np.isneginf(without.transform(posteriors.log_posteriors)[:, 1]).all()


def test_isotonic_is_scikit_learns() -> None:
    posteriors = make(n=300, k=2)
    p = np.exp(posteriors.log_posteriors[:, 1])
    expected = IsotonicRegression().fit_transform(p, posteriors.labels)
    calibrator = fitted(posteriors, "isotonic").apply(posteriors)
    np.testing.assert_allclose(np.exp(calibrator.log_posteriors[:, 1]), expected, atol=1e-12)


def test_isotonic_by_hand_with_ties_and_certainty() -> None:
    q = [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]]
    calibrator = fitted(Posteriors.from_probabilities(q, [0, 1, 0, 0, 1]), "isotonic")
    after = np.exp(calibrator.apply(Posteriors.from_probabilities(q, [0] * 5)).log_posteriors[:, 1])
    np.testing.assert_allclose(after, [0, 1 / 3, 1 / 3, 1 / 3, 1])


def test_histogram_by_hand() -> None:
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]]), [0, 1, 1, 1])
    calibrator = fitted(posteriors, "histogram", bins=4, spacing="width")
    np.testing.assert_allclose(np.exp(calibrator.apply(posteriors).log_posteriors[:, 1]), [0.5, 0.5, 1, 1])
    assert calibrator.as_dict()["values"] == pytest.approx([0.5, 0.375, 1, 1])


def test_padding_stays_impossible_and_does_not_matter() -> None:
    posteriors = make(n=100)
    padded = Posteriors(np.hstack([posteriors.log_posteriors, np.full((100, 1), -np.inf)]), posteriors.labels)
    plain, wide = fitted(posteriors, "temperature"), fitted(padded, "temperature")
    assert wide.as_dict()["scale"] == pytest.approx(plain.as_dict()["scale"])
    for method in ("temperature", "affine", "vector"):
        after = fitted(padded, method).apply(padded)
        assert np.isneginf(after.log_posteriors[:, 3]).all()
        np.testing.assert_allclose(np.exp(after.log_posteriors).sum(axis=1), 1)


def test_separated_data_say_so() -> None:
    calibrator = fitted(Posteriors.from_scores([[3, 0], [0, 3]], [0, 1]), "temperature")
    assert calibrator.report is not None
    assert calibrator.report.note == "every instance is told apart: only the ridge keeps the scale finite"
    assert np.isfinite(calibrator.as_dict()["scale"])


def test_backward_posteriors_get_scale_zero() -> None:
    backward = Posteriors.from_scores([[3, 0], [0, 3], [2, 0]], [1, 0, 1])
    for objective in ("cross_entropy", "brier"):
        for method in ("temperature", "affine"):
            calibrator = fitted(backward, method, objective=objective)
            assert calibrator.report is not None
            assert calibrator.as_dict()["scale"] == 0
            assert calibrator.report.converged
            assert "the best scale is 0" in (calibrator.report.note or "")


def test_absent_classes_and_zero_posteriors_are_noted() -> None:
    q = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.9, 0.0], [0.0, 1.0, 0.0]]
    posteriors = Posteriors.from_probabilities(q, [0, 1, 0, 0], ids="abcd")
    calibrator = fitted(posteriors, "affine")
    assert calibrator.report is not None
    assert calibrator.report.n == 3
    assert calibrator.report.note is not None
    assert "1 instances with posterior 0 at their label were left out (ids d)" in calibrator.report.note
    assert "classes without an instance (their shift falls until the ridge holds it): 2" in calibrator.report.note
    assert calibrator.report.loss_after == np.inf
    assert fitted(posteriors, "affine", objective="brier").report.loss_after < 2  # type: ignore[union-attr]


def test_one_instance_and_many_classes() -> None:
    for method in LINEAR:
        one = Posteriors(np.log([[0.5, 0.3, 0.2]]), [1])
        assert np.isfinite(fitted(one, method).apply(one).cross_entropy())
    rng = np.random.default_rng(0)
    many = Posteriors.from_scores(rng.normal(size=(100, 1000)), rng.integers(0, 1000, 100))
    for method in ("temperature", "affine"):
        report = fitted(many, method).report
        assert report is not None
        assert report.converged


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("platt", {}, "unknown calibration method 'platt'"),
        ("affine", {"objective": "hinge"}, "unknown objective 'hinge'"),
        ("matrix", {"regularisation": -1.0}, "regularisation is -1.0; expected 0 or more"),
        ("isotonic", {}, "isotonic calibration is for 2 classes but there are 3; use affine"),
        ("temperature", {"priors": [0.2, 0.3, 0.5]}, "priors do not apply to temperature calibration"),
        ("affine", {"priors": [0.2, 0.3]}, "priors have shape (2,); expected (3,)"),
    ],
)
def test_bad_options_are_named(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fitted(make(n=20), method, **options)


def test_bad_fitting_sets_are_named() -> None:
    zero = Posteriors.from_probabilities([[1, 0, 0]], [1])
    with pytest.raises(InputError, match="every instance has posterior 0 at its label"):
        fitted(zero, "affine")
    with pytest.raises(
        InputError, match=re.escape("log_posteriors[0] has a choice of posterior 0; a matrix calibrator")
    ):
        fitted(zero, "matrix")
    with pytest.raises(InputError, match="bins is 0; expected at least 1"):
        fitted(make(k=2), "histogram", bins=0)
    with pytest.raises(InputError, match="no instance has label 1"):
        fitted(Posteriors(np.log([[0.5, 0.5]]), [0]), "affine", priors=[0.5, 0.5])


def test_one_instance_with_an_impossible_choice_can_be_fitted_and_is_left_as_it_was() -> None:
    # The transpose of one row is contiguous: without a copy, the fit would write into the caller's posteriors.
    posteriors = Posteriors.from_probabilities([[0.6, 0.4, 0.0]], [0])
    fitted = fit_calibrator(posteriors, method="temperature")
    assert np.isneginf(posteriors.log_posteriors[0, 2])
    assert np.exp(fitted.apply(posteriors).log_posteriors[0, 2]) == 0


def of_classes(n: int, k: int, *, sees: float, prefers: float, seed: int = 0) -> Posteriors:
    """A model of k fixed classes that sees so much of the right one, and prefers some classes for no reason."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    preference = prefers * np.random.default_rng(1).normal(size=k)
    scores = sees * np.eye(k)[labels] + rng.normal(size=(n, k)) + preference
    return Posteriors.from_scores(scores, labels, choices=[tuple("abcdefgh"[:k])] * n)


def test_auto_takes_a_bias_for_fixed_classes_that_a_temperature_flattens() -> None:
    """A blind model with a preference: a temperature makes it uniform, which is worse than the priors."""
    validation, test = (of_classes(n, 5, sees=0.2, prefers=2.0, seed=seed) for n, seed in ((120, 2), (4000, 3)))
    fitted = fit_calibrator(validation, method="auto")
    assert fitted.method == "affine"
    assert fitted.apply(test).nce() < 1.02
    assert fit_calibrator(validation, method="temperature").apply(test).nce() > 1.04


def test_auto_takes_a_temperature_without_classes_evidence_or_instances() -> None:
    biased = of_classes(120, 5, sees=1.0, prefers=2.0)
    assert fit_calibrator(biased, method="auto").method == "affine"
    assert fit_calibrator(biased.take(np.arange(49)), method="auto").method == "temperature", "too few"
    unnamed = Posteriors(biased.log_posteriors, biased.labels)
    assert fit_calibrator(unnamed, method="auto").method == "temperature", "columns may be no classes"
    own = Posteriors(biased.log_posteriors, biased.labels, choices=[tuple("abcde"), *[tuple("bcdea")] * 119])
    assert fit_calibrator(own, method="auto").method == "temperature", "choices are each instance's own"
    good = of_classes(120, 5, sees=6.0, prefers=0.0)
    assert fit_calibrator(good, method="auto").method == "temperature", "no evidence for a bias"
