"""The form of a word, in small or capital letters, in which a model is asked for it.

A word list is in small letters, but a model is not. It has seen little text in capitals throughout, and a tokenizer of
whole words may know "have" and lack "HAVE". So a text is scored as it would be written otherwise: a word that the
tokenizer lacks in a form that it has, a sentence in capitals in small letters or in capitals, whichever the model finds
more probable.

A word that the tokenizer lacks in every form becomes its unknown token, which says nothing of the letters. Their
probability is added here:

    P(w | unknown) = count(w) / count of all listed words that the tokenizer lacks      for a listed word
                   = 1 / alphabet^letters                                                for any other
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from rango.language.spelling.candidates import Channel
from rango.language.text_scores import unknown_token
from rango.language.words import WordList
from rango.models.loading import Model
from rango.unicode_words import fold, replaced, sentences_of, words_of

# A sentence is in capitals if it has at least so many words of two and more letters in capitals, and most are.
_FEWEST_CAPITALS = 2
# The longest abbreviation after whose full stop a sentence goes on: "Mr.", "Dra.", "J.".
_ABBREVIATION = 3
_OPENING = " \t\n\"'“‘«([¿¡—-"


class WordForms:
    """The forms of words that a tokenizer knows; each form is looked up once.

    Args:
        model: whose tokenizer it is.
        words: the known words.
        channel: whose alphabet gives the probability of the letters of an unlisted word.
    """

    def __init__(self, model: Model, words: WordList, channel: Channel) -> None:
        self._tokenizer: Any = model.tokenizer
        self._unknown = unknown_token(model)
        self._words = words
        self._channel = channel
        self._known: dict[str, bool] = {}

    def known(self, word: str) -> bool:
        """Whether the tokenizer reads this very form as something else than an unknown word."""
        if self._unknown is None:
            return True
        self._look_up([word])
        return self._known[word]

    def read(self, words: Sequence[str]) -> list[str]:
        """Each word in the first of its forms that the tokenizer knows, or as it is where it knows none."""
        if self._unknown is None:
            return list(words)
        forms = [list(forms_of(word)) for word in words]
        self._look_up(form for of_word in forms for form in of_word)
        return [next((form for form in of_word if self._known[form]), of_word[0]) for of_word in forms]

    def read_text(self, text: str) -> str:
        """A text with each of its words in the form that `read` gives."""
        spans = list(words_of(text))
        return replaced(text, zip(spans, self.read([text[start:end] for start, end in spans]), strict=True))

    def log_share(self, form: str) -> float:
        """log P(this word | unknown word), nats; 0 for a form that the tokenizer knows."""
        if self.known(form):
            return 0.0
        count = self._words.counts.get(fold(form))
        if count is None:
            return -len(form) * math.log(self._channel.alphabet_size)
        return math.log(count / self._lacking)

    @cached_property
    def _lacking(self) -> float:
        """The sum of the counts of all listed words that the tokenizer lacks in every form; at least 1."""
        forms = self.read(list(self._words.counts))
        counts = zip(forms, self._words.counts.values(), strict=True)
        return max(float(sum(count for form, count in counts if not self._known[form])), 1.0)

    def _look_up(self, forms: Iterable[str]) -> None:
        new = [form for form in dict.fromkeys(forms) if form not in self._known]
        if new:
            ids = self._tokenizer(new, add_special_tokens=False)["input_ids"]
            self._known |= {form: self._unknown not in tokens for form, tokens in zip(new, ids, strict=True)}


def forms_of(word: str) -> Iterator[str]:
    """A word as it is, in small letters, with a capital, in capitals, then all with the other apostrophe.

    Forms of another length are left out, so that positions in the text stay valid.

    >>> list(forms_of("don't"))[:4]
    ["don't", "Don't", "DON'T", 'don’t']
    """
    other = word.replace("’", "'") if "’" in word else word.replace("'", "’")
    cases = [form for one in (word, other) for form in (one, one.lower(), capitalised(one.lower()), one.upper())]
    return (form for form in dict.fromkeys(cases) if len(form) == len(word))


def capitalised(word: str) -> str:
    """With the first letter as a capital and the rest as it is; `str.capitalize` would make the rest small."""
    return word[:1].upper() + word[1:]


def in_small_letters(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text whose sentences in capitals are in small letters after their first one, and the spans that changed.

    >>> in_small_letters("SHE WENT HOME. He did. STOP!")
    ('She went home. He did. STOP!', [(0, 3), (4, 8), (9, 13)])
    """
    changes: list[tuple[tuple[int, int], str]] = []
    for first, last in sentences_of(text):
        spans = [(first + start, first + end) for start, end in words_of(text[first:last])]
        capitals = [text[start:end].isupper() for start, end in spans if end - start > 1]
        if sum(capitals) < _FEWEST_CAPITALS or 2 * sum(capitals) <= len(capitals):
            continue
        for number, (start, end) in enumerate(spans):
            small = text[start:end].lower()
            if text[start:end].isupper() and len(small) == end - start:
                changes.append(((start, end), small if number else capitalised(small)))
    return replaced(text, changes), [span for span, _ in changes]


def may_be_name(text: str, start: int, end: int) -> bool:
    """Whether a word has a capital that no beginning of a sentence explains.

    >>> [may_be_name(text, 4, 10) for text in ("Mr. Holmes left.", "So, Holmes left.", "We, Holmes, left")]
    [True, True, True]
    >>> [may_be_name(text, 6, 12) for text in ("Went. Homles left.", "I saw homles leave", "I SAW HOMLES LEAVE")]
    [False, False, False]
    """
    word, before = text[start:end], text[max(0, start - 60) : start].rstrip(_OPENING)
    if not word[:1].isupper() or (len(word) > 1 and word.isupper()) or not before:
        return False
    if before[-1] not in ".!?…:":
        return True
    # A full stop may close an abbreviation instead of a sentence.
    last = before[:-1].rpartition(" ")[2]
    return before[-1] == "." and last[:1].isupper() and len(last) <= _ABBREVIATION
