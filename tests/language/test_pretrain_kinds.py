"""Every kind of small language model does all that a model is asked for: answer, continue, score and spell a text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.spelling_corpus import SPANISH, sentences
from helpers.toy import toy_task

from rango.cli import main
from rango.errors import InputError
from rango.language.generate import generate
from rango.language.options import GenerateOptions, PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.spelling.checker import SpellChecker
from rango.language.text_scores import score_texts
from rango.language.words import read_words
from rango.models.loading import Model, load_model
from rango.scoring.scorer import evaluate

Capture = pytest.CaptureFixture[str]
SENTENCES = sentences(SPANISH)
EXAMPLE = "El niño come manzna todos los días"
KINDS: dict[str, dict[str, Any]] = {
    "words": {"model": "ngram", "ngram": {"order": 3, "unit": "words"}},
    "tokens": {"model": "ngram", "ngram": {"order": 4}},
    "unsmoothed": {"model": "ngram", "ngram": {"order": 3, "unit": "words", "smoothing": "maximum-likelihood"}},
    "lstm": {
        "model": "lstm", "hidden": 48, "layers": 1, "context": 32, "batch_tokens": 512, "learning_rate": 1e-2,
        "tokens": 150_000, "evaluate_every": 1000, "dtype": "float32",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small model of each kind that has read Spanish sentences."""
    out = tmp_path_factory.mktemp("kinds")
    return {
        kind: pretrain(SENTENCES, out=out / kind, config=PretrainConfig.build({"vocabulary": 340, **values}))
        for kind, values in KINDS.items()
    }


@pytest.fixture(scope="module")
def unsmoothed(folders: dict[str, Path]) -> Model:
    return load_model(folders["unsmoothed"])


SMOOTH = ("words", "tokens", "lstm")


def write_task(folder: Path) -> Path:
    """A table task: what does each person do?"""
    rows = [(f"{who} come", ["manzana", "leche", "colegio"]) for who in SPANISH["who"]]
    rows += [(f"{who} bebe", ["leche", "manzana", "colegio"]) for who in SPANISH["who"]]
    lines = [json.dumps({"text": text.capitalize(), "choices": choices, "label": 0}) for text, choices in rows]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "task.yaml").write_text("prompt: '{text}'\nchoices: choices\nlabel: label\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_misspelt_word_is_found_and_put_right(folders: dict[str, Path], kind: str) -> None:
    check = SpellChecker(load_model(folders[kind])).check([EXAMPLE])[0]
    assert [word.word for word in check.flagged] == ["manzna"]
    assert check.corrected == EXAMPLE.replace("manzna", "manzana")


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_text_is_left_alone(folders: dict[str, Path], kind: str) -> None:
    check = SpellChecker(load_model(folders[kind])).check([SENTENCES[0]])[0]
    assert check.corrected == SENTENCES[0]


@pytest.mark.usefixtures("plain_page")
@pytest.mark.parametrize("kind", SMOOTH)
def test_the_commands(folders: dict[str, Path], kind: str, tmp_path: Path, capsys: Capture) -> None:
    folder, text = str(folders[kind]), tmp_path / "text.txt"
    text.write_text(f"{SENTENCES[0]}\n{EXAMPLE}\n", encoding="utf-8")
    task = str(write_task(tmp_path / "task"))
    sizes = ["--train", "2", "--validation", "2", "--test", "8"]
    assert main(["evaluate", folder, task, *sizes, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["base"]
    assert metrics["error_rate"]["value"] < 0.2
    capsys.readouterr()
    assert main(["generate", folder, "El niño", "--max-tokens", "5", "--quiet"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["score-text", folder, str(text)]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main(["spell", folder, EXAMPLE]) == 0
    assert "manzana" in capsys.readouterr().out


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_text_is_scored_as_the_network_gives_it(folders: dict[str, Path], kind: str) -> None:
    import torch

    model = load_model(folders[kind])
    score = score_texts(model, [EXAMPLE])[0]
    network: Any = model.network
    ids = torch.tensor([[model.tokenizer.eos_token_id, *model.tokenizer(EXAMPLE)["input_ids"]]])
    logits = network(ids).logits[0, :-1].double().log_softmax(-1)
    expected = logits.gather(-1, ids[0, 1:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(score.log_probabilities, expected, atol=1e-4)
    assert score.unknown == ((3,) if kind == "words" else ())  # manzna


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_likely_sentence_is_continued(folders: dict[str, Path], kind: str) -> None:
    options = GenerateOptions(temperature=0.0, max_tokens=12)
    generation = generate(load_model(folders[kind]), "Ella lee un", options=options)
    assert "".join(generation).strip().startswith("libro")


def test_words_are_those_of_the_text_whatever_the_tokenizer(folders: dict[str, Path]) -> None:
    known = {kind: read_words(folders[kind] / "words.txt").counts for kind in KINDS}
    assert known["tokens"] == known["lstm"]
    for counts in known.values():
        assert counts["manzana"] == pytest.approx(sum("manzana" in line for line in SENTENCES), rel=0.02)
        assert "unk" not in counts


class TestImpossible:
    """A model by maximum likelihood rules out what it has not seen."""

    def test_an_instance_without_a_possible_choice_is_named(self, unsmoothed: Model) -> None:
        task = toy_task(test=6)
        with pytest.raises(InputError) as error:
            evaluate(unsmoothed, task.test, task=task)
        assert str(error.value) == (
            "instance test-0: the model gives probability 0 to each of its choices (and for 5 of 6 others), so there "
            "is no posterior; use a smoothed model (rango pretrain --model ngram --ngram.smoothing kneser-ney)"
        )

    def test_the_command_writes_nothing(self, unsmoothed: Model, tmp_path: Path, capsys: Capture) -> None:
        out = tmp_path / "run"
        assert main(["evaluate", unsmoothed.name, "simulated", "--test", "5", "--out", str(out), "--quiet"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not out.exists()

    def test_the_perplexity_of_a_text_is_infinite(self, unsmoothed: Model) -> None:
        possible, impossible = score_texts(unsmoothed, ["El niño come piña por la mañana", "El colegio bebe."])
        assert math.isfinite(possible.perplexity)
        assert impossible.log_probability == -math.inf
        assert impossible.perplexity == impossible.bits_per_byte == math.inf

    def test_a_text_that_no_word_can_save_is_not_judged(self, unsmoothed: Model) -> None:
        check = SpellChecker(unsmoothed).check(["El colegio come manzna"])[0]
        assert {word.log_odds for word in check.words} == {None}
        assert check.corrected == check.text

    def test_the_only_possible_word_is_offered(self, unsmoothed: Model) -> None:
        check = SpellChecker(unsmoothed).check([EXAMPLE])[0]
        assert check.flagged[0].log_odds == math.inf
        assert check.corrected == EXAMPLE.replace("manzna", "manzana")
