"""Soft labels: expected scores by hand, laws, the floor, calibration, files, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import (
    METRICS,
    Costs,
    Posteriors,
    brier_rule,
    calibration_loss,
    compare,
    cost_balance,
    cost_rule,
    entropy,
    error_rule,
    fit_calibrator,
    gate,
    logarithmic_rule,
    mcnemar,
    plan_sample,
    read_posteriors,
    risk_coverage,
    summarise,
    threshold_curve,
    write_posteriors,
)
from rango.decisions.instances import Votes
from rango.decisions.pairing import align_by_id, average_posteriors
from rango.decisions.sample_size import temperature_instances
from rango.errors import InputError

lawful = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 100_000)
LOGS = np.log([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
TARGETS = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])


def soft(seed: int, n: int = 30, k: int = 3, votes: int = 4) -> tuple[Posteriors, Posteriors]:
    """Instances with the shares of four annotators, and the same as four instances each, one for each annotator."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k))
    labels = (scores[:, None] + rng.gumbel(size=(n, votes, k))).argmax(axis=2)  # (n, votes)
    labels[0] = np.arange(votes) % k
    targets = np.stack([np.bincount(row, minlength=k) for row in labels]) / votes
    copies = Posteriors.from_scores(np.repeat(scores, votes, axis=0), labels.ravel())
    return Posteriors.from_scores(scores, targets), copies


def test_expected_scores_by_hand() -> None:
    posteriors = Posteriors(LOGS, TARGETS)
    cross_entropy = -(0.5 * np.log(0.7) + 0.5 * np.log(0.2) + 0.25 * np.log(0.3) + 0.75 * np.log(0.4)) / 2
    assert posteriors.cross_entropy() == pytest.approx(cross_entropy)
    np.testing.assert_allclose(posteriors.priors(), [0.25, 0.375, 0.375])
    assert posteriors.nce() == pytest.approx(cross_entropy / -(0.25 * np.log(0.25) + 0.75 * np.log(0.375)))
    # 1 − the share of the most probable choice: 0.5 of the first instance, 0.75 of the second.
    assert posteriors.error_rate() == pytest.approx((0.5 + 0.25) / 2)
    brier = (0.5 * (0.09 + 0.04 + 0.01) + 0.5 * (0.49 + 0.64 + 0.01)) / 2
    brier += (0.25 * (0.09 + 0.49 + 0.16) + 0.75 * (0.09 + 0.09 + 0.36)) / 2
    assert posteriors.brier() == pytest.approx(brier)
    costs = Costs([[0, 1, 2], [3, 0, 1], [5, 1, 0]])  # both choose 1: 0.5 + 2.0, 1.2 + 0.4 ...
    chosen = (np.exp(LOGS) @ costs.matrix).argmin(axis=1)
    expected = (TARGETS * costs.matrix[:, chosen].T).sum(axis=1).mean()
    assert posteriors.expected_cost(costs) == pytest.approx(expected)


@given(seeds)
@lawful
def test_shares_of_annotators_score_as_one_instance_for_each_annotator(seed: int) -> None:
    shares, copies = soft(seed)
    costs = Costs(np.random.default_rng(seed).uniform(0, 3, (3, 3))).with_abstention(0.4)
    priors = np.array([0.5, 0.3, 0.2])
    for name, metric in METRICS.items():
        if not metric.needs_order:
            for weights in (None, priors):
                one, other = (p.metric(name, costs=costs, priors=weights) for p in (shares, copies))
                assert one == pytest.approx(other, rel=1e-7), name
    assert cost_balance(shares, costs=costs, replicates=0).promised == pytest.approx(
        cost_balance(copies, costs=costs, replicates=0).promised
    )
    for method in ("temperature", "affine"):
        fits = [fit_calibrator(p, method=method) for p in (shares, copies)]
        np.testing.assert_allclose(*(fit.transform(shares.log_posteriors) for fit in fits), atol=1e-6)
    assert fits[0].report is not None
    assert fits[0].report.n == len(shares)


def test_two_classes_of_annotators_calibrate_and_cross_thresholds_as_copies() -> None:
    shares, copies = soft(3, k=2)
    for method in ("isotonic", "histogram"):
        fits = [fit_calibrator(p, method=method, bins=4) for p in (shares, copies)]
        np.testing.assert_allclose(*(np.exp(fit.transform(shares.log_posteriors)) for fit in fits), atol=1e-12)
    curves = [threshold_curve(p, costs=Costs([[0, 1], [5, 0]])) for p in (shares, copies)]
    np.testing.assert_allclose(curves[0].expected, curves[1].expected)
    assert risk_coverage(shares).area > 0


@pytest.mark.parametrize("rule", [logarithmic_rule, brier_rule, error_rule, cost_rule(Costs.zero_one(3))])
def test_a_target_of_one_choice_is_a_label(rule: object) -> None:
    hard = Posteriors(LOGS, [1, 2])
    votes = Votes.of(np.eye(3)[[1, 2]])
    expected = votes.of_instances(rule(LOGS[votes.rows], votes.labels), 2)  # type: ignore[operator]
    np.testing.assert_array_equal(expected, hard.losses(rule))  # type: ignore[arg-type]
    same = Posteriors(LOGS, np.eye(3)[[1, 2]])
    assert same.targets is None
    assert same.labels.tolist() == [1, 2]


