"""Where the words and sentences of a text begin and end, by Unicode's rules (UAX 29).

ICU's dictionaries serve scripts that write no spaces: a mark belongs to its letter, and the Thai "ไปโรงเรียน" is two
words. Spans are (start, end) in characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

# Unicode keeps "came.She" and "e.g" together, for the sake of abbreviations; a space is forgotten more often.
_STOPS = re.compile("([.:\u2024\ufe13\ufe52\ufe55\uff0e\uff1a])")
_APOSTROPHES = str.maketrans("‘’＇", "'''")
# Between letters of one word: "don't", the Catalan "col·lega", the Hebrew "צה״ל".
_JOINTS = re.compile("['\"\u00b7\u05f4\u2027]")
# Marks, and the joiners and directions that are not seen; the latter are no part of a word's spelling.
_ON_LETTERS = ("Mn", "Mc", "Me", "Cf")
_UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff"
_FOLDED = _APOSTROPHES | dict.fromkeys(map(ord, _UNSEEN))
# Everything that UAX 29 lets stand inside a word or number.
_INNER = re.compile("['\"‘’＇.:,;\u00b7\u05f4\u2024\u2027]")
_ASCII_PART = re.compile(r"_*[^\W_]\w*")
# Before the space that follows a full stop, or follows the quotation mark or bracket that closes after it; Chinese and
# Japanese write no space there.
_SENTENCE_END = re.compile(
    r"(?<=[.!?…।॥؟۔።။])(?=\s+\S)|(?<=[.!?…।॥؟۔።။][\"'»”’)\]])(?=\s+\S)"
    r"|(?<=[。！？｡])(?=\s*[^\s」』”’）])|(?<=[。！？｡][」』”’）])(?=\s*\S)"
)


def segments_of(text: str) -> Iterator[tuple[int, int]]:
    """The (start, end) of each word of a text, in characters, with numbers and what holds digits.

    >>> [text[a:b] for text in ["¡Don't eat 3.5 piñas a_b!"] for a, b in segments_of(text)]
    ["Don't", 'eat', '3.5', 'piñas', 'a_b']
    """
    from icu4py.breakers import WordBreaker  # here: its dictionaries take 30 MB, and most commands cut no words

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


def parts_of(text: str) -> Iterator[str]:
    """The words of a text with numbers, each cut at the marks inside it, which one copy has and another has not.

    >>> list(parts_of("Don't eat 3.5 हिन्दी-e.g!"))
    ['Don', 't', 'eat', '3', '5', 'हिन्दी', 'e', 'g']
    """
    if text.isascii():  # the same words, twenty times as fast
        yield from _ASCII_PART.findall(text)
        return
    for start, end in segments_of(text):
        yield from filter(None, _INNER.split(text[start:end]))


@lru_cache(maxsize=2**16)
def is_word(text: str) -> bool:
    """Whether a text is letters with their marks, and perhaps apostrophes between them."""
    return all(
        part[:1].isalpha() and all(c.isalpha() or unicodedata.category(c) in _ON_LETTERS for c in part)
        for part in _JOINTS.split(text.translate(_APOSTROPHES))
    )


def fold(word: str) -> str:
    """The form of a word in a word list: lower case, composed, with a plain apostrophe, without what is not seen."""
    return unicodedata.normalize("NFC", word).lower().translate(_FOLDED)


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
