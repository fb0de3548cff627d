"""States and log-probabilities of one forward pass: whole or split, with and without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from helpers.toy import toy_task

from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import LoRA
from rango.scoring.batches import collate
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


def test_an_adapted_head_scores_the_same_split_or_whole(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("gemma2"))  # tied head, capped logits
    adapter = add_adapter(model, LoRA(targets=("q", "head")), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.3)
    reader = probe_reader(model)
    assert reader.splits_head
    trees = encode(model, TASK.test[:5], task=TASK, form="letter")
    batch = collate(trees, read="choices", as_trees=True, pad=0)
    whole = replace(reader, splits_head=False)
    torch.testing.assert_close(reader.log_probabilities(batch), whole.log_probabilities(batch), rtol=0, atol=1e-5)
    differences = reader.choice_logits(batch) - reader.log_probabilities(batch)
    for instance in range(5):
        spread = differences[batch.owners // batch.shape[1] == instance]
        assert spread.max() - spread.min() < 1e-5  # logits and log-probabilities differ by one constant per instance


def test_slices_of_the_head_give_the_gradients_of_the_whole(checkpoint: Checkpoint) -> None:
    """More than 256 positions: the head works in slices, and recomputes their logits in the backward pass."""
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(targets=("q", "head")), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.3)
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:16], task=TASK, form="cloze")
    batch = reader.collate(trees, read="text", as_trees=True)
    assert len(batch.rows) > 256
    sums = []
    for one in (reader, replace(reader, splits_head=False)):
        log_probabilities = one.log_probabilities(batch)
        assert log_probabilities.shape == batch.targets.shape
        sums.append((log_probabilities.detach(), torch.autograd.grad(log_probabilities.sum(), adapter.parameters())))
    torch.testing.assert_close(sums[0][0], sums[1][0], rtol=0, atol=1e-5)
    for split, whole in zip(sums[0][1], sums[1][1], strict=True):
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-3)
