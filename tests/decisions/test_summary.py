"""Every metric with its interval, of one system, of a difference, and of the prior-only system."""

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
    Resampling,
    measurable,
    summarise,
    summarise_difference,
    summarise_prior_only,
)
from rango.errors import InputError

COSTS = Costs([[0, 1, 2], [2, 0, 1], [1, 3, 0]]).with_abstention(0.5)
PRIORS = np.array([0.2, 0.3, 0.5])


def measure(posteriors: Posteriors, name: str, priors: np.ndarray | None) -> float:
    arguments = [COSTS] if "expected_cost" in name else []
    return float(getattr(posteriors, name)(*arguments, priors=priors))


@pytest.mark.parametrize("priors", [None, PRIORS])
def test_summary_holds_every_metric_inside_its_interval(priors: np.ndarray | None) -> None:
    posteriors = make(n=300, group_size=3)
    estimates = summarise(posteriors, costs=COSTS, priors=priors, replicates=200)
    assert tuple(estimates) == measurable(posteriors)
    for name, estimate in estimates.items():
        assert estimate.value == measure(posteriors, name, priors)
        assert estimate.low is not None
        assert estimate.high is not None
        # ECE is biased upwards in samples: its replicates lie above it.
        assert estimate.low <= estimate.value <= estimate.high or name == "ece"
        assert estimate.n == 300
        assert estimate.direction == ("higher" if name == "accuracy" else "lower")
    assert estimates == summarise(posteriors, costs=COSTS, priors=priors, replicates=200)


def test_more_instances_narrow_the_interval() -> None:
    widths = []
    for n in (100, 1600):
        estimate = summarise(make(n=n), metrics=["nce"], replicates=300)["nce"]
        widths.append((estimate.high or 0) - (estimate.low or 0))
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)


def test_known_widths_of_error_rates() -> None:
    """75 % accuracy: ± 1.9 points with 2,000 instances."""
    labels = np.array([0] * 1500 + [1] * 500)
    posteriors = Posteriors(np.log(np.tile([0.6, 0.4], (2000, 1))), labels)
    estimate = summarise(posteriors, metrics=["error_rate"], replicates=2000)["error_rate"]
    assert ((estimate.high or 0) - (estimate.low or 0)) / 2 == pytest.approx(0.019, abs=0.0015)


def test_the_difference_of_a_system_with_itself_is_zero() -> None:
    posteriors = make()
    for name, estimate in summarise_difference(posteriors, posteriors, replicates=50).items():
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0), name


def test_the_difference_is_paired_and_antisymmetric() -> None:
    a = make(n=400)
    b = a.replaced(make(n=400, sharpness=0.5).log_posteriors)
    forth, back = (summarise_difference(*pair, costs=COSTS, replicates=300) for pair in ((a, b), (b, a)))
    for name in measurable(a):
        assert forth[name].value == pytest.approx(measure(b, name, None) - measure(a, name, None))
        assert forth[name].low == pytest.approx(-(back[name].high or 0))
    one, other = summarise(a, metrics=["nce"])["nce"], summarise(b, metrics=["nce"])["nce"]
    unpaired = np.hypot((one.high or 0) - (one.low or 0), (other.high or 0) - (other.low or 0))
    assert (forth["nce"].high or 0) - (forth["nce"].low or 0) < 0.7 * unpaired


def test_infinite_scores_say_how_many_and_which() -> None:
    posteriors = Posteriors.from_probabilities([[1, 0]] * 3 + [[0.5, 0.5]] * 3, [0, 1, 1, 0, 1, 0], ids="abcdef")
    estimates = summarise(posteriors, replicates=200)
    assert estimates["cross_entropy"].value == np.inf
    assert estimates["cross_entropy"].high == np.inf
    assert estimates["nce"].note == "infinite: 2 instances have posterior 0 at their label (ids b, c)"
    assert estimates["brier"].note is None
    assert np.isfinite(estimates["brier"].value)
    assert summarise(posteriors, priors=[1, 0], replicates=20)["cross_entropy"].value < np.inf
    difference = summarise_difference(posteriors, posteriors, replicates=20)["nce"]
    assert difference.as_dict()["value"] is None
    assert difference.low is None
    assert "infinite: 2 instances" in (difference.note or "")


