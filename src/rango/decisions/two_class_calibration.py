"""Fitting the calibrators of two classes that are no formula: isotonic and histogram."""

from __future__ import annotations

import numpy as np

from rango.decisions.arrays import Array, Labels
from rango.decisions.calibration_error import Spacing, bin_edges, bin_index
from rango.decisions.calibrators import Histogram, Isotonic, Method, log_odds
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError


def fit_two_classes(posteriors: Posteriors, *, method: Method, bins: int, spacing: Spacing) -> Isotonic | Histogram:
    """An isotonic or a histogram calibrator; both minimise cross-entropy and Brier score within their family.

    Raises:
        InputError: more than two classes; fewer than one bin.

    Source: Zadrozny and Elkan (2001 and 2002).
    """
    if posteriors.n_choices != 2:
        raise InputError(f"{method} calibration is for 2 classes but there are {posteriors.n_choices}; use affine")
    if method == "isotonic":
        return _fit_isotonic(log_odds(posteriors.log_posteriors), posteriors.labels)
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    p = np.exp(posteriors.log_posteriors[:, 1])
    edges = bin_edges(p, bins=bins, spacing=spacing)
    index = bin_index(p, edges)
    counts = np.bincount(index, minlength=bins)
    # An empty bin knows nothing better than its middle.
    values = (edges[:-1] + edges[1:]) / 2
    hits = np.bincount(index, weights=posteriors.labels, minlength=bins)
    np.divide(hits, counts, out=values, where=counts > 0)
    return Histogram(edges=tuple(edges.tolist()), values=tuple(values.tolist()))


def _fit_isotonic(odds: Array, labels: Labels) -> Isotonic:
    from scipy.optimize import isotonic_regression

    # Equal log-odds are one point: the pooled share of class 1, weighing as many instances.
    points, index, counts = np.unique(odds, return_inverse=True, return_counts=True)
    shares = np.bincount(index, weights=labels) / counts
    found = isotonic_regression(shares, weights=counts.astype(np.float64))
    blocks = np.asarray(found.blocks[:-1], dtype=np.intp)
    values = np.clip(found.x[blocks], 0.0, 1.0)
    return Isotonic(starts=tuple(points[blocks[1:]].tolist()), values=tuple(values.tolist()))
