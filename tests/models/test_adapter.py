"""Adapters: a fresh one changes nothing, training equals PEFT's, merging, removing, equal bytes for equal weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import ALL, IDS, logits, peft_twin, shaken

from rango.errors import InputError
from rango.models.adapter import add_adapter, add_bank
from rango.models.loading import load_model
from rango.models.lora import LoRALinear
from rango.options import LoRA

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize("architecture", ["phi", "llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "opt"])
def test_a_fresh_adapter_leaves_every_logit_bit_identical(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    before = logits(model)
    add_adapter(model, LoRA(targets=ALL), seed=3)
    assert torch.equal(logits(model), before)


def test_adapters_of_a_bank_start_and_act_as_they_would_alone(checkpoint: Checkpoint) -> None:
    asked = [(LoRA(rank=2, targets=("q",)), 1), (LoRA(rank=4, alpha=5, targets=ALL), 0), (LoRA(layers="1"), 2)]
    model = load_model(checkpoint("phi"))
    plain = logits(model)
    bank = add_bank(model, asked)
    with torch.no_grad():
        for adapter in bank:
            for name, layer in adapter.layers.items():
                torch.manual_seed(adapter.number + len(name))
                layer.weights(adapter.number)[1].normal_(std=0.3)
    for adapter, (lora, seed) in zip(bank, asked, strict=True):
        other = load_model(checkpoint("phi"))
        single = add_adapter(other, lora, seed=seed)
        assert single.parameter_count() == adapter.parameter_count()
        single.load_state({k: v if "lora_B" in k else single.state()[k] for k, v in adapter.state().items()})
        with adapter.alone():
            assert torch.equal(logits(model), logits(other))
    for adapter in bank:
        adapter.remove()
    assert torch.equal(logits(model), plain)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


@pytest.mark.parametrize("architecture", ["phi", "mistral", "gpt2", "qwen3"])
def test_outputs_gradients_and_ten_steps_equal_peft(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    folder = checkpoint(architecture)
    model = load_model(folder)
    # PEFT adapts c_attn whole; its slices are in test_placement_fused.py.
    targets = ALL if architecture != "gpt2" else ("attn.c_attn", "o", "mlp", "head")
    adapter = shaken(model, LoRA(rank=3, alpha=5, targets=targets))
    twin, named = peft_twin(folder, adapter, tmp_path)
    twin.eval()
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=2e-5)
    mine = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(list(named.values()), lr=1e-2)
    for step in range(10):
        for network, optimizer in ((model, mine), (twin, theirs)):
            optimizer.zero_grad()
            logits(network).log_softmax(-1)[:, :-1].gather(2, IDS[:, 1:, None]).mean().neg().backward()
        for name, layer in adapter.layers.items():
            for letter, found in zip("AB", layer.weights(), strict=True):
                expected = named[f"{name}.lora_{letter}.weight"]
                assert found.grad is not None
                assert expected.grad is not None
                torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=f"{name} {step}")
        mine.step()
        theirs.step()
    for name, tensor in adapter.state().items():
        torch.testing.assert_close(tensor, named[name].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "gemma2"])
def test_merge_gives_the_same_logits_and_unmerge_gives_the_weights_back(
    checkpoint: Checkpoint, architecture: str
) -> None:
    model = load_model(checkpoint(architecture))
    network: Any = model.network
    embeddings = network.get_input_embeddings().weight.clone()
    base = {name: parameter.clone() for name, parameter in network.named_parameters()}
    adapter = shaken(model, LoRA(targets=ALL))
    adapted = logits(model)
    adapter.merge()
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    assert torch.equal(network.get_input_embeddings().weight, embeddings), "a tied head took the embeddings along"
    with pytest.raises(ValueError, match="not merged yet"):
        adapter.merge()
    adapter.unmerge()
    for name, parameter in network.named_parameters():
        plain = name.replace(".base.", ".")
        if plain in base:
            assert torch.equal(parameter, base[plain]), name
    with pytest.raises(ValueError, match="not merged"):
        adapter.unmerge()
    adapter.merge(keep=False)
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="merged without keeping a copy"):
        adapter.unmerge()


def test_disabled_and_removed_adapters_leave_the_base(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    before = logits(model)
    adapter = shaken(model, LoRA())
    assert not torch.equal(logits(model), before)
    with adapter.disabled():
        assert torch.equal(logits(model), before)
    adapter.remove()
    assert torch.equal(logits(model), before)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


def test_the_start_of_a_layer_does_not_depend_on_the_others(checkpoint: Checkpoint) -> None:
    one, two = (load_model(checkpoint("phi")) for _ in range(2))
    few = add_adapter(one, LoRA(targets=("v",)), seed=5).state()
    many = add_adapter(two, LoRA(targets=ALL), seed=5).state()
    assert all(torch.equal(tensor, many[name]) for name, tensor in few.items())


def test_the_adapter_stays_float32_on_a_half_precision_base(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"), dtype="bfloat16")
    before = logits(model)
    adapter = add_adapter(model, LoRA(), seed=0)
    assert torch.equal(logits(model), before)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert model.fingerprint == load_model(checkpoint("phi")).fingerprint


def test_an_optimizer_has_the_rates_of_lora_plus(checkpoint: Checkpoint) -> None:
    """PEFT's optimizer for LoRA+ gives each parameter the same rate."""
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(targets=ALL, plus=16), seed=0)
    rates = {id(p): 0.1 * group["ratio"] for group in adapter.parameter_groups() for p in group["params"]}
    assert {name: rates[id(p)] for name, p in adapter.named_parameters().items()} == {
        name: 0.1 if "lora_A" in name else 1.6 for name in adapter.named_parameters()
    }


