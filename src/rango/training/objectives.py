"""What training minimises: three objectives, each a loss of the instances of a micro-batch.

trunk "Ann smiled. Mood:"   branches " happy" " sad" " angry"   label 0

tokens   scores every token of the trunk but the first, and " happy"
answer   scores " happy"
choice   scores all three branches against one another
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from rango.options import Normalisation, Objective, Rule
from rango.scoring.batches import Batch, Read
from rango.scoring.forward import Reader
from rango.scoring.trees import TokenTree

SCORED: dict[Objective, Read] = {"tokens": "text", "answer": "answer", "choice": "choices"}


def count_terms(trees: Sequence[TokenTree], objective: Objective) -> int:
    """How many terms the loss of these trees averages over: predicted tokens, answer tokens, or instances.

    The number depends on the trees alone, so that a batch cut into micro-batches has the loss and the gradient of the
    whole batch.
    """
    if objective == "choice":
        return len(trees)
    answers = sum(len(tree.branches[tree.answer]) for tree in trees)
    return answers + (sum(len(tree.trunk) - 1 for tree in trees) if objective == "tokens" else 0)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Instances that are read in one forward pass for one objective.

    Collating and the loss are two steps because runs of a bank share the forward pass between them: the states of all
    runs' micro-batches are computed together, and each run's loss is taken from its own rows.
    """

    reader: Reader
    trees: Sequence[TokenTree]
    objective: Objective
    rule: Rule = "logarithmic"
    """Of the objective `choice`."""
    normalise: Normalisation = "none"
    """What the score of a choice is divided by; objective `choice` only."""
    label_smoothing: float = 0.0
    """The share ε of a label that is spread over the K choices of its instance, t ← (1 − ε) t + ε / K."""

    @cached_property
    def batch(self) -> Batch:
        """What the forward pass reads."""
        # One micro-batch is read in one way: if one tree is too long to be read as a tree, every choice gets a row.
        as_trees = all(self.reader.as_tree(tree) for tree in self.trees)
        return self.reader.collate(self.trees, read=SCORED[self.objective], as_trees=as_trees)

    def loss(self, states: torch.Tensor) -> torch.Tensor:
        """The summed loss, a scalar in nats (for the Brier rule without unit); `count_terms` makes it a mean.

            tokens:  - sum of log P(t | before) over trunk (from its second token) and right branch
            answer:  - sum of log P(t | before) over the right branch
            choice:  a proper scoring rule of q = softmax(scores) over the choices, in expectation under the target t,
                     which is 1[k = y] where one choice is right:
                     logarithmic - sum_k t_k log q_k, Brier sum_k (q_k - t_k)² + t_k (1 - t_k),
                     ranked as Brier, of the running sums of q and t over the levels

        Args:
            states: (u, H), what `Reader.states` gives for `batch`: u positions that predict, hidden size H.
        """
        reader, batch = self.reader, self.batch
        if self.objective != "choice":
            return -reader.log_probabilities(batch, states).sum()
        log_posteriors = self._log_posteriors(states)  # (N, K)
        targets = self._targets(log_posteriors)  # (N, K)
        if self.rule == "logarithmic":
            # A choice that a tree does not have is -inf, and 0 · inf no number.
            return -(targets * log_posteriors.masked_fill(targets == 0, 0.0)).sum()
        shares = log_posteriors.exp()
        if self.rule == "ranked":
            shares, targets = shares.cumsum(dim=1), targets.cumsum(dim=1)
        # The second term is the spread of the target itself: 0 where one choice is right, and without a gradient.
        return ((shares - targets).square() + targets * (1 - targets)).sum()

    def _targets(self, log_posteriors: torch.Tensor) -> torch.Tensor:
        """What is right of each tree as shares of the choices, (N, K)."""
        targets = torch.zeros_like(log_posteriors, requires_grad=False)
        for row, tree in enumerate(self.trees):
            if tree.target is None:
                targets[row, tree.answer] = 1.0
            else:
                targets[row, : len(tree.target)] = torch.tensor(tree.target, device=targets.device)
        if self.label_smoothing:
            exists = torch.isfinite(log_posteriors)  # (N, K)
            uniform = (exists / exists.sum(dim=1, keepdim=True)).to(targets.dtype)
            targets = torch.lerp(targets, uniform, self.label_smoothing)
        return targets

    def _log_posteriors(self, states: torch.Tensor) -> torch.Tensor:
        """Log-softmax over the choices of each tree, (N, K); -inf where a tree has no such choice."""
        reader, batch, trees = self.reader, self.batch, self.trees
        # A choice that a tree does not have is given the length 0.
        lengths = torch.zeros(batch.shape, dtype=torch.long)
        for row, tree in enumerate(trees):
            lengths[row, : len(tree.branches)] = torch.tensor(tree.lengths(self.normalise))
        lengths = lengths.to(states.device)  # (N, K)
        # The logits of one-token choices differ from log-probabilities by the log-normaliser over the vocabulary, which
        # the softmax over the choices cancels; a division by unequal lengths would keep a part of it.
        one_token = all(len(branch) == 1 for tree in trees for branch in tree.branches)
        logits_suffice = one_token and bool((lengths <= 1).all())
        terms = reader.choice_logits(batch, states) if logits_suffice else reader.log_probabilities(batch, states)
        # Sum the scored tokens (m,) of each choice.
        sums = torch.zeros(batch.shape[0] * batch.shape[1], device=terms.device)  # (N * K,)
        scores = sums.index_add(0, batch.owners, terms).reshape(batch.shape) / lengths.clamp(min=1)  # (N, K)
        return scores.masked_fill(lengths == 0, -torch.inf).log_softmax(dim=1)
