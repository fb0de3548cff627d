"""The tokens of a text with another word in one place, without reading the whole text again for each.

Tokenizers cut a text at white space first, so another word changes the tokens of its neighbourhood only:

    text        El niño come manzna todos los días, …      read once: ids and where each token ends
    chunk             niño[ come manzna todos] los …       read for each word, from a space to a space
    path        before + head + chunk + tail + after

That a chunk gives the tokens it has in the text is checked with the word as typed. Where it does not, it is read
without the space before it (some tokenizers put a mark for one before every text), else the whole text is read. Of
head and tail, tokens further from the chunk than `reach` are left out: a model of N-grams sees N - 1, any other no more
than its context.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rango.language.text_scores import beginning, ending
from rango.language.words import sentence_end
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM

# Words kept on both sides of the one that changes, so that no token of the chunk's ends can depend on it.
_MARGIN = 1
# Tokens that a word is judged with at most, whatever the model's context: further ones hardly change the word's odds,
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
class _Read:
    """A text in tokens."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    """Where each token ends, in characters."""

    def until(self, position: int, text: str) -> int:
        """How many tokens end at a position or before it."""
        return len(self.ids) if position >= len(text) else bisect_right(self.ends, position)


class Paths:
    """Rewrites texts word by word.

    Args:
        model: gives the tokenizer and what stands before and after a text.
        texts: the texts as they stand.
        reach: tokens before and after a word that can matter.
    """

    def __init__(self, model: Model, texts: Sequence[str], *, reach: int) -> None:
        self._tokenizer: Any = model.tokenizer
        self._before, self._after = beginning(model), ending(model)
        self._texts = tuple(texts)
        self._reach = reach
        self._read = self._read_texts() if model.tokenizer.is_fast else None

    def of(self, places: Sequence[Place]) -> list[list[tuple[int, ...]]]:
        """For each place and each of its options, the tokens up to the end of the sentence."""
        found: list[list[tuple[int, ...]] | None] = [None] * len(places)
        for skipped in (0, 1) if self._read is not None else ():
            left = [number for number, paths in enumerate(found) if paths is None]
            chunks = [self._chunk(places[number]) for number in left]
            parts = [(first + skipped if first else 0, last) for first, last in chunks]
            middles = self._written([places[number] for number in left], parts)
            for number, chunk, some in zip(left, chunks, middles, strict=True):
                found[number] = self._joined(places[number], chunk, some)
        rest = [number for number, paths in enumerate(found) if paths is None]
        wholes = self._written([places[n] for n in rest], [(0, self._stop(places[n])) for n in rest])
        for number, whole in zip(rest, wholes, strict=True):
            after = self._after if self._stop(places[number]) == len(self._texts[places[number].text]) else ()
            found[number] = [(*self._before, *path, *after) for path in whole]
        return [paths for paths in found if paths is not None]

    def _read_texts(self) -> list[_Read]:
        encoded = self._tokenizer(list(self._texts), add_special_tokens=False, return_offsets_mapping=True)
        return [
            _Read(tuple(ids), tuple(int(end) for _, end in spans))
            for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

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
        """The chunk's tokens with those around it; None if it has others in the text."""
        assert self._read is not None
        text, stop, read = self._texts[place.text], self._stop(place), self._read[place.text]
        first = read.until(chunk[0], text) if chunk[0] else 0
        last = read.until(chunk[1], text)
        if read.ids[first:last] != middles[0]:
            return None
        reach = self._reach
        head = (*(self._before if first < reach else ()), *read.ids[max(0, first - reach) : first])
        tail = read.ids[last : min(last + reach, read.until(stop, text))]
        if stop == len(text) and len(tail) < reach:
            tail = (*tail, *self._after)
        return [(*head, *middle, *tail) for middle in middles]

    def _chunk(self, place: Place) -> tuple[int, int]:
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
    """(tokens on either side of a word that can matter, the most that the model can read at once)."""
    if isinstance(model.network, NGramForCausalLM):
        return max(1, model.network.order - 1), None
    limit = min(model.context_length or _LONGEST, _LONGEST)
    return limit, limit
