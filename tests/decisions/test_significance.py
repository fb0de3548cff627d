from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import scipy.stats
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Posteriors, holm, mcnemar, paired_bootstrap
from rango.errors import InputError

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def test_holm_by_hand() -> None:
    # Smallest first: 4 · 0.005, 3 · 0.01, 2 · 0.03, 1 · 0.04 raised to the one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1, 1])
    assert holm([]).shape == (0,)


def holm_by_testing(p_values: list[float]) -> list[float]:
    """The smallest level at which the sequentially rejective procedure rejects each hypothesis, found by trying."""
    m = len(p_values)
    levels = sorted({0.0, 1.0, *(min(1.0, count * p) for count in range(1, m + 1) for p in p_values)})
    found = [1.0] * m
    for level in reversed(levels):
        left = list(range(m))
        while left:
            smallest = min(left, key=lambda i: p_values[i])
            if min(1.0, len(left) * p_values[smallest]) > level:
                break
            found[smallest] = level
            left.remove(smallest)
    return found


@given(P_VALUES)
@settings(max_examples=100, deadline=None)
def test_holm_is_the_level_at_which_the_procedure_rejects(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), holm_by_testing(p_values), rtol=0, atol=1e-15)


@given(P_VALUES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_laws_of_holm(p_values: list[float], random: Any) -> None:
    given_p, adjusted = np.array(p_values), holm(p_values)
    assert np.all(adjusted >= given_p)
    assert np.all(adjusted <= np.minimum(1, len(p_values) * given_p))  # never stricter than Bonferroni
    assert np.all(np.diff(adjusted[np.argsort(given_p, kind="stable")]) >= 0)
    order = list(range(len(p_values)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm(given_p[order]), adjusted[order])


def test_bad_p_values_are_refused() -> None:
    for value, message in [
        ([0.1, 1.2], "p_values[1] is 1.2; expected a number from 0 to 1"),
        ([float("nan")], "p_values[0] is nan; expected a number from 0 to 1"),
        ([[0.1]], "p_values has shape (1, 1); expected (tests,)"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            holm(value)


def test_paired_bootstrap_by_hand() -> None:
    # Two instances that differ by 0 and −2. A replicate holds 0, 1 or 2 of the second: −0, −1, −2, a quarter, a half, a
    # quarter of the time; only the outer ones are as far from −1 as −1 is from zero.
    found = paired_bootstrap([1, 5], [1, 3], replicates=4000, seed=1)
    assert (found.difference, found.low, found.high, found.n) == (-1, -2, 0, 2)
    assert found.p == pytest.approx(0.5, abs=0.03)


def test_paired_bootstrap_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    b += 0.2
    found = paired_bootstrap(a, b, replicates=999, seed=4, level=0.9)
    means, far = [], 0
    for replicate in range(999):
        stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(4, spawn_key=(replicate,))))
        rows = stream.integers(0, 60, size=60)
        means.append(b[rows].mean() - a[rows].mean())
        far += abs(means[-1] - (b.mean() - a.mean())) >= abs(b.mean() - a.mean())
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.p == (1 + far) / 1000
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.05, 0.95]), rtol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_laws_of_the_paired_bootstrap(seed: int, n: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    found = paired_bootstrap(a, b, replicates=200, seed=seed)
    back = paired_bootstrap(b, a, replicates=200, seed=seed)
    assert (found.p, found.difference) == (back.p, -back.difference)
    np.testing.assert_allclose([found.low, found.high], [-back.high, -back.low], atol=1e-12)
    assert found.low <= found.high
    assert 1 / 201 <= found.p <= 1
    assert paired_bootstrap(a, a, replicates=50).p == 1
    alone = paired_bootstrap(a, b, replicates=200, seed=seed, groups=[f"{i:03}" for i in range(n)])
    np.testing.assert_allclose(list(vars(alone).values()), list(vars(found).values()), atol=1e-12)


def test_instances_of_a_group_do_not_count_as_evidence_of_their_own() -> None:
    rng = np.random.default_rng(3)
    gaps = np.repeat(rng.normal(0.3, 1, size=20), 10)  # ten copies of each of twenty contexts
    as_instances = paired_bootstrap(np.zeros(200), gaps, replicates=500)
    as_groups = paired_bootstrap(np.zeros(200), gaps, replicates=500, groups=[str(i // 10) for i in range(200)])
    assert as_groups.high - as_groups.low > 2 * (as_instances.high - as_instances.low)
    assert as_groups.p > as_instances.p


def test_p_is_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(0)
    p = [paired_bootstrap(np.zeros(100), rng.normal(size=100), replicates=199).p for _ in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_bad_losses_are_refused() -> None:
    for a, b, extra, message in [
        ([1], [1, 2], {}, "1 losses beside 2; a paired comparison needs the same instances"),
        ([1, np.inf], [1, 2], {}, "losses_a[1] is inf; expected finite losses"),
        ([1, 1], [1, np.nan], {}, "losses_b[1] is nan; expected finite losses"),
        ([], [], {}, "losses_a has shape (0,); expected (instances,)"),
        ([1], [1], {"groups": ["a", "b"]}, "groups has 2 entries but there are 1 instances"),
        ([1], [1], {"replicates": 0}, "replicates is 0; expected 1 or more"),
        ([1], [1], {"level": 1.0}, "level is 1.0; expected a fraction"),
    ]:
        arguments: Any = extra
        with pytest.raises(InputError, match=re.escape(message)):
            paired_bootstrap(a, b, **arguments)


def test_mcnemar_by_hand() -> None:
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    a = Posteriors(np.log([right, right, right, wrong, wrong]), [0] * 5)
    b = Posteriors(np.log([wrong, wrong, right, right, wrong]), [0] * 5)
    test = mcnemar(a, b)
    assert (test.both_right, test.only_a_right, test.only_b_right, test.both_wrong, test.n) == (1, 2, 1, 1, 5)
    # Two-sided: 2 P(X ≤ 1) with X ~ Binomial(3, 1/2) is 1.
    assert test.p == 1.0


def test_mcnemar_is_the_binomial_test() -> None:
    a = make(n=500)
    for seed in range(5):
        b = a.replaced(make(n=500, seed=seed + 1).log_posteriors)
        test = mcnemar(a, b)
        n = test.only_a_right + test.only_b_right
        assert test.p == pytest.approx(scipy.stats.binomtest(test.only_a_right, n).pvalue)
        assert mcnemar(b, a).p == test.p


def test_agreement_is_no_evidence() -> None:
    assert mcnemar(make(), make()).p == 1.0
