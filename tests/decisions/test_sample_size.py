"""How many instances: by hand, by simulation, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.made_posteriors import make
from scipy import stats

from rango.decisions import Posteriors, fit_calibrator, plan_sample, resolution, temperature_instances
from rango.errors import InputError


def test_error_rates_by_hand() -> None:
    """Two systems that differ on 10 of 100 instances, 7 times for the second: σ² = (10 − 16/100)/99."""
    labels = np.zeros(100, dtype=int)
    good, bad = [0.8, 0.2], [0.2, 0.8]
    a = Posteriors.from_probabilities([good] * 90 + [bad] * 7 + [good] * 3, labels)
    b = Posteriors.from_probabilities([good] * 97 + [bad] * 3, labels)
    plan = plan_sample(a, b, difference=0.02, metric="error_rate")
    variance = (10 - 4**2 / 100) / 99
    factor = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert plan.instances == int(np.ceil(factor**2 * variance / 0.02**2))
    assert plan.resolution == pytest.approx(factor * np.sqrt(variance / 100))
    assert resolution(a, b, metric="error_rate") == plan.resolution
    assert plan.paired


def test_a_single_pilot_counts_for_two_independent_systems() -> None:
    a = make(500)
    alone = plan_sample(a, difference=0.05, metric="nce")
    assert not alone.paired
    # Systems that nearly agree need far fewer.
    assert plan_sample(a, a.replaced(fit_calibrator(a, method="temperature").transform(a.log_posteriors)),
                       difference=0.05).instances < alone.instances / 4  # fmt: skip


def system(labels: np.ndarray, noise: np.ndarray, strength: float) -> Posteriors:
    return Posteriors.from_scores(strength * np.eye(3)[labels] + noise, labels)


def test_the_planned_number_has_the_planned_power() -> None:
    """Two systems of a made population: the share of samples of the planned size in which z exceeds 1.96 is 80 %."""
    rng = np.random.default_rng(0)

    def pair(n: int) -> tuple[Posteriors, Posteriors]:
        labels, noise = rng.choice(3, size=n, p=[0.6, 0.3, 0.1]), rng.normal(size=(n, 3))
        return system(labels, noise, 1.0), system(labels, noise + 0.4 * rng.normal(size=(n, 3)), 1.2)

    a, b = pair(100_000)
    true = b.nce() - a.nce()
    plan = plan_sample(*pair(4000), difference=abs(true), metric="nce")
    factor = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    seen = 0
    for _ in range(300):
        one, other = pair(plan.instances)
        error = resolution(one, other, metric="nce") / factor
        seen += abs(other.nce() - one.nce()) / error > stats.norm.ppf(0.975)
    assert 0.7 < seen / 300 < 0.9


def test_the_planned_number_fixes_the_temperature() -> None:
    pilot = make(2000, sharpness=2.0)
    n = temperature_instances(pilot, precision=0.15)
    scales = np.array([fit_calibrator(make(n, seed=100 + s, sharpness=2.0), method="temperature").as_dict()["scale"]
                       for s in range(150)])  # fmt: skip
    within = np.abs(np.log(scales / 0.5)) < 0.15
    assert 0.9 < within.mean() < 0.995


def test_groups_of_equal_instances_count_once() -> None:
    a, b = make(200), make(200, sharpness=1.0)
    names = np.repeat(np.arange(200), 3).astype(str)
    twice = [
        Posteriors(np.repeat(s.log_posteriors, 3, axis=0), np.repeat(s.labels, 3), groups=names)
        for s in (a, b)
    ]  # fmt: skip
    assert resolution(*twice) == pytest.approx(resolution(a, b), rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difference": 0}, "difference is 0; expected a number above 0"),
        ({"difference": 0.1, "metric": "nec"}, "unknown metric 'nec': did you mean 'nce'"),
        ({"difference": 0.1, "metric": "expected_cost"}, "expected_cost needs costs"),
        ({"difference": 0.1, "power": 1.0}, "power is 1.0"),
        ({"difference": 0.1, "level": 0.2}, "level is 0.2"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_sample(make(20), **options)


def test_pilots_that_say_nothing_are_refused() -> None:
    same = make(20)
    with pytest.raises(InputError, match="no spread"):
        plan_sample(same, same, difference=0.1)
    sure = Posteriors.from_probabilities([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    with pytest.raises(InputError, match="NCE is infinite"):
        plan_sample(sure, difference=0.1)
    with pytest.raises(InputError, match="all labels are of one class"):
        plan_sample(Posteriors.from_probabilities([[0.9, 0.1], [0.5, 0.5]], [0, 0]), difference=0.1)
    with pytest.raises(InputError, match="precision is 2"):
        temperature_instances(same, precision=2)
