from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rango.errors import InputError
from rango.tasks import expected_scores, true_log_posteriors
from rango.tasks.task import Instance


def random_log_posteriors(seed: int, n: int = 30, k: int = 3) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet([0.7] * k, size=n))


def test_by_hand() -> None:
    """Two instances: p = (3/4, 1/4), (1/2, 1/2); q = (1/2, 1/2), (1/4, 3/4)."""
    p, q = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.25, 0.75]])
    scores = expected_scores(np.log(q), np.log(p))
    assert scores["error_rate"] == pytest.approx((0.25 + 0.5) / 2)
    cross_entropy = (math.log(2) - 0.5 * math.log(0.25) - 0.5 * math.log(0.75)) / 2
    assert scores["cross_entropy"] == pytest.approx(cross_entropy)
    priors = (0.625, 0.375)
    assert scores["nce"] == pytest.approx(cross_entropy / -sum(x * math.log(x) for x in priors))


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_nothing_beats_the_true_posterior(seed: int, k: int) -> None:
    p, q = random_log_posteriors(seed, k=k), random_log_posteriors(seed + 1, k=k)
    floor, other = expected_scores(p, p), expected_scores(q, p)
    assert all(floor[name] <= other[name] + 1e-12 for name in floor)


@given(st.integers(0, 10_000))
def test_the_expectation_is_the_mean_over_all_labellings(seed: int) -> None:
    """Element by element: three instances with two choices have eight labellings."""
    p, q = random_log_posteriors(seed, n=3, k=2), random_log_posteriors(seed + 1, n=3, k=2)
    error = loss = 0.0
    for labels in np.ndindex(2, 2, 2):
        weight = math.exp(sum(p[i, y] for i, y in enumerate(labels)))
        error += weight * np.mean([q[i].argmax() != y for i, y in enumerate(labels)])
        loss -= weight * np.mean([q[i, y] for i, y in enumerate(labels)])
    scores = expected_scores(q, p)
    assert scores["error_rate"] == pytest.approx(error)
    assert scores["cross_entropy"] == pytest.approx(loss)


def test_impossible_choices_count_nothing_and_possible_ones_everything() -> None:
    p = np.array([[0.0, np.log(0.5), np.log(0.5)], [np.log(0.5), np.log(0.5), -np.inf]])
    p[0, 0] = -np.inf
    assert expected_scores(p, p)["cross_entropy"] == pytest.approx(math.log(2))
    q = np.array([[-np.inf, 0.0, -np.inf], p[1]])
    assert expected_scores(q, p)["cross_entropy"] == math.inf


def test_ties_are_decided_for_the_first() -> None:
    p, q = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    assert expected_scores(q, p)["error_rate"] == pytest.approx(0.1)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"log_posteriors \(30, 3\) and true \(30, 4\); expected the same shape \(N, K\)"
    ):
        expected_scores(random_log_posteriors(0), random_log_posteriors(0, k=4))


def test_the_arguments_are_not_written_to() -> None:
    p = random_log_posteriors(1)
    before = p.copy()
    expected_scores(p, p)
    np.testing.assert_array_equal(p, before)


def test_true_posteriors_of_instances_with_fewer_choices() -> None:
    half = (math.log(0.5), math.log(0.5))
    two = Instance("two", "c", "", ("a", "b"), 0, "g", log_posterior=half)
    three = Instance("three", "c", "", ("a", "b", "c"), 0, "g", log_posterior=(*half, -math.inf))
    np.testing.assert_array_equal(true_log_posteriors([two, three]), [[*half, -np.inf], [*half, -np.inf]])
    with pytest.raises(InputError, match="instance 'x' has no true posterior; only simulated tasks know it"):
        true_log_posteriors([two, Instance("x", "c", "", ("a", "b"), 0, "g")])
    with pytest.raises(InputError, match="no instances; expected at least one with a true posterior"):
        true_log_posteriors([])
