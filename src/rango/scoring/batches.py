"""From token trees to the tensors of one forward pass.

A tree with the trunk t0 t1 t2 and the branches a0 a1 and c0 c1 c2, read as one row:

    column      0   1   2   3   4   5
    token       t0  t1  t2  a0  c0  c1     the last token of a branch is predicted, never read
    position    0   1   2   3   3   4      each branch continues from the trunk
    predicts            a0  a1  c1  c2     the end of the trunk predicts the first token of every branch
                        c0

    visible     t0  t1  t2  a0  c0  c1
           t0   x
           t1   x   x
           t2   x   x   x
           a0   x   x   x   x
           c0   x   x   x       x
           c1   x   x   x       x   x      a branch sees the trunk and itself, never another branch

When at most one branch has tokens to read, the row is an ordinary causal sequence and needs no mask at all: padding
stands on the right, where no real token sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch
from torch.nn.functional import pad as pad_sides
from torch.nn.utils.rnn import pad_sequence

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
    """(u,), as `columns`."""
    columns: torch.Tensor
    at: torch.Tensor
    """(m,), as `targets` and `owners`."""
    targets: torch.Tensor
    owners: torch.Tensor
    offsets: tuple[int, ...]
    """u + 1 numbers."""
    shape: tuple[int, int]
    """(trees, K)."""
    token_count: int
    """Tokens read, without padding."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        tensors = {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), torch.Tensor)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)  # type: ignore[arg-type]

    def cut(self, width: int, length: int, *, prefix: int) -> Batch:
        """The first `width` columns, as of a text of `length` tokens, `prefix` of which were read before."""
        if width == self.tokens.shape[1]:
            return self
        positions = None if self.positions is None else self.positions[:, :width].clamp(max=length - 1)
        visible = None if self.visible is None else self.visible[..., :width, : prefix + width]
        return replace(self, tokens=self.tokens[:, :width], positions=positions, visible=visible)


@dataclass(slots=True)
class _Row:
    """One row while it is built: tokens, positions, the branch each token belongs to (0 = trunk), what it predicts."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    scored: list[tuple[int, int, int]]  # (column that predicts, target token, choice)


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
    scored: list[tuple[int, int, int, int]] = []  # (row, column that predicts, target token, owner)
    for number, tree in enumerate(trees):
        chosen = range(len(tree.branches)) if read == "choices" else (tree.answer,)
        for group in [tuple(chosen)] if as_trees else [(choice,) for choice in chosen]:
            row = _row(tree, group, with_trunk=read == "text")
            scored.extend((len(rows), at, target, number * width + choice) for at, target, choice in row.scored)
            rows.append(row)
    scored.sort()

    # Sorted, the scored tokens of one position stand together, so that each position's logits are computed once.
    counts = Counter((row, column) for row, column, _, _ in scored)
    places = torch.tensor(list(counts))  # (u, 2)
    targets_per_place = torch.tensor(list(counts.values()))  # (u,)
    branching = any(len(set(row.segments) - {0}) > 1 for row in rows)
    return Batch(
        tokens=_padded([row.tokens for row in rows], pad),
        positions=_padded([row.positions for row in rows], 0) + prefix if branching else None,
        visible=_visible([row.segments for row in rows], prefix) if branching else None,
        rows=places[:, 0].contiguous(),
        columns=places[:, 1].contiguous(),
        at=torch.repeat_interleave(torch.arange(len(places)), targets_per_place),
        targets=torch.tensor([target for _, _, target, _ in scored]),
        owners=torch.tensor([owner for _, _, _, owner in scored]),
        offsets=(0, *accumulate(counts.values())),
        shape=(len(trees), width),
        token_count=sum(len(row.tokens) for row in rows),
    )


def _row(tree: TokenTree, chosen: Sequence[int], *, with_trunk: bool) -> _Row:
    trunk = len(tree.trunk)
    row = _Row(list(tree.trunk), list(range(trunk)), [0] * trunk, [])
    if with_trunk:
        row.scored.extend((at, tree.trunk[at + 1], tree.answer) for at in range(trunk - 1))
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


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)  # (b, t)


def _visible(segments: Sequence[Sequence[int]], prefix: int) -> torch.Tensor:
    # Padding is a segment of its own and sees itself: the softmax over a row without any visible token is nan.
    segment = _padded(segments, -1)  # (b, t)
    same = segment[:, :, None] == segment[:, None, :]  # (b, t, t)
    trunk = (segment == 0)[:, None, :]  # (b, 1, t)
    causal = torch.ones(same.shape[1:], dtype=torch.bool).tril()  # (t, t)
    visible = pad_sides((same | trunk) & causal, (prefix, 0), value=True)  # (b, t, p + t)
    return visible[:, None]  # (b, 1, t, p + t)


def join(batches: Sequence[Batch], *, pad: int) -> Batch:
    """The rows of several batches, which may differ in what they score, as one batch; tree numbers are continued.

    A single batch is returned as it is. The K of the joint batch is the largest.
    """
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.tokens.shape[1] for batch in batches)
    width = max(batch.shape[1] for batch in batches)
    # Where each batch begins in the joint one, counted in rows, in positions that predict, in scored tokens, in trees.
    counts = [(len(batch.tokens), len(batch.rows), len(batch.targets), batch.shape[0]) for batch in batches]
    first_row, first_place, first_scored, first_tree = ([0, *accumulate(kind)] for kind in zip(*counts, strict=True))
    owners = []
    for batch, first in zip(batches, first_tree, strict=False):
        tree, choice = batch.owners // batch.shape[1], batch.owners % batch.shape[1]
        owners.append((tree + first) * width + choice)  # (m,)
    numbered = list(enumerate(batches))
    branching = any(batch.visible is not None for batch in batches)
    written = [_written_out(batch, longest) for batch in batches] if branching else []
    return Batch(
        tokens=torch.cat([pad_sides(one.tokens, (0, longest - one.tokens.shape[1]), value=pad) for one in batches]),
        positions=torch.cat([positions for positions, _ in written]) if branching else None,
        visible=torch.cat([visible for _, visible in written]) if branching else None,
        rows=torch.cat([batch.rows + first_row[n] for n, batch in numbered]),
        columns=torch.cat([batch.columns for batch in batches]),
        at=torch.cat([batch.at + first_place[n] for n, batch in numbered]),
        targets=torch.cat([batch.targets for batch in batches]),
        owners=torch.cat(owners),
        offsets=(0, *(at + first_scored[n] for n, batch in numbered for at in batch.offsets[1:])),
        shape=(first_tree[-1], width),
        token_count=sum(batch.token_count for batch in batches),
    )


def _written_out(batch: Batch, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and mask of a batch for rows of `width` tokens, also where its rows are ordinary sequences."""
    count, length = batch.tokens.shape
    device = batch.tokens.device
    ordinary = torch.arange(length, device=device).expand(count, length)
    positions = ordinary if batch.positions is None else batch.positions  # (b, t)
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible = torch.eye(width, dtype=torch.bool, device=device).repeat(count, 1, 1, 1)
    visible[..., :length, :length] = causal if batch.visible is None else batch.visible
    return pad_sides(positions, (0, width - length)), visible  # (b, width), (b, 1, width, width)
