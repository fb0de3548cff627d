"""The words a language has, with their counts: `words.txt` beside a model, one `word<TAB>count` a line.

Words are kept in lower case and in composed Unicode (NFC), so that "Niño", "niño" and n + i + n + tilde + o are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rango.errors import InputError
from rango.files import read_lines, write_text
from rango.models.loading import Model

WORDS_FILE = "words.txt"
_MOST_WORDS = 200_000
# Letters of any script, joined by single apostrophes: "don't", "l'homme", "niño"; no part of "3rd" or "a_b".
_WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:['’][^\W\d_]+)*(?!\w)")
# Before the space that follows a full stop, or follows the quotation mark or bracket that closes after it.
_SENTENCE_END = re.compile(r"(?<=[.!?…])(?=\s+\S)|(?<=[.!?…][\"'»”’)\]])(?=\s+\S)")


@dataclass(frozen=True)
class WordList:
    """Known words and how often each was seen, most frequent first."""

    counts: Mapping[str, int]

    def __contains__(self, word: str) -> bool:
        return fold(word) in self.counts

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def alphabet_size(self) -> int:
        """Distinct characters of the words, at least 2: 26 and an apostrophe in plain English, 33 in Spanish."""
        return max(2, len(set().union(*self.counts)))


def words_of(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each word of a text, in characters.

    >>> [text[a:b] for text in ["¡Don't eat 3 piñas!"] for a, b in words_of(text)]
    ["Don't", 'eat', 'piñas']
    """
    for match in _WORD.finditer(text):
        yield match.span()


def replaced(text: str, changes: Iterable[tuple[tuple[int, int], str]]) -> str:
    """A text with some of its spans replaced; the spans are in order and do not overlap.

    >>> replaced("the fxo runs", [((4, 7), "fox")])
    'the fox runs'
    """
    parts, done = [], 0
    for (start, end), new in changes:
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def sentence_end(text: str, position: int) -> int:
    """Where the sentence around a position ends, with its closing marks.

    >>> text = "He came. She left."
    >>> text[: sentence_end(text, 2)], text[: sentence_end(text, 10)]
    ('He came.', 'He came. She left.')
    """
    match = _SENTENCE_END.search(text, position)
    return match.start() if match else len(text)


def sentences_of(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each sentence of a text, white space before it included.

    >>> list(sentences_of("He came. She left."))
    [(0, 8), (8, 18)]
    """
    ends = [match.start() for match in _SENTENCE_END.finditer(text)]
    return zip([0, *ends], [*ends, len(text)], strict=True)


def fold(word: str) -> str:
    """The form of a word in a word list: lower case, composed, with a plain apostrophe."""
    return unicodedata.normalize("NFC", word).lower().replace("’", "'")


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

    Raises:
        InputError: as `read_text`; a line that holds more than a word and a positive whole number.
    """
    counts: Counter[str] = Counter()
    # Each line as `write_words` writes it, or as people write lists by hand.
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split()
        if not parts:
            continue
        composed = fold(parts[0])
        count = parts[1] if len(parts) > 1 else "1"
        if len(parts) > 2 or not count.isascii() or not count.isdigit() or int(count) < 1:
            raise InputError(f"{path}:{number}: {line[:60]!r}; expected a word, or a word, a tab and its count")
        if not _WORD.fullmatch(composed):
            raise InputError(f"{path}:{number}: {parts[0][:40]!r} is no word; expected letters, apostrophes inside")
        counts[composed] += int(count)
    return WordList(dict(sorted(counts.items(), key=lambda item: -item[1])))


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
        names = (fold(word) for word, _ in vocabulary if word not in special and _WORD.fullmatch(word))
        if words := WordList(dict.fromkeys(names, 1)):
            return words
    raise InputError(
        f"model {model.name} has no {WORDS_FILE}; give a list with --words FILE, a word and its count a line"
    )
