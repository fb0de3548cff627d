"""`rango score-text` and `rango spell`: what they print and write, and bad input in one line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rango.cli import main
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.printing import improbable_below, improbable_spans, marked, print_scores, print_spelling
from rango.language.spelling.checker import Alternative, SpellingCheck, WordCheck
from rango.language.text_scores import TextScore, score_texts
from rango.models.loading import load_model

Capture = pytest.CaptureFixture[str]
Checkpoint = Callable[..., Path]
SCORE = TextScore("a big cat sat", ((0, 1), (1, 5), (5, 9), (9, 13)), np.array([-1.0, -9.0, -8.0, -2.0]))


@pytest.fixture
def model(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("the\t9\nfox\t3\nbox\t2\nquick\t1\njumps\t1\n")
    (tmp_path / "text.txt").write_text("The quick fox\n\nthe fox jumps\r\n¡piñas!\n")
    return checkpoint("phi")


def fails(capsys: Capture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_score_text_prints_a_row_per_line_and_writes_tokens(model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "scores.jsonl"
    assert main(["score-text", str(model), str(tmp_path / "text.txt"), "--out", str(out), "--threshold", "0"]) == 0
    shown = capsys.readouterr().out
    assert "[The] [quick] [fox]" in shown
    assert "bits per byte" in shown
    assert "The first token of a line is predicted from <|endoftext|>." in shown
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert rows[1]["text"] == "the fox jumps"
    expected = score_texts(load_model(model), ["the fox jumps"])[0]
    assert [token["log_probability"] for token in rows[1]["tokens"]] == pytest.approx(expected.log_probabilities)
    assert rows[1]["perplexity"] == pytest.approx(expected.perplexity)


def test_a_line_longer_than_the_context_is_told(model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "long.txt").write_text("the fox\n" + "the quick fox jumps " * 40)
    assert main(["score-text", str(model), str(tmp_path / "long.txt")]) == 0
    assert "Longer than the context of 128 tokens, scored in overlapping windows: line 2." in capsys.readouterr().out


def test_improbable_tokens_are_joined_without_white_space() -> None:
    assert improbable_spans(SCORE, below=-5) == [(2, 5), (6, 9)]
    pieces = TextScore("a manzna", ((0, 1), (1, 4), (4, 8)), np.array([-1.0, -9.0, -8.0]))
    assert improbable_spans(pieces, below=-5) == [(2, 8)]
    assert marked(SCORE.text, [(2, 5), (6, 9)], colour=False).plain == "a [big] [cat] sat"
    coloured = marked(SCORE.text, [(2, 5)], colour=True)
    assert [(span.start, span.end) for span in coloured.spans] == [(2, 5)]
    assert coloured.plain == SCORE.text
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=0.25)) == [(2, 5)]
    assert len(improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=1.0))) == 4
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=8.5, share=None)) == [(2, 5)]
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=0.0)) == []


@pytest.mark.parametrize("width", [80, 140])
def test_rows_fit_the_terminal(width: int) -> None:
    console = Console(width=width, force_terminal=True, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    long = TextScore("word " * 80, ((0, 400),), np.array([-3.0]))
    print_scores(console, [SCORE, long], lines=[1, 2], below=-5, notes=["A note."])
    console.file.close()
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert "[big" not in shown


def test_spell_prints_and_writes_each_word(model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "spelling.jsonl"
    known = ["--words", str(tmp_path / "words.txt"), "--threshold", "-50"]
    assert main(["spell", str(model), "the fxo zzzzzz", *known, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "the [fxo] zzzzzz" in shown
    assert "put right: the fox zzzzzz" in shown
    assert "no listed word within two edits: zzzzzz" in shown
    row = json.loads(out.read_text())
    assert [(word["word"], word["known"], word["flagged"]) for word in row["words"]] == [
        ("the", True, False), ("fxo", False, True), ("zzzzzz", False, False),
    ]  # fmt: skip
    assert row["corrected"] == "the fox zzzzzz"
    (tmp_path / "two.txt").write_text("zzzzzz\nthe fxo\n")
    assert main(["spell", str(model), "--file", str(tmp_path / "two.txt"), *known]) == 0
    assert capsys.readouterr().out.startswith("line 2  the [fxo]\n")


def test_words_are_marked_whole() -> None:
    text = "Donaudampf, don't x9-y ¡no!"
    #       0         10        20
    spans = ((0, 3), (3, 5), (5, 10), (10, 11), (11, 15), (15, 17), (17, 19), (19, 20), (20, 21), (21, 22), (22, 27))

    def marks(*improbable: int) -> str:
        values = np.array([-9.0 if number in improbable else -1.0 for number in range(len(spans))])
        return marked(text, improbable_spans(TextScore(text, spans, values), below=-5), colour=False).plain

    assert marks(1) == marks(0, 2) == "[Donaudampf], don't x9-y ¡no!"
    assert marks(5) == "Donaudampf, [don't] x9-y ¡no!"
    assert marks(3, 7) == "Donaudampf[,] don't [x9]-y ¡no!"
    assert marks(8, 9, 10) == "Donaudampf, don't x9[-y] [¡no!]"


def spelling(*words: WordCheck) -> SpellingCheck:
    return SpellingCheck(" ".join(word.word for word in words), words)


def shown(check: SpellingCheck, *, width: int, terminal: bool) -> str:
    console = Console(width=width, force_terminal=terminal, record=True, highlight=False, file=io.StringIO())
    print_spelling(console, [check], names=[None], threshold=0.0)
    return console.export_text()


OFFERS = (Alternative("movement", 0.9, 1), Alternative("moment", 0.05, 1), Alternative("cement", 0.005, 2))
FLAGGED = WordCheck(0, 7, "movemnt", False, 5.0, OFFERS, True)


def test_offers_are_plain_lines_in_a_pipe() -> None:
    lines = shown(spelling(FLAGGED), width=40, terminal=False).splitlines()
    assert lines[1] == "  movemnt  movement 90%, moment 5%, cement < 1%  not in the list"
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [60, 80])
def test_offers_break_between_words_only(width: int) -> None:
    offers = shown(spelling(FLAGGED), width=width, terminal=True).splitlines()[1:4]
    text = "\n".join(offers)
    assert all(one in text for one in ("movement 90%", "moment 5%", "cement < 1%", "not in the list"))
    assert max(map(len, offers)) <= width


def test_a_word_list_of_another_language_is_told() -> None:
    def check(*known: bool) -> SpellingCheck:
        return spelling(*[WordCheck(5 * n, 5 * n + 4, "niño", k, None, (), False) for n, k in enumerate(known)])

    said = "3 of 4 words are not in the word list: it seems to be of another language than the text"
    assert said in " ".join(shown(check(False, False, False, True), width=60, terminal=True).split())
    assert "another language" not in shown(check(False, False, True, True), width=200, terminal=True)
    assert "another language" not in shown(check(False, False, False), width=200, terminal=True)


def test_bad_input(model: Path, tmp_path: Path, capsys: Capture) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.jsonl"
    (tmp_path / "latin.txt").write_bytes("un niño".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n")
    for command in (["score-text", model], ["spell", model, "--file"]):
        assert "latin.txt:1: byte 0xf1 at offset 5 is not UTF-8" in fails(capsys, *command, tmp_path / "latin.txt")
        assert "blank.txt is empty" in fails(capsys, *command, tmp_path / "blank.txt")
        assert "none.txt does not exist" in fails(capsys, *command, tmp_path / "none.txt")
    for wrong in ("x", "-1", "101%", "nan", "inf"):
        message = fails(capsys, "score-text", model, text, f"--threshold={wrong}", "--out", out)
        assert f"--threshold is '{wrong}'; expected nats such as 8, or a share of the tokens such as 5%" in message
    assert "has no words.txt; give a list with --words FILE" in fails(capsys, "spell", model, "the fox", "--out", out)
    assert "the text is blank" in fails(capsys, "spell", model, " ", "--words", tmp_path / "words.txt")
    assert "byte 0xff at character 1 is not UTF-8" in fails(capsys, "spell", model, "\udcff")
    assert "give the text to check, or --file FILE" in fails(capsys, "spell", model)
    assert "not both" in fails(capsys, "spell", model, "the fox", "--file", text)
    assert "error" in fails(capsys, "spell", model, "the", "--error-rate", "2")
    assert not out.exists()


def strictly(line: str) -> dict[str, Any]:
    """A line of JSON that holds no NaN and no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    row: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return row


