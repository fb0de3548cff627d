"""Gradients of one step: the micro-batches of all active members go through the network together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest

import torch

from rango.models import Adapter
from rango.scoring import Reader, TokenTree, join
from rango.training.member import Member
from rango.training.objectives import Part, count_terms
from rango.training.ranks import ALONE, Ranks


def accumulate_gradients(
    reader: Reader, members: Sequence[Member], batches: Sequence[Sequence[TokenTree]], ranks: Ranks = ALONE
) -> list[float]:
    """Add the gradients of each member's mean loss on its batch to its parameters; returns the losses.

    Micro-batch by micro-batch, as each member's configuration says; the result does not depend on their size. Of
    several processes each reads its part of every batch; the sums are those of the whole batch in all of them.
    """
    terms = [count_terms(trees, member.config.objective) for member, trees in zip(members, batches, strict=True)]
    totals = [torch.zeros((), device=reader.model.device) for _ in members]
    reader.model.network.train(False)
    for member in members:
        member.adapter.enable_dropout()
    chunks = [
        _chunks(ranks.share(trees), member.config.micro_batch) for member, trees in zip(members, batches, strict=True)
    ]
    for together in zip_longest(*chunks):
        present = [number for number, trees in enumerate(together) if trees is not None]
        losses = _backward(
            reader,
            [members[number] for number in present],
            [members[number].part(together[number]) for number in present],
            [terms[number] for number in present],
        )
        for number, loss in zip(present, losses, strict=True):
            totals[number] += loss
    for member in members:
        ranks.sum_gradients(member.adapter.parameters())
    return [total / count for total, count in zip(ranks.sum(torch.stack(totals)).tolist(), terms, strict=True)]


def _backward(
    reader: Reader, members: Sequence[Member], parts: Sequence[Part], terms: Sequence[int]
) -> list[torch.Tensor]:
    """One pass over all members' rows; gradients of each member's loss / terms; returns the summed losses.

    The graph is cut at the states that the head reads. Each member's head and loss then go forward and backward on
    their own: the logits of one are gone before the next ones are made, and an adapted head has one adapter's rows.
    """
    with _sharing(members, parts):
        states = reader.states(join([part.batch for part in parts], pad=reader.pad()))
        leaf = states.detach().requires_grad_(states.requires_grad)
        losses = []
        pieces = torch.split(leaf, [len(part.batch.rows) for part in parts])
        for member, part, piece, count in zip(members, parts, pieces, terms, strict=True):
            with member.adapter.alone():
                loss = part.loss(piece)
                (loss / count).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if leaf.grad is not None:
            states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return losses


def _sharing(members: Sequence[Member], parts: Sequence[Part]) -> AbstractContextManager[None]:
    if len(members) == 1:
        return members[0].adapter.alone()
    adapters = [member.adapter for member in members if isinstance(member.adapter, Adapter)]
    return adapters[0].grouping.split(
        [adapter.number for adapter in adapters], [len(part.batch.tokens) for part in parts]
    )


def _chunks(trees: Sequence[TokenTree], size: int | None) -> list[Sequence[TokenTree]]:
    size = size or max(1, len(trees))
    return [trees[start : start + size] for start in range(0, len(trees), size)]
