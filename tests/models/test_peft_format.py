"""Adapters in PEFT's format: what PEFT writes is read, and what Rango would read wrongly is refused."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.adapters import logits
from safetensors.torch import load_file, save_file

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.options import LoRA

Checkpoint = Callable[..., Path]


def test_what_peft_writes_loads_here(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "dense"], init_lora_weights=False)
    twin = peft.get_peft_model(load_model(folder).network, config)
    twin.save_pretrained(str(tmp_path))
    model = load_model(folder)
    load_adapter(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)


def test_adapters_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(), seed=0)
    adapter.save(tmp_path)
    with pytest.raises(InputError, match="carries an adapter already"):
        add_adapter(model, LoRA(), seed=0)
    with pytest.raises(InputError, match="adapts another base model: it was made for .*fingerprint"):
        load_adapter(load_model(checkpoint("phi", seed=1)), tmp_path)
    with pytest.raises(InputError, match="holds no adapter_config.json"):
        load_adapter(model, str(tmp_path / "nothing"))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_adapter(load_model(checkpoint("phi")), tmp_path)


def test_other_kinds_of_adapter_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    plain = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(load_model(folder).network, plain).save_pretrained(str(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"adapts model\.layers\.0\.self_attn\.q_proj, which .* does not have"):
        load_adapter(load_model(checkpoint("gpt2")), tmp_path / "plain")
    wide = load_model(checkpoint("llama", hidden_size=64))
    with pytest.raises(InputError, match=r"with shape \(32, 32\), but in .* it is \(64, 64\)"):
        load_adapter(wide, tmp_path / "plain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias is True, which Rango does not read"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "holds model.embed_tokens.base_layer.weight, which Rango"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3]}, "trainable_token_indices is "),
        (
            {"target_modules": ["q_proj"], "init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changes the base model's weights too by what is drawn",
        ),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "init_lora_weights is 'olora', which changes"),
    ],
    ids=["bias", "embeddings", "tokens", "pissa", "olora"],
)
def test_an_adapter_of_peft_that_would_be_half_read_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Each gives other logits than Rango would: read without what is refused here, it would be wrong in silence."""
    folder = checkpoint("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, **options)
        peft.get_peft_model(load_model(folder).network, config).save_pretrained(str(tmp_path))
    model = load_model(folder)
    before = logits(model)
    with pytest.raises(InputError, match=re.escape(message)):
        load_adapter(model, tmp_path)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_saved_along_are_read_where_they_equal_the_base(
    checkpoint: Checkpoint, tmp_path: Path, tied: bool, dtype: Any
) -> None:
    folder = checkpoint("llama", tie_word_embeddings=tied)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    twin = peft.get_peft_model(load_model(folder).network, config)
    twin.save_pretrained(str(tmp_path), save_embedding_layers=True)
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "adapter_model.safetensors")
    model = load_model(folder, dtype=dtype)
    load_adapter(model, tmp_path)
    if dtype == "float32":
        torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_embeddings_that_were_trained_with_an_adapter_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    folder = checkpoint("llama")
    twin = peft.get_peft_model(load_model(folder).network, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    twin.save_pretrained(str(tmp_path), save_embedding_layers=True)
    state = load_file(tmp_path / "adapter_model.safetensors")
    state[f"base_model.model.{name}.weight"][3, 5] += 0.01
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match=rf"holds {name}\.weight, which Rango does not read; expected lora_A and"
    ) as error:
        load_adapter(load_model(folder), tmp_path)
    assert "at most weights equal to the base model's" in str(error.value)


