"""The LoRA layer: its update by hand, a bank of adapters as each alone, chosen rows, dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rango.models.lora import Grouping, LoRALinear, linear_rows


def test_hand_computed_update() -> None:
    base = nn.Linear(2, 2, bias=False)
    layer = LoRALinear(base)
    layer.add(rank=1, scaling=3.0)
    A, B = layer.weights()
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        A.copy_(torch.tensor([[1.0, 2.0]]))
        B.copy_(torch.tensor([[1.0], [-1.0]]))
    # A x = 1*1 + 2*10 = 21; 3 B A x = (63, -63); W0 x = (1, 10)
    assert layer(torch.tensor([[1.0, 10.0]])).tolist() == [[64.0, -53.0]]


def made_bank(ranks: dict[int, int], *, of: int) -> LoRALinear:
    """A layer of a bank of `of` that adapts the members in `ranks`, nothing zero."""
    bank = LoRALinear(nn.Linear(6, 5), Grouping(range(of)))
    for member, rank in ranks.items():
        bank.add(rank=rank, scaling=0.5 + member, adapter=member)
        for weight in bank.weights(member):
            nn.init.normal_(weight)
    return bank


@given(
    present=st.dictionaries(st.integers(0, 3), st.integers(1, 4), max_size=4),
    counts=st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=4, max_size=4)),
)
@settings(max_examples=40, deadline=None)
def test_a_bank_equals_its_adapters_one_by_one(present: dict[int, int], counts: list[int] | None) -> None:
    torch.manual_seed(0)
    # In float64, so that no tolerance has to allow for sums that cancel.
    bank = made_bank(present, of=4).double()
    rows = counts or [2] * 4
    x = torch.randn(sum(rows), 7, 6, dtype=torch.float64, requires_grad=True)
    with bank.grouping.split(range(4), rows):
        together = bank(x)
    parts = []
    for member, part in enumerate(x.split(rows)):
        with bank.grouping.only(member):
            parts.append(bank(part))
    torch.testing.assert_close(together, torch.cat(parts), rtol=1e-9, atol=1e-9)
    wanted = [x, *(weight for member in present for weight in bank.weights(member))]
    mine = torch.autograd.grad(together.square().sum(), wanted, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(torch.cat(parts).square().sum(), wanted, allow_unused=True, materialize_grads=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_bank_knows_its_rows_or_says_so() -> None:
    bank = made_bank({0: 2, 1: 3, 2: 1}, of=3)
    x = torch.randn(6, 6)
    with bank.grouping.split(range(3), [2, 2, 2]):
        assert torch.equal(bank(x), expected := bank(x))
    assert torch.equal(bank(x), expected), "without being told, a bank has equal shares"
    with bank.grouping.off():
        assert torch.equal(bank(x), bank.base(x))
    with bank.grouping.split(range(3), [1, 2, 2]), pytest.raises(ValueError, match="6 rows for a bank of 3 with"):
        bank(x)
    with pytest.raises(ValueError, match="one adapter at a time"):
        bank.rows(x, torch.tensor([0]))
    with pytest.raises(ValueError, match="only a single adapter"):
        bank.merge()


@given(rows=st.lists(st.integers(0, 9), min_size=1, max_size=6), adapted=st.booleans())
@settings(max_examples=25, deadline=None)
def test_chosen_rows_equal_the_whole_product(rows: list[int], adapted: bool) -> None:
    torch.manual_seed(1)
    linear: nn.Module = nn.Linear(4, 10)
    if adapted:
        linear = LoRALinear(linear)
        linear.add(rank=2, scaling=1.5)
        for weight in linear.weights():
            nn.init.normal_(weight)
    x = torch.randn(3, 4)
    torch.testing.assert_close(linear_rows(linear, x, torch.tensor(rows)), linear(x)[:, rows])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(16, 4))
    layer.add(rank=2, scaling=1.0, dropout=0.5)
    for weight in layer.weights():
        nn.init.normal_(weight)
    x = torch.randn(8, 16)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    many = torch.stack([layer.update(x) for _ in range(4000)]).mean(0)
    layer.eval()
    torch.testing.assert_close(many, layer.update(x), rtol=0, atol=0.5)  # the mean is kept; values reach 10
    assert layer.update(x).abs().max() > 5
