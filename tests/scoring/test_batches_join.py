"""Batches read in different ways, as one batch: the states are those of each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import toy_task
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.models.loading import load_model
from rango.scoring.batches import Batch, Read, collate, join
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode

Checkpoint = Callable[..., Path]
READS: tuple[Read, ...] = ("choices", "answer", "text")


@pytest.mark.parametrize(("architecture", "changes"), [("phi", {}), ("bloom", {}), ("mistral", {"sliding_window": 24})])
@torch.no_grad()
def test_joint_states_and_scores_are_those_of_each_batch(
    checkpoint: Checkpoint, architecture: str, changes: dict[str, Any]
) -> None:
    model = load_model(checkpoint(architecture, **changes))
    reader = probe_reader(model)
    trees = encode(model, toy_task().train[:9], task=toy_task(), form="cloze")
    batches = []
    for number, read in enumerate(READS):
        chosen = trees[3 * number : 3 * number + 3]
        as_trees = all(reader.as_tree(tree) for tree in chosen)
        batches.append(collate(chosen, read=read, as_trees=as_trees, pad=reader.pad()))
    joint = join(batches, pad=reader.pad())
    states = torch.cat([reader.states(batch) for batch in batches])
    torch.testing.assert_close(reader.states(joint), states, rtol=1e-4, atol=1e-4)
    scores = torch.cat([reader.log_probabilities(batch) for batch in batches])
    torch.testing.assert_close(reader.log_probabilities(joint), scores, rtol=1e-4, atol=1e-4)


TREES = st.lists(
    st.builds(
        lambda trunk, branches, label: TokenTree("x", trunk, branches, (1,) * len(branches), label % len(branches)),
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
        st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=2, max_size=4).map(tuple),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=3,
)


@given(groups=st.lists(st.tuples(TREES, st.sampled_from(READS)), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_batches_of_one_reading_joined_are_the_batch_of_all(groups: list[tuple[Sequence[TokenTree], Read]]) -> None:
    def made(trees: Sequence[TokenTree]) -> Batch:
        return collate(trees, read="choices", as_trees=True, pad=0)

    everything = [tree for trees, _ in groups for tree in trees]
    whole, joint = made(everything), join([made(trees) for trees, _ in groups], pad=0)
    assert joint.shape == whole.shape
    assert joint.offsets == whole.offsets
    assert joint.token_count == whole.token_count
    for name in ("tokens", "rows", "columns", "at", "targets", "owners"):
        assert torch.equal(getattr(joint, name), getattr(whole, name)), name
    assert (joint.visible is None) == (whole.visible is None)
    if joint.visible is not None and whole.visible is not None:
        for row, tree in enumerate(everything):  # what padding sees is nobody's business
            real = slice(tree.input_length)
            assert torch.equal(joint.visible[row, 0, real], whole.visible[row, 0, real])
    mixed = join([collate(trees, read=read, as_trees=True, pad=0) for trees, read in groups], pad=0)
    assert mixed.tokens.shape[0] == sum(len(trees) for trees, _ in groups)
    assert len(mixed.targets) == mixed.offsets[-1]
