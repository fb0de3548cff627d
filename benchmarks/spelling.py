"""How many misspellings of real sentences are found, and how often the right word is offered first or among five.

    python benchmarks/spelling.py MODEL... --text HELD_OUT.txt [--last 0.01] [--sentences 400] [--seed 0]
                                  [--words FILE] [--threshold 0] [--out FILE.json]

Takes sentences of 6 to 25 words from text that no model was trained on (`--last 0.01`: the last hundredth of the file's
lines, which `rango pretrain` holds out), makes one mistake at a known place in each, and lets `rango spell`'s checker
judge every word. A mistake is one insert, delete, replacement or swap, drawn with equal chances; half of the sentences
get a word that is in no list, half a word that is (cat for car), where the list has one. All models read the same
sentences. The first row is the word list without a language model: what it lacks is flagged, the likeliest by count and
channel is offered.

Columns: precision and recall of the flagged words (a mistake found, of all flags; of all mistakes), recall for words in
no list and for listed ones, the right word first and among the first five (of all mistakes, flagged or not), mistakes
flagged and put right, seconds a sentence. Rates have their 95 % intervals (Wilson); all systems judge the same
sentences, so a difference may be surer than two intervals tell. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from scipy.stats import binomtest

from rango.errors import InputError
from rango.files import read_text, write_json
from rango.language.options import SpellingOptions
from rango.language.spelling.candidates import Candidates, Channel, as_typed
from rango.language.spelling.checker import SpellChecker, SpellingCheck
from rango.language.words import WordList, read_words, words_of_model
from rango.models.loading import load_model
from rango.unicode_words import fold, words_of

EDITS = ("insert", "delete", "replace", "swap")


@dataclass(frozen=True)
class Mistake:
    """A sentence with one misspelt word."""

    text: str
    start: int
    end: int
    right: str
    edit: str
    listed: bool
    """Whether what stands there now is a word of the list."""


@dataclass(frozen=True)
class Result:
    """What a checker made of the mistakes; rates in [0, 1]."""

    system: str
    sentences: int
    flags: int
    not_words: int
    """Mistakes that are in no list."""
    precision: float
    recall: float
    recall_unlisted: float
    recall_listed: float
    right_first: float
    right_among_five: float
    put_right: float
    false_alarms_per_100_words: float
    seconds_per_sentence: float


def sentences_of(lines: Sequence[str]) -> list[str]:
    """Sentences of 6 to 25 words that begin with a capital letter and end in a full stop or such."""
    parts = (part.strip() for line in lines for part in re.split(r"(?<=[.!?])\s+", line))
    whole = (part for part in parts if re.match(r"[\"'“‘¿¡]?[A-ZÁÉÍÓÚÑ]", part) and part[-1] in ".!?")
    return list(dict.fromkeys(part for part in whole if 6 <= len(list(words_of(part))) <= 25))


def edits_of(word: str, edit: str, letters: str) -> Iterator[str]:
    """Every word that one edit of a kind makes of a lower-case word; its own spelling is none."""
    n = len(word)
    if edit == "insert":
        made = (word[:k] + letter + word[k:] for k in range(n + 1) for letter in letters)
    elif edit == "delete":
        made = (word[:k] + word[k + 1 :] for k in range(n if n > 1 else 0))
    elif edit == "replace":
        made = (word[:k] + letter + word[k + 1 :] for k in range(n) for letter in letters)
    else:
        made = (word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in range(n - 1))
    return (other for other in dict.fromkeys(made) if other != word)


def misspell(text: str, words: WordList, *, listed: bool, random: random.Random, letters: str) -> Mistake | None:
    """Put one mistake into a known word of a sentence; None where no word allows one of this kind."""
    places = [(a, b) for a, b in words_of(text) if b - a >= 3 and text[a:b] in words]
    random.shuffle(places)
    for start, end in places:
        word = text[start:end]
        for edit in random.sample(EDITS, len(EDITS)):
            made = [o for o in edits_of(fold(word), edit, letters) if (o in words) == listed and o.isalpha()]
            if made:
                typed = as_typed(random.choice(made), word)
                return Mistake(text[:start] + typed + text[end:], start, start + len(typed), word, edit, listed)
    return None


def make_mistakes(sentences: Sequence[str], words: WordList, *, count: int, seed: int) -> list[Mistake]:
    """One mistake in each of `count` sentences drawn from all; every second one is a listed word where possible."""
    draw = random.Random(seed)
    letters = "".join(sorted({letter for word in words.counts for letter in word if letter.isalpha()}))
    found: list[Mistake] = []
    for text in draw.sample(sentences, len(sentences)):
        if len(found) == count:
            break
        listed = len(found) % 2 == 1
        mistake = misspell(text, words, listed=listed, random=draw, letters=letters)
        if mistake is None and listed:
            mistake = misspell(text, words, listed=False, random=draw, letters=letters)
        found += [] if mistake is None else [mistake]
    return found


def measure(system: str, mistakes: Sequence[Mistake], checks: Sequence[SpellingCheck], seconds: float) -> Result:
    """Compare flags and alternatives with what was done to the sentences."""
    flags = hits = first = five = put_right = clean = 0
    caught: dict[bool, list[bool]] = {True: [], False: []}
    for mistake, check in zip(mistakes, checks, strict=True):
        flags += len(check.flagged)
        clean += len(check.words) - 1
        word = next(word for word in check.words if word.start == mistake.start)
        offered = [fold(one.word) for one in word.alternatives[:5]]
        right = fold(mistake.right)
        hits += word.flagged
        first += offered[:1] == [right]
        five += right in offered
        put_right += word.replacement is not None and fold(word.replacement.word) == right
        caught[mistake.listed].append(word.flagged)
    count = len(mistakes)
    return Result(
        system=system,
        sentences=count,
        flags=flags,
        not_words=len(caught[False]),
        precision=hits / flags if flags else float("nan"),
        recall=hits / count,
        recall_unlisted=_mean(caught[False]),
        recall_listed=_mean(caught[True]),
        right_first=first / count,
        right_among_five=five / count,
        put_right=put_right / count,
        false_alarms_per_100_words=100 * (flags - hits) / clean,
        seconds_per_sentence=seconds / count,
    )


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


def check_by_list(texts: Sequence[str], words: WordList) -> list[SpellingCheck]:
    """The baseline without a language model: an unlisted word with a listed one near is flagged."""
    from rango.language.spelling.checker import Alternative, WordCheck

    index = Candidates(words, Channel(SpellingOptions().error_rate, words.alphabet_size))
    checks = []
    for text in texts:
        judged = []
        for start, end in words_of(text):
            typed = text[start:end]
            near = index.near(typed, most=5)
            offers = tuple(Alternative(one.word, float(one is near[0]), one.distance) for one in near)
            flagged = typed not in words and bool(near)
            judged.append(WordCheck(start, end, typed, typed in words, None, offers, flagged))
        checks.append(SpellingCheck(text, tuple(judged)))
    return checks


def run(
    models: Sequence[str], sentences: Sequence[str], *, words: WordList | None, count: int, seed: int, threshold: float
) -> list[Result]:
    """The word list alone, then every model, on the same mistakes."""
    loaded = [load_model(name) for name in models]
    known = words or words_of_model(loaded[0])
    mistakes = make_mistakes(sentences, known, count=count, seed=seed)
    if not mistakes:
        raise InputError("the text has no sentence of 6 to 25 words with a known word; give more held-out text")
    texts = [mistake.text for mistake in mistakes]
    start = time.perf_counter()
    results = [measure("word list alone", mistakes, check_by_list(texts, known), time.perf_counter() - start)]
    for model in loaded:
        checker = SpellChecker(model, words=known, options=SpellingOptions(threshold=threshold))
        checker.check(texts[:1])  # warm-up
        start = time.perf_counter()
        checks = checker.check(texts)
        results.append(measure(model.name, mistakes, checks, time.perf_counter() - start))
    return results


def with_interval(rate: float, count: int) -> str:
    """A rate of `count` cases with its 95 % interval (Wilson)."""
    if not count:
        return "-"
    interval = binomtest(round(rate * count), count).proportion_ci(method="wilson")
    return f"{rate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def show(results: Sequence[Result]) -> str:
    """The results as a Markdown table; how many cases a rate is of stands in its head or, of flags, before it."""
    every, not_words = results[0].sentences, results[0].not_words
    head = (
        f"| system | flags | precision, of flags | recall, of {every} | recall, not a word, of {not_words} "
        f"| recall, a word, of {every - not_words} | right first, of {every} | among five, of {every} "
        f"| put right, of {every} | false alarms / 100 words | s / sentence |"
    )
    rows = []
    for r in results:
        rates = [
            (r.precision, r.flags),
            (r.recall, every),
            (r.recall_unlisted, not_words),
            (r.recall_listed, every - not_words),
            *((rate, every) for rate in (r.right_first, r.right_among_five, r.put_right)),
        ]
        cells = [with_interval(rate, count) for rate, count in rates]
        last = f"{r.false_alarms_per_100_words:.2f} | {r.seconds_per_sentence:.3f}"
        rows.append(f"| {r.system} | {r.flags} | {' | '.join(cells)} | {last} |")
    return "\n".join([head, "|---|" + "---:|" * (head.count("|") - 2), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="text that no model was trained on")
    parser.add_argument("--last", type=float, default=1.0, help="use only this last share of the file's lines")
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=SpellingOptions().threshold)
    parser.add_argument("--words", type=Path, help="word list for all models; the first model's own if absent")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    lines = read_text(given.text).splitlines()
    sentences = sentences_of(lines[len(lines) - max(1, round(given.last * len(lines))) :])
    words = read_words(given.words) if given.words else None
    results = run(
        given.models, sentences, words=words, count=given.sentences, seed=given.seed, threshold=given.threshold
    )
    print(f"{results[0].sentences} of {len(sentences)} sentences of {given.text}, seed {given.seed}\n")
    print(show(results), end="\n\n")
    record = [asdict(result) for result in results]
    if given.out:
        write_json(given.out, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
