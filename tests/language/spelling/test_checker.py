"""Misspelt words are found in English and Spanish; candidates equal a brute-force search; scores equal whole texts'."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.spelling_corpus import ENGLISH, SPANISH, sentences, tiny_language_model
from scipy.special import logsumexp
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rango.errors import InputError
from rango.language.options import PretrainConfig, SpellingOptions
from rango.language.pretrain import pretrain
from rango.language.spelling.checker import SpellChecker, _fit
from rango.language.text_scores import score_texts
from rango.language.words import WordList, count_words
from rango.models.loading import Model, load_model

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> SpellChecker:
    return SpellChecker(load_model(tiny_language_model(tmp_path_factory.mktemp("en") / "lm", ENGLISH)))


@pytest.fixture(scope="module")
def spanish(tmp_path_factory: pytest.TempPathFactory) -> SpellChecker:
    return SpellChecker(load_model(tiny_language_model(tmp_path_factory.mktemp("es") / "lm", SPANISH)))


class TestTheExample:
    def test_spanish(self, spanish: SpellChecker) -> None:
        check = spanish.check(["El niño come manzna todos los días"])[0]
        assert [word.word for word in check.flagged] == ["manzna"]
        assert check.flagged[0].alternatives[0].word == "manzana"
        assert not check.flagged[0].known
        assert check.corrected == "El niño come manzana todos los días"

    @pytest.mark.parametrize("unit", ["tokens", "words"])
    @pytest.mark.parametrize(
        ("parts", "typed", "meant", "wrong"),
        [
            (("लड़का लड़की", "किताब चिट्ठी कहानी", "पढ़ता लिखता", "है।"), "लड़का किताव पढ़ता है।", "किताब", "किताव"),
            (("பையன் சிறுமி", "புத்தகம் கடிதம்", "படி. எழுது."), "பையன் புத்தகன் படி.", "புத்தகம்", "புத்தகன்"),
            (("الوَلَدُ البِنتُ", "يَقرَأُ يَكتُبُ", "الكِتَابَ. القِصَّةَ."), "الوَلَدُ يَقرَأُ الكِتَلبَ.", "الكِتَابَ", "الكِتَلبَ"),
        ],
    )
    def test_letters_with_marks(
        self, tmp_path: Path, parts: tuple[str, ...], typed: str, meant: str, wrong: str, unit: str
    ) -> None:
        draw = random.Random(0)
        texts = [" ".join(draw.choice(part.split()) for part in parts) for _ in range(400)]
        config = PretrainConfig.build({"model": "ngram", "vocabulary": 270, "ngram": {"order": 3, "unit": unit}})
        checker = SpellChecker(load_model(pretrain(texts, out=tmp_path / "lm", config=config)))
        check, right = checker.check([typed, texts[0]])
        assert check.corrected == typed.replace(wrong, meant)
        assert [word.word for word in check.flagged] == [wrong]
        assert not right.flagged
        assert len(right.words) == len(re.findall(r"[^\s.।]+", texts[0]))

    def test_english(self, english: SpellChecker) -> None:
        check = english.check(["The boy eats an aple every day"])[0]
        assert [word.word for word in check.flagged] == ["aple"]
        assert check.flagged[0].alternatives[0].word == "apple"

    @pytest.mark.parametrize(
        ("typed", "right"),
        [
            ("El nño bebe leche todos los días.", "El niño bebe leche todos los días."),
            ("La nina bebe leche por la mañana.", "La niña bebe leche por la mañana."),
            ("Ela lee un libro (después de jugr).", "Ella lee un libro (después de jugar)."),
            ("Ella lee un lirbo en el jardin.", "Ella lee un libro en el jardín."),
        ],
    )
    def test_accents_capitals_and_punctuation_are_kept(self, spanish: SpellChecker, typed: str, right: str) -> None:
        for form in ("NFC", "NFD"):
            assert spanish.check([unicodedata.normalize(form, typed)])[0].corrected == right

    def test_alternatives_have_the_capitals_of_what_was_typed(self, spanish: SpellChecker) -> None:
        word = spanish.check(["¡EL SEÑRO lee!"])[0].words[1]
        assert "SEÑOR" in [one.word for one in word.alternatives]

    def test_a_real_word_in_the_wrong_place_is_flagged(self, english: SpellChecker) -> None:
        check = english.check(["The girl goes at the school form time to time", "She eats a pear an night."])[1]
        assert [(word.word, word.known) for word in check.flagged] == [("an", True)]
        assert check.flagged[0].alternatives[0].word == "at"

    def test_right_sentences_are_left_alone(self, english: SpellChecker, spanish: SpellChecker) -> None:
        for checker, language in ((english, ENGLISH), (spanish, SPANISH)):
            texts = sorted(set(sentences(language, 40)))
            assert [word.word for check in checker.check(texts) for word in check.flagged] == []


class TestScores:
    def test_the_log_odds_are_those_of_whole_texts(self, spanish: SpellChecker) -> None:
        text = "El niño come manzna todos los días"
        word = spanish.check([text])[0].words[3]
        near = spanish._candidates.near("manzna", most=20)
        written = [text, *(text.replace("manzna", candidate.word) for candidate in near)]
        joint = [score.log_probability for score in score_texts(spanish.model, written, closed=True)]
        joint[0] += math.log(0.95) + math.log(0.05)  # typed as meant; not in the list
        joint[1:] = [value + one.log_channel for value, one in zip(joint[1:], near, strict=True)]
        assert word.log_odds == pytest.approx(logsumexp(joint[1:]) - joint[0], abs=1e-3)
        best = int(np.argmax(joint[1:]))
        assert word.alternatives[0].word == near[best].word
        assert word.alternatives[0].probability == pytest.approx(math.exp(joint[best + 1] - logsumexp(joint)), abs=1e-4)

    def test_texts_do_not_change_each_other(self, english: SpellChecker) -> None:
        texts = ["She reads a bok at night", "Our cat drnks milk. The boy goes to teh school."] * 9
        for together, text in zip(english.check(texts), texts, strict=True):
            for one, other in zip(together.words, english.check([text])[0].words, strict=True):
                assert one.log_odds == (other.log_odds and pytest.approx(other.log_odds, abs=1e-4))

    def test_progress_adds_up_to_all_words(self, english: SpellChecker) -> None:
        told: list[int] = []
        checks = english.check(["She reads a bok at night. " * 60, "Our cat drnks milk."], progress=told.append)
        assert sum(told) == sum(len(check.words) for check in checks)
        assert len(told) > 1

    def test_a_higher_threshold_flags_a_subset(self, english: SpellChecker) -> None:
        text = ["Teh boy eats an aple evry day with hs friend"]
        flags = []
        for threshold in (-20.0, 0.0, 20.0, 1000.0):
            checker = SpellChecker(english.model, options=SpellingOptions(threshold=threshold))
            flags.append({word.start for word in checker.check(text)[0].flagged})
        assert flags[0] > flags[1] >= flags[2] >= flags[3] == set()

    def test_a_text_longer_than_the_context(self, english: SpellChecker) -> None:
        text = "The boy eats an apple every day. " * 10 + "She reads a bok at night and " + "at night " * 60
        assert "bok" in [word.word for word in english.check([text])[0].flagged]

    def test_far_tokens_are_dropped_alike(self) -> None:
        trunk, branches = _fit(tuple(range(10)), [(20, 1, 2, 3, 4, 5), (30, 31, 1, 2, 3, 4, 5)], 8, "word")
        assert branches == [(20, 1, 2), (30, 31, 1, 2)]
        assert trunk == (6, 7, 8, 9)
        with pytest.raises(InputError, match="'word' and what differs after it take 9 tokens, the model reads at most"):
            _fit((1,), [tuple(range(9)), tuple(range(20, 28))], 8, "word")

    def test_without_a_token_before_the_text_its_first_word_is_not_judged(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("phi"))
        model.tokenizer.eos_token = None
        words = SpellChecker(model, words=count_words(["fox box ox fax"])).check(["fox box"])[0].words
        assert words[0].log_odds is None
        assert words[1].log_odds is not None

    def test_a_word_that_a_word_level_tokenizer_lacks_pays_for_its_letters(self, checkpoint: Checkpoint) -> None:
        vocabulary = {"<s>": 0, "<unk>": 1, "the": 2, "fox": 3, "box": 4, "jumps": 5}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")
        model = Model("words", load_model(checkpoint("phi")).network, tokenizer)
        checker = SpellChecker(model)  # the vocabulary is the word list
        assert list(checker.words.counts) == ["the", "fox", "box", "jumps"]
        found = checker.check(["the jumsp"])[0].words[1]
        language = [score.log_probability for score in score_texts(model, ["the jumsp", "the jumps"])]
        channel = checker.channel.log_probability("jumps", 1)
        typed = math.log(0.95 * 0.05) - 5 * math.log(checker.words.alphabet_size)
        assert found.log_odds == pytest.approx(language[1] + channel - language[0] - typed, abs=1e-4)


def test_bad_input(checkpoint: Checkpoint, english: SpellChecker) -> None:
    with pytest.raises(InputError, match=r"has no words.txt; give a list with --words FILE"):
        SpellChecker(load_model(checkpoint("phi")))
    with pytest.raises(InputError, match="the word list is empty"):
        SpellChecker(english.model, words=WordList({}))
    with pytest.raises(InputError, match="the text is blank"):
        english.check(["  "])
    with pytest.raises(InputError, match="text 2: byte 0x80"):
        english.check(["fine", "\udc80"])
