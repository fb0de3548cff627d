from __future__ import annotations

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Posteriors, reliability_bins
from rango.errors import InputError


def ece_by_loops(logs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    edges = np.linspace(0, 1, bins + 1)
    confidence, right = np.exp(logs.max(axis=1)), logs.argmax(axis=1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence > edges[b]) & (confidence <= edges[b + 1]) | ((b == 0) & (confidence == 0))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_by_hand() -> None:
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]), [0, 1, 0])
    # Bin of 0.9: accuracy 0.5, confidence 0.9; bin of 0.6: 1 and 0.6.
    assert posteriors.ece() == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)


@given(st.integers(0, 10_000), st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_parity_with_loops(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    posteriors = Posteriors.from_scores(rng.normal(size=(60, 3)) * 3, rng.integers(0, 3, 60))
    expected = ece_by_loops(posteriors.log_posteriors, posteriors.labels, bins)
    assert posteriors.ece(bins=bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spacing", ["width", "mass"])
def test_counts_sum_to_n_and_edges_cover_the_unit_interval(spacing: str) -> None:
    posteriors = make(n=101, sharpness=40)
    found = reliability_bins(posteriors.log_posteriors, posteriors.labels, spacing=spacing)  # type: ignore[arg-type]
    assert found.counts.sum() == 101
    assert (found.edges[0], found.edges[-1]) == (0.0, 1.0)
    assert (np.diff(found.edges) >= 0).all()
    full = found.counts > 0
    weighted = found.counts[full] * np.abs(found.accuracy[full] - found.confidence[full])
    assert found.error == pytest.approx(weighted.sum() / 101)
    assert np.isnan(found.accuracy[~full]).all()


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    posteriors = Posteriors.from_probabilities([[1.0, 0.0]] * 4, [0, 0, 0, 1])
    found = reliability_bins(posteriors.log_posteriors, posteriors.labels)
    assert found.counts.tolist() == [0] * 14 + [4]
    assert found.error == pytest.approx(0.25)


def test_a_confidence_on_an_edge_is_in_the_lower_bin() -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5], [0.75, 0.25]]), [0, 0])
    found = reliability_bins(posteriors.log_posteriors, posteriors.labels, bins=4)
    assert found.counts.tolist() == [0, 1, 1, 0]


def test_bins_of_equal_mass_hold_equal_numbers() -> None:
    posteriors = make(n=150)
    found = reliability_bins(posteriors.log_posteriors, posteriors.labels, spacing="mass")
    assert found.counts.tolist() == [10] * 15


def test_target_priors_weigh_the_bins() -> None:
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]), [0, 0, 1])
    assert posteriors.ece(priors=[1, 0]) == pytest.approx(0.1)
    assert posteriors.ece(priors=[0, 1]) == pytest.approx(0.9)


def test_bad_bins_are_named() -> None:
    posteriors = make(n=10)
    with pytest.raises(InputError, match="bins is 0; expected at least 1"):
        posteriors.ece(bins=0)
    with pytest.raises(InputError, match="spacing is 'log'; expected 'width' or 'mass'"):
        posteriors.ece(spacing="log")
