"""The channel by hand; candidates equal a brute-force search."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rango.language.spelling.candidates import Candidates, Channel
from rango.language.words import WordList

SHORT = st.text("abñ", min_size=1, max_size=9)


def osa(one: str, other: str) -> int:
    """Optimal string alignment distance by its recurrence."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            )
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


class TestCandidates:
    @given(known=st.lists(SHORT, min_size=1, max_size=30), typed=SHORT)
    @example(known=["a"], typed="aa")
    def test_they_equal_a_brute_force_search(self, known: list[str], typed: str) -> None:
        words = WordList(dict.fromkeys(known, 1))
        found = Candidates(words, Channel(0.05, 3)).near(typed, most=100)
        reach = 1 if typed in known else 2
        distances = {word: osa(word, typed) for word in words.counts}
        expected = {word: distance for word, distance in distances.items() if 0 < distance <= reach}
        assert {one.word: one.distance for one in found} == expected
        assert len(found) == len(expected)

    def test_the_likeliest_by_count_and_channel_come_first(self) -> None:
        words = WordList({"the": 1000, "ten": 20, "tea": 10, "tehran": 5})
        found = Candidates(words, Channel(0.05, 26)).near("Teh", most=2)
        assert [one.word for one in found] == ["The", "Ten"]


def test_the_channel_by_hand() -> None:
    channel = Channel(error_rate=0.1, alphabet_size=2)
    # ab over {a, b}: 6 inserts, 2 deletes, 2 replaces, 1 swap
    assert channel.edits("ab") == 11
    assert channel.log_probability("ab", 0) == pytest.approx(math.log(0.9))
    assert channel.log_probability("ab", 1) == pytest.approx(math.log(0.1 * 0.9 / 11))
    assert channel.log_probability("ab", 2) == pytest.approx(math.log(0.1 * 0.1 / 121))
