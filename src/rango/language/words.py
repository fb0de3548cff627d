"""The words a language has, with their counts: `words.txt` beside a model, one `word<TAB>count` a line.

Words are kept in lower case and in composed Unicode (NFC), so that "Niño", "niño" and n + i + n + tilde + o are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rango.errors import InputError
from rango.files import read_lines, write_text
from rango.unicode_words import fold, is_word, words_of

if TYPE_CHECKING:
    from rango.models.loading import Model

WORDS_FILE = "words.txt"
_MOST_WORDS = 200_000
# A word, and perhaps its count: a positive number of few enough digits for Python to read.
_ENTRY = re.compile(r"(\S+?)(?:\s+(0*[1-9][0-9]{0,17}))?", re.ASCII)


@dataclass(frozen=True)
class WordList:
    """Known words and how often each was seen, most frequent first."""

    counts: Mapping[str, int]
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a reader of results must know of the file that it was read from."""

    def __contains__(self, word: str) -> bool:
        return fold(word) in self.counts

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def alphabet_size(self) -> int:
        """Distinct characters of the words, at least 2: 26 and an apostrophe in plain English, 33 in Spanish."""
        return max(2, len(set().union(*self.counts)))


def count_words(texts: Iterable[str]) -> WordList:
    """Count the words of texts, most frequent first; words of one count in alphabetical order."""
    counts: Counter[str] = Counter()
    for text in texts:
        composed = unicodedata.normalize("NFC", text)  # a letter and its accent apart would not match as one word
        counts.update(fold(composed[start:end]) for start, end in words_of(composed))
    return WordList(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]))


def write_words(path: Path, words: WordList) -> None:
    """Write a word list atomically."""
    write_text(path, "".join(f"{word}\t{count}\n" for word, count in words.counts.items()))


def read_words(path: Path) -> WordList:
    """Read a word list: a word a line, with or without a tab (or spaces) and its count. Lines of one word add up.

    Other lines, such as `42` or `New York`, are left out and counted in the list's notes.

    Raises:
        InputError: as `read_text`; half of the lines or more are no word, nor a word and a positive whole number.
    """
    counts: Counter[str] = Counter()
    odd: list[str] = []
    kept = 0
    # Each line as `write_words` writes it, or as people write lists by hand.
    for number, line in enumerate(read_lines(path), start=1):
        entry = _ENTRY.fullmatch(line.strip())
        if entry and is_word(fold(entry[1])):
            counts[fold(entry[1])] += int(entry[2] or 1)
            kept += 1
        elif line.strip():
            odd.append(f"{path}:{number}: {line.strip()[:60]!r}")
    if len(odd) >= max(kept, 1):
        raise InputError(
            f"{odd[0]}; expected a word, or a word, a tab and its count "
            f"({len(odd):,} of {len(odd) + kept:,} lines hold neither)"
        )
    notes = (f"{len(odd):,} of {len(odd) + kept:,} lines of the word list hold no word: {odd[0]}",) if odd else ()
    return WordList(dict(sorted(counts.items(), key=lambda item: -item[1])), notes)


def words_of_model(model: Model) -> WordList:
    """The word list of a model: `words.txt` in its folder, else the vocabulary of a word-level tokenizer.

    A vocabulary has no counts: each of its words counts once, in the order of the ids.

    Raises:
        InputError: the model has neither.
    """
    beside = Path(model.name) / WORDS_FILE
    if beside.is_file():
        return read_words(beside)
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is not None and type(backend.model).__name__ == "WordLevel":
        special = set(model.tokenizer.all_special_tokens)
        vocabulary = sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1])
        names = (fold(word) for word, _ in vocabulary if word not in special and is_word(fold(word)))
        if words := WordList(dict.fromkeys(names, 1)):
            return words
    raise InputError(
        f"model {model.name} has no {WORDS_FILE}; give a list with --words FILE, a word and its count a line"
    )
