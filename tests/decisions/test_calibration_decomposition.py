"""A score in two parts, discrimination and calibration loss, and the folds it is cross-validated on."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Costs, Posteriors, Temperature, calibration_loss, fit_calibrator
from rango.decisions.calibration import fold_of
from rango.errors import InputError


def test_raw_is_discrimination_plus_calibration() -> None:
    posteriors = make(n=600, sharpness=4)
    for score in ("cross_entropy", "brier", "expected_cost"):
        split = calibration_loss(posteriors, score=score)  # type: ignore[arg-type]
        assert split.raw == pytest.approx(split.calibrated + split.loss)
        assert split.relative == pytest.approx(split.loss / split.raw)
        assert (split.folds, split.converged) == (5, True)
    assert calibration_loss(posteriors).raw == posteriors.cross_entropy()


def test_it_is_recomputed_by_loops() -> None:
    posteriors = make(n=100)
    fold = fold_of(posteriors.labels, folds=5, seed=0)
    total = 0.0
    for index in range(5):
        calibrator = fit_calibrator(posteriors.take(fold != index), method="temperature")
        part = posteriors.take(fold == index)
        total += calibrator.apply(part).cross_entropy() * len(part)
    assert calibration_loss(posteriors, method="temperature").calibrated == pytest.approx(total / 100)


def test_overconfidence_is_found_and_calibrated_posteriors_lose_little() -> None:
    calm, sharp = make(n=2000, sharpness=1), make(n=2000, sharpness=5)
    assert abs(calibration_loss(calm).relative) < 0.02
    assert calibration_loss(sharp).relative > 0.3
    assert calibration_loss(sharp).calibrated == pytest.approx(calibration_loss(calm).calibrated, rel=0.02)


def test_costs_and_priors_reach_the_score() -> None:
    posteriors = make(n=200)
    costs = Costs.zero_one(3).with_abstention(0.2)
    split = calibration_loss(posteriors, score="expected_cost", costs=costs, priors=[0.2, 0.3, 0.5])
    assert split.raw == posteriors.expected_cost(costs, priors=[0.2, 0.3, 0.5])


def test_an_infinite_score_has_no_finite_loss() -> None:
    q = [[1.0, 0.0]] + [[0.6, 0.4], [0.3, 0.7]] * 10
    split = calibration_loss(Posteriors.from_probabilities(q, [1] + [0, 1] * 10), method="temperature")
    assert split.raw == np.inf
    assert np.isnan(split.loss)
    assert np.isnan(split.relative)


@given(st.integers(0, 1000), st.integers(2, 7), st.integers(8, 60))
@settings(deadline=None, max_examples=30)
def test_folds_are_stratified_and_cover(seed: int, folds: int, n: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, n)
    fold = fold_of(labels, folds=folds, seed=seed)
    assert set(fold) == set(range(folds))
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for k in range(3):
        assert np.ptp(np.bincount(fold[labels == k], minlength=folds)) <= 1


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_groups_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [str(g) for g in rng.integers(0, 20, 100)]
    fold = fold_of(np.zeros(100, dtype=np.int64), folds=5, seed=seed, groups=groups)
    for group in set(groups):
        assert len({f for f, g in zip(fold.tolist(), groups, strict=True) if g == group}) == 1
    assert np.ptp(np.bincount(fold, minlength=5)) <= max(groups.count(g) for g in set(groups))


def test_duplicates_leak_unless_grouped() -> None:
    """Inside a bootstrap: copies of one instance must share a fold, or calibration looks better than it is."""
    rng = np.random.default_rng(0)
    posteriors = Posteriors.from_scores(rng.normal(size=(12, 6)) * 3, rng.integers(0, 6, 12))
    drawn = np.repeat(np.arange(12), 8)
    copies = posteriors.take(drawn)
    leaking = calibration_loss(copies, method="affine").calibrated
    grouped = calibration_loss(copies, method="affine", groups=[str(i) for i in drawn]).calibrated
    assert leaking < grouped


def test_the_posteriors_own_groups_are_used() -> None:
    with_groups, plain = make(n=60, group_size=20), make(n=60)
    assert calibration_loss(with_groups).folds == 3
    assert calibration_loss(plain).folds == 5


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="unknown score 'nce'"):
        calibration_loss(make(), score="nce")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 folds of 200 instances or groups; expected at least 2 of each"):
        calibration_loss(make(), folds=1)
    with pytest.raises(InputError, match="5 folds of 1 instances or groups"):
        calibration_loss(Posteriors(np.log([[0.5, 0.5]]), [0]))
    with pytest.raises(InputError, match=re.escape("groups has 2 entries but there are 200 instances")):
        calibration_loss(make(), groups=["a", "b"])


def test_a_scale_is_undone() -> None:
    posteriors = make(n=400)
    moved = Temperature(scale=3.0).apply(posteriors)
    split = [calibration_loss(each, method="temperature").calibrated for each in (posteriors, moved)]
    assert split[0] == pytest.approx(split[1], abs=1e-6)


def sharpened(n: int, k: int, seed: int, *, by: float = 1.4) -> tuple[Posteriors, Posteriors]:
    """The true posteriors of n instances of k balanced classes, and the same sharpened."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), labels] += 1.5
    return Posteriors.from_scores(1.5 * scores, labels), Posteriors.from_scores(1.5 * by * scores, labels)


