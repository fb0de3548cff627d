"""Limits by hand, by laws, and by repeating what is promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rango.decisions.thresholds import binomial_interval, bounded_limit, chain_starts, least_cost_limit


def test_the_limit_of_least_cost_by_hand() -> None:
    """Acting saves 0.3 where it is right and loses 0.7 where it is wrong; the third best choice pays for the fourth."""
    doubt = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    saving = np.array([0.3, -0.7, 0.3, 0.3, -0.7])
    # Totals 0.3, −0.4, −0.1, 0.2, −0.5: the first alone is best.
    assert least_cost_limit(doubt, saving) == 0.1
    assert least_cost_limit(doubt, np.full(5, -0.1)) == -math.inf
    # Equal doubts are never parted, and a tie of costs is resolved for acting.
    assert least_cost_limit(np.array([0.2, 0.2, 0.4]), np.array([0.3, -0.7, 1.0])) == 0.4
    assert least_cost_limit(np.array([0.1, 0.2]), np.array([0.3, 0.0])) == 0.2


@pytest.mark.parametrize("n", [40, 60, 100, 400, 3000])
def test_a_chain_begins_where_it_could_pass_without_an_error(n: int) -> None:
    starts = chain_starts(n, most=0.05, alpha=0.05)
    assert all(start <= n for start in starts)
    for start in starts:
        assert stats.binom.cdf(0, start - 1, 0.05) <= 0.05 / len(starts)
    assert starts == [starts[0] << place for place in range(len(starts))] if starts else n < 60


def test_a_limit_is_accepted_by_the_exact_test() -> None:
    """With one chain: 60 instances without an error are the fewest, and the next error ends it."""
    doubt = np.arange(1, 101) / 1000
    wrong = np.zeros(100, dtype=bool)
    assert bounded_limit(doubt, wrong, most=0.05, alpha=0.05) == pytest.approx(0.1)
    wrong[70] = True
    # P(X = 0 | 71) passes, P(X ≤ 1 | 71) does not.
    assert stats.binom.cdf(1, 71, 0.05) > 0.05 >= stats.binom.cdf(0, 70, 0.05)
    assert bounded_limit(doubt, wrong, most=0.05, alpha=0.05) == pytest.approx(0.07)
    wrong[3] = True
    assert bounded_limit(doubt, wrong, most=0.05, alpha=0.05) == -math.inf
    assert bounded_limit(doubt[:59], wrong[:59] & False, most=0.05, alpha=0.05) == -math.inf


def test_the_bound_holds_as_often_as_it_promises() -> None:
    """The true error rate at the chosen limit is above 5 % in at most 10 % of the samples (400 of them; 1 % slack)."""
    rng = np.random.default_rng(0)
    broken = chosen = 0
    for _ in range(400):
        doubt = rng.beta(0.5, 2.0, size=500)
        limit = bounded_limit(doubt, rng.random(500) < doubt, most=0.05, alpha=0.1)
        chosen += limit > -math.inf
        # The error rate up to a limit is the mean doubt up to it, since these posteriors are calibrated.
        # In closed form: E[x; x ≤ t] = E[x] P(x' ≤ t), x' ~ Beta(a + 1, b).
        if limit > 0:
            broken += 0.2 * stats.beta(1.5, 2).cdf(limit) / stats.beta(0.5, 2).cdf(limit) > 0.05
    assert chosen > 300
    assert broken / 400 <= 0.1 + 0.01


@given(st.integers(1, 200), st.floats(0.5, 0.99), st.data())
def test_an_exact_interval_holds_the_share_and_agrees_with_scipy(n: int, level: float, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = binomial_interval(hits, n, level=level)
    expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low <= hits / n <= high


def test_of_nothing_nothing_is_known() -> None:
    assert binomial_interval(0, 0, level=0.95) == (0.0, 1.0)
