"""The known words near a typed one, and how probable it is that one was typed for the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rango.language.words import WordList, fold

# Most misspellings are one edit from what was meant: 80 to 95 % in the collections that Kukich (1992) reviews.
_SHARE = {1: 0.9, 2: 0.1}


@dataclass(frozen=True)
class Channel:
    """How words are mistyped."""

    error_rate: float
    """Probability that a word is mistyped."""
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

    def log_spelling(self, word: str) -> float:
        """log P(these letters) when nothing is known of a word but its length: each letter is one of the alphabet."""
        return -len(word) * math.log(self.alphabet_size)

    def edits(self, word: str) -> int:
        """The number of single edits of a word."""
        n = len(word)
        return (n + 1) * self.alphabet_size + n + n * (self.alphabet_size - 1) + max(0, n - 1)


MOST_EDITS = 2


@dataclass(frozen=True)
class Candidate:
    """A known word that may have been meant."""

    word: str
    """Written with the capital letters of what was typed."""
    distance: int
    """Edits from what was typed (optimal string alignment), 1 or 2."""
    log_channel: float
    """log P(typed | this word), nats."""


class Candidates:
    """Looks up the known words near a typed one."""

    def __init__(self, words: WordList, channel: Channel) -> None:
        # Imported here, not above: its logging handler and its data are of no use to whoever only scores.
        from symspellpy import SymSpell, Verbosity

        self.words = words
        self.channel = channel
        self._total = sum(words.counts.values())
        self._all: Any = Verbosity.ALL
        self._index: Any = SymSpell(max_dictionary_edit_distance=MOST_EDITS, prefix_length=7)
        for word, count in words.counts.items():
            self._index.create_dictionary_entry(word, count)

    def near(self, typed: str, *, most: int) -> list[Candidate]:
        """At most `most` known words near a typed one, the likeliest by count and channel first; never `typed` itself.

        Within two edits; of a word that is known itself, within one: that two edits should have made one word of
        another is too improbable for any language model to make up for. The order is log P(word) + log P(typed | word)
        with P(word) from the counts: it only decides which words the language model compares.
        """
        own = fold(typed)
        found = []
        reach = 1 if own in self.words.counts else MOST_EDITS
        # A word of one letter may come twice, the second time with too large a distance.
        nearest = {item.term: item for item in reversed(self._index.lookup(own, self._all, reach))}
        for item in nearest.values():
            if item.term != own:
                log_channel = self.channel.log_probability(item.term, item.distance)
                prior = math.log(item.count / self._total)
                found.append((-(prior + log_channel), item.term, item.distance, log_channel))
        found.sort()
        return [
            Candidate(as_typed(word, typed), distance, log_channel) for _, word, distance, log_channel in found[:most]
        ]


def as_typed(word: str, typed: str) -> str:
    """A lower-case word with the capital letters and the apostrophe of what was typed.

    >>> as_typed("manzana", "MANZNA"), as_typed("ñandú", "Nandu"), as_typed("don't", "dont")
    ('MANZANA', 'Ñandú', "don't")
    """
    if "’" in typed:
        word = word.replace("'", "’")
    if len(typed) > 1 and typed.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if typed[:1].isupper() else word
