"""Misspelt words are improbable places of a text; the words that may have been meant are ranked by the whole sequence.

For a typed word t in a text, and each known word w within two edits of it, Bayes' rule gives

    log P(w meant | text) = log P(text with w for t) + log P(t | w) + constant

The first term comes from the language model, which scores the sentence and all before it; the second comes from the
channel (`candidates.py`). The log-odds that t is mistyped set all w against t itself, and t is flagged where they
exceed the threshold, whether the word list lacks t or t is only improbable here. Each word is judged with the rest of
the text as typed.

    check     16 texts at a time -> readings: each text in the letters in which the model knows its words
    _words    each word -> its candidates near by, and the place where they may stand
    _scores   256 words at a time -> a tree for each: what all options begin with is the trunk, the rest branches
    _judge    language model + channel -> log-odds and alternatives
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from rango.errors import InputError
from rango.language.options import SpellingOptions, check_readable
from rango.language.spelling.candidates import Candidate, Candidates, Channel, as_typed
from rango.language.spelling.rewrites import Paths, Place, reach_of
from rango.language.spelling.word_forms import WordForms, capitalised, in_small_letters, may_be_name
from rango.language.words import WordList, words_of_model
from rango.models.loading import Model
from rango.options import ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import TokenTree
from rango.unicode_words import fold, replaced, words_of

# Tokens of one tree, or twice its trunk if that is more; further branches go into another tree with the same trunk.
# Larger trees cost more, because a mask grows with the square; smaller ones read the trunk more often.
_TREE_TOKENS = 256
_TEXTS_AT_ONCE = 16
_WORDS_AT_ONCE = 256


@dataclass(frozen=True)
class Alternative:
    """Another word that may have been meant."""

    word: str
    probability: float
    """Posterior probability that this word was meant, given the text as typed."""
    distance: int
    """Edits from what was typed."""


@dataclass(frozen=True)
class WordCheck:
    """One word of a text, judged."""

    start: int
    end: int
    word: str
    known: bool
    """Whether it is in the word list."""
    log_odds: float | None
    """Log-odds (nats) that another word was meant; None where no known word is near, where no token stands before the
    word to predict it, or where the text is impossible for the model with any of the words."""
    alternatives: tuple[Alternative, ...]
    """Other words, the most probable first."""
    flagged: bool

    @property
    def replacement(self) -> Alternative | None:
        """The first alternative of a flagged word if it alone is more probable than the word as typed, otherwise None.

        A word is flagged where all alternatives together are more probable.
        """
        if not self.flagged:
            return None
        typed = 1 - sum(one.probability for one in self.alternatives)
        return self.alternatives[0] if self.alternatives[0].probability > typed else None


@dataclass(frozen=True)
class SpellingCheck:
    """One text, judged word by word."""

    text: str
    """The text in composed Unicode (NFC), to which all positions refer."""
    words: tuple[WordCheck, ...]

    @property
    def flagged(self) -> tuple[WordCheck, ...]:
        """The words in improbable places."""
        return tuple(word for word in self.words if word.flagged)

    @property
    def unlisted(self) -> tuple[WordCheck, ...]:
        """Words that the list lacks and that have no listed word near, such as names."""
        return tuple(word for word in self.words if not word.known and word.log_odds is None)

    @property
    def corrected(self) -> str:
        """The text with each flagged word replaced by its `replacement`, if it has one."""
        better = ((word, word.replacement) for word in self.flagged)
        return replaced(
            self.text, (((word.start, word.end), other.word) for word, other in better if other is not None)
        )


@dataclass(frozen=True)
class _Word:
    """A word of a text, and the other words that may have been meant."""

    typed: str
    name: bool
    """Whether a capital inside a sentence makes it look like a name."""
    place: Place
    """Where it stands; its options are the word and its candidates, in the forms that the model is asked for."""
    candidates: tuple[Candidate, ...]


class SpellChecker:
    """Finds misspelt words with a language model and a word list.

    Args:
        model: any kind that `load_model` reads.
        words: the known words; the model's own when absent.
        options: threshold, error rate, candidates.
        scoring: `batch_tokens`; the result does not depend on it.

    Raises:
        InputError: no word list, or an empty one.
    """

    def __init__(
        self,
        model: Model,
        *,
        words: WordList | None = None,
        options: SpellingOptions | None = None,
        scoring: ScoringOptions | None = None,
    ) -> None:
        self.model = model
        self.words = words if words is not None else words_of_model(model)
        if not len(self.words):
            raise InputError("the word list is empty; give at least one word")
        self.options = options or SpellingOptions()
        self.channel = Channel(self.options.error_rate, self.words.alphabet_size)
        self._scoring = scoring or ScoringOptions()
        self._candidates = Candidates(self.words, self.channel)
        self._forms = WordForms(model, self.words, self.channel)
        self._reader = probe_reader(model)
        self._reach, self._limit = reach_of(model)

    def check(self, texts: Sequence[str], *, progress: Callable[[int], None] = lambda _: None) -> list[SpellingCheck]:
        """Judge every word of every text.

        Args:
            texts: each is taken for a document of its own.
            progress: called with the number of words judged since the last call.

        Raises:
            InputError: a blank text, half a surrogate pair, a word with more tokens than the model's context.
        """
        for number, text in enumerate(texts, start=1):
            check_readable(text, f"text {number}" if len(texts) > 1 else "the text")
        composed = [unicodedata.normalize("NFC", text) for text in texts]
        checks: list[SpellingCheck] = []
        for first in range(0, len(composed), _TEXTS_AT_ONCE):
            batch = composed[first : first + _TEXTS_AT_ONCE]
            readings = self._readings(batch)
            words = [word for number, text in enumerate(batch) for word in self._words(number, text, readings[number])]
            judged: list[list[WordCheck]] = [[] for _ in batch]
            paths = Paths(self.model, readings, reach=self._reach)
            for word, values in zip(words, self._scores(paths, [word.place for word in words]), strict=True):
                judged[word.place.text].append(self._judge(word, values))
                progress(1)
            checks += [SpellingCheck(text, tuple(of_text)) for text, of_text in zip(batch, judged, strict=True)]
        return checks

    def _readings(self, texts: Sequence[str]) -> list[str]:
        """The texts in the letters in which the model is asked for them (`word_forms.py`); no length changes.

        A sentence in capitals is read in small letters. Of its words that stand in the list, the model then chooses
        those that have a capital nevertheless.
        """
        small = [in_small_letters(text) for text in texts]
        readings = [self._forms.read_text(text) for text, _ in small]
        places = []
        for number, (_, changed) in enumerate(small):
            for start, end in changed:
                word = readings[number][start:end]
                other = word.lower() if word[:1].isupper() else capitalised(word)
                # Of a word that may be mistyped, the letters say little about its capital.
                if word in self.words and len(other) == len(word) and self._forms.known(other):
                    places.append(Place(number, start, end, (word, other)))
        if not places:
            return readings
        # Every place is scored in the texts as they are now, whatever is chosen at the others.
        paths = Paths(self.model, readings, reach=self._reach)
        for place, values in zip(places, self._scores(paths, places), strict=True):
            if values is not None and values[1] > values[0]:
                change = ((place.start, place.end), place.options[1])
                readings[place.text] = replaced(readings[place.text], [change])
        return readings

    def _words(self, number: int, text: str, reading: str) -> Iterator[_Word]:
        """The words of one text, whose number is `number`, with their candidates."""
        for start, end in words_of(text):
            typed, read = text[start:end], reading[start:end]
            near = self._candidates.near(typed, most=self.options.candidates)
            options = self._forms.read([as_typed(fold(candidate.word), read) for candidate in near])
            name = may_be_name(text, start, end)
            yield _Word(typed, name, Place(number, start, end, (read, *options)), tuple(near))

    def _scores(self, paths: Paths, places: Sequence[Place]) -> Iterator[NDArray[np.float64] | None]:
        """Per place (options,) log P(sentence and all before it), up to a constant.

        None where there is only one option, or where no token stands before the word to predict it.
        """
        for first in range(0, len(places), _WORDS_AT_ONCE):
            chosen = places[first : first + _WORDS_AT_ONCE]
            compared = [number for number, place in enumerate(chosen) if len(place.options) > 1]
            trees: list[TokenTree] = []
            owners: list[int] = []
            for number, of_place in zip(compared, paths.of([chosen[number] for number in compared]), strict=True):
                for tree in self._trees(chosen[number].options[0], of_place):
                    trees.append(tree)
                    owners.append(number)
            parts: list[list[NDArray[np.float64]]] = [[] for _ in chosen]
            if trees:
                values = score(self._reader, trees, options=self._scoring, form="cloze").values  # (trees, branches)
                for owner, tree, row in zip(owners, trees, values, strict=True):
                    parts[owner].append(row[: len(tree.branches)])
            yield from (np.concatenate(of_place) if of_place else None for of_place in parts)

    def _trees(self, typed: str, paths: Sequence[tuple[int, ...]]) -> Iterator[TokenTree]:
        """Trees whose trunk is what all paths begin with, and whose branches are the rests of the paths, in order."""
        shared = min(_shared(paths), min(map(len, paths)) - 1)  # a branch has at least one token
        if shared < 1:
            return  # the first word, and nothing before it that could predict it
        trunk, branches = paths[0][:shared], [path[shared:] for path in paths]
        if self._limit is not None:
            trunk, branches = _fit(trunk, branches, self._limit, typed)
        longest = max(map(len, branches))
        at_once = max(1, max(_TREE_TOKENS - len(trunk), len(trunk)) // longest)
        for start in range(0, len(branches), at_once):
            chosen = tuple(branches[start : start + at_once])
            yield TokenTree(repr(typed), trunk, chosen, (1,) * len(chosen), 0)

    def _judge(self, word: _Word, language: NDArray[np.float64] | None) -> WordCheck:
        """Bayes' rule over the word and its candidates; `language` is what `_scores` gives."""
        place, typed = word.place, word.typed
        known = typed in self.words
        if language is None or np.isneginf(language).all():
            return WordCheck(place.start, place.end, typed, known, None, (), False)
        channel = [self.channel.log_probability(typed, 0), *(one.log_channel for one in word.candidates)]
        # (options,) log P of the word as typed, then of its candidates.
        joint = language + np.array(channel) + np.array([self._forms.log_share(form) for form in place.options])
        if not known:
            joint[0] += math.log(self.options.unlisted_names if word.name else self.options.unlisted)
        log_odds = float(logsumexp(joint[1:]) - joint[0])
        posterior = np.exp(joint - logsumexp(joint))
        order = np.argsort(-joint[1:], kind="stable")
        alternatives = tuple(
            Alternative(word.candidates[k].word, float(posterior[k + 1]), word.candidates[k].distance) for k in order
        )
        flagged = log_odds > self.options.threshold
        return WordCheck(place.start, place.end, typed, known, log_odds, alternatives, flagged)


def _shared(paths: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all paths begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*paths, strict=False)))


def _fit(
    trunk: tuple[int, ...], branches: list[tuple[int, ...]], limit: int, word: str
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Drop tokens far from the word until trunk and branches fit into the context.

    First tokens go from the end that all branches share, down to half a context, then from the beginning of the trunk.
    All alternatives lose the same tokens, so that they stay comparable.
    """
    longest = max(map(len, branches))
    if len(trunk) + longest <= limit:
        return trunk, branches
    end = min(_shared([branch[::-1] for branch in branches]), min(map(len, branches)) - 1)
    dropped = max(0, min(longest - limit // 2, end))
    branches = [branch[: len(branch) - dropped] for branch in branches]
    longest -= dropped
    if longest >= limit:
        raise InputError(
            f"{word[:40]!r} and what differs after it take {longest} tokens, the model reads at most {limit}; "
            "shorten the text or choose a model with a longer context"
        )
    return trunk[-(limit - longest) :], branches
