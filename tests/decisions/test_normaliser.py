"""What intervals of normalised metrics divide by, by hand and against populations that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import METRICS, Costs, Posteriors, summarise, summarise_difference, summarise_prior_only
from rango.decisions.instances import Votes
from rango.decisions.normaliser import Normaliser

NORMALISED = ("nce", "normalised_brier", "normalised_expected_cost")


def of(
    name: str, labels: list[int], k: int, *, units: list[int] | None = None, costs: Costs | None = None
) -> Normaliser:
    used = Costs.zero_one(k) if costs is None else costs
    places = np.arange(len(labels)) if units is None else np.array(units)
    return Normaliser.of(METRICS[name], Votes.of(np.array(labels)), costs=used, units=places)


def many_classes(n: int, k: int, seed: int, *, sharpness: float = 1.5) -> tuple[Posteriors, float]:
    """Instances of k balanced classes whose posteriors are right, and their cross-entropy over ln k by many draws."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), labels] += sharpness
    return Posteriors.from_scores(sharpness * scores, labels), math.log(k)


def test_the_entropy_of_two_and_one_by_hand() -> None:
    # Without one of the two: ln 2. Without the single one: 0. Three units.
    whole = math.log(3) - 2 / 3 * math.log(2)
    normaliser = of("nce", [0, 0, 1], 3)
    assert normaliser.correction == pytest.approx(2 * (whole - 2 / 3 * math.log(2)))
    assert normaliser.losses == pytest.approx([math.log(3 / 2), math.log(3), 0.0])
    assert normaliser.of_counts(np.array([[2, 1, 0], [3, 0, 0]])) == pytest.approx(
        [whole + normaliser.correction, math.log(3 / 2) + normaliser.correction]
    )


def test_the_brier_score_of_the_priors_becomes_unbiased() -> None:
    # The unbiased estimate of 1 − Σ π² is N / (N − 1) times that of the sample.
    labels = make(n=40, k=5).labels.tolist()
    own = 1 - float(np.square(np.bincount(labels) / 40).sum())
    assert of("normalised_brier", labels, 5).correction == pytest.approx(own / 39)


def test_whole_groups_are_left_out() -> None:
    # Copies of each instance in a group of its own add nothing to what is known of the priors.
    labels = make(n=60, k=6).labels.tolist()
    alone = of("nce", labels, 6)
    copied = of("nce", [label for label in labels for _ in range(3)], 6, units=[i // 3 for i in range(180)])
    assert copied.correction == pytest.approx(alone.correction)
    assert of("nce", [label for label in labels for _ in range(3)], 6).correction < alone.correction / 2
    # Units need not be numbered without gaps: a system may hold some of the instances that are drawn.
    assert of("nce", labels, 6, units=[3 * i + 7 for i in range(60)]).correction == alone.correction


def test_the_cost_of_the_best_constant_decision_at_a_tie() -> None:
    # Of many balanced samples the best constant decision pays too little on its own sample and 1/2 on the other half.
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, 2, 200).tolist() for _ in range(200)]
    own = [1 - max(np.bincount(labels, minlength=2)) / 200 for labels in samples]
    corrected = [
        cost + of("normalised_expected_cost", labels, 2).correction for cost, labels in zip(own, samples, strict=True)
    ]
    assert np.mean(own) < 0.475
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.005)


def test_one_class_or_one_group_corrects_nothing() -> None:
    for name in NORMALISED:
        assert of(name, [0, 0, 0], 2).correction == 0.0
        assert of(name, [0, 1, 1], 2, units=[0, 0, 0]).correction == 0.0
    free = Costs([[0, 1, 0], [1, 0, 0]])
    assert of("normalised_expected_cost", [0, 1, 1], 2, costs=free).correction == 0.0


def test_intervals_hold_the_value_of_the_sample_and_that_of_the_population() -> None:
    k, n = 150, 300
    many, entropy = many_classes(20_000, k, 99)
    truth = many.cross_entropy() / entropy
    held = 0
    for seed in range(40):
        posteriors, _ = many_classes(n, k, seed)
        nce = summarise(posteriors, metrics=["nce"], replicates=200, seed=seed)["nce"]
        assert nce.low is not None
        assert nce.high is not None
        assert nce.low <= nce.value <= nce.high
        assert nce.value == posteriors.nce()
        held += nce.low <= truth <= nce.high
    # Of 40 intervals of 95 %, 33 or fewer would be a rare accident (1 in 1,000); resampled priors gave 0.
    assert held > 33


def test_a_difference_keeps_its_sign_and_holds_its_value() -> None:
    posteriors, _ = many_classes(300, 150, 0)
    worse = posteriors.replaced(Posteriors.from_scores(3 * posteriors.log_posteriors, posteriors.labels).log_posteriors)
    estimates = summarise_difference(posteriors, worse, replicates=300)
    for name, of_mean in (("nce", "cross_entropy"), ("normalised_brier", "brier")):
        normalised, mean = estimates[name], estimates[of_mean]
        assert None not in (normalised.low, normalised.high, mean.low)
        assert normalised.low <= normalised.value <= normalised.high  # type: ignore[operator]
        assert (normalised.low > 0) == (mean.low > 0)  # type: ignore[operator]


def test_too_few_instances_for_the_classes_are_noted() -> None:
    posteriors, _ = many_classes(300, 150, 0)
    present = len(set(posteriors.labels.tolist()))
    estimates = summarise(posteriors, replicates=20)
    assert estimates["nce"].note is not None
    assert estimates["nce"].note.startswith(f"300 instances are few for {present} classes: NCE comes out about ")
    assert "too large, for which its interval is corrected" in estimates["nce"].note
    assert estimates["cross_entropy"].note is None
    # Known priors, the constant system whose NCE is 1 by definition, and enough instances need no note.
    known = np.bincount(posteriors.labels, minlength=150) / 300
    assert summarise(posteriors, priors=known, replicates=20)["nce"].note is None
    assert summarise_prior_only(posteriors, replicates=20)["nce"].note is None
    assert all(estimate.note is None for estimate in summarise(make(n=300, k=10), replicates=20).values())


def test_target_priors_normalise_as_they_are() -> None:
    posteriors = make(n=120)
    priors = np.array([0.2, 0.3, 0.5])
    weighted = summarise(posteriors, priors=priors, replicates=200)
    entropy = float(-(priors * np.log(priors)).sum())
    assert weighted["nce"].low == pytest.approx(weighted["cross_entropy"].low / entropy)  # type: ignore[operator]
    assert weighted["nce"].high == pytest.approx(weighted["cross_entropy"].high / entropy)  # type: ignore[operator]
