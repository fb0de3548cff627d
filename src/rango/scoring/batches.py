"""From token trees to the tensors of one forward pass.

    row        t0 t1 t2 a0 c0 c1        (the last token of each branch is predicted, never read)
    position    0  1  2  3  3  4        (branches continue from the trunk)
    attends    a0 sees t0..t2, a0;  c1 sees t0..t2, c0, c1: an attention mask keeps branches apart

When at most one branch has tokens to read, the row is an ordinary causal sequence and needs no mask at all; padding on
the right is never seen by the tokens before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch

from rango.scoring.trees import TokenTree

Read = Literal["choices", "answer", "text"]
"""What is scored: every branch, the right branch alone, or the right branch and the trunk itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The tensors of one forward pass.

    b rows of t tokens; u positions that predict; m scored tokens; K the most choices of any tree. Position i is at
    `rows[i], columns[i]` and predicts the scored tokens `offsets[i] : offsets[i + 1]`: the first tokens of all choices
    are predicted by one position, the end of the trunk. Scored token j is `targets[j]`, predicted by position `at[j]`,
    and counts towards `owners[j]`, which is tree number * K + choice.
    """

    tokens: torch.Tensor
    """(b, t) token ids, padded on the right."""
    positions: torch.Tensor | None
    """(b, t) position ids; None for ordinary sequences."""
    visible: torch.Tensor | None
    """(b, 1, t, p + t) whether the row's token sees the column's, the first p of which are the prefix that the reader
    holds; None for ordinary causal attention."""
    rows: torch.Tensor
    columns: torch.Tensor
    at: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, int]
    """(trees, K)."""
    token_count: int
    """Tokens read, without padding."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        moved = {name: move(getattr(self, name)) for name in ("tokens", "positions", "visible")}
        scored = {name: getattr(self, name).to(device) for name in ("rows", "columns", "at", "targets", "owners")}
        return replace(self, **moved, **scored)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Row:
    """One row while it is built: tokens, positions, the branch each token belongs to (0 = trunk), what it predicts."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    scored: list[tuple[int, int, int]]  # (column that predicts, target token, choice)


_Scored = tuple[int, int, int, int]
"""row, column that predicts, target token, owner"""


def collate(trees: Sequence[TokenTree], *, read: Read, as_trees: bool, pad: int, prefix: int = 0) -> Batch:
    """Build the tensors for one forward pass.

    Args:
        trees: the instances.
        read: what is scored, see `Read`.
        as_trees: one row per tree; otherwise one ordinary sequence per choice, for models that cannot read trees.
        pad: the token id to pad with; any will do, padding is never seen.
        prefix: how many tokens before the trunks the reader holds already; every token sees them.
    """
    width = max(len(tree.branches) for tree in trees)
    rows: list[_Row] = []
    scored: list[_Scored] = []
    for number, tree in enumerate(trees):
        chosen = range(len(tree.branches)) if read == "choices" else (tree.label,)
        groups = [tuple(chosen)] if as_trees else [(k,) for k in chosen]
        for group in groups:
            row = _row(tree, group, with_trunk=read == "text")
            scored.extend((len(rows), at, target, number * width + choice) for at, target, choice in row.scored)
            rows.append(row)
    return _tensors(rows, sorted(scored), shape=(len(trees), width), pad=pad, prefix=prefix)


def join(batches: Sequence[Batch], *, pad: int) -> Batch:
    """The rows of several batches, read in different ways perhaps, as one batch; tree numbers go on counting.

    One batch comes back as it is. The K of the joint batch is the largest.
    """
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.tokens.shape[1] for batch in batches)
    branching = any(batch.visible is not None for batch in batches)
    rows, positions, scored, trees = (
        _starts(counts) for counts in zip(*(_counts(batch) for batch in batches), strict=True)
    )
    width = max(batch.shape[1] for batch in batches)
    numbered = list(enumerate(batches))
    return Batch(
        tokens=torch.cat([_widened(batch.tokens, longest, pad) for batch in batches]),
        positions=torch.cat([_widened(_all_positions(batch), longest, 0) for batch in batches]) if branching else None,
        visible=torch.cat([_widened_visible(batch, longest) for batch in batches]) if branching else None,
        rows=torch.cat([batch.rows + rows[n] for n, batch in numbered]),
        columns=torch.cat([batch.columns for batch in batches]),
        at=torch.cat([batch.at + positions[n] for n, batch in numbered]),
        targets=torch.cat([batch.targets for batch in batches]),
        owners=torch.cat([_owners(batch, trees[n], width) for n, batch in numbered]),
        offsets=(0, *(at + scored[n] for n, batch in numbered for at in batch.offsets[1:])),
        shape=(sum(batch.shape[0] for batch in batches), width),
        token_count=sum(batch.token_count for batch in batches),
    )


def _counts(batch: Batch) -> tuple[int, int, int, int]:
    return len(batch.tokens), len(batch.rows), len(batch.targets), batch.shape[0]


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]


def _owners(batch: Batch, first_tree: int, width: int) -> torch.Tensor:
    tree, choice = batch.owners // batch.shape[1], batch.owners % batch.shape[1]
    return (tree + first_tree) * width + choice


def _widened(tensor: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)


def _all_positions(batch: Batch) -> torch.Tensor:
    """Positions of ordinary sequences written out, for a batch where others branch."""
    if batch.positions is not None:
        return batch.positions
    return torch.arange(batch.tokens.shape[1], device=batch.tokens.device).expand(batch.tokens.shape)


def _widened_visible(batch: Batch, width: int) -> torch.Tensor:
    count, length = batch.tokens.shape
    visible = torch.eye(width, dtype=torch.bool, device=batch.tokens.device).repeat(count, 1, 1, 1)
    if batch.visible is None:
        visible[..., :length, :length] = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    else:
        visible[..., :length, :length] = batch.visible
    return visible


def _row(tree: TokenTree, chosen: Sequence[int], *, with_trunk: bool) -> _Row:
    trunk = len(tree.trunk)
    row = _Row(list(tree.trunk), list(range(trunk)), [0] * trunk, [])
    if with_trunk:
        row.scored.extend((at, tree.trunk[at + 1], tree.label) for at in range(trunk - 1))
    for choice in chosen:
        branch = tree.branches[choice]
        start = len(row.tokens)
        row.tokens.extend(branch[:-1])
        row.positions.extend(range(trunk, trunk + len(branch) - 1))
        row.segments.extend([choice + 1] * (len(branch) - 1))
        # The first token of a branch is predicted by the end of the trunk, the others by the token before them.
        row.scored.append((trunk - 1, branch[0], choice))
        row.scored.extend((start + at, branch[at + 1], choice) for at in range(len(branch) - 1))
    return row


def _tensors(
    rows: Sequence[_Row], scored: Sequence[_Scored], *, shape: tuple[int, int], pad: int, prefix: int
) -> Batch:
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), longest), pad)
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
    branching = any(len(set(row.segments) - {0}) > 1 for row in rows)
    counts = Counter((row, column) for row, column, _, _ in scored)  # in order, as `scored` is sorted
    places = torch.tensor(list(counts))
    each = torch.tensor(list(counts.values()))
    return Batch(
        tokens=tokens,
        positions=_positions(rows, longest) + prefix if branching else None,
        visible=_visible(rows, longest, prefix) if branching else None,
        rows=places[:, 0].contiguous(),
        columns=places[:, 1].contiguous(),
        at=torch.repeat_interleave(torch.arange(len(places)), each),
        targets=torch.tensor([target for _, _, target, _ in scored]),
        owners=torch.tensor([owner for _, _, _, owner in scored]),
        offsets=(0, *accumulate(counts.values())),
        shape=shape,
        token_count=sum(len(row.tokens) for row in rows),
    )


def _positions(rows: Sequence[_Row], longest: int) -> torch.Tensor:
    positions = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        positions[number, : len(row.positions)] = torch.tensor(row.positions)
    return positions


def _visible(rows: Sequence[_Row], longest: int, prefix: int) -> torch.Tensor:
    segments = torch.full(
        (len(rows), longest), -1
    )  # padding is a segment of its own: it sees itself, so no row is empty
    for number, row in enumerate(rows):
        segments[number, : len(row.segments)] = torch.tensor(row.segments)
    same = segments[:, :, None] == segments[:, None, :]
    trunk = (segments == 0)[:, None, :]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    among = (same | trunk) & causal
    return torch.cat([among.new_ones(len(rows), longest, prefix), among], dim=2)[:, None]
