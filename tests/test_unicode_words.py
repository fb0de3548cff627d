"""Words and sentences of texts in many scripts."""

from __future__ import annotations

import random
import re

import pytest

from rango.unicode_words import parts_of, sentence_end, sentences_of, words_of


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

    def test_words_stop_at_digits_and_marks(self) -> None:
        text = "Don't 3rd rock'n'roll, \"niña\" x2 -ab-"
        assert [text[a:b] for a, b in words_of(text)] == ["Don't", "rock'n'roll", "niña", "ab"]

    def test_parts_of_plain_text_are_runs_of_word_characters(self) -> None:
        generator = random.Random(1)
        pieces = [
            "don't",
            "a",
            "Be",
            "rock’n’roll",
            "3",
            "x2",
            "3.5",
            "1,000",
            "a_b",
            "é",
            "e.g",
            "-",
            ":",
            "“",
            '"',
            "\t",
        ]
        text = "".join(generator.choice(pieces) + generator.choice(["", " ", "\n", "-", ", "]) for _ in range(3000))
        assert list(parts_of(text)) == re.findall(r"\w+", text)

    def test_parts_of_scripts_without_spaces_are_words(self) -> None:
        assert list(parts_of("她今天很好。เด็กไปโรงเรียน हिन्दी")) == [
            "她",
            "今天",
            "很好",
            "เด็ก",
            "ไป",
            "โรงเรียน",
            "हिन्दी",
        ]


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
