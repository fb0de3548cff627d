"""Placements: which modules the names mean, layer lists, and what is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.adapters import logits, peft_twin, shaken

from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.placement import parse_layers, place
from rango.options import LoRA

Checkpoint = Callable[..., Path]


def test_a_subset_of_layers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    model = load_model(folder)
    adapter = shaken(model, LoRA(targets=("q", "head"), layers="1"))
    assert list(adapter.layers) == ["model.layers.1.self_attn.q_proj", "lm_head"]
    twin, _ = peft_twin(folder, adapter, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)


def test_layer_lists() -> None:
    assert parse_layers("0-2, 4", 5) == {0, 1, 2, 4}
    with pytest.raises(InputError, match=r"lora\.layers is '0-x': '0-x' is not a layer or a range; write for example"):
        parse_layers("0-x", 4)
    with pytest.raises(InputError, match=r"lora\.layers is '2-5': 2-5 is outside the model's layers 0\.\.3"):
        parse_layers("2-5", 4)


def test_fused_projections_are_adapted_together_or_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("gpt2"))
    assert place(model.network, ("q", "k", "v"), None) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    with pytest.raises(
        InputError, match=r"placement 'q': gpt2 computes q, k, v in one matrix \(attn\.c_attn\); name all"
    ):
        place(model.network, ("q", "v"), None)


def test_bad_placements_are_refused_in_words(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="unknown placement 'w'"):
        place(model.network, ("w",), None)
    model.network.config.model_type = "mamba"
    with pytest.raises(InputError, match=r"architecture 'mamba' is not in the placement table"):
        place(model.network, ("q",), None)
    model.network.config.model_type = "gpt_neo"
    with pytest.raises(InputError, match=r"placement 'q': this PhiForCausalLM \(gpt_neo\) has no linear module named"):
        place(model.network, ("q",), None)
