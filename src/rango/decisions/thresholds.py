"""Limits on doubt, chosen from the doubt of N instances and whether each was decided wrongly: arrays only.

least_cost_limit   of the least total cost, where passing on has a cost too
bounded_limit      the loosest whose error rate is bounded, by a chain of exact tests from strict to loose
binomial_interval  the exact interval of a share

An instance is acted on where its doubt is at most the limit; −inf acts on none. `gates` says what doubt is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array


def least_cost_limit(doubt: Array, saving: Array) -> float:
    """The limit at which acting on the least doubtful instances saves most; on ties the loosest.

    Args:
        doubt: (N,).
        saving: (N,), cost of passing on less the cost of acting, by the label.

    >>> least_cost_limit(np.array([0.1, 0.4, 0.2]), np.array([0.3, -0.7, 0.3]))
    0.2
    """
    order, ends = _steps(doubt)
    totals = np.append(0.0, np.cumsum(saving[order])[ends - 1])
    # What is equal but for rounding is a tie: calibrated posteriors at the very threshold cost the same either way.
    tie = 1e-9 * max(1.0, float(np.abs(saving).sum()))
    best = int(np.flatnonzero(totals >= totals.max() - tie)[-1])
    return float(doubt[order][ends[best - 1] - 1]) if best else -math.inf


def bounded_limit(doubt: Array, wrong: NDArray[np.bool_], *, most: float, alpha: float) -> float:
    """The loosest limit whose error rate is shown to be at most `most`; −inf where none is.

    A limit that acts on n instances, k of them wrong, is accepted where P(X ≤ k) ≤ α / J for X ~ Binomial(n, most).
    Limits are tested from strict to loose in J chains, which begin at n₀, 2 n₀, 4 n₀, … of the least doubtful
    instances; n₀ is one more than the fewest that could pass without a single error. A chain ends at its first failure.
    Accepting a limit whose error rate is larger than `most` has probability at most α: in each chain the first such
    limit would have to be accepted. A chain from the strictest limit alone would often end at one early mistake.

    Args:
        doubt: (N,).
        wrong: (N,), whether the decision was wrong.
        most: the error rate, a fraction.
        alpha: the probability of accepting too loose a limit.

    Source: fixed sequence testing with several starts (Angelopoulos et al., arXiv:2110.01052, section 3).

    >>> doubt, wrong = np.linspace(0, 0.5, 200), np.arange(200) >= 150
    >>> bool(bounded_limit(doubt, wrong, most=0.05, alpha=0.05) < doubt[160])
    True
    """
    from scipy.special import bdtr

    starts = chain_starts(len(doubt), most=most, alpha=alpha)
    if not starts:
        return -math.inf
    order, ends = _steps(doubt)
    errors = np.cumsum(wrong[order])[ends - 1]
    accepted = bdtr(errors.astype(np.float64), ends, most) <= alpha / len(starts)
    best = -1
    for start in starts:
        first = int(np.searchsorted(ends, start))
        failures = np.flatnonzero(~accepted[first:])
        last = first + int(failures[0]) - 1 if failures.size else len(ends) - 1
        best = max(best, last if last >= first else -1)
    return float(doubt[order][ends[best] - 1]) if best >= 0 else -math.inf


def chain_starts(n: int, *, most: float, alpha: float) -> list[int]:
    """The numbers of instances n₀, 2 n₀, … ≤ n at which chains of tests begin, as many as α, shared by all, allows.

    >>> chain_starts(1000, most=0.05, alpha=0.05), chain_starts(50, most=0.05, alpha=0.05)
    ([87, 174, 348, 696], [])
    """
    starts: list[int] = []
    # More chains leave less of α to each, which moves n₀ up: the number is raised while the last one still fits.
    while True:
        chains = len(starts) + 1
        fewest = math.ceil(math.log(alpha / chains) / math.log1p(-most)) + 1
        if fewest << (chains - 1) > n:
            return starts
        starts = [fewest << place for place in range(chains)]


def binomial_interval(hits: int, n: int, *, level: float) -> tuple[float, float]:
    """The exact interval of a share; (0, 1) for n = 0.

    Source: Clopper and Pearson (1934).

    >>> [round(end, 3) for end in binomial_interval(0, 59, level=0.9)]
    [0.0, 0.05]
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    return low, float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0


def _steps(doubt: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order of rising doubt, and how many instances each limit acts on: equal doubts are never parted."""
    order = np.argsort(doubt, kind="stable")
    is_last = np.append(doubt[order][1:] != doubt[order][:-1], True)
    return order, np.flatnonzero(is_last) + 1
