"""Arrays at the boundary: the log-softmax, walking over rows, and checks that name what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions.arrays import (
    check_labels,
    check_log_posteriors,
    check_matrix,
    check_posteriors,
    check_priors,
    frozen,
    log_softmax,
    row_pieces,
)
from rango.errors import InputError


@given(st.integers(0, 10_000), st.integers(2, 7), st.floats(0.01, 300))
@settings(deadline=None, max_examples=50)
def test_log_softmax_is_scipys(seed: int, k: int, size: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(20, k)) * size
    np.testing.assert_allclose(log_softmax(scores), scipy.special.log_softmax(scores, axis=1), rtol=1e-12, atol=1e-12)


def test_log_softmax_keeps_the_distance_from_one() -> None:
    assert log_softmax(np.array([[0.0, -400.0]]))[0, 0] == pytest.approx(-np.exp(-400.0))


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 2), (1000, 2), (300_000, 3), (5, 1 << 18), (0, 4)])
def test_pieces_cover_every_row_once_in_order(n_rows: int, n_columns: int) -> None:
    rows = [row for piece in row_pieces(n_rows, n_columns) for row in range(piece.start, piece.stop)]
    assert rows == list(range(n_rows))


def test_large_arrays_are_normalised_across_pieces() -> None:
    scores = np.random.default_rng(0).normal(size=(70_000, 3))
    np.testing.assert_allclose(log_softmax(scores), scipy.special.log_softmax(scores, axis=1), atol=1e-12)


def test_posteriors_become_logarithms_and_zero_minus_infinity() -> None:
    np.testing.assert_allclose(check_posteriors([[0.25, 0.75], [1, 0]]), [np.log([0.25, 0.75]), [0, -np.inf]])


def test_rows_are_renormalised_only_where_rounding_shows() -> None:
    exact = np.log([[0.5, 0.5]])
    assert check_log_posteriors(exact) is exact
    rounded = check_log_posteriors(exact + 2e-5)
    assert np.exp(rounded).sum() == pytest.approx(1, abs=1e-15)


def test_the_worst_row_is_the_one_named() -> None:
    with pytest.raises(InputError, match=re.escape("posteriors[1] sums to 0.7; expected 1")):
        check_posteriors([[0.5, 0.4], [0.5, 0.2], [0.5, 0.5]])


def test_labels_become_whole_numbers() -> None:
    labels = check_labels([0.0, 2.0, True], n=3, n_choices=3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1]
    own = np.array([0, 1])
    assert check_labels(own, n=2, n_choices=2) is own


def test_a_frozen_view_leaves_the_own_array_writeable() -> None:
    own = np.zeros(2)
    view = frozen(own)
    own[0] = 1.0
    assert view.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 2.0


def test_long_rows_are_shortened_in_messages() -> None:
    with pytest.raises(InputError, match=re.escape("x[0] is [1, 2, 3, 4, 5, 6, …]")):
        check_matrix([[1, 2, 3, 4, 5, 6, np.nan]], name="x")


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([0.5, 0.4], "priors sum to 0.9; expected 1"),
        ([1.2, -0.2], "priors are [1.2, -0.2]; expected numbers from 0 to 1"),
        ([np.nan, 1.0], "priors are [nan, 1]"),
        ([1.0], "priors have shape (1,); expected (2,)"),
    ],
)
def test_bad_priors_are_named(priors: list[float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_priors(priors, n_classes=2)
