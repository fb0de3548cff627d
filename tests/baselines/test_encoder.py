"""A fine-tuned encoder: what it reads, that it learns, that it goes on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import write_checkpoint, write_encoder
from helpers.toy import class_task, toy_task
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from rango.baselines.encoder import EncoderReader, fit_encoder, load_encoder
from rango.baselines.regression import Fitted
from rango.console import Screen
from rango.errors import DivergenceError, InputError, Interrupted
from rango.options import FinetuneConfig, ScoringOptions
from rango.scoring.scorer import score
from rango.tasks import Task
from rango.training.run_folder import read_log
from rango.training.run_writer import RunWriter
from rango.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "steps": 12, "batch": 8, "learning_rate": 3e-3, "validate_every": 4, "adaptation": "full", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert"))


def fit(encoder: Path, folder: Path, task: Task, **changes: Any) -> Fitted:
    config = FinetuneConfig.build({"model": str(encoder), "task": task.name, **SETTINGS, **changes})
    writer = RunWriter(folder, {})
    writer.begin()
    return fit_encoder(task, config, writer, Screen(quiet=True))


@torch.no_grad()
@pytest.mark.parametrize("task", [toy_task(), class_task()], ids=["pairs", "classes"])
def test_scores_are_the_logits_of_single_texts(encoder: Path, task: Task) -> None:
    """Whatever shares the batch; each text with the kinds of its tokens, as transformers' own pipeline reads it."""
    model = load_encoder(str(encoder), labels=len(task.classes or "1"), device="cpu", seed=3)
    model.network.train(False)
    reader = EncoderReader(model)
    trees = reader.encode(task.test, classes=task.classes)
    for budget in (64, 4096):
        scores = score(reader, trees, options=ScoringOptions(batch_tokens=budget), form="cloze").values
        for row, instance in enumerate(task.test):
            text = f"{instance.context} {instance.question}"
            if task.classes:
                expected = model.network(**model.tokenizer(text, return_tensors="pt")).logits[0]
            else:
                pairs = [model.tokenizer(text, choice, return_tensors="pt") for choice in instance.choices]
                assert all(pair["token_type_ids"].max() == 1 for pair in pairs)
                expected = torch.cat([model.network(**pair).logits[0] for pair in pairs])
            np.testing.assert_allclose(scores[row][: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("task", [toy_task(train=8), class_task(noise=0.0)], ids=["pairs", "classes"])
def test_an_encoder_learns_and_its_best_checkpoint_is_scored(encoder: Path, tmp_path: Path, task: Task) -> None:
    fitted = fit(encoder, tmp_path / "run", task, steps=40, validate_every=10, learning_rate=1e-2, decay="constant")
    log = [record for record in read_log(tmp_path / "run") if "validation" in record]
    assert [record["step"] for record in log] == [0, 10, 20, 30, 40]
    values = {record["step"]: record["validation"]["nce"] for record in log}
    assert fitted.facts == {"best_step": min(values, key=values.__getitem__), "steps": 40}
    assert fitted.posteriors["validation"].nce() == pytest.approx(min(values.values()), abs=1e-6)
    losses = [record["train_loss"] for record in read_log(tmp_path / "run")[1:]]
    assert np.mean(losses[-10:]) < 0.92 * np.mean(losses[:10])
    # What is kept is a checkpoint that transformers reads.
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "adapter" / "best")
    assert network.config.num_labels == (3 if task.classes else 1)
    assert fitted.trainable_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_the_seed_draws_head_order_and_dropout(encoder: Path, tmp_path: Path) -> None:
    task = toy_task()
    runs = [fit(encoder, tmp_path / f"{number}", task, seed=seed) for number, seed in enumerate((1, 1, 2))]
    first, again, other = (run.posteriors["test"].log_posteriors for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    before = torch.random.get_rng_state()
    load_encoder(str(encoder), labels=3, device="cpu", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_interrupted_encoder_goes_on_with_the_same_result(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy_task()
    whole = fit(encoder, tmp_path / "whole", task)
    step, done = Trainer._step, []

    def stopped(self: Trainer, active: Any) -> Any:
        if len(done) == 6:
            raise Interrupted(15, "stopped by SIGTERM")
        done.append(1)
        return step(self, active)

    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(Interrupted):
        fit(encoder, tmp_path / "parts", task)
    monkeypatch.setattr(Trainer, "_step", step)
    again = fit(encoder, tmp_path / "parts", task)
    np.testing.assert_array_equal(whole.posteriors["test"].log_posteriors, again.posteriors["test"].log_posteriors)
    steps = [record["step"] for record in read_log(tmp_path / "parts")]
    assert steps == list(range(13))


def test_a_loss_that_is_not_finite_is_a_divergence(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"became (nan|inf) .*lower --learning-rate"):
        fit(encoder, tmp_path / "run", toy_task(), learning_rate=1e30)


def test_what_no_encoder_can_read_is_refused(encoder: Path, tmp_path: Path) -> None:
    task = toy_task()
    long = replace(task.test[0], context="town " * 150)
    with pytest.raises(InputError, match=r"instance 'test-0' is \d+ tokens long, .* reads at most 128; shorten"):
        fit(encoder, tmp_path / "run", replace(task, test=(long,)))
    with pytest.raises(InputError, match="its tokenizer has no token for padding; give an encoder, such as BERT"):
        load_encoder(str(write_checkpoint(tmp_path / "phi")), labels=1, device="cpu", seed=0)
    (tmp_path / "damaged").mkdir()
    for file in encoder.iterdir():
        (tmp_path / "damaged" / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1.attention" not in name}
    save_file(kept, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the checkpoint lacks \d+ weights \(bert.encoder.layer.1.attention"):
        load_encoder(str(tmp_path / "damaged"), labels=1, device="cpu", seed=0)
    (tmp_path / "damaged" / "config.json").write_text('{"model_type": "rango_ngram"}')
    with pytest.raises(InputError, match="cannot be loaded .*; give a Hub id or a folder of an encoder, such as BERT"):
        load_encoder(str(tmp_path / "damaged"), labels=1, device="cpu", seed=0)
