"""The tokens of a text with another word in one place, without tokenizing the whole text again for each word.

Tokenizers cut a text at white space first, so another word changes only the tokens near it:

    text        El niño come manzna todos los días, …      tokenized once: ids, and where each token ends
    chunk             niño[ come manzna todos] los …       tokenized with each word, from a space to a space
    path        before + head + chunk + tail + after

The chunk with the word as typed must give the tokens that it has in the text. If it does not, it is tried without the
space before it (some tokenizers put a mark for a space before every text), and at last the whole text is tokenized.
Head and tail hold at most `reach` tokens, because further ones do not change the word's odds: a model of N-grams sees
N - 1 tokens, any other no more than its context.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rango.language.text_scores import beginning, ending
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM
from rango.unicode_words import sentence_end

# Words kept on both sides of the one that changes, so that no token of the chunk's ends can depend on it.
_MARGIN = 1
# Tokens on either side of a word at most, whatever the model's context: further ones hardly change the word's odds,
# and the time of a line grows with its length times this.
_LONGEST = 1024


@dataclass(frozen=True)
class Place:
    """A place of a text and the words that may stand there, the first as in the text."""

    text: int
    """Number of the text."""
    start: int
    end: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class _TokenizedText:
    ids: tuple[int, ...]
    ends: tuple[int, ...]
    """Where each token ends, in characters."""

    def count_until(self, position: int, text: str) -> int:
        """How many tokens end at a position or before it."""
        return len(self.ids) if position >= len(text) else bisect_right(self.ends, position)


class Paths:
    """Rewrites texts word by word.

    Args:
        model: whose tokenizer is used, and the tokens that stand before and after a text.
        texts: the texts as they stand.
        reach: how many tokens before and after a word can matter.
    """

    def __init__(self, model: Model, texts: Sequence[str], *, reach: int) -> None:
        self._tokenizer: Any = model.tokenizer
        self._before, self._after = beginning(model), ending(model)
        self._texts = tuple(texts)
        self._reach = reach
        self._tokenized: list[_TokenizedText] = []
        if model.tokenizer.is_fast:  # a slow tokenizer gives no positions: it reads the whole text for each word
            encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
            self._tokenized = [
                _TokenizedText(tuple(ids), tuple(int(end) for _, end in spans))
                for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            ]

    def of(self, places: Sequence[Place]) -> list[list[tuple[int, ...]]]:
        """For each place and each of its options, the tokens up to the end of the sentence."""
        paths: list[list[tuple[int, ...]] | None] = [None] * len(places)
        # All chunks with the space before them; those that fail once more without it.
        for skipped in (0, 1) if self._tokenized else ():
            missing = [number for number, of_place in enumerate(paths) if of_place is None]
            chunks = [self._chunk(places[number]) for number in missing]
            parts = [(first + skipped if first else 0, last) for first, last in chunks]
            middles = self._written([places[number] for number in missing], parts)
            for number, chunk, tokens in zip(missing, chunks, middles, strict=True):
                paths[number] = self._joined(places[number], chunk, tokens)
        # The rest by the whole text, up to the end of the sentence.
        missing = [number for number, of_place in enumerate(paths) if of_place is None]
        wholes = self._written([places[n] for n in missing], [(0, self._stop(places[n])) for n in missing])
        for number, tokens in zip(missing, wholes, strict=True):
            after = self._after if self._stop(places[number]) == len(self._texts[places[number].text]) else ()
            paths[number] = [(*self._before, *path, *after) for path in tokens]
        return [of_place for of_place in paths if of_place is not None]

    def _written(self, places: Sequence[Place], parts: Sequence[tuple[int, int]]) -> list[list[tuple[int, ...]]]:
        """Tokens of part of the text around each place, with each option: in one call of the tokenizer."""
        written = []
        for place, (first, last) in zip(places, parts, strict=True):
            text = self._texts[place.text]
            written += [text[first : place.start] + option + text[place.end : last] for option in place.options]
        tokens = iter(self._tokenizer(written, add_special_tokens=False)["input_ids"] if written else ())
        return [[tuple(next(tokens)) for _ in place.options] for place in places]

    def _joined(
        self, place: Place, chunk: tuple[int, int], middles: Sequence[tuple[int, ...]]
    ) -> list[tuple[int, ...]] | None:
        """The chunk's tokens with those around it; None if the chunk as typed has other tokens in the text."""
        text, stop, tokenized = self._texts[place.text], self._stop(place), self._tokenized[place.text]
        first = tokenized.count_until(chunk[0], text) if chunk[0] else 0
        last = tokenized.count_until(chunk[1], text)
        if tokenized.ids[first:last] != middles[0]:
            return None
        reach = self._reach
        head = (*(self._before if first < reach else ()), *tokenized.ids[max(0, first - reach) : first])
        tail = tokenized.ids[last : min(last + reach, tokenized.count_until(stop, text))]
        if stop == len(text) and len(tail) < reach:
            tail = (*tail, *self._after)
        return [(*head, *middle, *tail) for middle in middles]

    def _chunk(self, place: Place) -> tuple[int, int]:
        """Where the chunk around a place starts and ends: at a space, or at an end of the text or of the sentence."""
        text, stop = self._texts[place.text], self._stop(place)
        first, last = place.start, place.end
        for _ in range(1 + _MARGIN):
            first = max(0, text.rfind(" ", 0, first))
            space = text.find(" ", last + 1, stop)
            last = stop if space < 0 else space
        return first, last

    def _stop(self, place: Place) -> int:
        return sentence_end(self._texts[place.text], place.end)


def reach_of(model: Model) -> tuple[int, int | None]:
    """How many tokens on either side of a word can matter, and how many the model can read at once; None: any."""
    if isinstance(model.network, NGramForCausalLM):
        return max(1, model.network.order - 1), None
    limit = min(model.context_length or _LONGEST, _LONGEST)
    return limit, limit
