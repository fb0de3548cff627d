"""Quantised bases: the same function as their dequantised weights, for scoring, for gradients and after merging."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.adapters import ALL, logits, peft_twin, shaken
from helpers.toy import toy_task
from torch import nn

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.full_finetuning import add_full
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.models.quantisation import dequantise_network, quantised_layers
from rango.options import FinetuneConfig, LoRA, Quantisation
from rango.training.finetune import finetune

pytest.importorskip("bitsandbytes", reason="the extra quantise is not installed")

Checkpoint = Callable[..., Path]
KINDS: tuple[Quantisation, ...] = ("int8", "nf4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi"])
def test_a_weight_is_off_by_the_quantiser_s_own_error(
    checkpoint: Checkpoint, architecture: str, kind: Quantisation
) -> None:
    plain = load_model(checkpoint(architecture), device="cpu").network
    layers = quantised_layers(load_model(checkpoint(architecture), device="cpu", quantise=kind).network)
    assert len(layers) == {"llama": 14, "gpt2": 8, "phi": 12}[architecture]
    for name, layer in layers.items():
        weight = plain.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        W = weight.T if layer.transposed else weight
        error = (layer.dequantise(torch.float32) - W).abs()
        # int8: half a step, 1/127 of the row's largest, and the rounding to float16. nf4: half the widest gap of its
        # quantiles, times the largest of the block.
        if kind == "int8":
            assert (error <= 0.54 / 127 * W.abs().amax(1, keepdim=True)).all()
        else:
            largest = W.reshape(-1, 64).abs().amax(1, keepdim=True)
            assert (error.reshape(-1, 64) <= 0.153 * largest).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_the_dequantised_weights(checkpoint: Checkpoint, kind: Quantisation, dtype: str) -> None:
    model = load_model(checkpoint("llama"), device="cpu", dtype=dtype, quantise=kind)
    before = logits(model)
    dequantise_network(model.network)
    assert not quantised_layers(model.network)
    assert (logits(model) - before).abs().max() <= 1e-3
    assert model.quantise == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_dequantised_weights(checkpoint: Checkpoint, kind: Quantisation) -> None:
    gradients = []
    for dequantised in (False, True):
        model = load_model(checkpoint("llama"), device="cpu", quantise=kind)
        logits(model)  # scoring first: bitsandbytes' own layer then has no gradient
        if dequantised:
            dequantise_network(model.network)
        adapter = shaken(model, LoRA(rank=2, targets=ALL))
        logits(model).square().mean().backward()
        gradients.append([parameter.grad for parameter in adapter.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
        assert mine.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_does_not_depend_on_the_rest_of_the_batch(checkpoint: Checkpoint, kind: Quantisation) -> None:
    model = load_model(checkpoint("llama"), device="cpu", quantise=kind)
    ids = torch.arange(2, 50).reshape(4, 12)
    assert torch.allclose(logits(model, ids)[:1], logits(model, ids[:1]), atol=1e-5)


def test_no_quantised_matrix_is_kept_for_the_backward_pass(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"), device="cpu", quantise="nf4")
    layer = next(iter(quantised_layers(model.network).values()))
    shapes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(3, layer.in_features, requires_grad=True))
    assert (layer.out_features, layer.in_features) not in shapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_is_the_model_it_was_made_from(checkpoint: Checkpoint, kind: Quantisation) -> None:
    plain = load_model(checkpoint("gpt2"), device="cpu")
    quantised = load_model(checkpoint("gpt2"), device="cpu", quantise=kind)
    assert quantised.fingerprint == plain.fingerprint
    assert quantised.parameter_count == plain.parameter_count
    assert (quantised.dtype, quantised.quantise) == (torch.float32, kind)
    add_adapter(quantised, LoRA(targets=("o",)), seed=0)
    assert load_model(checkpoint("gpt2", seed=1), device="cpu", quantise=kind).fingerprint != plain.fingerprint
    note = next(note for note in quantised.notes if note.startswith(kind))
    assert note.startswith(f"{kind}: 8 matrices with ")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_are_ordinary_and_go_to_the_plain_base_with_a_note(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str
) -> None:
    folder = checkpoint(architecture)
    lora = LoRA(rank=2, targets=("q", "v", "mlp"))
    adapter = shaken(load_model(folder, device="cpu", quantise="nf4"), lora)
    twin, _ = peft_twin(folder, adapter, tmp_path)  # PEFT's, on the plain base
    plain = load_model(folder, device="cpu")
    loaded = load_adapter(plain, tmp_path / "adapter")
    assert loaded.notes == ("the adapter was trained on the base with quantise nf4, and this is none",)
    assert torch.allclose(logits(plain), logits(twin), atol=1e-5)
    again = load_model(folder, device="cpu", quantise="nf4")
    assert load_adapter(again, tmp_path / "adapter").notes == ()
    assert torch.equal(logits(again), logits(adapter.model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merging_holds_the_sum_plain_and_unmerging_gives_the_bits_back(
    checkpoint: Checkpoint, architecture: str, kind: Quantisation
) -> None:
    model = load_model(checkpoint(architecture), device="cpu", quantise=kind)
    base = logits(model)
    adapter = shaken(model, LoRA(rank=2, targets=ALL))
    adapted = logits(model)
    adapter.merge()
    assert torch.allclose(logits(model), adapted, atol=1e-4)
    assert not any(name.endswith("q_proj.base") for name in quantised_layers(model.network))
    adapter.unmerge()
    with adapter.disabled():
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_quantised_base_lowers_the_loss_and_resumes_its_record(
    checkpoint: Checkpoint, tmp_path: Path, kind: Quantisation
) -> None:
    model = load_model(checkpoint("llama"), device="cpu", quantise=kind)
    run = finetune(model, toy_task(), out=tmp_path / "run", quantise=kind, steps=12, learning_rate=5e-3, batch=16)
    losses = [row["train_loss"] for row in run.log if "train_loss" in row]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert run.config.quantise == kind
    assert any(note.startswith(kind) for note in run.record["notes"])


def test_what_quantised_weights_cannot_do_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="adaptation is full and quantise is nf4: weights in so few bits"):
        FinetuneConfig.build({"model": "m", "task": "t", "adaptation": "full", "quantise": "nf4"})
    with pytest.raises(InputError, match=r"is quantised \(nf4\): its weights cannot be replaced; load it plain"):
        add_full(load_model(checkpoint("llama"), device="cpu", quantise="nf4"))
    layer = next(iter(quantised_layers(load_model(checkpoint("phi"), device="cpu", quantise="int8").network).values()))
    with pytest.raises(ValueError, match=r"a matrix \(3, 4\) for a layer of \(32, 32\)"):
        layer.quantise(torch.zeros(3, 4))
    assert isinstance(layer.plain(), nn.Linear)
    monkeypatch.setattr("rango.models.sources.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"quantise is 'int8', which needs bitsandbytes; pip install 'rango-lm\[quan"):
        load_model(checkpoint("phi"), quantise="int8")


def test_bitsandbytes_loads_no_code_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    print('fetched')\n")
    # In a process of its own: here another program's import may have come first.
    code = "from rango.models import quantisation as q; print(q._bitsandbytes().__name__); import kernels"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout == "bitsandbytes.functional\n"
    assert done.stderr == ""
