"""How a model can be read is found out on the model itself: what would give wrong scores is not done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.reference import full_sequence_score
from helpers.toy import toy_task

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import LoRA, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score, score_split
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


def test_bloom_is_read_per_choice_and_says_so(checkpoint: Checkpoint) -> None:
    assert "bloom cannot read token trees" in probe_reader(load_model(checkpoint("bloom"))).notes[0]


def test_a_sliding_window_shorter_than_the_instance_is_read_per_choice(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("mistral", sliding_window=12))
    reader = probe_reader(model)
    trees = encode(model, TASK.test[:4], task=TASK, form="cloze")
    assert not any(reader.as_tree(tree) for tree in trees)
    assert "beyond 12 tokens" in reader.notes[0]
    values = score(reader, trees, options=ScoringOptions(), form="cloze").values
    assert values[0, 0] == pytest.approx(full_sequence_score(model, trees[0], 0), abs=2e-5)


def test_a_fresh_adapter_with_dropout_is_read_as_trees(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(dropout=0.5), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.3)
    reader = probe_reader(model)
    assert reader.reads_trees
    assert reader.splits_head


def test_a_network_that_ignores_the_mask_is_read_per_choice(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint("phi"))
    network: Any = model.network
    forward = network.model.forward

    def blind(*args: Any, **inputs: Any) -> Any:
        return forward(*args, **{**inputs, "attention_mask": None, "position_ids": None})

    monkeypatch.setattr(network.model, "forward", blind)
    reader = probe_reader(model)
    assert reader.splits_head
    assert not reader.reads_trees
    trees = encode(model, TASK.test[:2], task=TASK, form="cloze")
    values = score(reader, trees, options=ScoringOptions(), form="cloze").values
    assert values[1, 0] == pytest.approx(full_sequence_score(model, trees[1], 0), abs=2e-5)


def test_a_network_that_scales_its_logits_after_the_head_keeps_its_head(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint("phi"))
    network: Any = model.network
    forward = network.forward

    def scaled(input_ids: Any, position_ids: Any = None, cache: Any = None, **inputs: Any) -> Any:
        output = forward(input_ids=input_ids, position_ids=position_ids, cache=cache, **inputs)
        output.logits = output.logits / 4
        return output

    monkeypatch.setattr(network, "forward", scaled)
    reader = probe_reader(model)
    assert not reader.splits_head
    assert reader.reads_trees
    trees = encode(model, TASK.test[:2], task=TASK, form="cloze")
    values = score(reader, trees, options=ScoringOptions(), form="cloze").values
    assert values[0, 1] == pytest.approx(full_sequence_score(model, trees[0], 1), abs=2e-5)


def test_probing_leaves_the_random_stream_as_it_was(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("gpt2"))
    state = torch.get_rng_state()
    probe_reader(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("dtype", "fix"), [("float16", "use --dtype bfloat16 or"), ("float32", "damaged weights or an")]
)
def test_probabilities_that_are_no_numbers_are_refused_with_the_type_to_use(
    checkpoint: Checkpoint, dtype: Any, fix: str
) -> None:
    model = load_model(checkpoint("llama"), dtype=dtype)
    network: Any = model.network
    with torch.no_grad():
        network.model.layers[1].mlp.down_proj.weight.fill_(6e4 if dtype == "float16" else float("inf"))
    with pytest.raises(InputError, match=f"gives nan for a probability; .*{fix}"):
        probe_reader(model)


def test_an_instance_whose_score_is_no_number_is_named(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"))
    reader = probe_reader(model)
    trees = encode(model, TASK.test[:2], task=TASK, form="cloze")
    network: Any = model.network
    with torch.no_grad():
        network.lm_head.weight[trees[1].branches[0][0]] = float("nan")
    with pytest.raises(
        InputError, match=r"instance test-\d: .* gives nan for a probability; in float32 that means damaged"
    ):
        score_split(reader, TASK.test[:2], task=TASK, options=ScoringOptions(form="cloze"))
