"""The tensors of a forward pass by hand, and batches read in different ways as one batch."""

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


def tensors(batch: Batch) -> dict[str, list[int]]:
    return {name: getattr(batch, name).tolist() for name in ("rows", "columns", "at", "targets", "owners")}


def test_a_tree_by_hand() -> None:
    tree = TokenTree("x", (1, 2, 3), ((4, 5), (6, 7, 8)), (1, 1), label=1)
    short = TokenTree("y", (9,), ((4, 5), (6, 7)), (1, 1), label=0)
    batch = collate([tree, short], read="choices", as_trees=True, pad=0)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 6, 7], [9, 4, 6, 0, 0, 0]]
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 3, 4], [0, 1, 1, 0, 0, 0]]
    assert batch.visible is not None
    assert batch.visible[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]
    assert batch.visible[1, 0, :3, :3].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert bool(batch.visible.any(dim=-1).all())  # no row of the softmax is empty, padding neither
    # The end of the trunk (column 2) predicts 4 and 6; a0 predicts 5, c0 predicts 7, c1 predicts 8.
    assert tensors(batch) == {
        "rows": [0, 0, 0, 0, 1, 1, 1],
        "columns": [2, 3, 4, 5, 0, 1, 2],
        "at": [0, 0, 1, 2, 3, 4, 4, 5, 6],
        "targets": [4, 6, 5, 7, 8, 4, 6, 5, 7],
        "owners": [0, 1, 0, 1, 1, 2, 3, 2, 3],
    }
    assert batch.offsets == (0, 2, 3, 4, 5, 7, 8, 9)
    assert (batch.shape, batch.token_count) == ((2, 2), 9)


def test_ordinary_sequences_need_no_mask() -> None:
    tree = TokenTree("x", (1, 2, 3), ((4, 5), (6, 7, 8)), (1, 1), label=1)
    apart = collate([tree], read="choices", as_trees=False, pad=0)
    assert apart.tokens.tolist() == [[1, 2, 3, 4, 0], [1, 2, 3, 6, 7]]
    letters = TokenTree("x", (1, 2, 3), ((4,), (6,)), (1, 1), label=1)
    one_row = collate([letters], read="choices", as_trees=True, pad=0)
    assert one_row.tokens.tolist() == [[1, 2, 3]]
    assert tensors(one_row) == {"rows": [0], "columns": [2], "at": [0, 0], "targets": [4, 6], "owners": [0, 1]}
    assert apart.visible is one_row.visible is apart.positions is one_row.positions is None


def test_the_right_branch_alone_or_with_the_text() -> None:
    tree = TokenTree("x", (1, 2, 3), ((4, 5), (6, 7, 8)), (1, 1), label=1)
    answer = collate([tree], read="answer", as_trees=True, pad=0)
    assert answer.tokens.tolist() == [[1, 2, 3, 6, 7]]
    assert (answer.targets.tolist(), answer.owners.tolist()) == ([6, 7, 8], [1, 1, 1])
    text = collate([tree], read="text", as_trees=True, pad=0)
    assert (text.targets.tolist(), text.columns.tolist()) == ([2, 3, 6, 7, 8], [0, 1, 2, 3, 4])


def test_every_token_sees_the_prefix() -> None:
    tree = TokenTree("x", (1, 2), ((4, 5), (6, 7)), (1, 1), label=0)
    batch = collate([tree], read="choices", as_trees=True, pad=0, prefix=3)
    assert batch.positions is not None
    assert batch.positions.tolist() == [[3, 4, 5, 5]]
    assert batch.visible is not None
    assert batch.visible.shape == (1, 1, 4, 7)
    assert bool(batch.visible[..., :3].all())
    assert batch.visible[0, 0, 3, 3:].tolist() == [True, True, False, True]


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
