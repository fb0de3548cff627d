"""Decisions, costs that vary, thresholds, and selective decisions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import (
    Costs,
    Posteriors,
    bayes_decisions,
    bayes_threshold,
    cost_balance,
    decide,
    risk_coverage,
    risk_curve,
    threshold_curve,
)
from rango.errors import InputError

seeds = st.integers(0, 10_000)


def test_decide_by_hand() -> None:
    costs = Costs([[0, 1, 0.3], [5, 0, 0.3]], decisions=["keep", "drop", "ask"])
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.01, 0.99]]), [0, 1], ids=["a", "b"])
    rows = list(decide(posteriors, costs=costs).rows())
    assert [(row["id"], row["decision"], row["runner_up"]) for row in rows] == [
        ("a", "ask", "keep"),
        ("b", "drop", "ask"),
    ]
    assert [row["expected_cost"] for row in rows] == pytest.approx([0.3, 0.01])
    assert [row["runner_up_cost"] for row in rows] == pytest.approx([0.5, 0.3])


def test_the_balance_of_costs_by_hand() -> None:
    """Four of five instances are passed on or right: the real cost is their mean, the promise that of the risks."""
    costs = Costs([[0, 1, 0.3], [5, 0, 0.3]], classes=["ham", "spam"], decisions=["ham", "spam", "ask"])
    shares = [[0.99, 0.01], [0.99, 0.01], [0.5, 0.5], [0.1, 0.9], [0.98, 0.02]]
    posteriors = Posteriors(np.log(shares), [0, 0, 0, 1, 1], choices=[("ham", "spam")] * 5)
    balance = cost_balance(posteriors, costs=costs)
    assert balance.promised == pytest.approx((0.05 + 0.05 + 0.3 + 0.1 + 0.1) / 5)
    assert balance.real.value == pytest.approx((0 + 0 + 0.3 + 0 + 5) / 5)
    # All ham costs 2, all spam 0.6, asking always 0.3.
    assert (balance.constant, balance.constant_cost) == ("ask", pytest.approx(0.3))
    assert balance.ratio.value == pytest.approx(1.06 / 0.3)
    assert balance.abstained == {"ask": 0.2}
    weighted = cost_balance(posteriors, costs=costs, priors=[1.0, 0.0], replicates=0)
    assert weighted.promised == pytest.approx((0.05 + 0.05 + 0.3) / 3)
    assert (weighted.constant, weighted.constant_cost, weighted.side) == ("ham", 0.0, "unclear")


@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_the_side_of_a_balance_is_that_of_the_costs_less_a_constant(shift: float) -> None:
    """Costs that are earnings, where no ratio is defined, are compared by their difference, with the same outcome."""
    labels = np.arange(200) % 2
    sure = np.where(labels[:, None] == np.arange(2), 0.9, 0.1)
    costs = Costs(Costs.zero_one(2).with_abstention(0.3).matrix + shift)
    sides = [
        cost_balance(Posteriors(np.log(q), labels), costs=costs).side for q in (sure, sure[:, ::-1], 0 * sure + 0.5)
    ]
    assert sides == ["less", "more", "unclear"]
    assert np.isnan(cost_balance(Posteriors(np.log(sure), labels), costs=costs).ratio.value) == (shift < 0)


def test_a_decision_that_costs_nothing_cannot_be_beaten() -> None:
    labels = np.arange(60) % 2
    shares = np.where(labels[:, None] == np.arange(2), 0.1, 0.9)
    balance = cost_balance(Posteriors(np.log(shares), labels), costs=Costs([[0, 0], [1, 0]]))
    assert (balance.constant_cost, balance.side) == (0.0, "unclear")


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_decide_takes_the_two_least_costs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    posteriors = Posteriors(np.log(rng.dirichlet(np.ones(3), size=20)), rng.integers(0, 3, 20))
    costs = Costs(rng.uniform(0, 1, size=(3, 5)))
    found = decide(posteriors, costs=costs)
    risks = np.sort(np.exp(posteriors.log_posteriors) @ costs.matrix, axis=1)
    np.testing.assert_allclose(found.expected_costs, risks[:, 0])
    np.testing.assert_allclose(found.runner_up_costs, risks[:, 1])
    assert (found.chosen == bayes_decisions(posteriors.log_posteriors, costs=costs)).all()


def test_decide_under_other_priors_reweights_the_posteriors() -> None:
    posteriors = Posteriors(np.log([[0.6, 0.4], [0.4, 0.6]]), [0, 1])
    costs = Costs.zero_one(2)
    assert decide(posteriors, costs=costs).chosen.tolist() == [0, 1]
    moved = decide(posteriors, costs=costs, priors=[0.9, 0.1])
    assert moved.chosen.tolist() == [0, 0]
    assert moved.expected_costs[1] == pytest.approx(0.06 / 0.42)
    back = decide(posteriors, costs=costs, priors=[0.9, 0.1], training_priors=[0.9, 0.1])
    assert back.chosen.tolist() == [0, 1]


def test_risk_curve_holds_each_member() -> None:
    posteriors = make(n=100)
    family = [Costs.zero_one(3).with_abstention(cost) for cost in (0.05, 0.2, 0.5, 0.9)]
    found = risk_curve(posteriors, family=family, priors=[0.2, 0.3, 0.5])
    for index, costs in enumerate(family):
        assert found.expected[index] == posteriors.expected_cost(costs, priors=[0.2, 0.3, 0.5])
        normalised = posteriors.normalised_expected_cost(costs, priors=[0.2, 0.3, 0.5])
        assert found.normalised[index] == pytest.approx(normalised)
    assert (np.diff(found.naive) >= 0).all()
    assert np.isnan(risk_curve(posteriors, family=[Costs(np.zeros((3, 2)))]).normalised[0])
    with pytest.raises(InputError, match="the family of costs is empty"):
        risk_curve(posteriors, family=[])


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_the_bayes_threshold_makes_the_bayes_decisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = Costs([[0, rng.uniform(0.1, 5)], [rng.uniform(0.1, 5), 0]])
    priors = rng.dirichlet([2, 2])
    ratio = rng.normal(size=50) * 2
    q = 1 / (1 + np.exp(-(ratio + np.log(priors[1] / priors[0]))))
    logs = np.log(np.stack([1 - q, q], axis=1))
    decided = bayes_decisions(logs, costs=costs)
    assert (decided == (ratio > bayes_threshold(costs, priors=priors))).all()


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_the_threshold_curve_is_that_of_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.integers(-3, 4, 30).astype(float)
    labels = np.append([0, 1], (odds[2:] + rng.logistic(size=28) > 0).astype(int))
    posteriors = Posteriors.from_scores(np.stack([np.zeros(30), odds], axis=1), labels)
    costs, priors = Costs([[0.1, 2], [3, 0]]), np.array([0.3, 0.7])
    found = threshold_curve(posteriors, costs=costs, priors=priors)
    assert (found.thresholds[0], found.thresholds[-1]) == (-np.inf, np.inf)
    # The log-odds come back from log-posteriors with rounding in the last digit.
    for threshold, expected in zip(found.thresholds - 1e-9, found.expected, strict=True):
        chosen = (odds >= threshold).astype(int)
        cost = sum(priors[k] * costs.matrix[k, chosen[labels == k]].mean() for k in range(2))
        assert expected == pytest.approx(cost)
    assert found.least == found.expected.min()
    assert found.least <= posteriors.expected_cost(costs, priors=priors) + 1e-12
    assert found.best in found.thresholds


def test_thresholds_of_other_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="thresholds are for 2 classes but there are 3"):
        threshold_curve(make(), costs=Costs.zero_one(2))
    with pytest.raises(
        InputError, match=re.escape("costs have shape (2, 3); thresholds need 2 classes and 2 decisions")
    ):
        threshold_curve(make(k=2), costs=Costs.zero_one(2).with_abstention(0.1))
    with pytest.raises(InputError, match="errors cost -1 and 1 more than being right; expected both positive"):
        bayes_threshold(Costs([[1, 0], [1, 0]]), priors=[0.5, 0.5])
    assert bayes_threshold(Costs.zero_one(2), priors=[1, 0]) == np.inf


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_risk_coverage_is_that_of_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    posteriors = Posteriors.from_scores(rng.normal(size=(40, 3)) * 3, rng.integers(0, 3, 40))
    for costs in (None, Costs.zero_one(3).with_abstention(0.3)):
        found = risk_coverage(posteriors, costs=costs)
        chosen = bayes_decisions(posteriors.log_posteriors, costs=costs or Costs.zero_one(3))
        matrix = (costs or Costs.zero_one(3)).matrix
        risks = (np.exp(posteriors.log_posteriors) @ matrix).min(axis=1)
        if len(set(risks)) < 40:  # abstaining makes ties
            assert found.risk[-1] == pytest.approx(posteriors.expected_cost(costs or Costs.zero_one(3)))
            continue
        order = sorted(range(40), key=lambda i: risks[i])
        for m in range(1, 41):
            mean = sum(matrix[posteriors.labels[i], chosen[i]] for i in order[:m]) / m
            assert found.risk[m - 1] == pytest.approx(mean)
        assert found.area == pytest.approx(found.risk.mean())


def test_ties_of_confidence_are_covered_together() -> None:
    posteriors = Posteriors(np.log([[0.9, 0.1]] * 4), [0, 1, 0, 0])
    found = risk_coverage(posteriors)
    np.testing.assert_allclose(found.risk, 0.25)
    assert found.coverage_at(0.25) == 1.0
    assert found.coverage_at(0.2) == 0.0


def test_confidence_is_told_apart_where_posteriors_round_to_one() -> None:
    posteriors = Posteriors.from_scores([[0, -50.0], [0, -80.0]], [1, 0])
    assert risk_coverage(posteriors).risk.tolist() == [0.0, 0.5]


def test_coverage_at_a_risk() -> None:
    found = risk_coverage(make(n=500))
    assert found.coverage_at(1.0) == 1.0
    assert found.coverage_at(-1.0) == 0.0
    covered = found.coverage_at(0.15)
    assert found.risk[round(covered * 500) - 1] <= 0.15
