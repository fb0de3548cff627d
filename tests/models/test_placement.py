"""Placements: which modules the names mean, layer lists, and what is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.adapters import logits, peft_twin, shaken
from helpers.architectures import tiny_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.placement import parse_layers, place
from rango.options import LoRA

Checkpoint = Callable[..., Path]


def names_of(network: torch.nn.Module, targets: tuple[str, ...], layers: str | None = None) -> list[str]:
    return [site.name for site in place(network, targets, layers)]


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


def test_modules_by_hand_and_all_linear(checkpoint: Checkpoint) -> None:
    network = load_model(checkpoint("llama")).network
    linear = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    assert names_of(network, ("all-linear",)) == [name for name in linear if name != "lm_head"]
    assert names_of(network, ("all-linear", "head")) == linear
    assert names_of(network, ("self_attn.q_proj",)) == names_of(network, ("q",))
    assert names_of(network, ("lm_head",)) == ["lm_head"]
    assert names_of(network, ("0.mlp.up_proj",)) == ["model.layers.0.mlp.up_proj"]
    # Named twice, a module has one update, and the order is the network's.
    assert names_of(network, ("head", "v", "q_proj", "q")) == names_of(network, ("q", "v", "head"))
    assert names_of(network, ("all-linear",), "1") == [name for name in linear if ".1." in name]


def test_an_architecture_outside_of_the_table_takes_names_by_hand() -> None:
    network = tiny_model("rwkv").network
    with pytest.raises(
        InputError,
        match=r"architecture 'rwkv' is not in the table of placements, so nothing says what 'q' is; use all-linear, "
        r"head, or ends of the names of its linear maps: attention\.key, attention\.value, attention\.receptance, ",
    ):
        place(network, ("q",), None)
    assert names_of(network, ("attention.key", "head"), "0") == ["rwkv.blocks.0.attention.key", "head"]
    assert len(names_of(network, ("all-linear",))) == 7 * 4


def test_the_encoder_of_images_beside_a_decoder_is_not_adapted() -> None:
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"num_hidden_layers": 2, "head_dim": 8, "vocab_size": 300}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = CONFIG_MAPPING["gemma3"](text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    network = AutoModelForCausalLM.from_config(config)
    names = names_of(network, ("q", "self_attn.v_proj", "head"), "1")
    assert names == [*(f"model.language_model.layers.1.self_attn.{p}_proj" for p in "qv"), "lm_head"]


def test_bad_placements_are_refused_in_words(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="unknown placement 'w'"):
        place(model.network, ("w",), None)
    with pytest.raises(InputError, match=r"unknown placement 'self_atn\.q_proj': did you mean 'self_attn\.q_proj'\?"):
        place(model.network, ("self_atn.q_proj",), None)
    with pytest.raises(InputError, match=r"lora\.targets layers\.0\.mlp\.fc1 is nowhere in lora\.layers 1; change"):
        place(model.network, ("layers.0.mlp.fc1",), "1")
    model.network.config.model_type = "mamba"
    with pytest.raises(InputError, match=r"architecture 'mamba' is not in the table of placements"):
        place(model.network, ("q",), None)
    model.network.config.model_type = "gpt_neo"
    with pytest.raises(InputError, match=r"placement 'q': this PhiForCausalLM \(gpt_neo\) has no linear module named"):
        place(model.network, ("q",), None)
