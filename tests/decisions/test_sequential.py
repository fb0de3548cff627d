"""Tests over time: false alarms stay below alpha however often one looks, and drift is noticed, early or late."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rango.decisions import betting_test
from rango.errors import InputError


def gaps(n: int, rng: np.random.Generator, *, too_sure: float = 0.0, since: int = 0) -> NDArray[np.float64]:
    """Confidence less whether it was right; from `since` on, right less often than promised."""
    confidence = rng.uniform(0.5, 1.0, size=n)
    truth = confidence - np.where(np.arange(n) >= since, too_sure, 0.0)
    return np.asarray(confidence - (rng.random(n) < truth), dtype=np.float64)


def share_of_alarms(streams: list[NDArray[np.float64]], *, alpha: float) -> float:
    tests = [betting_test(one, low=-1, high=1, lower=0, upper=0, alpha=alpha) for one in streams]
    return float(np.mean([test.alarm is not None for test in tests]))


def test_calibrated_streams_raise_no_more_false_alarms_than_stated() -> None:
    """At any of 500 looks, in 200 streams."""
    rng = np.random.default_rng(0)
    streams = (gaps(500, rng) for _ in range(200))
    highest = np.array([betting_test(one, low=-1, high=1, lower=0, upper=0).highest for one in streams])
    for alpha in (0.05, 0.2, 0.5):
        assert (highest >= 1 / alpha).mean() <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / 200)


def test_a_z_test_at_every_look_does_not_keep_its_level() -> None:
    """What the sequential test is for."""
    rng, crossed = np.random.default_rng(0), 0
    for _ in range(200):
        stream = gaps(500, rng)
        n = np.arange(1, 501)
        means = np.cumsum(stream) / n
        spread = np.sqrt(np.maximum(np.cumsum(stream**2) / n - means**2, 1e-12) / n)
        crossed += bool((np.abs(means) > 1.96 * spread)[30:].any())
    assert crossed / 200 > 0.2


def test_drift_is_noticed_also_after_a_long_time_without_any() -> None:
    rng = np.random.default_rng(1)
    assert share_of_alarms([gaps(500, rng, too_sure=0.15) for _ in range(50)], alpha=0.05) > 0.95
    late = [gaps(2500, rng, too_sure=0.15, since=2000) for _ in range(30)]
    alarms = [betting_test(one, low=-1, high=1, lower=0, upper=0).alarm for one in late]
    assert np.mean([alarm is not None and alarm > 2000 for alarm in alarms]) > 0.9


def test_the_limit_of_an_error_may_be_kept_with_equality() -> None:
    rng = np.random.default_rng(2)
    kept = [betting_test(rng.random(500) < 0.1, low=0, high=1, upper=0.1).alarm for _ in range(200)]
    assert np.mean([alarm is not None for alarm in kept]) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    risen = [betting_test(rng.random(500) < 0.2, low=0, high=1, upper=0.1).alarm for _ in range(50)]
    assert np.mean([alarm is not None for alarm in risen]) > 0.95


def test_capital_is_what_the_bettors_have() -> None:
    """Against 16 bettors one by one, with the shares of late beginners spelt out."""
    outcomes, alpha = np.array([0.3, -0.8, 0.1, 0.5]), 0.05
    sizes = 0.9 * 0.5 ** np.arange(8)
    put_in = [0.5, *(0.5 / math.log2(t) - 0.5 / math.log2(t + 1) for t in range(2, 5))]
    expected = []
    for end in range(1, 5):
        capital = 0.0
        for bet in (*sizes, *-sizes):
            for begin in range(end):
                capital += put_in[begin] / 16 * float(np.prod(1 + bet * outcomes[begin:end]))
        expected.append(capital + 0.5 / math.log2(end + 1))
    test = betting_test(outcomes, low=-1, high=1, lower=0, upper=0, alpha=alpha)
    np.testing.assert_allclose(np.exp(test.log_evidence), expected, rtol=1e-12)
    assert test.threshold == 20
    assert test.highest == max(1.0, *expected)


def test_a_long_stream_is_the_same_in_pieces() -> None:
    """Beyond one piece of memory the capital is carried over: the first outcomes never learn of the later ones."""
    stream = gaps(20_000, np.random.default_rng(3))
    whole = betting_test(stream, low=-1, high=1, lower=0, upper=0)
    part = betting_test(stream[:9_000], low=-1, high=1, lower=0, upper=0)
    np.testing.assert_allclose(whole.log_evidence[:9_000], part.log_evidence, rtol=1e-9, atol=1e-9)
    assert np.isfinite(whole.log_evidence).all()


@pytest.mark.filterwarnings("error")
def test_evidence_beyond_a_float_is_infinite_without_a_warning() -> None:
    test = betting_test(np.ones(2_000), low=0, high=1, upper=0.1)
    assert np.isfinite(test.log_evidence).all()
    assert (test.evidence, test.highest, test.alarm) == (math.inf, math.inf, 3)


def test_nothing_known_is_no_evidence_and_what_cannot_be_tested_is_refused() -> None:
    empty = betting_test([], low=0, high=1, upper=0.1)
    assert (empty.evidence, empty.highest, empty.alarm) == (1.0, 1.0, None)
    # What was never to happen happens: the bet is large, but not without bound.
    assert betting_test([1, 1], low=0, high=1, upper=0.0).alarm == 1
    with pytest.raises(InputError, match="outcome 1 is 2; expected a number from 0 to 1"):
        betting_test([0, 2], low=0, high=1, upper=0.1)
    with pytest.raises(InputError, match="the largest possible value, so nothing could exceed it"):
        betting_test([0, 1], low=0, high=1, upper=1)
    with pytest.raises(InputError, match="alpha is 1; expected a probability"):
        betting_test([0, 1], low=0, high=1, upper=0.1, alpha=1)
    with pytest.raises(InputError, match="the claim is a mean from"):
        betting_test([0, 1], low=0, high=1, upper=-0.1)
    with pytest.raises(InputError, match="outcome 0 is nan"):
        betting_test([math.nan], low=0, high=1, upper=0.1)
