"""Word lists: counting, files, the words and sentences of a text."""

from __future__ import annotations

import random
import re
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


class TestScripts:
    """Words are Unicode's (UAX 29): a mark belongs to its letter, in every script."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("यह हिन्दी भाषा है।", ["यह", "हिन्दी", "भाषा", "है"]),
            ("தமிழ் ஒரு மொழி.", ["தமிழ்", "ஒரு", "மொழி"]),
            ("العَرَبِيَّةُ لُغَةٌ جَمِيلَةٌ", ["العَرَبِيَّةُ", "لُغَةٌ", "جَمِيلَةٌ"]),
            ("เด็กไปโรงเรียน", ["เด็ก", "ไป", "โรงเรียน"]),
            ("שָׁלוֹם עוֹלָם, צה״ל", ["שָׁלוֹם", "עוֹלָם", "צה״ל"]),
            ("বাংলা ਪੰਜਾਬੀ ગુજરાતી ಕನ್ನಡ മലയാളം සිංහල", ["বাংলা", "ਪੰਜਾਬੀ", "ગુજરાતી", "ಕನ್ನಡ", "മലയാളം", "සිංහල"]),
            ("ខ្មែរ ភាសា", ["ខ្មែរ", "ភាសា"]),
            ("她今天很好。", ["她", "今天", "很好"]),
            ("می\u200cخواهم नमस्\u200dते", ["می\u200cخواهم", "नमस्\u200dते"]),
            ("e\u0301te\u0301 ý\u0323o", ["e\u0301te\u0301", "ý\u0323o"]),
            ("l’homme col·lega don‘t", ["l’homme", "col·lega", "don‘t"]),
            ("She came.He went: e.g. x2.ok", ["She", "came", "He", "went", "e", "g", "ok"]),
            ("😀 a 𝐛 c", ["a", "𝐛", "c"]),
            ("\u200fשלום\u200f co\u00adop", ["שלום", "co\u00adop"]),
            ("", []),
        ],
    )
    def test_words_are_whole(self, text: str, expected: list[str]) -> None:
        assert [text[start:end] for start, end in words_of(text)] == expected

    def test_plain_text_has_the_words_that_it_had(self) -> None:
        generator = random.Random(0)
        pieces = ["don't", "a", "Be", "rock'n'roll", "3", "x2", "3.5", "a_b", "é", "’s", "'", "-", ".", ",", "!", '"']
        text = "".join(generator.choice(pieces) + generator.choice([" ", "\n", "-", ", "]) for _ in range(3000))
        plain = re.compile(r"(?<!\w)[^\W\d_]+(?:['’][^\W\d_]+)*(?!\w)")
        assert list(words_of(text)) == [match.span() for match in plain.finditer(text)]

    def test_a_list_keeps_marks_and_drops_what_is_not_seen(self, tmp_path: Path) -> None:
        words = count_words(["हिन्दी हिन्दी किताब", "co\u00adop coop", "שלום\u200f שלום"])
        assert words.counts == {"coop": 2, "हिन्दी": 2, "שלום": 2, "किताब": 1}
        write_words(tmp_path / "words.txt", words)
        assert read_words(tmp_path / "words.txt") == words
        assert all(form in words for form in ("हिन्दी", "co\u00adop", "שלום\u200f"))
        # ICU's dictionary may cut an entry in two, which is a word for who made the list.
        (tmp_path / "thai.txt").write_text("โรงเรียน\t3\nนิดเดียว\nหนังสือ\n", encoding="utf-8")
        assert read_words(tmp_path / "thai.txt").counts == {"โรงเรียน": 3, "นิดเดียว": 1, "หนังสือ": 1}


class TestSentences:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("यह किताब है। वह कौन? ठीक॥ हाँ", ["यह किताब है।", " वह कौन?", " ठीक॥", " हाँ"]),
            ("كيف؟ هذا كتاب۔ نعم", ["كيف؟", " هذا كتاب۔", " نعم"]),
            ("他来了。她走了！“好。”他说", ["他来了。", "她走了！", "“好。”", "他说"]),
            ("「行く。」と 言った。 はい", ["「行く。」", "と 言った。", " はい"]),
        ],
    )
    def test_other_scripts_end_them_in_their_way(self, text: str, expected: list[str]) -> None:
        assert [text[start:end] for start, end in sentences_of(text)] == expected

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
