"""Adapters of every kind, exchanged with PEFT both ways, on every architecture of docs/models.md.

All pairs of a kind and an architecture are tested; those of a diagonal, in which each occurs, are not marked slow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.adapters import logits, peft_twin
from helpers.checkpoints import write_checkpoint
from safetensors.torch import load_file, save_file

from rango.errors import InputError
from rango.models.adapter import Adapter, add_adapter
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.options import LoRA

Checkpoint = Callable[..., Path]

ARCHITECTURES = (
    *("phi", "phi3", "mistral", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "olmo2"),
    "smollm3",
)
OURS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "all at once": {"dora": True, "init": "pissa", "rslora": True, "rank_pattern": ("mlp=2",)},
    "patterns": {"rank_pattern": ("mlp=2", r"[a-z.]+\.1\..*=5"), "alpha_pattern": ("q=3", "mlp=7")},
    "some layers": {"layers": "1"},
    "all-linear": {"targets": ("all-linear",)},
}
ATTENTION = r".*\.(q_proj|qkv_proj|c_attn|query_key_value)"
THEIRS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "pissa": {"target_modules": ATTENTION, "init_lora_weights": "pissa"},
    "dora and pissa": {"target_modules": ATTENTION, "init_lora_weights": "pissa", "use_dora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {r"\d+\.mlp\.[a-z_0-9]+": 2, ATTENTION: 5},
        "alpha_pattern": {r"(0\.self_attn\.q_proj|0\.attn\.c_attn|nowhere)": 3.5},
    },
    "regex": {"target_modules": ATTENTION},
    "some layers": {
        "target_modules": ["q_proj", "qkv_proj", "c_attn", "query_key_value"],
        "layers_to_transform": [1],
    },
    "head saved along": {"target_modules": ATTENTION, "save_embedding_layers": True},
    "head adapted": {"target_modules": ["o_proj", "dense", "c_proj"], "head": True},
}


def cells(kinds: Iterable[str]) -> list[Any]:
    """Every pair, slow but for a diagonal."""
    kinds = list(kinds)
    return [
        pytest.param(architecture, kind, marks=() if (row - column) % len(kinds) == 0 else pytest.mark.slow)
        for row, architecture in enumerate(ARCHITECTURES)
        for column, kind in enumerate(kinds)
    ]


def moved(adapter: Any) -> Adapter:
    """After some training: every trained number has moved from its start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    own: Adapter = adapter
    return own


def from_peft(
    folder: Path, out: Path, *, head: bool = False, save_embedding_layers: Any = "auto", **options: Any
) -> Any:
    """PEFT's network with an adapter after some training, which it has written to `out`."""
    network: Any = load_model(folder).network
    if head:
        name = next(name for name, module in network.named_modules() if module is network.get_output_embeddings())
        options["target_modules"] = [*options["target_modules"], name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied heads and on what it sets by itself
        twin = peft.get_peft_model(network, peft.LoraConfig(r=3, lora_alpha=4, task_type="CAUSAL_LM", **options))
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if "lora_" in name:
                    parameter += 0.1 * torch.randn_like(parameter)
        twin.save_pretrained(str(out), save_embedding_layers=save_embedding_layers)
    return twin.eval()


@pytest.mark.parametrize(("architecture", "kind"), cells(OURS))
def test_ours_load_in_peft_with_the_same_logits(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, kind: str
) -> None:
    folder = checkpoint(architecture)
    lora = LoRA(**{"rank": 3, "alpha": 5.0, "targets": ("q", "v", "o", "mlp", "head"), **OURS[kind]})
    adapter = moved(add_adapter(model := load_model(folder), lora, seed=0))
    twin, _ = peft_twin(folder, adapter, tmp_path)
    expected = logits(model).detach()
    torch.testing.assert_close(logits(twin.eval()), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    # Rango reads it with the same function, and a run takes up its checkpoint where it was.
    load_adapter(other := load_model(folder), tmp_path / "adapter")
    torch.testing.assert_close(logits(other), expected, rtol=1e-5, atol=1e-5)
    state = adapter.state()
    adapter.reset(1)
    adapter.load(tmp_path / "adapter")
    for name, tensor in adapter.state().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-6, atol=1e-7)
    adapter.merge()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "kind"), cells(THEIRS))
