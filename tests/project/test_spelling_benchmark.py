"""The spelling benchmark makes the mistakes it says and counts them right."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from rango.errors import InputError
from rango.language.spelling.checker import Alternative, SpellingCheck, WordCheck
from rango.language.words import count_words

TEXT = ["The cat sat on a mat near the car. He saw a cart and a hat on it!", "no sentence here", "Too short."]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "spelling.py"
    spec = importlib.util.spec_from_file_location("spelling_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_single_edits_by_hand(benchmark: ModuleType) -> None:
    made = {edit: set(benchmark.edits_of("ab", edit, "ab")) for edit in benchmark.EDITS}
    assert made == {
        "insert": {"aab", "bab", "abb", "aba"},
        "delete": {"a", "b"},
        "replace": {"bb", "aa"},
        "swap": {"ba"},
    }


def test_mistakes_stand_where_they_say(benchmark: ModuleType) -> None:
    words = count_words(TEXT)
    sentences = benchmark.sentences_of(TEXT)
    assert sentences == ["The cat sat on a mat near the car.", "He saw a cart and a hat on it!"]
    assert benchmark.make_mistakes(sentences, words, count=2, seed=3) == benchmark.make_mistakes(
        sentences, words, count=2, seed=3
    )
    for listed in (True, False):
        for seed in range(20):
            found = benchmark.misspell(
                sentences[0], words, listed=listed, random=random.Random(seed), letters="abcdefghijklmnopqrstuvwxyz"
            )
            typed = found.text[found.start : found.end]
            assert (typed in words) == listed
            assert found.text[: found.start] + found.right + found.text[found.end :] == sentences[0]
            assert typed.lower() in set(
                benchmark.edits_of(found.right.lower(), found.edit, "abcdefghijklmnopqrstuvwxyz")
            )


def test_rates_by_hand(benchmark: ModuleType) -> None:
    def word(start: int, flagged: bool, *offers: str) -> WordCheck:
        return WordCheck(
            start,
            start + 3,
            "xxx",
            True,
            0.0,
            tuple(Alternative(o, 0.6**n, n) for n, o in enumerate(offers, 1)),
            flagged,
        )

    mistakes = [
        benchmark.Mistake("xxx xxx", 0, 3, "Cat", "swap", True),
        benchmark.Mistake("xxx xxx", 4, 7, "hat", "swap", False),
    ]
    checks = [
        SpellingCheck("xxx xxx", (word(0, True, "Cat", "hat"), word(4, True, "cat"))),
        SpellingCheck("xxx xxx", (word(0, False), word(4, False, "mat", "hat"))),
    ]
    result = benchmark.measure("made up", mistakes, checks, 3.0)
    assert (result.precision, result.recall, result.recall_listed, result.recall_unlisted) == (0.5, 0.5, 1.0, 0.0)
    assert (result.right_first, result.right_among_five, result.put_right) == (0.5, 1.0, 0.5)
    assert (result.false_alarms_per_100_words, result.seconds_per_sentence) == (50.0, 1.5)
    nothing = benchmark.measure("nothing", mistakes[:1], [SpellingCheck("xxx xxx", (word(0, False),) * 2)], 1.0)
    assert math.isnan(nothing.precision)
    head, _, row = benchmark.show([result]).split("\n")
    assert head.startswith("| system | flags | precision, of flags | recall, of 2 | recall, not a word, of 1 |")
    # Wilson for 1 of 2: (1 + z^2 / 2 -+ z sqrt(1 / 2 + z^2 / 4)) / (2 + z^2) with z = 1.96
    assert row.startswith("| made up | 2 | 0.500 (0.095 to 0.905) | 0.500 (0.095 to 0.905) | 0.000 (0.000 to 0.793) |")
    assert "| - |" in benchmark.show([nothing])


def test_it_runs_on_a_model(benchmark: ModuleType, checkpoint: Callable[..., Path]) -> None:
    words = count_words(TEXT)
    found = benchmark.run(
        [str(checkpoint("phi"))], benchmark.sentences_of(TEXT), words=words, count=2, seed=0, threshold=0.0
    )
    assert [result.system for result in found] == ["word list alone", str(checkpoint("phi"))]
    assert found[0].recall_unlisted == 1
    with pytest.raises(InputError, match="no sentence of 6 to 25 words"):
        benchmark.run([str(checkpoint("phi"))], [], words=words, count=2, seed=0, threshold=0.0)
