"""Counting n-grams: sorted keys in arrays that together form a trie.

    order 1   token id                                   0 .. V-1
    order 2   key = (index of w1 in order 1) V + w2      sorted; the index of an entry is its place
    order 3   key = (index of w1 w2 in order 2) V + w3   sorted
    ...

So an n-gram is found by n - 1 binary searches, its prefix is `key // V`, and all n-grams with one prefix lie together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rango.errors import InputError

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
