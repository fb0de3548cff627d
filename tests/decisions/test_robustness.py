"""Flips and changes by hand, beside the paired functions they rest on, and intervals where nothing happens."""

from __future__ import annotations

import numpy as np
import pytest

from rango.decisions import Posteriors, summarise_difference
from rango.decisions.robustness import changes, flip_rate, flipped, mean_share
from rango.errors import InputError


def made(n: int, seed: int, labels: np.ndarray | None = None, groups: list[str] | None = None) -> Posteriors:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=n) if labels is None else labels
    return Posteriors.from_scores(generator.normal(size=(n, 3)), labels, ids=[f"i{k}" for k in range(n)], groups=groups)


def test_flips_by_hand() -> None:
    original = Posteriors.from_probabilities([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], [0, 1, 2], ids="abc")
    first = Posteriors.from_probabilities([[0.3, 0.6, 0.1], [0.2, 0.5, 0.3]], [0, 1], ids="ab")
    second = Posteriors.from_probabilities([[0.5, 0.4, 0.1, 0.0], [0.1, 0.1, 0.3, 0.5]], [0, 2], ids="ac")
    assert flipped(original, first).tolist() == [True, False]
    assert flipped(original, second).tolist() == [False, True]
    assert flip_rate(original, [first, second]).value == 0.5
    assert flip_rate(original, [first, second]).n == 4
    with pytest.raises(InputError, match="id 'c' is not among the original instances"):
        flipped(first, second)
    with pytest.raises(InputError, match="there is no variant"):
        flip_rate(original, [])


def test_two_choices_of_the_same_words_are_one_decision() -> None:
    words = [["yes", "no", "yes "]]
    one = Posteriors.from_probabilities([[0.6, 0.1, 0.3]], [0], choices=words)
    other = Posteriors.from_probabilities([[0.3, 0.1, 0.6]], [0], choices=words)
    assert not flipped(one, other)[0]
    bare = [Posteriors(each.log_posteriors, each.labels) for each in (one, other)]
    assert flipped(*bare)[0]


def test_the_change_of_one_variant_is_the_paired_difference() -> None:
    groups = [f"g{k // 3}" for k in range(60)]
    a = made(60, 0, groups=groups)
    b = made(60, 1, a.labels, groups)
    expected = summarise_difference(a, b, metrics=("nce", "error_rate"), seed=4)
    for name, estimate in changes(a, [b], seed=4).items():
        assert estimate.value == pytest.approx(expected[name].value)
        assert (estimate.low, estimate.high) == pytest.approx((expected[name].low, expected[name].high))


def test_several_variants_count_alike_and_stay_with_their_instance() -> None:
    a = made(80, 0)
    variants = [made(80, seed, a.labels) for seed in (1, 2, 3)]
    singles = [changes(a, [b]) for b in variants]
    pooled = changes(a, variants)
    for name in ("nce", "error_rate"):
        assert pooled[name].value == pytest.approx(np.mean([each[name].value for each in singles]))
        assert pooled[name].n == 240
    # The same variant three times says no more than once: the interval is as wide.
    thrice, once = changes(a, [variants[0]] * 3), singles[0]
    assert (thrice["nce"].low, thrice["nce"].high) == pytest.approx((once["nce"].low, once["nce"].high))


def test_a_column_more_is_a_choice_of_posterior_0_before() -> None:
    a = made(20, 0)
    wider = Posteriors.from_scores(np.hstack([a.log_posteriors, np.full((20, 1), np.log(0.25))]), a.labels, ids=a.ids)
    change = changes(a, [wider])
    entropy = a.cross_entropy() / a.nce()
    assert change["nce"].value == pytest.approx(np.log(1.25) / entropy)


def test_the_interval_of_what_never_happens_is_the_exact_bound() -> None:
    units = [f"u{n // 2}" for n in range(60)]
    never, always = mean_share(np.zeros(60), units), mean_share(np.ones(60), units)
    bound = 0.025 ** (1 / 30)
    assert (never.value, never.low, never.high) == (0.0, 0.0, pytest.approx(1 - bound))
    assert (always.value, always.low, always.high) == (1.0, pytest.approx(bound), 1.0)
    half = mean_share(np.tile([0.0, 1.0], 30), units)
    assert (half.low, half.high) == (0.5, 0.5)  # every unit has one of each
