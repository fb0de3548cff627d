"""Named adapters on one base: each, and each row of a mixed batch, equals the adapter alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.adapters import ALL, logits, peft_twin, shaken

from rango.errors import InputError
from rango.models.adapter_set import load_adapters
from rango.models.loading import load_model
from rango.models.lora import LoRALinear
from rango.models.peft_format import load_adapter
from rango.options import LoRA

Checkpoint = Callable[..., Path]
IDS = torch.arange(2, 62).reshape(5, 12)
KINDS = {
    "plain": LoRA(rank=2, targets=("q", "v")),
    "wide": LoRA(rank=5, targets=ALL, rslora=True, rank_pattern=("mlp=3",)),
    "dora": LoRA(rank=2, targets=("q", "mlp", "head"), dora=True),
    "late": LoRA(rank=2, layers="1", targets=("mlp",), alpha=3),
}


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> dict[str, Path]:
    model = load_model(checkpoint("phi"))
    for number, (name, lora) in enumerate(KINDS.items()):
        adapter = shaken(model, lora, seed=number)
        adapter.save(tmp_path / name)
        adapter.remove()
    return {name: tmp_path / name for name in KINDS}


def test_each_adapter_and_each_row_equals_the_adapter_alone(checkpoint: Checkpoint, saved: dict[str, Path]) -> None:
    base = logits(load_model(checkpoint("phi")), IDS)
    alone: dict[str | None, torch.Tensor] = {None: base}
    for name, folder in saved.items():
        load_adapter(single := load_model(checkpoint("phi")), folder)
        alone[name] = logits(single, IDS)
    model = load_model(checkpoint("phi"))
    adapters = load_adapters(model, saved)
    assert list(adapters) == list(KINDS)
    assert torch.equal(logits(model, IDS), base), "none is at work before one is asked for"
    for name in adapters:
        with adapters.only(name):
            torch.testing.assert_close(logits(model, IDS), alone[name], rtol=1e-5, atol=1e-5)
    for names in (
        ["wide", "dora", None, "plain", "late"],
        ["late"] * 5,
        [None] * 5,
        ["plain", "plain", "wide", "late", None],
    ):
        with adapters.mixed(names):
            expected = torch.stack([alone[name][row] for row, name in enumerate(names)])
            torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-5, atol=1e-5)
    adapters.remove()
    assert torch.equal(logits(model, IDS), base)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


def test_rows_of_different_adapters_are_refused_where_a_layer_flattens_the_batch(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = load_model(checkpoint("opt"))
    for name in ("a", "b"):
        adapter = shaken(model, LoRA(rank=2, targets=("mlp",)))
        adapter.save(tmp_path / name)
        adapter.remove()
    adapters = load_adapters(model, {name: tmp_path / name for name in ("a", "b")})
    with adapters.mixed(["a"] * len(IDS)):
        one = logits(model, IDS)
    with adapters.only("a"):
        assert torch.equal(logits(model, IDS), one)
    with pytest.raises(InputError, match=r"fc1 of .* is given the tokens of all rows together"):
        adapters.mixed(["a", "b", "a", "b", None])


def test_what_names_and_folders_must_be(checkpoint: Checkpoint, saved: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="has no folders; give at least one"):
        load_adapters(model, {})
    with pytest.raises(InputError, match="holds no adapter_config.json"):
        load_adapters(model, {**saved, "none": tmp_path / "nothing"})
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules()), "one mistake, no adapter"
    adapters = load_adapters(model, saved)
    with pytest.raises(InputError, match="adapter 'plane': did you mean 'plain'"):
        adapters.only("plane")
    with pytest.raises(InputError, match="mixed has no names"):
        adapters.mixed([])
    with adapters.mixed(["plain", None]), pytest.raises(ValueError, match="5 rows for a bank of 2 with"):
        logits(model, IDS)
    with pytest.raises(InputError, match="carries an adapter already"):
        load_adapters(model, saved)


def test_a_mix_is_the_weighted_sum_of_the_updates(
    checkpoint: Checkpoint, saved: dict[str, Path], tmp_path: Path
) -> None:
    """Merged one by one, w₁ and w₂ times what each adds to the weights give the same; so does the saved mix in PEFT."""
    base, sums = load_model(checkpoint("phi")), {}
    for name, weight in (("wide", 0.75), ("late", -0.5)):
        merged = load_model(checkpoint("phi"))
        adapter: Any = load_adapter(merged, saved[name])
        adapter.merge()
        for layer, module in adapter.layers.items():
            plain = base.network.get_submodule(layer).weight
            sums[layer] = sums.get(layer, 0) + weight * (module.base.weight - plain)
    with torch.no_grad():
        for layer, change in sums.items():
            base.network.get_submodule(layer).weight += change
    adapters = load_adapters(model := load_model(checkpoint("phi")), saved)
    mix = adapters.add_mix("both", {"wide": 0.75, "late": -0.5})
    expected = logits(base, IDS)
    with adapters.only("both"):
        torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-4)
    with adapters.mixed(["both", None, "plain", "both", "both"]):
        torch.testing.assert_close(logits(model, IDS)[[0, 3, 4]], expected[[0, 3, 4]], rtol=1e-4, atol=1e-4)
    twin, _ = peft_twin(checkpoint("phi"), mix, tmp_path)
    torch.testing.assert_close(logits(twin.eval(), IDS), expected, rtol=1e-4, atol=1e-4)
    refused: list[tuple[dict[str, float], str]] = [
        ({}, "has no weights"),
        ({"wide": math.nan}, "'wide' has the weight nan; expected a number"),
        ({"wide": 1, "dora": 1}, "'dora' has DoRA"),
    ]
    for weights, message in refused:
        with pytest.raises(InputError, match=message):
            adapters.add_mix("other", weights)
    with pytest.raises(InputError, match="'both' exists; give another name"):
        adapters.add_mix("both", {"wide": 1.0})
    adapters.remove()
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


def test_a_mix_equals_that_of_peft(checkpoint: Checkpoint, saved: dict[str, Path]) -> None:
    weights = {"plain": 0.3, "late": 1.2}
    twin: Any = peft.PeftModel.from_pretrained(load_model(checkpoint("phi")).network, str(saved["plain"]), "plain")
    twin.load_adapter(str(saved["late"]), "late")
    twin.add_weighted_adapter(list(weights), list(weights.values()), "mix", combination_type="cat")
    twin.set_adapter("mix")
    adapters = load_adapters(model := load_model(checkpoint("phi")), saved)
    adapters.add_mix("mix", weights)
    with adapters.only("mix"):
        torch.testing.assert_close(logits(model, IDS), logits(twin.eval(), IDS), rtol=1e-5, atol=1e-5)
