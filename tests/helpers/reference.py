"""Slow, plain computations that the code under test is compared with."""

from __future__ import annotations

from typing import Any

import torch

from rango.models.loading import Model
from rango.scoring.trees import TokenTree


@torch.no_grad()
def full_sequence_score(model: Model, tree: TokenTree, choice: int) -> float:
    """log P(branch | trunk) the slow way: the whole text through the whole model, one choice at a time."""
    ids = [*tree.trunk, *tree.branches[choice]]
    network: Any = model.network
    log_probabilities = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_probabilities[at - 1, ids[at]]) for at in range(len(tree.trunk), len(ids)))
