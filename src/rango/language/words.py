"""The words a language has, with their counts: `words.txt` beside a model, one `word<TAB>count` a line.

Unicode's rules say where a word begins and ends (UAX 29), with ICU's dictionaries for scripts that write no spaces: a
mark belongs to its letter, and the Thai "ไปโรงเรียน" is two words. Words are kept in lower case and in composed Unicode
(NFC), so that "Niño", "niño" and n + i + n + tilde + o are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from icu4py.breakers import WordBreaker

from rango.errors import InputError
from rango.files import read_lines, write_text
from rango.models.loading import Model

WORDS_FILE = "words.txt"
_MOST_WORDS = 200_000
# Unicode keeps "came.She" and "e.g" together, for the sake of abbreviations; a space is forgotten more often.
_STOPS = re.compile("([.:\u2024\ufe13\ufe52\ufe55\uff0e\uff1a])")
_APOSTROPHES = str.maketrans("‘’＇", "'''")
# Between letters of one word: "don't", the Catalan "col·lega", the Hebrew "צה״ל".
_JOINTS = re.compile("['\"\u00b7\u05f4\u2027]")
# Marks, and the joiners and directions that are not seen; the latter are no part of a word's spelling.
_ON_LETTERS = ("Mn", "Mc", "Me", "Cf")
_UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff"
_FOLDED = _APOSTROPHES | dict.fromkeys(map(ord, _UNSEEN))
# A word, and perhaps its count: a positive number of few enough digits for Python to read.
_ENTRY = re.compile(r"(\S+?)(?:\s+(0*[1-9][0-9]{0,17}))?", re.ASCII)
# Before the space that follows a full stop, or follows the quotation mark or bracket that closes after it; Chinese and
# Japanese write no space there.
_SENTENCE_END = re.compile(
    r"(?<=[.!?…।॥؟۔።။])(?=\s+\S)|(?<=[.!?…।॥؟۔።။][\"'»”’)\]])(?=\s+\S)"
    r"|(?<=[。！？｡])(?=\s*[^\s」』”’）])|(?<=[。！？｡][」』”’）])(?=\s*\S)"
)


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


def segments_of(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each word of a text, in characters, with numbers and what holds digits.

    >>> [text[a:b] for text in ["¡Don't eat 3.5 piñas a_b!"] for a, b in segments_of(text)]
    ["Don't", 'eat', '3.5', 'piñas', 'a_b']
    """
    end = 0
    for segment in WordBreaker(text, "root"):  # its own positions count in UTF-16
        start, end = end, end + len(segment)
        if segment.isalpha() or any(character.isalnum() for character in segment):
            yield start, end


def words_of(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each word of a text, in characters: letters of any script with their marks, no digits.

    >>> [text[a:b] for text in ["¡Don't eat 3 piñas, 3rd हिन्दी!"] for a, b in words_of(text)]
    ["Don't", 'eat', 'piñas', 'हिन्दी']
    """
    for start, end in segments_of(text):
        segment = text[start:end]
        if segment.isalpha():  # nearly all of them
            yield start, end
            continue
        for part in _STOPS.split(segment):
            if is_word(part):
                yield start, start + len(part.rstrip(_UNSEEN))
            start += len(part)


@lru_cache(maxsize=2**16)
def is_word(text: str) -> bool:
    """Whether a text is letters with their marks, and perhaps apostrophes between them."""
    return all(
        part[:1].isalpha() and all(c.isalpha() or unicodedata.category(c) in _ON_LETTERS for c in part)
        for part in _JOINTS.split(text.translate(_APOSTROPHES))
    )


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
    """The form of a word in a word list: lower case, composed, with a plain apostrophe, without what is not seen."""
    return unicodedata.normalize("NFC", word).lower().translate(_FOLDED)


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
