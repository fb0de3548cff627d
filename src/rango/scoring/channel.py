"""The channel between the word that was meant and the word that was typed (Kernighan, Church and Gale 1990).

    P(typed = meant)     = 1 - error_rate
    P(typed | meant)     = error_rate * share(d) / edits(meant)^d,      d = 1, 2 edits between them

The number of single edits of a word of n letters over an alphabet of A: (n + 1) A inserted letters, n deleted ones,
n (A - 1) replaced ones, n - 1 swaps of neighbours. All are taken as equally likely; a confusion matrix of a keyboard
would tell them apart, but would have to be measured for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
