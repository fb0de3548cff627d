"""The known words near a typed one: within two inserts, deletes, replacements or swaps of neighbouring letters.

The index is the symmetric-delete index of symspellpy (Garbe): two words within d edits of each other share a string
that is at most d deletions away from both, so that a look-up needs neither the alphabet nor a walk over the list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rango.scoring.channel import Channel
from rango.scoring.word_list import WordList, fold

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