@pytest.mark.parametrize(
    ("method", "k", "by"), [("temperature", 2, 1.15), ("temperature", 10, 1.4), ("affine", 10, 1.4)]
)
def test_the_interval_holds_the_loss_of_the_population(method: str, k: int, by: float) -> None:
    true, sharp = sharpened(40_000, k, 99, by=by)
    truth = sharp.cross_entropy() - true.cross_entropy()
    held = 0
    for seed in range(60):
        split = calibration_loss(sharpened(300, k, seed, by=by)[1], method=method)  # type: ignore[arg-type]
        assert split.low is not None
        assert split.high is not None
        assert split.note is None
        assert split.low <= split.loss <= split.high
        held += split.low <= truth <= split.high
    # Of 60 intervals of 95 %, 51 or fewer would be a rare accident (1 in 1,000).
    assert held > 51


def test_the_interval_of_one_temperature_by_hand() -> None:
    # 2 N d / c is the square of a normal with mean √λ: the ends are where it is 1.96 away, to the far tail.
    _, sharp = sharpened(500, 3, 1)
    split = calibration_loss(sharp, method="temperature")
    fitted = fit_calibrator(sharp, method="temperature").apply(sharp)
    labels = (np.arange(500), sharp.labels)
    gains = fitted.log_posteriors[labels] - sharp.log_posteriors[labels]
    scale = gains.var() / (2 * gains.mean())
    assert scale > 1
    root = np.sqrt(1000 * gains.mean() / scale)
    assert root > 4
    ends = [scale / 1000 * (root + z) ** 2 for z in (-1.959964, 1.959964)]
    assert (split.low, split.high) == pytest.approx(ends, rel=1e-4)


def test_copies_in_groups_leave_the_interval_of_the_instances() -> None:
    _, sharp = sharpened(200, 3, 5)
    copies = sharp.take(np.repeat(np.arange(200), 3))
    grouped = Posteriors(copies.log_posteriors, copies.labels, None, [str(i // 3) for i in range(600)])
    alone, together = (calibration_loss(each, method="temperature") for each in (sharp, grouped))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=0.02)
    blind = calibration_loss(Posteriors(copies.log_posteriors, copies.labels), method="temperature")
    assert blind.high - blind.low < 0.7 * (alone.high - alone.low)  # type: ignore[operator]


def test_calibrated_posteriors_have_an_interval_from_zero_or_from_their_value() -> None:
    true, _ = sharpened(400, 4, 0)
    split = calibration_loss(true, method="temperature")
    assert split.low is not None
    assert split.high is not None
    assert split.low == min(0.0, split.loss)
    assert split.high > 0.001


def test_no_interval_is_explained() -> None:
    few = calibration_loss(sharpened(300, 50, 0)[1], method="affine")
    assert (few.low, few.high) == (None, None)
    assert few.note == (
        "no interval: 300 instances or groups are too few for the 50 parameters of affine calibration (at least 500)"
    )
    brier = calibration_loss(sharpened(300, 3, 0)[1], score="brier")
    assert brier.low is None
    assert "no interval: it is known for the cross-entropy" in str(brier.note)
    with pytest.raises(InputError, match="level is 95; expected a fraction between 0 and 1"):
        calibration_loss(make(), level=95)