@pytest.fixture(scope="module")
def unsmoothed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A maximum-likelihood bigram of words: what it never saw is impossible."""
    ngram = {"order": 2, "unit": "words", "smoothing": "maximum-likelihood"}
    config = PretrainConfig.build({"model": "ngram", "ngram": ngram})
    text = ["the cat sat", "the cut hurt", "a cat ran", "a cut hurt", "the cat sat"] * 20
    return pretrain(text, out=tmp_path_factory.mktemp("unsmoothed") / "lm", config=config)


class TestUnsmoothedModel:
    def test_impossible_tokens_are_marked_and_written_as_json(
        self, unsmoothed: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file, out = tmp_path / "text.txt", tmp_path / "scores.jsonl"
        file.write_text("the cat sat\nthe sat cat ran\n")
        assert main(["score-text", str(unsmoothed), str(file), "--out", str(out), "--threshold", "5%"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "the [sat] [cat] ran" in shown
        assert "in [brackets]: 2 of 7 tokens, the impossible ones." in shown
        assert "2 of these 2 tokens are impossible for the model (probability 0)" in shown
        possible, ruled_out = map(strictly, out.read_text().splitlines())
        assert (possible["impossible"], ruled_out["impossible"]) == (False, True)
        assert ruled_out["log_probability"] is ruled_out["perplexity"] is ruled_out["bits_per_byte"] is None
        assert [token["impossible"] for token in ruled_out["tokens"]] == [False, True, True, False]
        assert [token["log_probability"] is None for token in ruled_out["tokens"]] == [False, True, True, False]

    def test_impossible_tokens_are_marked_whatever_the_threshold(
        self, unsmoothed: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = tmp_path / "text.txt"
        file.write_text("the sat cat ran\n")
        for threshold in ("0%", "1000"):
            assert main(["score-text", str(unsmoothed), str(file), "--threshold", threshold]) == 0
            assert "the [sat] [cat] ran" in capsys.readouterr().out
        assert main(["score-text", str(unsmoothed), str(file), "--threshold", "100%"]) == 0
        assert "4 of 4 tokens, all tokens" in capsys.readouterr().out

    def test_infinite_log_odds_are_null_with_a_reason(self, unsmoothed: Path, tmp_path: Path, capsys: Capture) -> None:
        out = tmp_path / "spelling.jsonl"
        for text, expected in (
            ("a cut sat", ("cut", None, "typed")),
            ("the cut hurt", ("cut", None, "others")),
            ("sat cut", ("cut", None, None)),
        ):
            assert main(["spell", str(unsmoothed), text, "--out", str(out)]) == 0
            words = strictly(out.read_text())["words"]
            found = next(word for word in words if word["word"] == expected[0])
            assert (found["word"], found["log_odds"], found["impossible"]) == expected
        assert capsys.readouterr().out.count("put right: a cat sat") == 1
