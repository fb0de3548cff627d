"""An n-gram answers through the one scorer, and equals its own distributions token by token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import toy_task, write_prompt

from rango.cli import main
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.models.loading import Model, load_model
from rango.options import Form, ScoringOptions
from rango.scoring.batches import collate
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import TokenTree, encode
from rango.tasks import load_task, simulated_narratives

TASK = toy_task()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small n-grams of narratives: over tokens and over words."""
    out = tmp_path_factory.mktemp("ngrams")
    text = list(simulated_narratives(3000, seed=0))
    # Twice, so that the toy words are known.
    text += 2 * [p.trunk + p.branches[i.label] for i in TASK.train for p in [write_prompt(i, "cloze")]]
    settings = {
        "tokens": {"vocabulary": 400, "ngram": {"order": 4}},
        "words": {"ngram": {"order": 3, "unit": "words"}},
        "unigram": {"vocabulary": 400, "ngram": {"order": 1}},
        "stupid": {"vocabulary": 400, "ngram": {"order": 5, "smoothing": "stupid-backoff"}},
        "add-k": {"vocabulary": 400, "ngram": {"order": 2, "smoothing": "add-k", "k": 0.1}},
    }
    return {
        name: pretrain(text, out=out / name, config=PretrainConfig.build({"model": "ngram", **values}))
        for name, values in settings.items()
    }


def slow_score(model: Model, tree: TokenTree, choice: int) -> float:
    """log P(branch | trunk), a distribution for each token, one token at a time."""
    ids = [*tree.trunk, *tree.branches[choice]]
    total = 0.0
    for at in range(len(tree.trunk), len(ids)):
        total += float(model.network(torch.tensor([ids[:at]])).logits[0, -1, ids[at]])
    return total


@pytest.mark.parametrize("name", ["tokens", "words", "unigram", "stupid", "add-k"])
def test_scores_equal_one_token_at_a_time(folders: dict[str, Path], name: str) -> None:
    model = load_model(folders[name])
    form: Form = "cloze"
    trees = encode(model, TASK.test[:8], task=TASK, form=form)
    reader = probe_reader(model)
    assert not any(reader.as_tree(tree) for tree in trees)
    reach = model.network.config.entries[1:]
    assert "-gram" in reader.notes[0]
    assert reader.notes[0].endswith(f"from the {len(reach)} before it" if reach else "whatever stands before it")
    values = score(reader, trees, options=ScoringOptions(), form=form).values
    for row, tree in enumerate(trees):
        for choice in range(len(tree.branches)):
            assert values[row, choice] == pytest.approx(slow_score(model, tree, choice), abs=1e-4)


def test_the_text_itself_is_scored_from_its_beginning(folders: dict[str, Path]) -> None:
    model = load_model(folders["tokens"])
    tree = encode(model, TASK.test[:1], task=TASK, form="cloze")[0]
    batch = collate([tree], read="text", as_trees=False, pad=0)
    ids = torch.tensor([[*tree.trunk, *tree.branches[tree.label]]])
    expected = model.network.sequence_log_probabilities(ids)[0]  # type: ignore[operator]
    reader = probe_reader(model)
    assert torch.allclose(reader.log_probabilities(batch), expected, atol=1e-6)
    assert torch.equal(reader.choice_logits(batch), reader.log_probabilities(batch))


def test_evaluate_reads_an_ngram_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--test", "20", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["evaluate", str(folders["words"]), "simulated", *arguments]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["base"]["nce"]["n"] == 20
    model = load_model(folders["words"])
    task = load_task("simulated", test=20)
    trees = encode(model, task.test, task=task, form="cloze")
    slow = np.array([[slow_score(model, tree, choice) for choice in range(3)] for tree in trees])
    expected = slow - np.log(np.exp(slow).sum(axis=1, keepdims=True))
    found = read_posteriors(tmp_path / "out" / "posteriors" / "test-base.parquet").log_posteriors
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_model_is_as_others_are(folders: dict[str, Path]) -> None:
    model = load_model(folders["tokens"], dtype="bfloat16")
    assert model.dtype == torch.float32
    assert "dtype float32" in model.notes[0]
    assert model.context_length is None
    assert model.parameter_count == sum(parameter.numel() for parameter in model.network.parameters()) > 1000
    assert len({load_model(folder).fingerprint for folder in folders.values()}) == len(folders)


def test_another_tokenizer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["tokens"].iterdir():
        source = folders["words"] / file.name if file.name == "tokenizer.json" else file
        (tmp_path / file.name).write_bytes(source.read_bytes())
    with pytest.raises(
        InputError, match=r"the n-grams are over a vocabulary of 400 tokens, the tokenizer has \d+; put"
    ):
        load_model(tmp_path)
