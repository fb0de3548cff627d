from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Posteriors, average_posteriors
from rango.errors import InputError


def members(seed: int, *, count: int, n: int = 20, k: int = 3) -> list[Posteriors]:
    """Posteriors of one set of instances by several systems, one of which gives a choice no chance."""
    first = make(n=n, k=k, seed=seed, sharpness=4)
    others = [first.replaced(make(n=n, k=k, seed=seed + 1 + i, sharpness=4).log_posteriors) for i in range(count - 1)]
    sure = np.full((n, k), -np.inf)
    sure[:, 0] = 0
    return [first, *others, first.replaced(sure)]


def test_average_by_hand() -> None:
    a = Posteriors.from_probabilities([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    b = Posteriors.from_probabilities([[0.5, 0.5], [1.0, 0.0]], [0, 1])
    np.testing.assert_allclose(np.exp(average_posteriors([a, b]).log_posteriors), [[0.7, 0.3], [0.6, 0.4]])


@given(st.integers(0, 1000), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_laws_of_the_average(seed: int, count: int, random: Any) -> None:
    given_members = members(seed, count=count)
    mean = average_posteriors(given_members)
    plain = np.mean([np.exp(member.log_posteriors) for member in given_members], axis=0)
    np.testing.assert_allclose(np.exp(mean.log_posteriors), plain, rtol=1e-12)
    shuffled = random.sample(given_members, len(given_members))
    np.testing.assert_allclose(average_posteriors(shuffled).log_posteriors, mean.log_posteriors, atol=1e-12)
    first = given_members[0]
    same = average_posteriors([first] * count)
    np.testing.assert_allclose(same.log_posteriors, first.log_posteriors, atol=1e-12)
    finite = given_members[:-1]
    for score in ("cross_entropy", "brier"):
        of_members = np.mean([getattr(member, score)() for member in finite])
        assert getattr(average_posteriors(finite), score)() <= of_members + 1e-12
    assert np.all(np.isfinite(mean.log_posteriors))  # the zeros of the last member are nobody else's


def test_zeros_of_all_members_stay_zero() -> None:
    a = Posteriors.from_scores([[0.0, 1.0, -np.inf]], [0])
    b = Posteriors.from_scores([[2.0, 1.0, -np.inf]], [0])
    assert average_posteriors([a, b]).log_posteriors[0, 2] == -np.inf


def test_a_posterior_near_one_keeps_its_distance() -> None:
    a = Posteriors.from_scores([[0.0, -300.0]], [0])
    assert average_posteriors([a, a]).log_posteriors[0, 0] == a.log_posteriors[0, 0] < 0


def test_columns_are_kept() -> None:
    logs = np.log([[0.5, 0.5]])
    a = Posteriors(logs, [1], ids=["x"])
    b = Posteriors(logs, [1], ids=["x"], groups=["g"], choices=[["no", "yes"]])
    mean = average_posteriors([a, b])
    assert (mean.ids, mean.groups, mean.choices) == (("x",), ("g",), (("no", "yes"),))


def test_other_instances_are_refused() -> None:
    logs = np.log([[0.5, 0.5]] * 2)
    a = Posteriors(logs, [0, 1], ids=["x", "y"], choices=[["a", "b"]] * 2)
    for other, message in [
        (Posteriors(logs, [0, 1], ids=["x", "z"]), "member 0 beside member 2: row 1 is id 'y' beside id 'z'"),
        (Posteriors(logs, [1, 1], ids=["x", "y"]), "id 'x' has label 0 beside 1; an average needs the same labels"),
        (make(n=3), "2 instances beside 3; an average needs the same instances"),
        (make(n=2, k=4), "2 choices beside 4; an average needs the same choices"),
        (
            Posteriors(logs, [0, 1], ids=["x", "y"], choices=[["a", "b"], ["b", "a"]]),
            "id 'y' has choices ['a', 'b'] beside ['b', 'a']",
        ),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            average_posteriors([a, a, other])
    with pytest.raises(InputError, match="no posteriors to average"):
        average_posteriors([])