@given(seeds)
@lawful
def test_the_expected_score_is_least_at_the_target(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, other = rng.dirichlet(np.ones(4), size=2)
    for rule in (logarithmic_rule, brier_rule):
        floor, score = (Posteriors(np.log([q]), [target]).score(rule) for q in (target, other))
        assert floor <= score
    shares, _ = soft(seed)
    floor = shares.target_only()
    for name in ("cross_entropy", "brier", "error_rate"):
        assert floor.metric(name) <= shares.metric(name)
    assert shares.targets is not None
    assert floor.cross_entropy() == pytest.approx(entropy(shares.targets).mean())


def test_intervals_are_those_of_instances_not_of_annotators() -> None:
    shares, copies = soft(5, n=60)
    groups = np.repeat(np.arange(60), 4).astype(str)
    grouped = Posteriors(copies.log_posteriors, copies.labels, groups=groups)
    ours = summarise(shares, replicates=400)
    theirs = summarise(grouped, replicates=400)
    for name in ("nce", "brier", "error_rate", "ece", "normalised_expected_cost"):
        a, b = ours[name], theirs[name]
        assert a.value == pytest.approx(b.value)
        assert (a.high or 0) - (a.low or 0) == pytest.approx((b.high or 0) - (b.low or 0), rel=0.25), name
    # Drawing annotators apart would halve the width: four votes of one instance are no four instances.
    assert summarise(copies, replicates=400)["nce"].n == 4 * ours["nce"].n


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "npz"])
def test_files_carry_soft_labels_and_types(tmp_path: Path, ending: str) -> None:
    logs = np.log([[0.7, 0.2, 0.1], [0.6, 0.4, 1e-300]])
    logs[1, 2] = -np.inf
    words = [("low", "middle", "high"), ("low", "middle")]
    given_ = Posteriors(logs, [[0.5, 0.25, 0.25], [1 / 3, 2 / 3, 0.0]], ["x", "y"], None, words, ["score", "choice"])
    path = tmp_path / f"p.{ending}"
    write_posteriors(path, given_)
    back = read_posteriors(path)
    np.testing.assert_array_equal(back.targets, given_.targets)
    assert back.types == ("score", "choice")
    assert back.choices == given_.choices
    assert back.cross_entropy() == given_.cross_entropy()
    assert not back.is_ordered
    assert back.take([0]).is_ordered


def test_a_frame_carries_soft_labels() -> None:
    posteriors = Posteriors(LOGS, TARGETS, types=["score", "score"])
    back = Posteriors.from_frame(posteriors.to_frame("polars", logarithms=True))
    np.testing.assert_array_equal(back.targets, TARGETS)
    assert back.is_ordered


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0.5, 0.4, 0.0], [1, 0, 0]], "labels[0] sums to 0.9; expected 1"),
        ([[3, 1, 0], [0, 4, 0]], "labels[0] sums to 4; expected 1, a distribution over the choices (divide counts"),
        ([[1.5, -0.5, 0.0], [1, 0, 0]], "labels[0] is [1.5, -0.5, 0.0]; expected shares from 0 to 1"),
        ([[0.5, 0.5], [1, 0]], "labels have shape (2, 2); expected (2,), one for each row, or (2, 3)"),
        ([[0.5, 0.5, np.nan], [1, 0, 0]], "labels[0]"),
    ],
)
def test_bad_distributions_are_refused(labels: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Posteriors(LOGS, labels)


def test_bad_rows_of_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    for second, message in (
        ("1", "p.jsonl:2: label is 1, but others are lists; give each row a list of shares"),
        ("[0.5]", "p.jsonl:2: label is [0.5]; expected a share for each of the 2 choices"),
        ("[0.5, 0.2, 0.3]", "p.jsonl:2: label has 3 shares but that instance has 2 choices"),
        ("[0.5, 0.2]", "labels[1] sums to 0.7; expected 1"),
    ):
        rows = [f'{{"label": {label}, "posteriors": [0.5, 0.5]}}\n' for label in ("[0.5, 0.5]", second)]
        path.write_text("".join(rows), encoding="utf-8")
        with pytest.raises(InputError, match=re.escape(message)):
            read_posteriors(path)


def test_what_needs_one_right_choice_is_refused_by_name() -> None:
    shares, copies = soft(1)
    with pytest.raises(InputError, match="McNemar's test needs one right choice for each instance"):
        mcnemar(shares, shares)
    with pytest.raises(InputError, match="a gate needs one right choice for each instance"):
        gate(shares, max_error=0.5)
    with pytest.raises(InputError, match="what is wanted needs one right choice"):
        _ = shares.labels
    with pytest.raises(InputError, match=re.escape("only the first has soft labels")):
        align_by_id(shares, Posteriors(shares.log_posteriors, copies.labels[: len(shares)]))
    assert "soft" in (calibration_loss(shares).note or "")


def test_systems_with_soft_labels_are_compared_planned_and_averaged() -> None:
    shares, _ = soft(2, n=80)
    other = shares.replaced(np.log(0.5 * np.exp(shares.log_posteriors) + 0.5 / 3))
    comparison = compare(shares, other, replicates=100)
    assert comparison.mcnemar is None
    assert comparison.as_dict()["mcnemar"] is None
    assert "expected under the soft labels" in comparison.sentence()
    assert plan_sample(shares, other, difference=0.02).instances > 0
    assert temperature_instances(shares, precision=0.3) > 0
    mean = average_posteriors([shares, other])
    np.testing.assert_array_equal(mean.targets, shares.targets)
    assert mean.cross_entropy() <= max(shares.cross_entropy(), other.cross_entropy())
