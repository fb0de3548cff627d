"""Spread over seeds, and how many instances it takes to see a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rango.decisions.estimates import Estimate
from rango.errors import InputError


@dataclass(frozen=True)
class OverSeeds:
    """One metric over the runs of one configuration. Two kinds of noise, kept apart."""

    mean: float
    """Mean over seeds."""
    spread: float | None
    """Standard deviation over seeds (training noise), with n − 1; None for one seed."""
    low: float
    """The smallest value of a seed."""
    high: float
    """The largest value of a seed."""
    seeds: int
    """How many."""
    half_width: float | None
    """Mean half-width of the seeds' own intervals (sampling of test instances); None if a seed has none."""


def over_seeds(estimates: Sequence[Estimate]) -> OverSeeds:
    """Mean and spread of one metric over seeds; the spread over test instances stays beside it, never added.

    Raises:
        InputError: no estimates.

    >>> over_seeds([Estimate(0.2, 0.1, 0.3, 50, "lower"), Estimate(0.4, 0.3, 0.5, 50, "lower")]).mean
    0.30000000000000004
    """
    if not estimates:
        raise InputError("no estimates; give one for each seed")
    values = np.array([estimate.value for estimate in estimates])
    widths = [(e.high - e.low) / 2 for e in estimates if e.low is not None and e.high is not None]
    return OverSeeds(
        mean=float(values.mean()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else None,
        low=float(values.min()),
        high=float(values.max()),
        seeds=len(values),
        half_width=float(np.mean(widths)) if len(widths) == len(values) else None,
    )


def sample_size(difference: float, *, deviation: float, level: float = 0.95, power: float = 0.8) -> int:
    """Instances needed to see a mean difference between two systems on the same instances.

    n = ((z_{(1 + level)/2} + z_power) · σ / δ)², rounded up, by the normal approximation.

    Args:
        difference: δ, the mean difference of the loss that shall be seen, not 0.
        deviation: σ, the standard deviation of the per-instance difference of the losses.
        level: 1 − the two-sided probability of a false alarm.
        power: the probability of seeing the difference.

    Raises:
        InputError: a difference of 0, a negative deviation, level or power outside (0, 1).

    Source: Lachin (1981).

    >>> sample_size(0.02, deviation=0.4)
    3140
    """
    from scipy.special import ndtri

    if difference == 0 or not math.isfinite(difference):
        raise InputError(f"difference is {difference}; expected a finite number other than 0")
    if not deviation >= 0:
        raise InputError(f"deviation is {deviation}; expected 0 or more")
    for name, value in (("level", level), ("power", power)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}; expected a fraction between 0 and 1")
    z = float(ndtri((1 + level) / 2) + ndtri(power))
    return max(1, math.ceil((z * deviation / difference) ** 2))


def paired_error_deviation(difference: float, *, disagreement: float) -> float:
    """σ of the difference of two error rates on the same instances: sqrt(disagreement − δ²), for `sample_size`.

    Args:
        difference: δ between the error rates.
        disagreement: share of instances that exactly one of the two gets right; at least |δ|.

    Raises:
        InputError: a disagreement outside [|δ|, 1].

    Source: Connor (1987).

    >>> round(paired_error_deviation(0.02, disagreement=0.1), 4)
    0.3156
    """
    if not abs(difference) <= disagreement <= 1:
        raise InputError(f"disagreement is {disagreement}; expected a share from {abs(difference):g} to 1")
    return math.sqrt(disagreement - difference**2)


def unpaired_error_deviation(first: float, second: float) -> float:
    """σ of the difference of two error rates on separate instances of the same number: sqrt(p(1 − p) + q(1 − q)).

    >>> round(unpaired_error_deviation(0.25, 0.23), 4)
    0.6038
    """
    for value in (first, second):
        if not 0 <= value <= 1:
            raise InputError(f"error rate is {value}; expected a fraction from 0 to 1")
    return math.sqrt(first * (1 - first) + second * (1 - second))