def _from_peft(folder: Path, out: Path, **changes: Any) -> None:
    """An adapter of PEFT for the model in `folder`, without a fingerprint."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], **{"task_type": "CAUSAL_LM", **changes})
    peft.get_peft_model(load_model(folder).network, config).save_pretrained(str(out))


@pytest.mark.parametrize("changes", [{}, {"task_type": None}], ids=["by its folder", "by its class"])
def test_an_adapter_of_another_architecture_with_equal_shapes_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    _from_peft(checkpoint("llama"), tmp_path, **changes)
    if changes:  # the base may be gone, the class stays
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "gone/away"}))
    mistral = load_model(checkpoint("mistral"))
    before = logits(mistral)
    with pytest.raises(InputError, match=r"adapts another base model: it was made for .* \((llama|LlamaForCausalLM)\)"):
        load_adapter(mistral, tmp_path)
    assert torch.equal(logits(mistral), before)


def test_an_adapter_without_a_fingerprint_is_noted(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    _from_peft(folder, tmp_path / "peft")
    (note,) = load_adapter(load_model(folder), tmp_path / "peft").notes
    assert note.endswith(
        f"has no fingerprint of its base, so nothing shows that {folder} is {folder}, which it was trained on"
    )
    add_adapter(model := load_model(folder), LoRA(), seed=0).save(tmp_path / "rango")
    assert load_adapter(load_model(folder), tmp_path / "rango").notes == () == model.notes[1:]


def test_an_adapter_of_pickles_or_of_mlx_says_what_to_do(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("llama"))
    _from_peft(checkpoint("llama"), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.rename(tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"adapter_model\.bin is a pickle, .*; convert it to adapter_model\.safetensors: load"
    ):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(
        InputError, match=r"safetensors does not exist \(there is other\.safetensors\); the adapter has no w"
    ):
        load_adapter(model, tmp_path)
    mlx = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(mlx))
    with pytest.raises(InputError, match="names no peft_type: it is MLX's; convert the adapter to PEFT's format"):
        load_adapter(model, tmp_path)


def _set(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda config, _: config.update({key: value})


def _drop(key: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda config, _: config.pop(key)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
DAMAGED: list[tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = [
    (_drop("r"), "adapter_config.json: r is missing; expected a configuration that PEFT or Rango wrote"),
    (_drop("lora_alpha"), "adapter_config.json: lora_alpha is missing"),
    (_drop("peft_type"), "adapter_config.json names no peft_type; expected LORA"),
    (_set("peft_type", "IA3"), "holds a IA3 adapter; expected LORA"),
    (_set("r", 4), "q_proj has rank 2, but adapter_config.json says r 4; they must agree"),
    (_set("bias", "all"), "bias is 'all', which Rango does not read"),
    (_set("rank_pattern", {"q_proj": 3}), "q_proj has rank 2, but adapter_config.json says r 3; they must agree"),
    (_set("rank_pattern", {"q_proj": "3_0"}), "rank_pattern.0: 'q_proj=3_0': expected NAME=NUMBER above 0"),
    (_set("alpha_pattern", {"q_proj": -3}), "alpha_pattern.0: 'q_proj=-3': expected NAME=NUMBER above 0"),
    (_set("alpha_pattern", {"q_(proj": 3}), "alpha_pattern.0: 'q_(proj=3': q_(proj is no regular expression"),
    (_set("alpha_pattern", 3), "alpha_pattern is 3: expected a list, such as [8]"),
    (_set("lora_alpha", 0), "alpha is 0: input should be greater than 0"),
    (_set("lora_alpha", -4), "alpha is -4: input should be greater than 0"),
    (_set("r", 0), "rank is 0: input should be greater than or equal to 1"),
    (_set("use_rslora", "maybe"), "rslora is 'maybe': expected true or false"),
    (lambda _, state: state.pop(f"{Q}.lora_B.weight"), "q_proj with shape no lora_B"),
    (lambda _, state: state.update({f"{Q}.lora_B.weight": torch.zeros(32)}), "q_proj with shape (32, 32), but in"),
    (lambda _, state: state.update({f"{Q}.lora_A.weight": torch.tensor(1.0)}), "q_proj with shape (32), but in"),
    (lambda _, state: state.update({f"{Q}.lora_A.bias": torch.zeros(2)}), "q_proj.lora_A.bias, which Rango does not"),
    (lambda _, state: state.pop(f"{Q}.lora_A.weight"), "q_proj.lora_B.weight, which Rango does not read"),
    (lambda _, state: state.clear(), "holds no lora_A weights; the adapter is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGED, ids=[message[:40] for _, message in DAMAGED])
def test_a_damaged_adapter_is_one_line(checkpoint: Checkpoint, tmp_path: Path, damage: Any, message: str) -> None:
    model = load_model(checkpoint("phi"))
    add_adapter(model, LoRA(rank=2), seed=0).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    state = load_file(tmp_path / "adapter_model.safetensors")
    damage(config, state)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_adapter(load_model(checkpoint("phi")), tmp_path)
    assert "\n" not in str(error.value)


def test_an_adapter_configuration_that_is_no_object_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"adapter_config\.json holds a list; expected a JSON object"):
        load_adapter(load_model(checkpoint("phi")), tmp_path)
