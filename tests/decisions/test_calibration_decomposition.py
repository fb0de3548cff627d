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
