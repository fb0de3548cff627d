"""The estimate of memory: parts by hand, what each setting changes, and what is advised where a limit is too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.description import read_configuration
from rango.models.loading import load_model
from rango.options import LoRA, MemoryOptions, parse_size
from rango.training.memory import MemoryEstimate, _bytes_of_malloc, advise, estimate_memory

Checkpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def _without_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps are a share of the activations, so that equal tensors give equal estimates whatever this process did."""
    monkeypatch.setattr("rango.training.memory._bytes_of_malloc", lambda: None)


def estimated(folder: Path, **options: Any) -> MemoryEstimate:
    settings = MemoryOptions.build({"device": "cpu", "dtype": "float32", "tokens": 512, **options})
    return estimate_memory(read_configuration(str(folder))[0], settings, name=str(folder))


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "phi3"])
def test_weights_adapter_and_optimizer_are_counted_exactly(checkpoint: Checkpoint, architecture: str) -> None:
    folder = checkpoint(architecture)
    model = load_model(folder)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.network.buffers())
    own = estimated(folder, lora={"rank": 4, "targets": ["q", "mlp"]})
    assert own.weights == 4 * model.parameter_count + buffers
    trained = add_adapter(model, LoRA(rank=4, targets=("q", "mlp")), seed=0).parameter_count()
    assert (own.adapter, own.gradients, own.optimizer) == (4 * trained, 4 * trained, 8 * trained)
    full = estimated(folder, adaptation="full")
    assert (full.adapter, full.gradients) == (0, 4 * load_model(folder).parameter_count)
    assert full.weights >= 2 * 4 * load_model(folder).parameter_count, "the base is kept beside what is trained"


def test_activations_grow_with_tokens_and_shrink_when_layers_are_computed_again(checkpoint: Checkpoint) -> None:
    folder = checkpoint("llama")
    one, two, four = (estimated(folder, tokens=tokens).activations for tokens in (512, 1024, 2048))
    assert 1.7 < two / one < 2.1
    assert 1.7 < four / two < 2.1
    deep = checkpoint("llama", num_hidden_layers=6)
    again = estimated(deep, tokens=1024, gradient_checkpointing=True).activations
    assert again < 0.5 * estimated(deep, tokens=1024).activations
    # A head at every token has states and logits at every token; rows of twice the length have twice the attention.
    every, few = (estimated(folder, tokens=1024, objective=name).activations for name in ("tokens", "answer"))
    assert every > few
    assert estimated(folder, tokens=1024, length=256).activations > two


def test_below_an_adapter_nothing_is_kept(checkpoint: Checkpoint) -> None:
    folder = checkpoint("llama", num_hidden_layers=6)
    kept = [estimated(folder, lora={"targets": [t], "layers": n}).activations for t, n in (("q", "0"), ("q", "5"))]
    assert kept[1] < kept[0] / 2
    assert estimated(folder, lora={"targets": ["head"]}).activations <= kept[1]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_weights_are_counted_exactly(checkpoint: Checkpoint, kind: str) -> None:
    pytest.importorskip("bitsandbytes", reason="quantising needs bitsandbytes")
    network = load_model(checkpoint("llama"), quantise=kind).network  # type: ignore[arg-type]
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))
    quantised = estimated(checkpoint("llama"), quantise=kind)
    assert quantised.weights == held
    # A matrix is dequantised in the forward pass and again in the backward pass, and kept in neither.
    assert quantised.activations < 1.1 * estimated(checkpoint("llama")).activations


def test_an_estimate_leaves_the_process_as_it_was(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint("llama")
    share = estimated(folder, tokens=8192)
    monkeypatch.setattr("rango.training.memory._bytes_of_malloc", _bytes_of_malloc)
    before = _bytes_of_malloc()
    if before is None:
        pytest.skip("malloc is not glibc's")
    one, two = (estimated(folder, tokens=8192) for _ in range(2))
    assert (_bytes_of_malloc() or 0) - before < share.activations / 10
    assert asdict(one) == {**asdict(share), "process": one.process}
    # Gaps are not the same to the byte in heaps that differ by a few objects.
    assert one.total == pytest.approx(two.total, rel=0.15)
    # There are no gaps at all where earlier tests have left the heap room for everything.
    assert one.process >= 420 * 2**20


def test_without_glibc_the_gaps_are_a_share_of_the_activations(checkpoint: Checkpoint) -> None:
    plain = estimated(checkpoint("llama"))
    assert plain.process == 420 * 2**20 + int(0.55 * plain.activations)
    quantised = estimated(checkpoint("llama"), quantise="nf4")
    assert quantised.process == 475 * 2**20 + int(0.55 * quantised.activations)


@pytest.mark.parametrize(
    "error", [ValueError("a mask of\nanother shape"), TypeError("no number"), NotImplementedError("item")]
)
def test_a_network_that_needs_numbers_is_refused_in_one_line(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("rango.training.memory._step", fail)
    with pytest.raises(InputError, match=r"^the memory of .* cannot be estimated: .*--micro-batch 1") as raised:
        estimated(checkpoint("llama"))
    assert str(error).splitlines()[0] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_architecture_that_reads_numbers_is_refused_in_one_line(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"^the memory of .*bloom.* cannot be estimated: "):
        estimated(checkpoint("bloom"))


def test_the_nearest_setting_that_fits_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU, whose estimate is the same whatever this process did before."""
    monkeypatch.setattr("rango.training.memory.choose_device", lambda _: torch.device("cuda"))
    folder = str(checkpoint("llama"))
    base = {"device": "cpu", "dtype": "float32", "tokens": 2048}
    total = estimated(checkpoint("llama"), tokens=2048).total
    limit = f"{total * 0.8 / 1e6:.3f}MB"
    _, advice = advise(folder, MemoryOptions.build({**base, "limit": limit}))
    assert advice is not None
    assert advice.startswith(f"It does not fit into {limit}. What fits: --micro-batch ")
    rows = int(advice.split("--micro-batch ")[1].split()[0])
    size = parse_size(limit)
    assert size is not None
    settings = MemoryOptions.build({**base, "tokens": rows * 128})
    fits = estimate_memory(read_configuration(folder)[0], settings, name=folder).total
    more = settings.model_copy(update={"tokens": (rows + 1) * 128})
    assert 1.15 * fits <= size < 1.15 * estimate_memory(read_configuration(folder)[0], more, name=folder).total
    _, advice = advise(folder, MemoryOptions.build({**base, "limit": "0.1MB"}))
    assert advice is not None
    assert "neither does one row of 128 tokens in the smallest setting" in advice


def test_a_gpu_keeps_no_attention_probabilities(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate for a GPU needs none: the device decides about the attention and the parts that count."""
    monkeypatch.setattr("rango.training.memory.choose_device", lambda _: torch.device("cuda"))
    folder = checkpoint("llama")
    gpu = estimated(folder, tokens=2048, length=512)
    monkeypatch.undo()
    cpu = estimated(folder, tokens=2048, length=512)
    assert gpu.process == 0
    assert gpu.activations < 0.6 * cpu.activations


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="limit: '8' is no size; write a number and its unit, such as 8GiB or 500MB"):
        MemoryOptions.build({"limit": "8"})
    with pytest.raises(InputError, match="unknown placement 'w'"):
        MemoryOptions.build({"lora": {"targets": "w"}})
    assert parse_size("0GB") is None
