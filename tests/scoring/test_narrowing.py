"""The last layer at the positions that predict alone gives the scores and gradients of the whole layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import toy_task

from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import LoRA
from rango.scoring.narrowing import WHOLE, Narrowing, find_narrowing
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


@pytest.mark.parametrize(
    ("architecture", "kept_whole"),
    [
        ("phi", {"self_attn.q_proj", "self_attn.dense", "mlp"}),
        ("llama", {"self_attn.q_proj", "self_attn.o_proj", "mlp"}),
        ("gpt2", {"attn.c_proj", "mlp"}),  # one matrix computes q, k and v
        ("gemma2", {"self_attn.q_proj", "self_attn.o_proj", "mlp"}),
    ],
)
@pytest.mark.parametrize("targets", [("q", "v"), ("q", "v", "mlp")])
def test_scores_and_gradients_are_those_of_the_whole_layer(
    checkpoint: Checkpoint, architecture: str, kept_whole: set[str], targets: tuple[str, ...]
) -> None:
    model = load_model(checkpoint(architecture))
    reader = probe_reader(model)
    assert reader.narrowing.layer is not None
    names = {module: name for name, module in reader.narrowing.layer.named_modules()}
    assert {names[module] for module in reader.narrowing.modules} == kept_whole
    # Adapters come after the probe in a run, and count the rows of the whole batch.
    adapter = add_adapter(model, LoRA(targets=targets), seed=0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trees = encode(model, TASK.train[:6], task=TASK, form="letter")
    batch = reader.collate(trees, read="choices", as_trees=reader.reads_trees)
    results = []
    for one in (reader, replace(reader, narrowing=WHOLE)):
        scores = one.log_probabilities(batch)
        gradients = torch.autograd.grad(scores.square().sum(), adapter.parameters())
        results.append((scores.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    (scores, gradients), (whole_scores, whole_gradients) = results
    torch.testing.assert_close(scores, whole_scores, rtol=1e-5, atol=1e-5)
    scale = float(whole_gradients.abs().max())
    torch.testing.assert_close(gradients, whole_gradients, rtol=1e-5, atol=1e-5 * scale)


def test_a_probe_with_adapters_narrows_their_frozen_maps(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"))
    add_adapter(model, LoRA(targets=("q", "mlp")), seed=0)
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:3], task=TASK, form="letter")
    batch = reader.collate(trees, read="choices", as_trees=True)
    network: Any = model.network
    layer = network.model.layers[-1]
    adapted = [layer.self_attn.q_proj, layer.mlp.gate_proj, layer.mlp.down_proj]
    with reader.narrowing.at(batch):
        assert all("forward" in vars(module.base) and "forward" not in vars(module) for module in adapted)
        assert "forward" not in vars(layer.mlp)


def test_a_layer_below_the_last_is_not_narrowed(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("phi"))
    network: Any = model.network
    first = network.model.layers[0]

    def of_first(*_: Any) -> Narrowing:
        return Narrowing(first, (first.mlp,))

    monkeypatch.setattr("rango.scoring.probe.find_narrowing", of_first)
    assert not probe_reader(model).narrowing.modules


def test_attention_and_keys_are_computed_whole(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"))
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:3], task=TASK, form="cloze")
    batch = reader.collate(trees, read="choices", as_trees=True)
    network: Any = model.network
    narrowing = find_narrowing(network.get_decoder(), reader.inputs(batch), batch)
    attention = network.model.layers[-1].self_attn
    assert not {attention, attention.k_proj, attention.v_proj} & set(narrowing.modules)
    assert attention.q_proj in narrowing.modules
    with narrowing.at(replace(batch, rows=batch.rows[:1], columns=batch.columns[:1])):
        assert "forward" in vars(attention.q_proj)
    assert "forward" not in vars(attention.q_proj)  # that of the class is back
