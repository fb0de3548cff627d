"""Word lists: counting, files, the words and sentences of a text."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from helpers.spelling_corpus import SPANISH, sentences

from rango.errors import InputError
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.words import WordList, count_words, read_words, sentence_end, sentences_of, words_of, write_words


class TestWordList:
    def test_it_comes_back_from_its_file(self, tmp_path: Path) -> None:
        words = count_words(["El niño come. El NIÑO bebe; l’eau", unicodedata.normalize("NFD", "niño"), "3rd a_b"])
        assert words.counts == {"niño": 3, "el": 2, "bebe": 1, "come": 1, "l'eau": 1}
        write_words(tmp_path / "words.txt", words)
        assert read_words(tmp_path / "words.txt") == words
        (tmp_path / "plain.txt").write_text("Niño\n\nniño 4\nagua\n")
        assert read_words(tmp_path / "plain.txt").counts == {"niño": 5, "agua": 1}

    def test_pre_training_writes_the_words_of_its_training_text(self, tmp_path: Path) -> None:
        config = PretrainConfig.build({"model": "ngram", "vocabulary": 340, "ngram": {"order": 2}})
        texts = sentences(SPANISH)
        kept = read_words(pretrain(texts, out=tmp_path / "lm", config=config) / "words.txt")
        whole = count_words(texts)
        assert set(kept.counts) >= set(whole.counts)
        assert 0.9 < sum(kept.counts.values()) / sum(whole.counts.values()) < 1

    def test_words_stop_at_digits_and_marks(self) -> None:
        text = "Don't 3rd rock'n'roll, \"niña\" x2 -ab-"
        assert [text[a:b] for a, b in words_of(text)] == ["Don't", "rock'n'roll", "niña", "ab"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("one\t1\ntwo\tmany", "words.txt:2: 'two\\\\tmany'; expected a word, or a word, a tab and its count"),
            ("a 0", "words.txt:1: 'a 0'; expected a word"),
            ("42\t1", "words.txt:1: '42' is no word; expected letters"),
            (" \n", "words.txt is empty"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "words.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            read_words(tmp_path / "words.txt")


class TestSentences:
    def test_closing_marks_belong_to_the_sentence(self) -> None:
        text = "She said “Go!” He went. 3.5 more"
        assert [text[a:b] for a, b in sentences_of(text)] == ["She said “Go!”", " He went.", " 3.5 more"]
        assert text[: sentence_end(text, 3)] == "She said “Go!”"
        assert sentence_end(text, len(text) - 1) == len(text)


def test_a_word_is_known_in_any_case_and_composition() -> None:
    words = WordList({"niño": 2, "l'eau": 1})
    assert all(form in words for form in ("NIÑO", unicodedata.normalize("NFD", "niño"), "L’eau"))
    assert "nino" not in words
    assert words.alphabet_size == len(set("niñol'eau"))
