"""Descriptions: sizes and placements from the configuration equal those of the loaded network and its adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.description import describe
from rango.models.loading import load_model
from rango.options import LoRA

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize("architecture", ["phi", "phi3", "llama", "gpt2", "gpt_neox", "gemma2", "opt", "rango_lstm"])
def test_a_description_counts_what_is_loaded_and_trained(checkpoint: Checkpoint, architecture: str) -> None:
    folder = checkpoint(architecture)
    description = describe(str(folder))
    model = load_model(folder)
    assert description.architecture == type(model.network).__name__
    assert description.parameters == model.parameter_count
    assert description.context == model.context_length
    assert description.stored == "float32"
    head = model.network.get_output_embeddings().weight
    assert description.tied == (head is model.network.get_input_embeddings().weight)
    for placement in description.placements:
        if not placement.updates:
            continue
        model = load_model(folder)
        adapter = add_adapter(model, LoRA(rank=3, targets=(placement.name,)), seed=0)
        assert adapter.parameter_count() == 3 * placement.per_rank, placement.name
        assert adapter.module_count() == placement.updates


def test_placements_are_named_by_their_modules(checkpoint: Checkpoint) -> None:
    placements = {each.name: each.modules for each in describe(str(checkpoint("phi3"))).placements}
    assert list(placements) == ["q", "k", "v", "o", "mlp", "head", "all-linear"]
    assert placements["q"] == ("self_attn.qkv_proj:q",)
    assert placements["mlp"] == ("mlp.gate_up_proj:gate", "mlp.gate_up_proj:up", "mlp.down_proj")
    assert [each.name for each in describe(str(checkpoint("rango_lstm"))).placements] == ["head"]


def test_the_stored_type_is_read_from_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama", dtype=torch.bfloat16)
    assert describe(str(folder)).stored == "bfloat16"
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    text = (folder / "config.json").read_text().replace('"dtype"', '"unknown_dtype"')
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    assert describe(str(tmp_path)).stored == "bfloat16"


def test_the_configuration_alone_is_enough(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    description, whole = describe(str(tmp_path)), describe(str(folder))
    assert description.parameters == whole.parameters
    assert description.placements == whole.placements
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace('"dtype"', '"unknown_dtype"'))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5])
    assert describe(str(tmp_path)).stored is None


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a Hub id or a folder"):
        describe(str(tmp_path / "nothing"))
