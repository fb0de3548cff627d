"""Word lists: counting and files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from helpers.spelling_corpus import SPANISH, sentences

from rango.errors import InputError
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.words import WordList, count_words, read_words, write_words


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

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("one\t1\ntwo\tmany", "words.txt:2: 'two\\\\tmany'; expected a word, or a word, a tab and its count"),
            ("a 0", "words.txt:1: 'a 0'; expected a word"),
            ("42\t1", "words.txt:1: '42\\\\t1'; expected a word"),
            ("the 5\nNew York\n", "words.txt:2: 'New York'; expected a word, .*1 of 2 lines hold neither"),
            (" \n", "words.txt is empty"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "words.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            read_words(tmp_path / "words.txt")

    @pytest.mark.parametrize(
        "entry",
        [
            "42",
            "New York",
            "3rd",
            "a_b",
            "the -3",
            "the 0",
            "the 1.5",
            "1" * 5000,
            "it 9" + "9" * 5000,
            "'",
            "http://x",
        ],
    )
    def test_an_odd_entry_is_left_out_and_counted(self, tmp_path: Path, entry: str) -> None:
        path = tmp_path / "words.txt"
        path.write_text(f"the\t5\n{entry}\n\ncat 2\ndog\n", encoding="utf-8")
        words = read_words(path)
        assert words.counts == {"the": 5, "cat": 2, "dog": 1}
        assert words.notes == (f"1 of 4 lines of the word list hold no word: {path}:2: {entry[:60]!r}",)
        path.write_text("the\t5\ncat 2\n")
        assert read_words(path).notes == ()


def test_a_list_keeps_marks_and_drops_what_is_not_seen(tmp_path: Path) -> None:
    words = count_words(["हिन्दी हिन्दी किताब", "co\u00adop coop", "שלום\u200f שלום"])
    assert words.counts == {"coop": 2, "हिन्दी": 2, "שלום": 2, "किताब": 1}
    write_words(tmp_path / "words.txt", words)
    assert read_words(tmp_path / "words.txt") == words
    assert all(form in words for form in ("हिन्दी", "co\u00adop", "שלום\u200f"))
    # ICU's dictionary may cut an entry in two, which is a word for who made the list.
    (tmp_path / "thai.txt").write_text("โรงเรียน\t3\nนิดเดียว\nหนังสือ\n", encoding="utf-8")
    assert read_words(tmp_path / "thai.txt").counts == {"โรงเรียน": 3, "นิดเดียว": 1, "หนังสือ": 1}


def test_a_word_is_known_in_any_case_and_composition() -> None:
    words = WordList({"niño": 2, "l'eau": 1})
    assert all(form in words for form in ("NIÑO", unicodedata.normalize("NFD", "niño"), "L’eau"))
    assert "nino" not in words
    assert words.alphabet_size == len(set("niñol'eau"))
