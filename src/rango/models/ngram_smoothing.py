"""From counts to probabilities: Kneser-Ney, stupid back-off, add-k, maximum likelihood, all in one back-off form.

Each n-gram h w has a log-probability and each history h a log back-off weight. With h' the history without its first
token, the look-up in `rango.models.ngram` gives

    log P(w | h) = log_probability(h w)             where h w was seen
                   back_off(h) + log P(w | h')      where it was not (Kneser-Ney, stupid back-off, maximum likelihood)
                   back_off(h) + log(1 / V)         where it was not (add-k)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rango.models.ngram_counts import Integers, NGramCounts

Smoothing = Literal["kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood"]
Discounts = tuple[float, float, float]
"""What is taken from counts of 1, of 2, and of 3 or more."""

STUPID_WEIGHT = 0.4  # Brants et al. 2007, section 4
_FALLBACK: Discounts = (0.5, 1.0, 1.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NGramTables:
    """A smoothed model. Logarithms in nats, float32; orders as in `NGramCounts`."""

    vocabulary: int
    end: int
    smoothing: str
    keys: tuple[NDArray[np.int64], ...]
    log_probabilities: tuple[NDArray[np.float32], ...]
    """For orders 1 .. N."""
    back_off: tuple[NDArray[np.float32], ...]
    """For histories of 1 .. N - 1 tokens."""
    discounts: tuple[Discounts, ...] = ()
    """For orders 1 .. N; Kneser-Ney only."""


def smooth(counts: NGramCounts, *, smoothing: Smoothing, k: float = 1.0, discount: float | None = None) -> NGramTables:
    """The model of one kind of smoothing; `k` is of add-k, `discount` of Kneser-Ney."""
    if smoothing == "kneser-ney":
        return kneser_ney(counts, discount=discount)
    if smoothing == "add-k":
        return add_k(counts, k=k)
    return stupid_backoff(counts) if smoothing == "stupid-backoff" else maximum_likelihood(counts)


def kneser_ney(counts: NGramCounts, *, discount: float | None = None) -> NGramTables:
    """Interpolated Kneser-Ney, with modified discounts estimated for each order, or with one fixed discount.

        P(w | h) = (c(h w) - D(c(h w))) / sum_v c(h v) + gamma(h) P(w | h')
        gamma(h) = sum_v D(c(h v)) / sum_v c(h v)

    At the highest order, and for n-grams at the start of a document (nothing stands before them), c is the number of
    occurrences; otherwise it is the number of distinct tokens seen before the n-gram. Modified: below the unigrams
    stands the uniform distribution over the vocabulary, so that every token has a probability above zero. With a fixed
    `discount`, unigrams are not discounted, and tokens that the text lacks have probability 0 (as in nltk).

    Source: Chen & Goodman 1999, eq. 26 (modified), eq. 20 (fixed); the start of a document as in KenLM
    (Heafield et al. 2013).
    """
    discounts, log_probabilities, weights = [], [], []
    lower: Floats = np.full(1, 1 / counts.vocabulary)
    for order in range(1, counts.order + 1):
        seen = _adjusted(counts, order)
        taken = estimate_discounts(seen) if discount is None else (discount if order > 1 else 0.0,) * 3
        discounts.append(taken)
        removed = np.array([0.0, *taken])[np.minimum(seen, 3)]
        prefixes, histories = counts.prefixes(order), counts.histories(order)
        total = np.bincount(prefixes, seen, minlength=histories)
        gamma = np.ones(histories)
        np.divide(np.bincount(prefixes, removed, minlength=histories), total, out=gamma, where=total > 0)
        below = lower if order == 1 else lower[counts.suffixes[order - 2]]
        values = seen - removed  # then in place: at ten million n-grams each array is 80 MB
        values /= total[prefixes]
        values += gamma[prefixes] * below
        lower = values
        log_probabilities.append(_log(lower))
        if order > 1:
            weights.append(_log(gamma))
    return NGramTables(
        counts.vocabulary,
        counts.end,
        "kneser-ney",
        counts.keys,
        tuple(log_probabilities),
        tuple(weights),
        tuple(discounts),
    )


def _adjusted(counts: NGramCounts, order: int) -> Integers:
    """c of Kneser-Ney for each n-gram of an order."""
    occurrences = counts.counts[order - 1]
    if order == counts.order:
        return occurrences
    before = np.bincount(counts.suffixes[order - 1], minlength=len(occurrences))
    if order > 1:
        start = counts.at_the_start(order)
        before[start] = occurrences[start]
    return before


def estimate_discounts(seen: Integers) -> Discounts:
    """The discounts of modified Kneser-Ney from the counts of one order.

        Y = n1 / (n1 + 2 n2),   D_j = j - (j + 1) Y n_(j+1) / n_j   for j = 1, 2, 3

    with n_j the number of n-grams whose count is j. A small text, or a vocabulary without rare tokens, can lack those
    n-grams or give a D_j outside 0 .. j; then 0.5, 1, 1.5 as KenLM's fallback.

    Source: Chen & Goodman 1999, eq. 26.

    >>> [round(d, 3) for d in estimate_discounts(np.repeat([1, 2, 3, 4], [8, 4, 2, 1]))]
    [0.5, 1.25, 2.0]
    """
    n = np.bincount(np.minimum(seen, 5), minlength=5)[1:5]
    if np.any(n[:3] == 0):
        return _FALLBACK
    y = n[0] / (n[0] + 2 * n[1])
    one, two, more = (float(j - (j + 1) * y * n[j] / n[j - 1]) for j in (1, 2, 3))
    inside = 0 <= one <= 1 and 0 <= two <= 2 and 0 <= more <= 3
    return (one, two, more) if inside else _FALLBACK


def maximum_likelihood(counts: NGramCounts) -> NGramTables:
    """P(w | h) = c(h w) / c(h) with the longest part of the history that was seen followed by something.

    A token that never followed it has probability 0, a log-probability of -inf.
    """

    def never_followed(total: Floats) -> Floats:
        return np.where(total > 0, -np.inf, 0.0)

    return _relative(counts, "maximum-likelihood", added=0.0, weight=never_followed)


def stupid_backoff(counts: NGramCounts) -> NGramTables:
    """S(w | h) = c(h w) / c(h) where seen, otherwise 0.4 S(w | h'); S(w) = c(w) / T. Not a distribution.

    Source: Brants et al. 2007, eq. 5.
    """
    return _relative(
        counts, "stupid-backoff", added=0.0, weight=lambda total: np.full(len(total), np.log(STUPID_WEIGHT))
    )


def add_k(counts: NGramCounts, *, k: float) -> NGramTables:
    """P(w | h) = (c(h w) + k) / (c(h) + k V), with all N - 1 tokens of history (Lidstone; k = 1 is Laplace).

    A history that was never seen gives the uniform distribution, 1 / V.
    """
    mass = k * counts.vocabulary
    return _relative(counts, "add-k", added=k, weight=lambda total: np.log(mass / (total + mass)))


def _relative(
    counts: NGramCounts, smoothing: Smoothing, *, added: float, weight: Callable[[Floats], Floats]
) -> NGramTables:
    """(c(h w) + added) / (c(h) + added V) for every n-gram, and a weight from c(h) for every history."""
    log_probabilities, weights = [], []
    for order in range(1, counts.order + 1):
        seen, prefixes = counts.counts[order - 1], counts.prefixes(order)
        total = np.bincount(prefixes, seen, minlength=counts.histories(order)).astype(np.float64)
        log_probabilities.append(_log((seen + added) / (total[prefixes] + added * counts.vocabulary)))
        if order > 1:
            weights.append(weight(total).astype(np.float32))
    return NGramTables(counts.vocabulary, counts.end, smoothing, counts.keys, tuple(log_probabilities), tuple(weights))


def _log(values: Floats) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):  # log 0 is -inf, and is meant
        return np.log(values).astype(np.float32)
