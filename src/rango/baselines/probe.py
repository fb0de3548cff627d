"""A linear probe: logistic regression on the states of the frozen base. What does the base know that its head hides?

    cloze     the state at the last token of each choice, behind the prompt     a choice is right or wrong: fit_choices
    letter    the state at the last token of the prompt                         K letters are classes: fit_classes

The states are those of the last layer, which the head reads. Nothing of the model is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from rango.baselines.regression import Fitted, check_fittable, fit_choices, fit_classes
from rango.errors import InputError
from rango.models.loading import Model
from rango.options import SPLITS, ScoringOptions
from rango.scoring.forward import Reader, check_numbers
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import batches_by_tokens
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task

At = Literal["choices", "prompt"]
"""Where states are taken: behind each choice, or at the end of the prompt that all choices share."""


def fit_probe(model: Model, task: Task, options: ScoringOptions) -> Fitted:
    """Posteriors of a regression on the states of a frozen model. C is chosen on validation; nothing is random.

    Features are brought to mean 0 and variance 1 over the training rows. Of the states of an instance's choices their
    mean is taken away first: it says nothing about which of them is right.

    Args:
        model: without an adapter.
        task: puts the instances into words.
        options: prompt form, and tokens of one forward pass.

    Raises:
        InputError: no instances to train or to validate on; instances that cannot be encoded; a model
            that has no states apart from its head, such as an n-gram.

    Source: Alain and Bengio (2016), arXiv:1610.01644.
    """
    check_fittable(task)
    reader = probe_reader(model)
    if not reader.splits_head:
        kind = model.network.config.model_type
        raise InputError(
            f"model {model.name}: {kind} has no states that a head reads apart; a probe needs a network that has them"
        )
    form = options.form or task.default_form
    at: At = "prompt" if form == "letter" else "choices"
    features = {}
    for split in SPLITS:
        instances = task.split(split)
        states = last_states(reader, encode(model, instances, task=task, form=form), at=at, budget=options.batch_tokens)
        check_numbers(model, states, f"the states of {split}")
        if at == "choices":
            owners = np.repeat(np.arange(len(instances)), [len(instance.choices) for instance in instances])
            states = states - _means(states, owners)[owners]
        features[split] = states
    mean, deviation = features["train"].mean(axis=0), features["train"].std(axis=0)
    # A state that never varies tells nothing, and stays 0.
    scaled = {split: (states - mean) / np.where(deviation > 0, deviation, 1) for split, states in features.items()}
    return fit_classes(scaled, task) if at == "prompt" else fit_choices(scaled, task)


@torch.inference_mode()
def last_states(reader: Reader, trees: Sequence[TokenTree], *, at: At, budget: int) -> np.ndarray:
    """The last layer's states at the end of each choice, or of each prompt.

    Args:
        reader: of the model.
        trees: the instances.
        at: "choices" for a row of each choice, in the order of trees and choices; "prompt" for a row of each tree.
        budget: tokens of one forward pass.

    Returns:
        (rows, H) float32.
    """
    reader.model.network.train(False)
    if at == "choices":
        # A branch's last token is predicted and never read. Behind it stands one more, so that it is read.
        trees = [replace(tree, branches=tuple((*branch, branch[-1]) for branch in tree.branches)) for tree in trees]
    rows: dict[int, np.ndarray] = {}
    for numbers in batches_by_tokens(reader, trees, budget=budget):
        chosen = [trees[number] for number in numbers]
        batch = reader.collate(chosen, read="choices", as_trees=reader.as_tree(chosen[0]))
        states = reader.states(batch)  # (u, H)
        # Of the positions that predict a choice's tokens, the last one in the row is the end of the choice.
        ends = torch.full((batch.shape[0] * batch.shape[1],), -1, device=batch.at.device)
        ends = ends.scatter_reduce(0, batch.owners, batch.at, "amax").reshape(batch.shape)  # (trees, K)
        # All letters are predicted by one position, the end of the prompt.
        ends = ends if at == "choices" else ends[:, :1]
        for number, places in zip(numbers, ends, strict=True):
            rows[number] = states[places[places >= 0]].float().cpu().numpy()  # (K, H) or (1, H)
    return np.concatenate([rows[number] for number in range(len(trees))])


def _means(states: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The mean state of each instance's choices, (N, H)."""
    sums = np.add.reduceat(states, np.flatnonzero(np.diff(owners, prepend=-1)), axis=0)  # (N, H)
    return np.asarray(sums / np.bincount(owners)[:, None], dtype=states.dtype)
