"""The linear probe: which states it reads, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import class_task, toy_task

from rango.baselines.probe import fit_probe, last_states
from rango.errors import InputError
from rango.models.loading import Model, load_model
from rango.options import ScoringOptions
from rango.scoring.forward import Reader
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]


@torch.no_grad()
def state_at_end(model: Model, tokens: tuple[int, ...]) -> np.ndarray:
    """The last state of a text that is read alone."""
    output = model.network.get_decoder()(torch.tensor([tokens]))
    return np.asarray(output.last_hidden_state[0, -1])


@pytest.mark.parametrize("architecture", ["phi", "llama", "rango_lstm"])
def test_states_are_those_of_whole_texts_read_alone(checkpoint: Checkpoint, architecture: str) -> None:
    """In trees, in rows of one choice, and in batches of any size."""
    model, task = load_model(checkpoint(architecture)), toy_task()
    reader: Reader = probe_reader(model)
    trees = encode(model, task.test[:5], task=task, form="cloze")
    expected = [state_at_end(model, tree.trunk + branch) for tree in trees for branch in tree.branches]
    for budget in (40, 4096):
        np.testing.assert_allclose(last_states(reader, trees, at="choices", budget=budget), expected, atol=2e-4)
    letters = encode(model, task.test[:5], task=task, form="letter")
    expected = [state_at_end(model, tree.trunk) for tree in letters]
    np.testing.assert_allclose(last_states(reader, letters, at="prompt", budget=100), expected, atol=2e-4)


@pytest.mark.parametrize("form", ["cloze", "letter"])
def test_a_probe_learns_what_the_states_hold(checkpoint: Checkpoint, form: str) -> None:
    model, task = load_model(checkpoint("phi")), class_task(train=150, validation=60, test=60)
    before = model.fingerprint
    fitted = fit_probe(model, task, ScoringOptions(form=form))
    assert fitted.posteriors["test"].nce() < 0.95
    assert fitted.posteriors["test"].ids == tuple(instance.id for instance in task.test)
    assert fitted.trainable_parameters == (32 + 1) * (3 if form == "letter" else 1)
    again = fit_probe(model, task, ScoringOptions(form=form))
    np.testing.assert_array_equal(fitted.posteriors["test"].log_posteriors, again.posteriors["test"].log_posteriors)
    assert load_model(checkpoint("phi")).fingerprint == before == model.fingerprint


def test_choices_that_differ_in_number_have_a_posterior_each(checkpoint: Checkpoint) -> None:
    task = toy_task()
    posteriors = fit_probe(load_model(checkpoint("phi")), task, ScoringOptions()).posteriors["validation"]
    counts = np.isfinite(posteriors.log_posteriors).sum(axis=1)
    assert counts.tolist() == [len(instance.choices) for instance in task.validation]


def test_a_model_without_states_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("phi"))
    reader = Reader(model=model, reads_trees=False, window=None, splits_head=False)
    monkeypatch.setattr("rango.baselines.probe.probe_reader", lambda _: reader)
    with pytest.raises(InputError, match="phi has no states that a head reads apart; a probe needs a network"):
        fit_probe(model, toy_task(), ScoringOptions())
