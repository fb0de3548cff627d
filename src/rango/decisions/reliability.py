"""Reliability: confidence against accuracy in bins, and the expected calibration error that they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from rango.decisions.arrays import Array, Labels
from rango.errors import InputError

Spacing: TypeAlias = Literal["width", "mass"]
"""How the bins of the calibration error are cut: equal widths, or equal numbers of instances."""
BINS = 15
"""Bins of the calibration error, unless given."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Top-label confidence against accuracy in M bins. The counts sum to the number of instances."""

    edges: Array
    """(M + 1,) from 0 to 1; bin b is (edges[b], edges[b + 1]], the first closed at 0."""
    counts: Labels
    """(M,) instances in each bin."""
    confidence: Array
    """(M,) mean confidence; NaN in an empty bin."""
    accuracy: Array
    """(M,) share of right decisions; NaN in an empty bin."""
    error: float
    """The expected calibration error of these bins, a fraction."""


def reliability_bins(
    log_posteriors: Array,
    labels: Labels | Array,
    *,
    bins: int = BINS,
    spacing: Spacing = "width",
    class_weights: Array | None = None,
) -> ReliabilityBins:
    """Bins of confidence max_k q_k, and ECE = Σ_b (N_b / N) |accuracy_b − confidence_b|.

    The expected calibration error is a diagnosis of posteriors, never the verdict on them: it ignores how well they
    separate the classes, sees the top class only, depends on the bins, and is biased upwards in small samples.
    Judge by proper scoring rules (arXiv:2408.02841).

    Args:
        log_posteriors: (N, K), nats.
        labels: (N,), or soft ones (N, K), of which the share of the top class counts as its accuracy.
        bins: M, their number.
        spacing: "width" for equal widths, "mass" for equal numbers of instances (ties stay together).
        class_weights: (K,) weights w_k of the instances of each class, or None for ones.

    Raises:
        InputError: fewer than one bin.

    Source: Naeini et al. (2015); Guo et al. (arXiv:1706.04599), eq. 3.
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    confidence = np.exp(log_posteriors.max(axis=1))  # (N,)
    top, one = log_posteriors.argmax(axis=1), np.ones(log_posteriors.shape[1])
    weight_of = one if class_weights is None else class_weights  # (K,)
    if labels.ndim == 1:
        mass = weight_of[labels]  # (N,)
        right = mass * (top == labels)
    else:
        mass = labels @ weight_of
        right = weight_of[top] * np.take_along_axis(labels, top[:, None], axis=1)[:, 0]
    edges = bin_edges(confidence, bins=bins, spacing=spacing)
    index = bin_index(confidence, edges)
    counts = np.bincount(index, minlength=bins)
    totals = np.bincount(index, weights=mass, minlength=bins)
    hits = np.bincount(index, weights=right, minlength=bins)
    sums = np.bincount(index, weights=mass * confidence, minlength=bins)
    empty = np.full(bins, np.nan)
    return ReliabilityBins(
        edges=edges,
        counts=counts,
        confidence=np.divide(sums, totals, out=empty.copy(), where=totals > 0),
        accuracy=np.divide(hits, totals, out=empty.copy(), where=totals > 0),
        error=float(np.abs(hits - sums).sum() / mass.sum()),
    )


def bin_edges(confidence: Array, *, bins: int, spacing: Spacing) -> Array:
    """Edges (M + 1,) that cover [0, 1]."""
    if spacing == "width":
        return np.linspace(0.0, 1.0, bins + 1)
    if spacing != "mass":
        raise InputError(f"spacing is {spacing!r}; expected 'width' or 'mass'")
    # A quantile that is one of the values keeps equal confidences in one bin.
    inner = np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.concatenate([[0.0], np.minimum(inner, 1.0), [1.0]])


def bin_index(confidence: Array, edges: Array) -> Labels:
    """The bin (low, high] of each confidence; 0 belongs to the first bin, 1 to the last that is not empty of width."""
    index = np.searchsorted(edges, confidence, side="left") - 1
    return np.asarray(np.clip(index, 0, len(edges) - 2), dtype=np.int64)
