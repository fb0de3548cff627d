"""Tests that may be looked at after every outcome: capital is bet against a claim, with an alarm when it has grown.

    outcomes x_1, x_2, …   in [low, high]
    claim                  E[x_t | all before] lies in [lower, upper], at every t
    evidence M_t           what a capital of 1 has become that was bet, before each outcome, on the claim being false

While the claim is true no bet gains on average, so M is a nonnegative supermartingale that begins at 1. By Ville's
inequality it ever reaches 1/α with probability α at most: an alarm at 1/α is false with that probability over the whole
time, however often anybody looks. A p-value that is computed again each day has no such bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, row_pieces
from rango.errors import InputError

# The largest bet loses nine tenths of its capital on the worst outcome; each further one is half as large as the last.
_LARGEST_SHARE, _SIZES = 0.9, 8
# A claim at the very edge of the range could be bet against without limit.
_SMALLEST_LOSS = 1e-3


@dataclass(frozen=True, eq=False)
class SequentialTest:
    """The evidence against a claim after each of T outcomes."""

    log_evidence: Array
    """(T,) ln M_t; 0 is what it begins with."""
    alpha: float
    """The probability that a true claim ever raises an alarm, at most."""

    @property
    def threshold(self) -> float:
        """The evidence at which the alarm is raised: 1/α."""
        return 1.0 / self.alpha

    @property
    def evidence(self) -> float:
        """The evidence now; 1 before the first outcome, infinite beyond float64."""
        return _number(self.log_evidence[-1]) if len(self.log_evidence) else 1.0

    @property
    def highest(self) -> float:
        """The largest evidence so far, at least 1."""
        return _number(self.log_evidence.max(initial=0.0))

    @property
    def alarm(self) -> int | None:
        """The number of outcomes, from 1, at which the alarm was raised; None where it was not."""
        raised = np.flatnonzero(self.log_evidence >= math.log(self.threshold))
        return int(raised[0]) + 1 if raised.size else None


def _number(log_evidence: float) -> float:
    with np.errstate(over="ignore"):  # thousands of labels against a claim: more than a float holds, and no fault
        return float(np.exp(log_evidence))


def betting_test(
    outcomes: ArrayLike, *, low: float, high: float, lower: float = -math.inf, upper: float, alpha: float = 0.05
) -> SequentialTest:
    """Test, outcome by outcome, that the mean of what comes next lies in [lower, upper].

    Bettors of several constant sizes λ share the capital. Those against `upper` multiply theirs by 1 + λ (x_t − upper),
    those against `lower` by 1 + λ (lower − x_t). Half of the capital is bet from the first outcome on. Of the rest the
    share 1/log₂(t + 1) still waits at outcome t, so that what is true for a long time and then false is noticed too: a
    bettor who begins late has lost nothing before. Sizes and shares are fixed beforehand, so the bound is exact.

    Args:
        outcomes: (T,), in the order in which they became known.
        low: the smallest possible outcome.
        high: the largest possible outcome.
        lower: the smallest mean of the claim; −inf for a claim of an upper limit only.
        upper: the largest mean of the claim.
        alpha: the probability of ever raising a false alarm.

    Raises:
        InputError: alpha outside (0, 1); a claim that nothing could refute, or that no outcome agrees with; an outcome
            out of range.

    Source: Ville (1939); Waudby-Smith and Ramdas (2024), arXiv:2010.09686, whose capital processes over a grid of bets
    these are; Shafer (2021), arXiv:1903.06991, for bets as evidence.

    >>> test = betting_test([0] * 20 + [1] * 20, low=0, high=1, upper=0.1)
    >>> test.alarm, betting_test([0] * 400, low=0, high=1, upper=0.1).alarm
    (25, None)
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha:g}; expected a probability between 0 and 1, such as 0.05")
    if not low <= upper or not lower <= min(upper, high):
        raise InputError(f"the claim is a mean from {lower:g} to {upper:g}; expected one within {low:g} to {high:g}")
    if upper >= high and lower <= low:
        raise InputError(f"the limit {upper:g} is the largest possible value, so nothing could exceed it; lower it")
    outside = ~((values >= low) & (values <= high))
    if outside.any():
        place = int(outside.argmax())
        raise InputError(f"outcome {place} is {values[place]:g}; expected a number from {low:g} to {high:g}")
    # A bettor on the right gains λ for each unit above the limit, and must survive the lowest outcome.
    least = _SMALLEST_LOSS * (high - low)
    sizes = _LARGEST_SHARE * 0.5 ** np.arange(_SIZES)
    bets = np.concatenate(
        [
            sizes / max(upper - low, least) if upper < high else [],
            -sizes / max(high - lower, least) if lower > low else [],
        ]
    )  # (J,)
    limits = np.where(bets > 0, upper, lower)
    # What waits before outcome t = 1, 2, …, and what is put in there: half at the first, then the fall of the rest.
    waiting = 0.5 / np.log2(np.arange(1, len(values) + 1) + 1.0)  # (T,)
    put_in = np.log(np.append(0.5, waiting[:-1] - waiting[1:])[: len(values)])
    evidence = np.empty(len(values))
    grown = np.zeros(len(bets))  # ln of what 1 has become since the first outcome
    worth = np.full(len(bets), -np.inf)  # ln of all that was put in, each in units of the first outcome
    for rows in row_pieces(len(values), len(bets)):
        steps = np.log1p(bets * (values[rows, None] - limits))  # (n, J)
        growth = grown + np.cumsum(steps, axis=0)
        # What is put in at t misses the growth before t; the sum over all starts runs along as one accumulation.
        started = np.concatenate([worth[None], put_in[rows, None] - (growth - steps)])
        shares = np.logaddexp.accumulate(started, axis=0)[1:]  # (n, J)
        capital = np.logaddexp.reduce(growth + shares, axis=1) - math.log(len(bets))  # (n,)
        evidence[rows] = np.logaddexp(capital, np.log(waiting[rows]))
        grown, worth = growth[-1], shares[-1]
    return SequentialTest(evidence, alpha)
