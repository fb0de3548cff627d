"""The variants of the LoRA layer: DoRA and PiSSA by hand, by PEFT, in banks, at chosen rows, merged."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.models.lora import Grouping, LoRALinear, Slice, principal_pair

VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True},
    "pissa": {"pissa": True},
    "both": {"dora": True, "pissa": True},
}


def made_layer(
    base: nn.Module, *, shake: float = 0.3, slices: Mapping[str, Slice | None] | None = None, **variant: Any
) -> LoRALinear:
    """A layer after some training: everything that is trained has moved from its start."""
    layer = LoRALinear(base.requires_grad_(False))
    for part, piece in (slices or {"": None}).items():
        layer.add(rank=2, scaling=1.5, part=part, piece=piece, **variant)
        layer.initialise(torch.Generator().manual_seed(0), part=part)
    move(layer, shake)
    return layer


def move(layer: LoRALinear, shake: float = 0.3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (*layer.lora_A.values(), *layer.lora_B.values(), *layer.lora_magnitude.values()):
            parameter += shake * torch.randn_like(parameter)


def test_dora_by_hand() -> None:
    """W₀ is the identity and s B A adds (3, 3) to its first row: V = (4, 3; 0, 1) has norms 5 and 1."""
    base = nn.Linear(2, 2)
    layer = LoRALinear(base)
    layer.add(rank=1, scaling=3.0, dora=True)
    with torch.no_grad():
        base.weight.copy_(torch.eye(2))
        base.bias.copy_(torch.tensor([0.5, -0.5]))
        layer.initialise(torch.Generator())
        A, B = layer.weights()
        assert layer.lora_magnitude["0"].tolist() == [1, 1], "the norms of W₀"
        A.copy_(torch.tensor([[1.0, 1.0]]))
        B.copy_(torch.tensor([[1.0], [0.0]]))
        layer.lora_magnitude["0"].copy_(torch.tensor([10.0, 3.0]))
    # V x = (4 + 30, 10) = (34, 10); m/|V| = (2, 3)
    assert layer(torch.tensor([[1.0, 10.0]])).tolist() == [[68.5, 29.5]]
    assert layer.rows(torch.tensor([[1.0, 10.0]]), torch.tensor([1, 0])).tolist() == [[29.5, 68.5]]


def test_a_row_of_zeros_stays_one_under_dora() -> None:
    base = nn.Linear(4, 3)
    with torch.no_grad():
        base.weight[1] = 0
    layer = made_layer(base, shake=0.0, dora=True)
    x = torch.randn(5, 4)
    assert torch.equal(layer(x), base(x))
    layer(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.lora_B.values())
    assert torch.equal(layer.rows(x, torch.tensor([1])), layer(x)[:, 1:2])
    layer.merge()
    torch.testing.assert_close(base(x), layer(x))
    assert base.weight.isfinite().all()


def test_the_start_of_pissa_is_the_best_approximation() -> None:
    """Eckart-Young: what is left of a matrix has its other singular values."""
    W = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    A, B = principal_pair(W, 2, 3.0)
    torch.testing.assert_close(A @ A.T, B.T @ B), "the singular values are shared out evenly"
    left = torch.linalg.svdvals(W - 3.0 * B @ A)
    torch.testing.assert_close(left, torch.cat([torch.linalg.svdvals(W)[2:], torch.zeros(2)]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_fresh_layer_adds_exactly_nothing(variant: str, dtype: torch.dtype, kind: str) -> None:
    torch.manual_seed(0)
    base: nn.Module = nn.Linear(6, 8) if kind == "linear" else Conv1D(8, 6)
    layer = made_layer(base.to(dtype), shake=0.0, **VARIANTS[variant])
    x = torch.randn(3, 6).to(dtype)
    assert torch.equal(layer(x), base(x))
    assert layer.lora_A["0"].abs().sum() > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["linear", "conv", "slices"])
def test_outputs_and_gradients_are_those_of_the_definition(variant: str, kind: str) -> None:
    """y = m/|V| V x + bias with V = W₀ − s B₀ A₀ + s B A, where autograd sees |V| as a constant."""
    torch.manual_seed(0)
    base: nn.Module = Conv1D(8, 6) if kind == "conv" else nn.Linear(6, 8)
    slices: dict[str, Slice | None] = {"q": Slice(2, 0, 2), "v": Slice(1, 2, 4)} if kind == "slices" else {"": None}
    layer = made_layer(base, slices=slices, **VARIANTS[variant])
    W = (base.weight.T if kind == "conv" else base.weight).detach()
    x = torch.randn(3, 6)
    columns = list((x @ W.T).unbind(1))
    for part, piece in slices.items():
        rows = torch.arange(8) if piece is None else piece.index(8)
        A, B = layer.weights(0, part)
        V = W[rows] + 1.5 * B @ A
        if "pissa" in VARIANTS[variant]:
            V = V - 1.5 * layer.lora_start_B[f"0{part}"] @ layer.lora_start_A[f"0{part}"]
        if "dora" in VARIANTS[variant]:
            V = V * (layer.lora_magnitude[f"0{part}"] / V.detach().norm(dim=1))[:, None]
        for column, row in zip(rows.tolist(), V, strict=True):
            columns[column] = x @ row
    y = torch.stack(columns, dim=1) + base.bias
    torch.testing.assert_close(layer(x), y, rtol=1e-5, atol=1e-5)
    trained = [*layer.lora_A.values(), *layer.lora_B.values(), *layer.lora_magnitude.values()]
    mine = torch.autograd.grad(layer(x).square().sum(), trained)
    for one, other in zip(mine, torch.autograd.grad(y.square().sum(), trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    before = base.weight.clone()
    layer.merge()
    torch.testing.assert_close(layer(x), y.detach(), rtol=1e-5, atol=1e-5)
    layer.unmerge()
    assert torch.equal(base.weight, before)


@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (1, 3, 0, 2)])
def test_a_mixed_bank_equals_its_adapters_one_by_one(counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    bank = LoRALinear(nn.Linear(6, 5), Grouping(range(4)))
    for member, variant in enumerate([{}, *VARIANTS.values()]):
        bank.add(rank=1 + member, scaling=0.5 + member, adapter=member, **variant)
        bank.initialise(torch.Generator().manual_seed(member), member)
    move(bank)
    x = torch.randn(sum(counts), 7, 6, requires_grad=True)
    for members in ([0, 1, 2, 3], [0, 2, 2, 0], [3, -1, 1, 0]):  # -1: rows of the base
        with bank.grouping.split(members, counts):
            together = bank(x)
        parts = []
        for member, part in zip(members, x.split(counts), strict=True):
            with bank.grouping.only(member):
                parts.append(bank(part))
        alone = torch.cat(parts)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
        wanted = [x, *bank.lora_A.values(), *bank.lora_magnitude.values()]
        gradients = [torch.autograd.grad(y.square().sum(), wanted, allow_unused=True) for y in (together, alone)]
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_chosen_rows_equal_the_whole_product(variant: str) -> None:
    torch.manual_seed(0)
    layer = made_layer(nn.Linear(6, 9), **VARIANTS[variant])
    x, rows = torch.randn(3, 6), torch.tensor([7, 0, 7, 3])
    torch.testing.assert_close(layer.rows(x, rows), layer(x)[:, rows])


def test_small_steps_of_pissa_are_seen_in_half_precision() -> None:
    """A step of a thousandth is far below what bfloat16 can add to the start; as a difference it is kept."""
    torch.manual_seed(0)
    base = nn.Linear(64, 64).to(torch.bfloat16)
    layer = made_layer(base, shake=1e-3, pissa=True)
    x = torch.randn(100, 64).to(torch.bfloat16)
    A, B = layer.pair()
    exact = 1.5 * x.float() @ A.T @ B.T
    error = (layer.update(x).float() - exact).norm() / exact.norm()
    assert error < 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_leaves_the_base_alone(variant: str) -> None:
    torch.manual_seed(0)
    layer = made_layer(nn.Linear(16, 4), shake=0.0, dropout=0.5, **VARIANTS[variant])
    x = torch.randn(8, 16)
    layer.train()
    assert torch.equal(layer(x), layer.base(x)), "an untrained update has nothing to drop"
    move(layer)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_an_adapter_that_leaves_takes_all_it_has_along() -> None:
    layer = made_layer(nn.Linear(6, 8), slices={"q": Slice(1, 0, 4), "k": Slice(1, 4, 6)}, **VARIANTS["both"])
    layer.drop(0)
    held = (layer.lora_A, layer.lora_B, layer.lora_magnitude, layer.lora_start_A, layer.lora_start_B)
    assert list(itertools.chain(*held)) == []
