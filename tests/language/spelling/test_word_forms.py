"""Words are asked for in the letters that a model knows: capitals change no judgement, unknown words pay for theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.spelling_corpus import ENGLISH, sentences
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rango.language.options import PretrainConfig, SpellingOptions
from rango.language.pretrain import pretrain
from rango.language.spelling.candidates import Channel
from rango.language.spelling.checker import Alternative, SpellChecker, SpellingCheck, WordCheck
from rango.language.spelling.word_forms import WordForms, forms_of, in_small_letters
from rango.language.words import WordList, count_words
from rango.models.loading import Model, load_model

CHANNEL = Channel(0.05, 26)


@pytest.fixture(scope="module", params=["words", "tokens"])
def checker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpellChecker:
    """A trigram of English sentences: over words, which never stand in capitals, or over pieces."""
    config = PretrainConfig.build(
        {"model": "ngram", "vocabulary": 340, "ngram": {"order": 3, "unit": request.param}},
    )
    text = [line.replace("The girl", "I, Mary,") for line in sentences(ENGLISH, 400)]
    return SpellChecker(load_model(pretrain(text, out=tmp_path_factory.mktemp("forms") / "lm", config=config)))


@pytest.fixture
def words_model(checkpoint: Callable[..., Path]) -> Model:
    vocabulary = {"<s>": 0, "<unk>": 1, "have": 2, "The": 3, "I": 4, "don’t": 5, "fox": 6}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    return Model("words", load_model(checkpoint("phi")).network, tokenizer)


class TestCapitals:
    @pytest.mark.parametrize(
        "text",
        ["The old man eats an aple every day.", "My brother raeds a book at night.", "I, Mary, drnks milk at night."],
    )
    def test_a_sentence_in_capitals_is_judged_as_the_one_in_small_letters(
        self, checker: SpellChecker, text: str
    ) -> None:
        small, capitals = checker.check([text, text.upper()])
        assert small.corrected != text
        assert capitals.corrected == small.corrected.upper()
        assert [word.start for word in capitals.flagged] == [word.start for word in small.flagged]
        for one, other in zip(small.words, capitals.words, strict=True):
            assert other.log_odds == (one.log_odds and pytest.approx(one.log_odds, abs=1e-5))

    def test_names_and_single_letters_get_their_capitals_back(self, checker: SpellChecker) -> None:
        assert checker._readings(["I, MARY, EATS AN APPLE AT NIGHT."]) == ["I, Mary, eats an apple at night."]

    def test_right_words_in_other_letters_are_left_alone(self, checker: SpellChecker) -> None:
        texts = ["i, mary, reads a book at night", "THE OLD MAN DRINKS MILK", "Our Cat Drinks Milk At Night"]
        for check in checker.check(texts[: 2 if checker._forms._unknown is None else 3]):
            assert check.corrected == check.text

    def test_only_sentences_in_capitals_change(self) -> None:
        for text in ("He wrote to NASA.", "STOP! he cried.", "¿Qué?", "I SAW it all happen there."):
            assert in_small_letters(text) == (text, [])
        assert in_small_letters("A MAN, I SAY! he cried") == (
            "A man, i say! he cried",
            [(0, 1), (2, 5), (7, 8), (9, 12)],
        )
        assert in_small_letters("EL NIÑO İÇİN VA")[0] == "El niño İÇİN va"  # its small letters are longer


def test_an_unlisted_name_inside_a_sentence_is_more_readily_believed(checker: SpellChecker) -> None:
    texts = ["Every day Bov eats an apple", "Every day bov eats an apple"]
    words = WordList({**checker.words.counts, "boy": 9})
    odds = {}
    for factor in (0.05, 5.0):
        options = SpellingOptions(unlisted_names=factor)
        name, other = (one.words[2] for one in SpellChecker(checker.model, words=words, options=options).check(texts))
        assert name.word == "Bov"
        odds[factor] = (name.log_odds, other.log_odds)
    assert odds[0.05][0] == pytest.approx(odds[5.0][0] + math.log(100))
    assert odds[0.05][1] == odds[5.0][1]


class TestUnknownWords:
    def test_a_word_is_read_in_a_form_that_the_tokenizer_knows(self, words_model: Model) -> None:
        forms = WordForms(words_model, WordList({"have": 1}), CHANNEL)
        given = ["HAVE", "the", "i", "don't", "Fxo", "fox"]
        assert forms.read(given) == ["have", "The", "I", "don’t", "Fxo", "fox"]
        assert forms.read_text("HAVE the, fox!") == "have The, fox!"
        assert {len(form) for form in forms_of("straße")} == {6}  # STRASSE is longer

    def test_unknown_words_share_the_unknown_token_by_their_counts(self, words_model: Model) -> None:
        words = WordList({"have": 50, "box": 6, "the": 5, "cat": 3, "Don't": 2, "dog": 1})
        forms = WordForms(words_model, words, CHANNEL)
        shares = {word: math.exp(forms.log_share(word)) for word in ("have", "box", "Cat", "dog", "xyz")}
        assert shares == pytest.approx({"have": 1, "box": 0.6, "Cat": 0.3, "dog": 0.1, "xyz": 26**-3})

    def test_tokenizers_that_know_all_bytes_are_left_alone(self, checkpoint: Callable[..., Path]) -> None:
        forms = WordForms(load_model(checkpoint("phi")), count_words(["a fox"]), CHANNEL)
        assert forms.read(["HAVE", "xyz"]) == ["HAVE", "xyz"]
        assert forms.log_share("xyz") == 0


def test_only_a_more_probable_word_is_put_in() -> None:
    def word(start: int, *shares: float, flagged: bool = True) -> WordCheck:
        others = tuple(Alternative(f"w{number}", share, 1) for number, share in enumerate(shares))
        return WordCheck(start, start + 4, "have", True, 1.0, others, flagged)

    # As typed: 0.7, 0.4, 0.1
    words = (word(0, 0.2, 0.1, flagged=False), word(5, 0.35, 0.25), word(10, 0.6, 0.3))
    assert [one.replacement and one.replacement.word for one in words] == [None, None, "w0"]
    assert SpellingCheck("have have have", words).corrected == "have have w0"
