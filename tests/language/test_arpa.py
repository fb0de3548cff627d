"""ARPA files: round trips, KenLM reads ours and we read KenLM's, a corrupt line is named."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rango.errors import InputError
from rango.language.arpa import read_arpa, write_arpa
from rango.language.ngram_estimation import Smoothing, count_ngrams, smooth
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM

WORDS = ["<|endoftext|>", "<unk>", "a", "bé", "c", "d", "e", "f"]


def word_tokenizer(words: list[str] = WORDS, *, end: str | None = "<|endoftext|>") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, unk_token="<unk>")


def made_text(documents: int = 200) -> list[list[int]]:
    generator = np.random.default_rng(3)
    return [(2 + generator.geometric(0.35, generator.integers(1, 9)) % 6).tolist() for _ in range(documents)]


def made_model(order: int = 3, *, smoothing: Smoothing = "kneser-ney") -> Model:
    stream = np.array([token for document in made_text() for token in (*document, 0)])
    counts = count_ngrams([stream], order=order, vocabulary=len(WORDS), end=0)
    return Model("made", NGramForCausalLM.from_tables(smooth(counts, smoothing=smoothing)), word_tokenizer())


def logits(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model.network(tokens).logits
    return found


TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, len(WORDS), (20, 12)))


class TestRoundTrip:
    @pytest.mark.parametrize("smoothing", ["kneser-ney", "maximum-likelihood"])
    @pytest.mark.parametrize("order", [1, 2, 4])
    def test_the_same_probabilities(self, tmp_path: Path, order: int, smoothing: Smoothing) -> None:
        model = made_model(order, smoothing=smoothing)
        write_arpa(tmp_path / "model.arpa", model)
        back = read_arpa(tmp_path / "model.arpa", model.tokenizer)
        torch.testing.assert_close(logits(back, TOKENS), logits(model, TOKENS), atol=1e-6, rtol=0)
        write_arpa(tmp_path / "again.arpa", back)
        assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "model.arpa").read_bytes()

    def test_a_file_by_hand(self, tmp_path: Path) -> None:
        lines = ["\\data\\", "ngram 1=4", "ngram 2=2", "", "\\1-grams:", "-99 <s> -0.5", "-0.3 </s>", "-0.6 a -0.2"]
        lines += ["-0.7 bé", "", "\\2-grams:", "-0.1 <s> a", "-0.4 a </s>", "", "\\end\\", ""]
        (tmp_path / "hand.arpa").write_text("\n".join(lines), encoding="utf-8")
        model = read_arpa(tmp_path / "hand.arpa", word_tokenizer())
        found = logits(model, torch.tensor([[0, 2, 3]]))[0] / math.log(10)
        assert found[0, [0, 2, 3]].tolist() == pytest.approx([-0.5 - 0.3, -0.1, -0.5 - 0.7])
        assert found[1, [0, 2, 3]].tolist() == pytest.approx([-0.4, -0.2 - 0.6, -0.2 - 0.7])
        assert found[2, [0, 2, 3]].tolist() == pytest.approx([-0.3, -0.6, -0.7])
        assert found[0, 4].item() == -math.inf  # not in the file

    @pytest.mark.parametrize("smoothing", ["add-k", "stupid-backoff"])
    def test_what_the_format_cannot_say(self, tmp_path: Path, smoothing: Smoothing) -> None:
        with pytest.raises(InputError, match=f"smoothing {smoothing} cannot be written as ARPA"):
            write_arpa(tmp_path / "model.arpa", made_model(smoothing=smoothing))
        assert not list(tmp_path.iterdir())

    def test_a_word_that_the_format_cannot_spell(self, tmp_path: Path) -> None:
        model = made_model()
        spaced = Model("made", model.network, word_tokenizer([*WORDS[:-1], "two words"]))
        with pytest.raises(InputError, match="token 7 is 'two words', which an ARPA file cannot spell"):
            write_arpa(tmp_path / "model.arpa", spaced)


class TestWhiteSpace:
    """Fields are apart by spaces and tabs, in the header too; every other white space belongs to a word."""

    HAND = "\n".join(
        (
            *("\\data\\", "ngram 1=3", "ngram 2=1", "", "\\1-grams:", "-1 <s> -0.5", "-0.3 </s>", "-0.6 WORD"),
            *("\\2-grams:", "-0.1 <s> WORD", "\\end\\", ""),
        )
    )

    @pytest.mark.parametrize(
        ("plain", "spaced"),
        [
            ("ngram 1=3", "ngram 1 = 3"),
            ("ngram 1=3", "ngram  1=3"),
            ("ngram 1=3", "ngram\t1=\t3 "),
            ("ngram 1=3", " ngram 1=          3"),
            ("\\data\\", "made by hand\n\n  \\data\\ \t"),
            ("\\1-grams:", "\\1-grams: "),
            ("\\2-grams:", "\t\\2-grams :"),
            ("\\end\\", "\\end\\\t"),
            ("-0.3 </s>", "  -0.3 \t </s> \t"),
            ("\n", "\r\n"),
        ],
    )
    def test_as_others_write_it(self, tmp_path: Path, plain: str, spaced: str) -> None:
        text = self.HAND.replace("WORD", "a")
        assert plain in text
        values = []
        for number, content in enumerate((text, text.replace(plain, spaced))):
            path = tmp_path / f"{number}.arpa"
            path.write_bytes(content.encode())
            values.append(logits(read_arpa(path, word_tokenizer()), torch.tensor([[0, 2]])))
        assert torch.equal(*values)

    @pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u3000", "\u0085", "\u2028"])
    def test_a_word_with_another_space_comes_back(self, tmp_path: Path, space: str) -> None:
        for word in (f"10{space}000", space):
            path = tmp_path / "model.arpa"
            path.write_text(self.HAND.replace("WORD", word), encoding="utf-8")
            model = read_arpa(path, word_tokenizer([*WORDS, word]))
            assert logits(model, torch.tensor([[0]]))[0, 0, 8].item() == pytest.approx(-0.1 * math.log(10))
            write_arpa(path, model)
            assert f"-0.100000000\t<s> {word}\n" in path.read_text(encoding="utf-8")
            assert torch.equal(
                logits(read_arpa(path, model.tokenizer), torch.tensor([[0]])), logits(model, torch.tensor([[0]]))
            )

    @pytest.mark.parametrize("space", [" ", "\t", "\n", "\r", "\v", "\f", "\0"])
    def test_no_word_holds_what_other_readers_split_at(self, tmp_path: Path, space: str) -> None:
        spaced = Model("made", made_model().network, word_tokenizer([*WORDS[:-1], f"two{space}words"]))
        with pytest.raises(InputError, match="which an ARPA file cannot spell"):
            write_arpa(tmp_path / "model.arpa", spaced)


CORRUPT = [
    ("\\data\\", "\\date\\", "expected the line \\data\\"),
    ("ngram 2=", "ngram 3=", "expected ngram 2=COUNT"),
    ("ngram 1=9", "ngram 1=10", "expected 1-gram 10 of 10: log10 of a probability, 1 word and perhaps"),
    ("ngram 1=9", "ngram 1=8", "expected the line \\2-grams:"),
    ("\tbé\t", "\tbé \t\t x y", "expected 1-gram"),
    ("\tbé\t", "\tzz\t", "expected words of the tokenizer's vocabulary (8 tokens), not 'zz'"),
    ("-99\t<s>", "x\t<s>", "expected log10 of a probability, at most 0"),
    ("-99\t<s>", "0.5\t<s>", "expected log10 of a probability, at most 0"),
    ("-99\t<s>", "nan\t<s>", "expected log10 of a probability, at most 0"),
    ("-99\t<s>", "-0_3\t<s>", "expected log10 of a probability, at most 0"),
    ("-99\t<s>", "-\N{ARABIC-INDIC DIGIT THREE}\t<s>", "expected log10 of a probability, at most 0"),
    ("ngram 1=9", "ngram 1=0", "expected at least one 1-gram, or no line for them and longer ones"),
    ("ngram 1=9", "ngram 1=999999999999999", "1-grams, the number of lines in the file"),
    ("ngram 1=9", "ngram 1=" + "9" * 23, "1-grams, the number of lines in the file"),
    ("ngram 1=9", "ngram 1=" + "9" * 5000, "1-grams, the number of lines in the file"),
    ("ngram 1=9", "ngram " + "1" * 5000 + "=9", "expected ngram 1=COUNT"),
    ("ngram 1=9", "ngram 1=\N{ARABIC-INDIC DIGIT NINE}", "expected ngram 1=COUNT"),
    ("\t<s> a", "\ta <s>", "expected <s> as the first word only"),
    ("\t<s> a", "\t</s> a", "expected </s> as the last word only"),
    ("\t<s> a", "\t<s> c", "expected each 2-gram once"),
    ("\\end\\", "", "expected the line \\end\\"),
]


class TestBadInput:
    @pytest.mark.parametrize(("good", "bad", "message"), CORRUPT, ids=[bad[:30] for _, bad, _ in CORRUPT])
    def test_a_corrupt_line_is_named(self, tmp_path: Path, good: str, bad: str, message: str) -> None:
        path = tmp_path / "model.arpa"
        write_arpa(path, made_model(2))
        text = path.read_text(encoding="utf-8")
        assert good in text
        path.write_text(text.replace(good, bad, 1), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_arpa(path, word_tokenizer())
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"{path}:")
        assert "\n" not in str(caught.value)

    def test_the_line_number_is_that_of_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "model.arpa"
        path.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-0.3 </s>\n-0.6\n\\end\\\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"model\.arpa:6: '-0\.6'; expected 1-gram 2 of 2: log10 of a probability"):
            read_arpa(path, word_tokenizer())

    def test_a_history_that_is_not_there(self, tmp_path: Path) -> None:
        lines = ["\\data\\", "ngram 1=3", "ngram 2=1", "ngram 3=1", "\\1-grams:", "-0.3 a", "-0.3 c", "-0.3 </s>"]
        lines += ["\\2-grams:", "-0.3 a c", "\\3-grams:", "-0.3 c c a", "\\end\\"]
        (tmp_path / "model.arpa").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(
            InputError, match=r":12: '-0\.3 c c a'; expected its first 2 words to be one of the 2-grams"
        ):
            read_arpa(tmp_path / "model.arpa", word_tokenizer())

    @pytest.mark.parametrize(
        ("line", "wrong", "message"),
        [
            ("-0.7 c", "-0.7 d", ":11: '-0.4 c </s>'; expected words that are 1-grams of the file"),
            ("-0.6 a -0.2", "-0.6 d -0.2", ":10: '-0.1 <s> a'; expected words that are 1-grams of the file"),
            ("-99 <s> -0.5", "-99 e -0.5", ":10: '-0.1 <s> a'; expected words that are 1-grams of the file"),
            ("-0.3 </s>", "-0.3 e", ":8: '-0.7 c'; expected </s> among the 1-grams, without which no document ends"),
            ("-0.6 a -0.2", "-0.6 a 1e300", ":7: '-0.6 a 1e300'; expected log10 of a back-off weight, at most 99"),
            ("-0.6 a -0.2", "-0.6 a 99.5", ":7: '-0.6 a 99.5'; expected log10 of a back-off weight, at most 99"),
            ("-0.6 a -0.2", "-0.6 a inf", ":7: '-0.6 a inf'; expected log10 of a back-off weight, at most 99"),
            ("ngram 2=2", "ngram 2=0\nngram 3=1", ":3: 'ngram 2=0'; expected at least one 2-gram, or no line for them"),
        ],
    )
    def test_files_that_say_nothing_sound(self, tmp_path: Path, line: str, wrong: str, message: str) -> None:
        lines = [
            "\\data\\",
            "ngram 1=4",
            "ngram 2=2",
            "\\1-grams:",
            "-99 <s> -0.5",
            "-0.3 </s>",
            "-0.6 a -0.2",
            "-0.7 c",
        ]
        lines += ["\\2-grams:", "-0.1 <s> a", "-0.4 c </s>", "\\end\\"]
        path = tmp_path / "hand.arpa"
        path.write_text("\n".join(lines))
        read_arpa(path, word_tokenizer())
        path.write_text("\n".join(wrong if each == line else each for each in lines))
        with pytest.raises(InputError) as caught:
            read_arpa(path, word_tokenizer())
        assert message in str(caught.value)

    @pytest.mark.parametrize("zero", ["-99", "-inf", "-INF", "-1e300", "-1e308", "-99.0", "-1" + "0" * 5000])
    def test_ways_to_write_zero(self, tmp_path: Path, zero: str) -> None:
        path = tmp_path / "hand.arpa"
        path.write_text(f"\\data\\\nngram 1=2\n\\1-grams:\n+0e0 </s>\n{zero} a\n\\end\\\n")
        assert logits(read_arpa(path, word_tokenizer()), torch.tensor([[0]]))[0, 0, [0, 2]].tolist() == [0, -math.inf]

    def test_a_tokenizer_without_an_end(self, tmp_path: Path) -> None:
        write_arpa(tmp_path / "model.arpa", made_model(2))
        with pytest.raises(InputError, match="the tokenizer has no end-of-text token"):
            read_arpa(tmp_path / "model.arpa", word_tokenizer(end=None))


class TestKenLM:
    """Against KenLM itself, where it is installed."""

    def test_it_reads_ours(self, tmp_path: Path) -> None:
        kenlm = pytest.importorskip("kenlm")
        model = made_model(4)
        write_arpa(tmp_path / "model.arpa", model)
        theirs = kenlm.Model(str(tmp_path / "model.arpa"))
        for text in made_text(40):
            tokens = torch.tensor([[0, *text, 0]])
            found = model.network.sequence_log_probabilities(tokens)[0] / math.log(10)  # type: ignore[operator]
            expected = [score for score, _, _ in theirs.full_scores(" ".join(WORDS[token] for token in text))]
            assert found.tolist() == pytest.approx(expected, abs=1e-4)

    def test_its_estimates_are_ours(self, tmp_path: Path) -> None:
        if shutil.which("lmplz") is None:
            pytest.skip("lmplz, KenLM's estimator, is not on the path")
        text = "\n".join(" ".join(WORDS[token] for token in document) for document in made_text()) + "\n"
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        command = ["lmplz", "-o", "4", "-S", "64M", "--discount_fallback", "--text", tmp_path / "text.txt"]
        subprocess.run([*command, "--arpa", tmp_path / "kenlm.arpa"], check=True, capture_output=True, timeout=60)
        theirs = read_arpa(tmp_path / "kenlm.arpa", word_tokenizer())
        torch.testing.assert_close(logits(theirs, TOKENS), logits(made_model(4), TOKENS), atol=1e-5, rtol=0)
