"""`rango score-text` and `rango spell`: what they print and write, and bad input in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import without_loading

from rango.cli import main
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.text_scores import score_texts
from rango.models.loading import load_model

Capture = pytest.CaptureFixture[str]
Checkpoint = Callable[..., Path]


@pytest.fixture
def model(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("the\t9\nfox\t3\nbox\t2\nquick\t1\njumps\t1\n")
    (tmp_path / "text.txt").write_text("The quick fox\n\nthe fox jumps\r\n¡piñas!\n")
    return checkpoint("phi")


def fails(capsys: Capture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    error = without_loading(err)
    assert (out, error.count("\n")) == ("", 1)
    return error


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
    assert "hold no word" not in shown
    odd = tmp_path / "odd.txt"
    odd.write_text((tmp_path / "words.txt").read_text() + "\n3rd\t4\nNew York\n")
    assert main(["spell", str(model), "the fxo zzzzzz", "--words", str(odd), "--threshold", "-50"]) == 0
    shown = capsys.readouterr().out
    assert "the [fxo] zzzzzz" in shown
    assert "lines of the word list hold no word: " in shown
    assert "'3rd\\t4'" in shown
    (tmp_path / "two.txt").write_text("zzzzzz\nthe fxo\n")
    assert main(["spell", str(model), "--file", str(tmp_path / "two.txt"), *known]) == 0
    assert capsys.readouterr().out.startswith("line 2  the [fxo]\n")


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


def test_no_result_is_written_over_an_input(model: Path, tmp_path: Path, capsys: Capture) -> None:
    text, words = tmp_path / "text.txt", tmp_path / "words.txt"
    spell = ["spell", model, "--file", text, "--words", words]
    for command in (["score-text", model, text, "--out", text], [*spell, "--out", text], [*spell, "--out", words]):
        assert f"--out {command[-1]} is one of the inputs, which would be overwritten" in fails(capsys, *command)
    assert text.read_text().startswith("The quick fox")