def test_undefined_metrics_say_why() -> None:
    one = summarise(Posteriors(np.log([[0.6, 0.4]]), [0]), replicates=20)
    assert one["nce"].as_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 1,
        "direction": "lower",
        "note": "undefined: the system that outputs the priors loses nothing, so nothing normalises",
    }
    assert one["error_rate"].value == 0


def test_a_class_that_resampling_loses_leaves_no_interval() -> None:
    posteriors = Posteriors(np.log([[0.6, 0.4]] * 10), [0] * 9 + [1])
    estimate = summarise(posteriors, priors=[0.5, 0.5], replicates=300)["error_rate"]
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)


def test_no_replicates_no_intervals() -> None:
    assert all(e.low is None and e.high is None for e in summarise(make(), replicates=0).values())
    assert all(e.low is None for e in summarise_difference(make(), make(), replicates=0).values())


def test_a_thousand_classes() -> None:
    rng = np.random.default_rng(0)
    posteriors = Posteriors.from_scores(rng.normal(size=(300, 1000)), rng.integers(0, 1000, 300))
    assert all(e.low is not None for e in summarise(posteriors, replicates=20).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["nse"]}, "unknown metric 'nse': did you mean 'nce'?"),
        ({"level": 95}, "level is 95; expected a fraction between 0 and 1, such as 0.95"),
        ({"replicates": -1}, "replicates is -1; expected 0 (no intervals) or more"),
        ({"resample": "groups"}, "resample is 'groups' but the posteriors have no groups"),
        ({"resample": "rows"}, "resample is 'rows'; expected 'instances', 'groups' or 'groups_then_instances'"),
        ({"costs": Costs.zero_one(2)}, "costs have 2 rows but there are 3 classes"),
        ({"priors": [0.5, 0.4, 0.2]}, "priors sum to 1.1; expected 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        summarise(make(n=20), **options)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=20, max_size=80), st.integers(0, 5))
def test_the_interval_of_the_prior_only_system_holds_its_value(labels: list[int], seed: int) -> None:
    posteriors = Posteriors(np.full((len(labels), 3), np.log(1 / 3)), labels)
    for name, estimate in summarise_prior_only(posteriors, replicates=200, seed=seed).items():
        if estimate.low is not None and estimate.high is not None:
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, name


def test_the_prior_only_system_of_each_resampling_has_the_values_of_the_definition() -> None:
    posteriors = make(n=40)
    estimates = summarise_prior_only(posteriors, replicates=100)
    resampling = Resampling(posteriors.labels)
    for name, exact in {"nce": 1.0, "normalised_brier": 1.0, "normalised_expected_cost": 1.0, "ece": 0.0}.items():
        estimate = estimates[name]
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((exact, exact, exact), abs=1e-12), name
        for replicate in range(20):
            own = posteriors.take(resampling.indices(replicate)).prior_only()
            costs = [Costs.zero_one(own.n_choices)] if "expected_cost" in name else []
            assert getattr(own, name)(*costs) == pytest.approx(exact, abs=1e-12), name
    # The others are those of a system with the frequencies of all 40.
    whole = summarise(posteriors.prior_only(), replicates=100)
    assert all(estimates[name] == whole[name] for name in ("cross_entropy", "error_rate", "accuracy", "brier"))


def test_the_prior_only_system_of_one_class_stays_undefined() -> None:
    estimate = summarise_prior_only(Posteriors.from_probabilities([[0.6, 0.4]] * 5, [0] * 5), replicates=50)["nce"]
    assert np.isnan(estimate.value)
    assert (estimate.low, estimate.high) == (None, None)
    assert "undefined" in str(estimate.note)
    without = summarise_prior_only(make(n=20), replicates=0)["nce"]
    assert (without.low, without.high) == (None, None)
