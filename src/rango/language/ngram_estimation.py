"""Estimating n-grams: their counts, and the smoothings that make probabilities of counts.

The n-grams of each order stand in sorted arrays, linked to the order below by indices:

    order 1    [a] [b] [c]              index = token
    order 2    [a b] [a c] [b c]        key = index of the prefix (a, a, b) * V + last token, increasing
    order 3    [a b c]                  prefix -> [a b] of order 2, suffix -> [b c] of order 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rango.errors import InputError
from rango.models.ngram import STUPID_WEIGHT, Discounts, NGramTables

Smoothing = Literal["kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood"]
Integers = NDArray[np.integer]
Floats = NDArray[np.float64]

_FALLBACK: Discounts = (0.5, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class NGramCounts:
    """How often each n-gram of 1 to `order` tokens occurs."""

    vocabulary: int
    """V, the number of token ids."""
    end: int
    """The end-of-text token, which also stands for the start of a document as the first token of a history."""
    keys: tuple[NDArray[np.int64], ...]
    """For orders 2 .. N, `prefix index * V + last token` of each n-gram, increasing."""
    counts: tuple[NDArray[np.int32], ...]
    """For orders 1 .. N, occurrences of each n-gram; the start of a document is no occurrence of `end` alone."""
    suffixes: tuple[NDArray[np.int32], ...]
    """For orders 2 .. N, the index in the order below of each n-gram without its first token."""

    @property
    def order(self) -> int:
        """N, the tokens of the longest n-grams."""
        return len(self.counts)

    def prefixes(self, order: int) -> NDArray[np.int64]:
        """The index in the order below of each n-gram without its last token; 0 for all unigrams."""
        if order == 1:
            return np.zeros(self.vocabulary, dtype=np.int64)
        prefixes: NDArray[np.int64] = self.keys[order - 2] // self.vocabulary
        return prefixes

    def sums_by_history(self, order: int, values: NDArray[np.number]) -> Floats:
        """For each entry of the order below, the sum of the values of the n-grams that continue it."""
        histories = 1 if order == 1 else len(self.counts[order - 2])
        return np.bincount(self.prefixes(order), values, minlength=histories).astype(np.float64, copy=False)


def count_ngrams(streams: Sequence[Integers], *, order: int, vocabulary: int, end: int) -> NGramCounts:
    """Count the n-grams of 1 to `order` tokens.

    Each stream starts at the start of a document, and each `end` in it closes one. No n-gram crosses a document's end:
    `end` is the first token of an n-gram (the start of the document) or the last (its end), never in between.

    Args:
        streams: (T,) token ids each, not empty.
        order: N, at least 1.
        vocabulary: V; all ids are below.
        end: the end-of-text token.

    Raises:
        InputError: no tokens, an id outside 0 .. V-1, or no document so long that it has an n-gram of N tokens.
    """
    stream, lengths = _join(streams, end=end)
    low, high = int(stream.min()), int(stream.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"the text has token {wrong} but the vocabulary has {vocabulary} (valid: 0..{vocabulary - 1}); "
            "use the tokenizer that belongs to the vocabulary"
        )
    keys, suffixes = [], []
    counts = [np.bincount(stream[lengths > 1], minlength=vocabulary).astype(np.int32)]
    states = stream.astype(np.int32)  # (T,) the index of the (n-1)-gram that ends at each place
    # Each order from the one below: an n-gram is the (n-1)-gram that ends one place before it, and a token.
    for n in range(2, order + 1):
        ends = np.flatnonzero(lengths >= n)
        if not len(ends):
            raise InputError(
                f"order is {order} but no document has {n} tokens, its start and end counted; "
                "lower the order or add text"
            )
        occurring = states[ends - 1].astype(np.int64) * vocabulary + stream[ends]  # (places,) keys as they occur
        distinct, index, occurrences = np.unique(occurring, return_inverse=True, return_counts=True)
        suffix = np.empty(len(distinct), dtype=np.int32)
        suffix[index] = states[ends]
        states = np.zeros(len(stream), dtype=np.int32)
        states[ends] = index
        keys.append(distinct)
        counts.append(occurrences.astype(np.int32))
        suffixes.append(suffix)
    return NGramCounts(vocabulary, end, tuple(keys), tuple(counts), tuple(suffixes))


def _join(streams: Sequence[Integers], *, end: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """All streams in one, each after a start symbol; and the tokens of the longest n-gram that ends at each place.

    That length is 1 at a start symbol, which nothing predicts, and at least 2 everywhere else.
    """
    filled = [stream for stream in streams if len(stream)]
    if not filled:
        raise InputError("there are no tokens to count; expected at least one document with text")
    start = np.array([end], dtype=np.int32)
    stream = np.concatenate([part for tokens in filled for part in (start, tokens.astype(np.int32))])  # (T,)
    begins = np.cumsum([0, *(len(tokens) + 1 for tokens in filled[:-1])])
    places = np.arange(len(stream), dtype=np.int32)
    latest = np.zeros_like(places)  # the start of the history of place t: the last end before t
    latest[1:] = np.maximum.accumulate(np.where(stream == end, places, 0)[:-1])
    lengths = places - latest + 1  # (T,)
    lengths[begins] = 1
    return stream, lengths


def smooth(counts: NGramCounts, *, smoothing: Smoothing, k: float = 1.0, discount: float | None = None) -> NGramTables:
    """The model of one kind of smoothing; only add-k reads `k`, only Kneser-Ney `discount`."""
    if smoothing == "kneser-ney":
        return kneser_ney(counts, discount=discount)
    return relative_frequencies(counts, smoothing=smoothing, k=k)


def relative_frequencies(counts: NGramCounts, *, smoothing: Smoothing, k: float = 1.0) -> NGramTables:
    """The smoothings that need only c(h w) and c(h), occurrences of an n-gram and of its history h; h' is h shortened.

        maximum-likelihood   P(w | h) = c(h w) / c(h), with the longest part of h that anything follows in the text;
                             a token that never followed it has probability 0, a log-probability of -inf
        stupid-backoff       S(w | h) = c(h w) / c(h) where seen, otherwise 0.4 S(w | h');  S(w) = c(w) / T;
                             not a distribution
        add-k                P(w | h) = (c(h w) + k) / (c(h) + k V), with all N - 1 tokens of h (Lidstone; k = 1 is
                             Laplace); a history that was never seen gives the uniform distribution, 1 / V

    Source: Brants et al. 2007, eq. 5 (stupid back-off).
    """
    added = k if smoothing == "add-k" else 0.0
    mass = added * counts.vocabulary
    log_probabilities, weights = [], []
    for order in range(1, counts.order + 1):
        seen = counts.counts[order - 1]
        total = counts.sums_by_history(order, seen)  # (histories,) c(h)
        log_probabilities.append(_log((seen + added) / (total[counts.prefixes(order)] + mass)))
        if order == 1:
            continue
        # The factor of what the shorter history says, for tokens that never followed this one.
        if smoothing == "add-k":
            weight = np.log(mass / (total + mass))
        elif smoothing == "stupid-backoff":
            weight = np.full(len(total), np.log(STUPID_WEIGHT))
        else:
            weight = np.where(total > 0, -np.inf, 0.0)
        weights.append(weight.astype(np.float32))
    return NGramTables(counts.vocabulary, counts.end, smoothing, counts.keys, tuple(log_probabilities), tuple(weights))


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
    # From the unigrams up: the probabilities of each order are mixed with those of the order below.
    for order in range(1, counts.order + 1):
        seen = _adjusted(counts, order)  # (n-grams,) c(h w)
        taken = estimate_discounts(seen) if discount is None else (discount if order > 1 else 0.0,) * 3
        discounts.append(taken)
        removed = np.array([0.0, *taken])[np.minimum(seen, 3)]  # (n-grams,) D(c(h w))
        total = counts.sums_by_history(order, seen)  # (histories,)
        gamma = np.ones(len(total))
        np.divide(counts.sums_by_history(order, removed), total, out=gamma, where=total > 0)
        below = lower if order == 1 else lower[counts.suffixes[order - 2]]
        prefixes = counts.prefixes(order)
        values = seen - removed  # then in place: at ten million n-grams each array is 80 MB
        values /= total[prefixes]
        values += gamma[prefixes] * below
        lower = values  # (n-grams,) P(w | h)
        log_probabilities.append(_log(lower))
        if order > 1:
            weights.append(_log(gamma))
    tables = (counts.keys, tuple(log_probabilities), tuple(weights), tuple(discounts))
    return NGramTables(counts.vocabulary, counts.end, "kneser-ney", *tables)


def _adjusted(counts: NGramCounts, order: int) -> Integers:
    """c of Kneser-Ney for each n-gram of an order."""
    occurrences = counts.counts[order - 1]
    if order == counts.order:
        return occurrences
    before = np.bincount(counts.suffixes[order - 1], minlength=len(occurrences))
    if order > 1:
        # Follow the prefixes up from the unigrams to know which n-grams begin with the start of a document.
        at_start: NDArray[np.bool_] = np.arange(counts.vocabulary) == counts.end
        for lower in range(2, order + 1):
            at_start = at_start[counts.prefixes(lower)]
        before[at_start] = occurrences[at_start]
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
    # n[j - 1] is n_j; all counts of five and more go into one bin that is cut off.
    n = np.bincount(np.minimum(seen, 5), minlength=5)[1:5]
    if np.any(n[:3] == 0):
        return _FALLBACK
    y = n[0] / (n[0] + 2 * n[1])
    one, two, more = (float(j - (j + 1) * y * n[j] / n[j - 1]) for j in (1, 2, 3))
    inside = 0 <= one <= 1 and 0 <= two <= 2 and 0 <= more <= 3
    return (one, two, more) if inside else _FALLBACK


def _log(values: Floats) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):  # log 0 is -inf, and is meant
        return np.log(values).astype(np.float32)
