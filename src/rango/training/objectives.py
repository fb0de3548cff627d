"""What is minimised: one loss over token trees, three ways to read it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rango.options import Normalisation, Objective, Rule
from rango.scoring.batches import Read, collate
from rango.scoring.forward import Reader
from rango.scoring.trees import TokenTree

READS: dict[Objective, Read] = {"tokens": "text", "answer": "answer", "choice": "choices"}


def count_terms(trees: Sequence[TokenTree], objective: Objective) -> int:
    """How many terms the loss of these trees averages over: predicted tokens, answer tokens, or instances.

    It depends on the trees alone, so that a batch cut into micro-batches has the loss and gradient of the whole.
    """
    if objective == "choice":
        return len(trees)
    answers = sum(len(tree.branches[tree.label]) for tree in trees)
    return answers + (sum(len(tree.trunk) - 1 for tree in trees) if objective == "tokens" else 0)


def loss_sum(
    reader: Reader,
    trees: Sequence[TokenTree],
    *,
    objective: Objective,
    rule: Rule = "logarithmic",
    normalise: Normalisation = "none",
) -> torch.Tensor:
    """The summed loss of some trees, a scalar in nats (for the Brier rule without unit).

        tokens:  - sum of log P(t | before) over trunk (from its second token) and right branch
        answer:  - sum of log P(t | before) over the right branch
        choice:  a proper scoring rule of q = softmax(scores) over the choices:
                 logarithmic - log q_y, Brier sum_k (1[k = y] - q_k)²

    Divide by `count_terms` of the whole batch for the mean.
    """
    part = Part(reader, trees, objective=objective, rule=rule, normalise=normalise)
    return part.loss(reader.states(part.batch))


class Part:
    """Some trees, collated for one objective: what the forward pass reads, and the loss of the states it gives."""

    def __init__(
        self,
        reader: Reader,
        trees: Sequence[TokenTree],
        *,
        objective: Objective,
        rule: Rule = "logarithmic",
        normalise: Normalisation = "none",
    ) -> None:
        self._reader = reader
        self._trees = trees
        self._objective = objective
        self._rule: Rule = rule
        self._normalise: Normalisation = normalise
        # The trees of one part are read in one way; if one cannot be read as a tree, all are read per choice.
        as_trees = all(reader.as_tree(tree) for tree in trees)
        batch = collate(trees, read=READS[objective], as_trees=as_trees, pad=reader.pad())
        self.batch = batch.to(reader.model.device)

    def loss(self, states: torch.Tensor) -> torch.Tensor:
        """The summed loss, see `loss_sum`, from `Reader.states` of this part's positions."""
        reader, batch, trees = self._reader, self.batch, self._trees
        if self._objective != "choice":
            return -reader.log_probabilities(batch, states).sum()
        lengths = torch.tensor(
            [_padded(tree.lengths(self._normalise), batch.shape[1]) for tree in trees], device=states.device
        )
        one_token = all(len(branch) == 1 for tree in trees for branch in tree.branches)
        # Logits will do only where nothing but the common log-normaliser is missing.
        enough = one_token and bool((lengths <= 1).all())
        terms = reader.choice_logits(batch, states) if enough else reader.log_probabilities(batch, states)
        scores = torch.zeros(batch.shape[0] * batch.shape[1], device=terms.device).index_add(0, batch.owners, terms)
        scores = scores.reshape(batch.shape) / lengths.clamp(min=1)
        log_posteriors = scores.masked_fill(lengths == 0, -torch.inf).log_softmax(dim=1)
        labels = torch.tensor([tree.label for tree in trees], device=scores.device)
        return _proper_score(log_posteriors, labels, self._rule)


def _proper_score(log_posteriors: torch.Tensor, labels: torch.Tensor, rule: Rule) -> torch.Tensor:
    if rule == "logarithmic":
        return torch.nn.functional.nll_loss(log_posteriors, labels, reduction="sum")
    truth = torch.nn.functional.one_hot(labels, log_posteriors.shape[1])
    return (truth - log_posteriors.exp()).square().sum()


def _padded(lengths: Sequence[int], width: int) -> list[int]:
    """Lengths with 0 for choices that the tree does not have."""
    return [*lengths, *[0] * (width - len(lengths))]
