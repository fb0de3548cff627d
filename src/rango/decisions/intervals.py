"""Intervals from bootstrap replicates: percentile and BCa."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from rango.decisions.arrays import Array

IntervalKind: TypeAlias = Literal["percentile", "bca"]
Interval: TypeAlias = tuple[float, float] | None

# With more undefined replicates than this the rest no longer speaks for the sampling distribution.
_MAX_UNDEFINED = 0.05


def percentile_interval(replicates: Array, *, level: float) -> Interval:
    """The (1 − level)/2 and (1 + level)/2 quantiles of the replicates, or None if over 5 % of them are undefined.

    >>> percentile_interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    return _between(replicates, (1 - level) / 2, (1 + level) / 2)


def bca_interval(replicates: Array, *, value: float, jackknife: Array, level: float) -> Interval:
    """The bias-corrected and accelerated interval.

    z₀ = Φ⁻¹(share of replicates below the value), a = Σ d³ / (6 (Σ d²)^{3/2}) with d = mean − leave-one-out value;
    the ends are the quantiles at Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z))) for z = Φ⁻¹((1 ∓ level)/2).

    Args:
        replicates: (B,) bootstrap values.
        value: the metric on the full set.
        jackknife: (units,) the metric without each unit.
        level: nominal coverage, a fraction.

    Returns:
        (low, high); None where it is undefined: over 5 % undefined replicates, or all of them on one side of the value.

    Source: Efron (1987).
    """
    from scipy.special import ndtr, ndtri

    defined = replicates[~np.isnan(replicates)]
    if not defined.size or not math.isfinite(value):
        return None
    share = float((defined < value).mean() + 0.5 * (defined == value).mean())
    if not 0 < share < 1:
        return None
    finite = jackknife[np.isfinite(jackknife)]
    spread = finite.mean() - finite if finite.size else np.zeros(1)
    scale = float(np.square(spread).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0
    bias = float(ndtri(share))
    ends = [bias + float(ndtri(tail)) for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = (float(ndtr(bias + end / (1 - acceleration * end))) for end in ends)
    return _between(replicates, low, high)


def _between(replicates: Array, low: float, high: float) -> Interval:
    values = np.sort(replicates[~np.isnan(replicates)])
    if values.size == 0 or values.size < (1 - _MAX_UNDEFINED) * replicates.size:
        return None
    return _quantile(values, low), _quantile(values, high)


def _quantile(values: Array, share: float) -> float:
    place = share * (len(values) - 1)
    below = values[math.floor(place)]
    above = values[min(math.floor(place) + 1, len(values) - 1)]
    if not np.isfinite(above) or not np.isfinite(below):
        # Between a finite and an infinite replicate there is nothing to interpolate: take the nearer one.
        return float(above if place % 1 >= 0.5 else below)
    return float(below + (above - below) * (place % 1))