def test_ranks_and_scalings_of_modules_follow_the_patterns(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    lora = LoRA(targets=("q", "v", "mlp"), rank_pattern=("mlp=3", r"layers\.1\..*=5"), alpha_pattern=("q_proj=6",))
    adapter = shaken(model := load_model(folder), lora.model_copy(update={"rslora": True}))
    ranks = {name: len(layer.weights()[0]) for name, layer in adapter.layers.items()}
    assert ranks["model.layers.0.self_attn.q_proj"] == 8
    assert ranks["model.layers.1.self_attn.v_proj"] == 5
    assert ranks["model.layers.1.mlp.fc2"] == 3, "the first that fits"
    assert adapter.layers["model.layers.1.self_attn.q_proj"].scaling == {0: {"": 6 / 5**0.5}}
    twin, _ = peft_twin(folder, adapter, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin.eval()), rtol=1e-5, atol=1e-5)


def test_a_pattern_that_fits_no_adapted_module_is_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match=r"lora.rank_pattern: 'mlp' fits none of the adapted modules .*q_proj"):
        add_adapter(model, LoRA(rank_pattern=("q=2", "mlp=4")), seed=0)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


def test_a_module_that_gets_the_tokens_of_all_rows_together_cannot_be_shared(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("opt"))  # flattens the batch in its feed-forward part
    attention, everything = LoRA(targets=("q", "v")), LoRA(targets=("all-linear",))
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with pytest.raises(InputError, match=r"^model\.decoder\.layers\.0\.fc1 of .* is given the tokens of all rows"):
        add_bank(model, [(attention, 0), (everything, 0)])
    assert list(model.network.state_dict()) == list(weights), "a refused bank leaves the network as it was"
    bank = add_bank(model, [(attention, 0), (attention, 1)])
    for adapter in bank:
        adapter.remove()
    add_adapter(model, everything, seed=0)  # alone it has all rows, in whatever order


def test_equal_adapters_are_equal_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    for number in range(20):
        adapter = add_adapter(model, LoRA(targets=ALL), seed=3)
        adapter.save(tmp_path / str(number))
        adapter.remove()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(20)}) == 1


def test_a_checkpoint_brings_the_weights_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("gpt2"))
    adapter = shaken(model, LoRA(rank=2, targets=("o", "head")))
    adapter.save(tmp_path)
    saved = adapter.state()
    assert list(saved) == [name for name, _ in adapter.named_parameters().items()]
    adapter.reset(9)
    assert all(not tensor.any() for name, tensor in adapter.state().items() if "lora_B" in name)
    adapter.load(tmp_path)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in adapter.state().items())
