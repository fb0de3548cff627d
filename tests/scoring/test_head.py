"""The head in blocks of its vocabulary gives the log-probabilities and gradients of the head in slices of positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.toy import toy_task
from torch import nn

from rango.models.adapter import add_adapter
from rango.models.loading import Model, load_model
from rango.options import LoRA
from rango.scoring import head
from rango.scoring.batches import Batch
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


def states_of(model: Model, *, read: str = "choices") -> tuple[Batch, torch.Tensor]:
    """A batch, and states of the size of the model's own for the positions that predict."""
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:6], task=TASK, form="cloze")
    batch = reader.collate(trees, read=read, as_trees=True)  # type: ignore[arg-type]
    with torch.no_grad():
        states = reader.states(batch)
    # States as a network of another seed could have them, so that no two positions are nearly alike.
    return batch, states + 0.1 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states.dtype)


def both(model: Model, batch: Batch, states: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities and the gradient of a weighted sum of them, in both ways."""
    weights = torch.linspace(-1, 2, len(batch.targets))  # as a rule over the choices gives each score its own
    results = []
    for way in (head.log_probabilities, head.log_probabilities_by_slices):
        leaf = states.clone().requires_grad_()
        values = way(model, batch, leaf)
        (values * weights).sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        results.append((values.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("architecture", ["phi", "llama", "gemma2"])  # a bias, none, bounded logits
@pytest.mark.parametrize("read", ["choices", "text"])
def test_blocks_equal_slices(
    checkpoint: Checkpoint, architecture: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_BLOCK", {"cpu": 1})
    monkeypatch.setattr(head, "_NARROWEST_BLOCK", 7)  # many blocks, the last one narrower
    model = load_model(checkpoint(architecture))
    blocks, slices = both(model, *states_of(model, read=read))
    torch.testing.assert_close(blocks[0], slices[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(blocks[1], slices[1], rtol=1e-5, atol=1e-5 * float(slices[1].abs().max()))


def test_in_bfloat16_they_differ_by_its_rounding(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"), dtype="bfloat16")
    blocks, slices = both(model, *states_of(model))
    torch.testing.assert_close(blocks[0], slices[0], rtol=0, atol=2e-2)
    assert bool((blocks[0] <= 2e-2).all())
    torch.testing.assert_close(blocks[1], slices[1], rtol=0, atol=2e-2 * float(slices[1].abs().max()))


def test_the_gradient_is_that_of_finite_differences() -> None:
    """log P of two targets of one position and one of another, by hand in float64."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((9, 4), (9,)))
    states = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    at, targets = torch.tensor([0, 0, 1]), torch.tensor([3, 8, 0])
    for cap in (None, 1.5):
        values, expected, slopes = head._in_blocks(states, weight, bias, at, targets, cap, gradient=True)
        leaf = states.clone().requires_grad_()
        logits = leaf @ weight.T + bias
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        exact = logits.log_softmax(dim=1)[at, targets]
        torch.testing.assert_close(values.double(), exact.detach(), rtol=0, atol=1e-6)
        for j in range(3):
            (wanted,) = torch.autograd.grad(exact[j], leaf, retain_graph=True)
            mine = slopes[j] * weight[targets[j]] - expected[at[j]]
            torch.testing.assert_close(mine.double(), wanted[at[j]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("biased", [True, False])
def test_attention_over_the_vocabulary_equals_blocks(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, bias = (torch.randn(size, generator=generator) for size in ((1111, 24), (1111,)))
    states = 3 * torch.randn(150, 24, generator=generator)
    at, targets = torch.arange(150), torch.randint(1111, (150,), generator=generator)
    results = []
    for fewest in (1, 1000):
        monkeypatch.setattr(head, "_FEWEST_ATTENDED", fewest)
        results.append(head._in_blocks(states, weight, bias if biased else None, at, targets, None, gradient=True))
    for attended, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(attended, in_blocks, rtol=1e-5, atol=1e-5)


def test_one_huge_logit_in_a_late_block_overflows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_BLOCK", {"cpu": 1})
    monkeypatch.setattr(head, "_NARROWEST_BLOCK", 2)
    weight = torch.tensor([[-500.0], [-400.0], [0.0], [300.0], [500.0]])
    at, targets = torch.tensor([0, 0]), torch.tensor([4, 0])
    values, expected, _ = head._in_blocks(torch.ones(1, 1), weight, None, at, targets, None, gradient=True)
    assert values.tolist() == [0.0, -1000.0]
    assert expected.tolist() == [[500.0]]


def test_only_a_plain_frozen_head_is_read_in_blocks(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    slices = head.log_probabilities_by_slices

    def counted(model: Model, batch: Batch, states: torch.Tensor) -> torch.Tensor:
        calls.append("slices")
        return slices(model, batch, states)

    monkeypatch.setattr(head, "log_probabilities_by_slices", counted)
    model = load_model(checkpoint("llama"))
    batch, states = states_of(model)
    frozen = head.log_probabilities(model, batch, states.requires_grad_())
    assert not calls
    layer = model.network.get_output_embeddings()
    assert isinstance(layer, nn.Linear)
    layer.weight.requires_grad_(True)  # full fine-tuning
    trained = head.log_probabilities(model, batch, states)
    assert calls == ["slices"]
    assert torch.autograd.grad(trained.sum(), layer.weight)[0].abs().sum() > 0
    layer.weight.requires_grad_(False)
    add_adapter(model, LoRA(targets=("head",)), seed=0)
    torch.testing.assert_close(head.log_probabilities(model, batch, states), frozen, rtol=0, atol=1e-5)
    assert calls == ["slices", "slices"]
