from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rango.decisions import Posteriors
from rango.reports.run.classes import class_rows, confusion, coverages, frequent_confusions


@pytest.fixture
def five() -> Posteriors:
    """Classes a, b, c; two mistakes, both a taken for b; c never occurs."""
    rows = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]]
    return Posteriors.from_probabilities(rows, [0, 0, 0, 1, 1], None, None, [["a", "b", "c"]] * 5)


def test_counts_of_right_and_chosen(five: Posteriors) -> None:
    assert confusion(five).tolist() == [[1, 2, 0], [0, 2, 0], [0, 0, 0]]
    assert frequent_confusions(five) == [("a", "b", 2)]


def test_rows_of_classes_by_hand(five: Posteriors) -> None:
    a, b, c = class_rows(five)
    assert (a.name, a.n, a.share, a.chosen) == ("a", 3, 0.6, 0.2)
    assert a.posterior == pytest.approx((0.7 + 0.1 + 0.3 + 0.2 + 0.1) / 5)
    assert a.error == pytest.approx(2 / 3)
    # Wilson's interval from its formula.
    z, n, p = stats.norm.ppf(0.975), 3, 2 / 3
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert (a.low, a.high) == pytest.approx((centre - half, centre + half))
    assert (b.error, b.low) == (0.0, 0.0)
    assert math.isnan(c.error)
    assert not c.biased, "a class that never occurs has no standard error"


def test_a_preference_for_a_place_is_marked() -> None:
    labels = np.arange(400) % 2
    first = Posteriors(np.log(np.tile([0.7, 0.3], (400, 1))), labels)
    assert [row.biased for row in class_rows(first)] == [True, True]
    assert [row.name for row in class_rows(first)] == ["1", "2"]
    fair = Posteriors(np.log(np.tile([0.51, 0.49], (400, 1))), labels)
    assert [row.biased for row in class_rows(fair)] == [False, False]


def test_coverage_ends_where_everything_is_answered() -> None:
    confidence = np.linspace(0.99, 0.6, 20)
    labels = np.array([0] * 18 + [1] * 2)
    surest_right = Posteriors(np.log(np.stack([confidence, 1 - confidence], axis=1)), labels)
    assert coverages(surest_right) == [(0.01, 0.9), (0.1, 1.0)]
