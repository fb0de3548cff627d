"""The known words near a typed one, and the channel: how probable it is that a typist turns one into the other.

Noisy-channel model (Kernighan, Church & Gale 1990). A word `meant` is typed as it is with probability 1 - e. Otherwise
one or two edits are made, and each of the edits(meant) single edits is as probable as any other:

    P(typed | meant) = 1 - e                           0 edits away
                     = e 0.9 / edits(meant)            1 edit away: insert, delete, replace, or swap neighbours
                     = e 0.1 / edits(meant)^2          2 edits away
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rango.language.words import WordList
from rango.unicode_words import fold

_MOST_EDITS = 2
# Most misspellings are one edit from what was meant: 80 to 95 % in the collections that Kukich (1992) reviews.
_SHARE = {1: 0.9, 2: 0.1}


@dataclass(frozen=True)
class Channel:
    """The channel's probabilities, for one error rate and alphabet."""

    error_rate: float
    """e, the probability that a word is mistyped."""
    alphabet_size: int

    def log_probability(self, meant: str, distance: int) -> float:
        """log P(one given typed word at `distance` | meant), nats.

        >>> round(math.exp(Channel(0.02, 27).log_probability("cat", 0)), 4)
        0.98
        >>> channel = Channel(0.02, 27)  # 4 * 27 inserts + 3 deletes + 3 * 26 replaces + 2 swaps = 191
        >>> round(191 * math.exp(channel.log_probability("cat", 1)), 4)
        0.018
        """
        if distance == 0:
            return math.log1p(-self.error_rate)
        return math.log(self.error_rate * _SHARE[distance]) - distance * math.log(self.edits(meant))

    def edits(self, word: str) -> int:
        """The number of single edits of a word."""
        n = len(word)
        return (n + 1) * self.alphabet_size + n + n * (self.alphabet_size - 1) + max(0, n - 1)


@dataclass(frozen=True)
class Candidate:
    """A known word that may have been meant."""

    word: str
    """Written with the capital letters of the typed word."""
    distance: int
    """Edits from the typed word (optimal string alignment), 1 or 2."""
    log_channel: float
    """log P(typed | this word), nats."""


class Candidates:
    """Looks up the known words near a typed one."""

    def __init__(self, words: WordList, channel: Channel) -> None:
        # Imported here, because it sets up logging and loads data that nothing but spelling needs.
        from symspellpy import SymSpell, Verbosity

        self.words = words
        self.channel = channel
        self._total = sum(words.counts.values())
        self._all: Any = Verbosity.ALL
        self._index: Any = SymSpell(max_dictionary_edit_distance=_MOST_EDITS, prefix_length=7)
        for word, count in words.counts.items():
            self._index.create_dictionary_entry(word, count)

    def near(self, typed: str, *, most: int) -> list[Candidate]:
        """At most `most` known words within two edits of a typed one, the likeliest first; never `typed` itself.

        Of a known word only neighbours within one edit are taken: that two edits turned one word into another is so
        improbable that no language model makes up for it. The order is by log P(word) + log P(typed | word), with
        P(word) from the counts; it only decides which words the language model compares.
        """
        folded = fold(typed)
        reach = 1 if folded in self.words.counts else _MOST_EDITS
        # A word of one letter may come twice, the second time with too large a distance.
        nearest = {item.term: item for item in reversed(self._index.lookup(folded, self._all, reach))}
        ranked = []
        for item in nearest.values():
            if item.term != folded:
                log_channel = self.channel.log_probability(item.term, item.distance)
                prior = math.log(item.count / self._total)
                ranked.append((-(prior + log_channel), item.term, item.distance, log_channel))
        ranked.sort()
        return [
            Candidate(as_typed(word, typed), distance, log_channel) for _, word, distance, log_channel in ranked[:most]
        ]


def as_typed(word: str, typed: str) -> str:
    """A lower-case word with the capital letters and the apostrophe of the typed one.

    >>> as_typed("manzana", "MANZNA"), as_typed("ñandú", "Nandu"), as_typed("don't", "dont")
    ('MANZANA', 'Ñandú', "don't")
    """
    if "’" in typed:
        word = word.replace("'", "’")
    if len(typed) > 1 and typed.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if typed[:1].isupper() else word
