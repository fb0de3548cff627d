"""Losses by hand and by full sequences; a batch and its micro-batches are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task

from rango.decisions import Posteriors, brier_rule, logarithmic_rule
from rango.decisions.metrics import ranked_rule
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import LoRA, Rule
from rango.scoring.forward import Reader
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode
from rango.training.objectives import MicroBatch, count_terms

Checkpoint = Callable[..., Path]
TASK = toy_task()


def loss_sum(reader: Reader, trees: Sequence[TokenTree], **settings: Any) -> torch.Tensor:
    micro_batch = MicroBatch(reader, trees, **settings)
    return micro_batch.loss(reader.states(micro_batch.batch))


def log_probabilities(network: Any, ids: list[int]) -> list[float]:
    """log P(ids[t] | before) for t >= 1, by the plainest route."""
    logits = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(logits[t - 1, ids[t]]) for t in range(1, len(ids))]


@pytest.mark.parametrize("architecture", ["phi", "bloom"])
@torch.no_grad()
def test_losses_equal_full_sequences(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:5], task=TASK, form="cloze")
    tokens = answer = choice = brier = 0.0
    for tree in trees:
        right = log_probabilities(model.network, [*tree.trunk, *tree.branches[tree.label]])
        tokens -= sum(right)
        answer -= sum(right[len(tree.trunk) - 1 :])
        scores = torch.tensor(
            [sum(log_probabilities(model.network, [*tree.trunk, *b])[len(tree.trunk) - 1 :]) for b in tree.branches]
        )
        choice -= float(scores.log_softmax(0)[tree.label])
        truth = torch.nn.functional.one_hot(torch.tensor(tree.label), len(scores))
        brier += float((truth - scores.softmax(0)).square().sum())
    assert float(loss_sum(reader, trees, objective="tokens")) == pytest.approx(tokens, rel=1e-5)
    assert float(loss_sum(reader, trees, objective="answer")) == pytest.approx(answer, rel=1e-5)
    assert float(loss_sum(reader, trees, objective="choice")) == pytest.approx(choice, rel=1e-5)
    assert float(loss_sum(reader, trees, objective="choice", rule="brier")) == pytest.approx(brier, rel=1e-5)


def test_terms_by_hand() -> None:
    tree = TokenTree("x", (1, 2, 3, 4), ((5, 6), (7,)), (2, 1), 0)
    assert count_terms([tree], "choice") == 1
    assert count_terms([tree], "answer") == 2
    assert count_terms([tree], "tokens") == 5


@pytest.mark.parametrize("objective", ["tokens", "answer", "choice"])
@pytest.mark.parametrize("normalise", ["none", "characters"])
def test_a_batch_and_its_micro_batches_have_one_gradient(
    checkpoint: Checkpoint, objective: Any, normalise: Any
) -> None:
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(targets=("q", "mlp", "head")), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.1)
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:7], task=TASK, form="cloze")

    def gradient(size: int) -> list[torch.Tensor]:
        for parameter in adapter.parameters():
            parameter.grad = None
        for start in range(0, len(trees), size):
            part = trees[start : start + size]
            (
                loss_sum(reader, part, objective=objective, normalise=normalise) / count_terms(trees, objective)
            ).backward()
        return [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]

    for size in (1, 3):
        for found, expected in zip(gradient(size), gradient(7), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_proper_score_has_the_gradient_q_minus_truth() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    torch.nn.functional.nll_loss(scores.log_softmax(1), torch.tensor([2]), reduction="sum").backward()
    torch.testing.assert_close(scores.grad, scores.detach().softmax(1) - torch.tensor([[0.0, 0, 1]]))


def shares_of(trees: Sequence[TokenTree]) -> list[list[float]]:
    """Made-up soft labels, a row for each tree."""
    rows = torch.rand([len(trees), len(trees[0].branches)], generator=torch.Generator().manual_seed(0)).double()
    return (rows / rows.sum(dim=1, keepdim=True)).tolist()


@pytest.mark.parametrize("rule", ["logarithmic", "brier", "ranked"])
def test_rules_against_soft_labels_equal_votes_by_hand_with_their_gradient(
    checkpoint: Checkpoint, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is Σ_k t_k rule(k, q), as `rango.decisions` scores it, and so is its gradient by finite differences."""
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:4], task=TASK, form="cloze")
    targets = shares_of(trees)
    soft = [replace(tree, label=None, target=tuple(row)) for tree, row in zip(trees, targets, strict=True)]
    micro_batch = MicroBatch(reader, soft, objective="choice", rule=rule)
    scores = torch.randn([4, len(targets[0])], generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    monkeypatch.setattr(MicroBatch, "_log_posteriors", lambda _, states: states.log_softmax(dim=1))
    loss = micro_batch.loss(scores)
    (gradient,) = torch.autograd.grad(loss, scores)
    by_decisions = {"logarithmic": logarithmic_rule, "brier": brier_rule, "ranked": ranked_rule}[rule]

    def expected(values: np.ndarray) -> float:
        return 4 * Posteriors.from_scores(values, targets).score(by_decisions)

    values = scores.detach().numpy()
    assert float(loss.detach()) == pytest.approx(expected(values))
    for place in np.ndindex(*values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-5
        slope = (expected(values + step) - expected(values - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-7)


@torch.no_grad()
def test_a_target_of_one_choice_trains_as_its_label(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = list(encode(model, TASK.train[:4], task=TASK, form="cloze"))
    sure = [
        replace(tree, label=None, target=tuple(float(k == tree.answer) for k in range(len(tree.branches))))
        for tree in trees
    ]
    for rule in ("logarithmic", "brier", "ranked"):
        losses = [loss_sum(reader, each, objective="choice", rule=rule) for each in (trees, sure)]
        assert float(losses[0]) == float(losses[1])


@torch.no_grad()
@pytest.mark.parametrize("rule", ["logarithmic", "brier"])
def test_smoothed_labels_train_as_the_soft_labels_that_they_mean(checkpoint: Checkpoint, rule: Rule) -> None:
    """ε = 0.3 of a label goes to all choices that its instance has: 0.8, 0.1, 0.1 of three, 0.85, 0.15 of two."""
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = list(encode(model, TASK.train[:4], task=TASK, form="cloze"))
    trees[1] = replace(trees[1], branches=trees[1].branches[:2], characters=trees[1].characters[:2], label=1)
    soft = []
    for tree in trees:
        others = 0.3 / len(tree.branches)
        target = tuple(others + 0.7 * (k == tree.answer) for k in range(len(tree.branches)))
        soft.append(replace(tree, label=None, target=target))
    smoothed = MicroBatch(reader, trees, objective="choice", rule=rule, label_smoothing=0.3)
    by_hand = MicroBatch(reader, soft, objective="choice", rule=rule)
    losses = [float(one.loss(reader.states(one.batch))) for one in (smoothed, by_hand)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    plain = MicroBatch(reader, trees, objective="choice", rule=rule)
    assert losses[0] != pytest.approx(float(plain.loss(reader.states(plain.batch))), rel=1e-3)
