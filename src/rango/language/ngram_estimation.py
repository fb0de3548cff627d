"""Estimating n-grams: counts in sorted arrays that form a trie, and the smoothings that make them probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rango.errors import InputError
from rango.models.ngram import STUPID_WEIGHT, Discounts, NGramTables

Integers = NDArray[np.integer]


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
        found: NDArray[np.int64] = self.keys[order - 2] // self.vocabulary
        return found

    def histories(self, order: int) -> int:
        """How many histories the n-grams of this order can have: the entries of the order below."""
        return 1 if order == 1 else len(self.counts[order - 2])

    def at_the_start(self, order: int) -> NDArray[np.bool_]:
        """Which n-grams begin at the start of a document."""
        starts: NDArray[np.bool_] = np.arange(self.vocabulary) == self.end
        for lower in range(2, order + 1):
            starts = starts[self.prefixes(lower)]
        return starts


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
    states = stream.astype(np.int32)  # index of the (n-1)-gram that ends at each place
    for n in range(2, order + 1):
        ends = np.flatnonzero(lengths >= n)
        if not len(ends):
            raise InputError(
                f"order is {order} but no document has {n} tokens, its start and end counted; "
                "lower the order or add text"
            )
        found, index, occurrences = _number(states[ends - 1].astype(np.int64) * vocabulary + stream[ends])
        suffix = np.empty(len(found), dtype=np.int32)
        suffix[index] = states[ends]
        states = np.zeros(len(stream), dtype=np.int32)
        states[ends] = index
        keys.append(found)
        counts.append(occurrences)
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
    stream = np.concatenate([part for tokens in filled for part in (start, tokens.astype(np.int32))])
    begins = np.cumsum([0, *(len(tokens) + 1 for tokens in filled[:-1])])
    places = np.arange(len(stream), dtype=np.int32)
    latest = np.zeros_like(places)  # the start of the history of place t: the last end before t
    latest[1:] = np.maximum.accumulate(np.where(stream == end, places, 0)[:-1])
    lengths = places - latest + 1
    lengths[begins] = 1
    return stream, lengths


def _number(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The distinct keys, increasing; for each key its place among them; how often each occurs."""
    order = np.argsort(keys)
    ranked = keys[order]
    first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    index = np.empty(len(keys), dtype=np.int32)
    index[order] = np.cumsum(first, dtype=np.int32) - 1
    begins = np.flatnonzero(first)
    return ranked[begins], index, np.diff(begins, append=len(ranked)).astype(np.int32)


Smoothing = Literal["kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood"]
_FALLBACK: Discounts = (0.5, 1.0, 1.5)

Floats = NDArray[np.float64]


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