def test_theirs_load_here_with_the_same_logits(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, kind: str
) -> None:
    folder = checkpoint(architecture)
    twin = from_peft(folder, tmp_path / "peft", **THEIRS[kind])
    model = load_model(folder)
    base = logits(model)
    adapter = load_adapter(model, tmp_path / "peft")
    expected = logits(twin).detach()
    assert not torch.allclose(base, expected, atol=1e-3), "the adapter does something"
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    with adapter.disabled():
        assert torch.equal(logits(model), base)
    adapter.remove()
    assert torch.equal(logits(model), base)


def test_pissa_of_peft_as_a_plain_difference_loads_here(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """PEFT's own conversion, and ours, give the logits of the PiSSA adapter."""
    folder = checkpoint("llama")
    twin = from_peft(folder, tmp_path / "pissa", **THEIRS["pissa"])
    expected = logits(twin).detach()
    config = peft.LoraConfig(r=3, lora_alpha=4, task_type="CAUSAL_LM", **THEIRS["pissa"])
    start = peft.get_peft_model(load_model(folder).network, config)
    start.peft_config["default"].init_lora_weights = True
    start.save_pretrained(str(tmp_path / "start"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PiSSA and another adapter on one base
        twin.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    for name in ("pissa", "plain"):
        adapter: Any = load_adapter(model := load_model(folder), tmp_path / name)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=2e-5)
        adapter.save(tmp_path / f"{name} again")
        load_adapter(model := load_model(folder), tmp_path / f"{name} again")
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=2e-5)
    assert (
        load_file(tmp_path / "pissa again" / "adapter_model.safetensors").keys()
        == load_file(tmp_path / "plain" / "adapter_model.safetensors").keys()
    )


@pytest.mark.parametrize("kind", ["plain", "dora", "pissa"])
def test_adapters_of_a_half_precision_base_are_exchanged(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    folder = checkpoint("llama")
    adapter = moved(add_adapter(model := load_model(folder, dtype="bfloat16"), LoRA(**OURS[kind]), seed=0))
    adapter.save(tmp_path / "ours")
    twin: Any = peft.PeftModel.from_pretrained(load_model(folder, dtype="bfloat16").network, str(tmp_path / "ours"))
    scale = float(logits(model).detach().abs().max())
    torch.testing.assert_close(logits(twin.eval()), logits(model), rtol=0, atol=0.03 * scale)
    for name, tensor in load_file(tmp_path / "ours" / "adapter_model.safetensors").items():
        assert tensor.dtype == torch.float32, name
    twin.save_pretrained(str(tmp_path / "theirs"))
    load_adapter(other := load_model(folder, dtype="bfloat16"), tmp_path / "theirs")
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=0.03 * scale)


def test_a_pissa_adapter_on_another_base_is_refused(tmp_path: Path) -> None:
    """Its file has no fingerprint, and A and B mean nothing without the weights that they were taken out of."""
    folders = [write_checkpoint(tmp_path / str(seed), "llama", seed=seed) for seed in (0, 1)]
    from_peft(folders[0], tmp_path / "peft", **THEIRS["pissa"])
    model = load_model(folders[1])
    before = logits(model)
    with pytest.raises(
        InputError, match="did not begin with the principal part of the weights of .*/1; give the model"
    ):
        load_adapter(model, tmp_path / "peft")
    assert torch.equal(logits(model), before)
    load_adapter(load_model(folders[0]), tmp_path / "peft")


def test_dora_and_its_magnitudes_must_agree(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    from_peft(folder, tmp_path, **THEIRS["dora"])
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    state = load_file(file)
    short = next(name for name in state if name.endswith("lora_magnitude_vector"))
    for changed, message in (
        ({name: t for name, t in state.items() if name != short}, "has no magnitudes"),
        (
            {**state, short: state[short][1:]},
            r"has \d+ magnitudes \(lora_magnitude_vector\) of \d+; the ad",
        ),
    ):
        save_file(changed, file)
        with pytest.raises(InputError, match=f"use_dora is true and .*{message}"):
            load_adapter(load_model(folder), tmp_path)
    save_file(state, file)
    config.write_text(config.read_text().replace('"use_dora": true', '"use_dora": false'))
    with pytest.raises(InputError, match="holds .*lora_magnitude_vector, but use_dora in adapter_config.json is false"):
        load_adapter(load_model(folder), tmp_path)
