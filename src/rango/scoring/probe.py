"""Finding out how a model can be read. Checked on the model itself, not assumed from its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rango.models.loading import Model, accepts
from rango.models.ngram import NGRAM
from rango.scoring.forward import NGramReader, Reader
from rango.scoring.trees import TokenTree

# Largest difference in nats between a tree's score and the full sequence's that rounding explains.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}

# What a network raises when it cannot take an input.
_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, NotImplementedError)


def probe_reader(model: Model) -> Reader:
    """Check how a model can be read, on a small tree of its own tokens.

    Two kinds of model give wrong scores silently when a tree is read as one row: those whose attention ignores the mask
    or the positions that they are given (ALiBi, recurrent and hybrid layers), and those with a sliding window shorter
    than the instance. The first are read one choice at a time; for the second only longer instances are.

    In the same way, whether a model goes on from the keys and values of a prefix is tried: recurrent ones do not.
    """
    if model.network.config.model_type == NGRAM:
        return NGramReader(model)
    # A fresh adapter's dropout is on, and would make two readings of one text differ.
    model.network.train(False)
    reader = _without_prefix(model)
    return replace(reader, reads_prefix=_continues(reader))


def _without_prefix(model: Model) -> Reader:
    window = _window(model)
    whole = Reader(model=model, reads_trees=False, window=window, splits_head=False)
    truth = _probe_scores(whole)
    tolerance = _TOLERANCE[model.dtype]
    apart = Reader(model=model, reads_trees=False, window=window, splits_head=True)
    splits_head = _agrees(apart, truth, tolerance)
    best = Reader(model=model, reads_trees=True, window=window, splits_head=splits_head)
    if accepts(model.network, "position_ids") and _agrees(best, truth, tolerance):
        note = () if window is None else (f"sliding window of {window} tokens: longer instances are read per choice",)
        return Reader(model=model, reads_trees=True, window=window, splits_head=splits_head, notes=note)
    kind = str(model.network.config.model_type)
    notes = (f"{kind} cannot read token trees (no position ids or other layers than attention): read per choice",)
    return Reader(model=model, reads_trees=False, window=window, splits_head=splits_head, notes=notes)


def _window(model: Model) -> int | None:
    config: Any = model.network.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or getattr(config, "use_sliding_window", True) is False:
        return None
    return window


def _agrees(reader: Reader, truth: torch.Tensor, tolerance: float) -> bool:
    try:
        scores = _probe_scores(reader)
    except _REFUSALS:
        return False  # an architecture that takes no such input is one that cannot be read this way
    return bool((scores - truth).abs().max() <= tolerance)


def _probe(reader: Reader) -> TokenTree:
    """A fixed tree whose branches share no token."""
    size = int(reader.model.network.config.get_text_config().vocab_size)
    ids = [(7 * n + 3) % size for n in range(13)]
    return TokenTree("probe", tuple(ids[:5]), (tuple(ids[5:8]), tuple(ids[8:12]), tuple(ids[12:])), (1, 1, 1), 0)


def _probe_scores(reader: Reader) -> torch.Tensor:
    """Scores of the probe, (3,)."""
    return _scores(reader, [_probe(reader)], as_trees=reader.reads_trees)


def _continues(reader: Reader) -> bool:
    """Whether trees score the same after a prefix that was read once as after one that is read with each of them.

    Tried on two kinds of batches, both padded: branching ones, which come with mask and positions, and ordinary
    sequences, which come with neither.
    """
    probe = _probe(reader)
    letters = replace(probe, trunk=probe.trunk[1:], branches=tuple(branch[:1] for branch in probe.branches))
    shorter = replace(probe, trunk=probe.trunk[2:])
    prefix, tolerance = probe.trunk[::-1], _TOLERANCE[reader.model.dtype]
    for trees in ([probe, shorter], [replace(letters, trunk=probe.trunk), letters]):
        prepended = [replace(tree, trunk=prefix + tree.trunk) for tree in trees]
        truth = _scores(reader, prepended, as_trees=False)
        try:
            found = _scores(reader.after(prefix), trees, as_trees=reader.reads_trees)
        except _REFUSALS:
            return False
        if not bool((found - truth).abs().max() <= tolerance):
            return False
    return True


@torch.no_grad()
def _scores(reader: Reader, trees: Sequence[TokenTree], *, as_trees: bool) -> torch.Tensor:
    """Scores of every choice, (trees * 3,)."""
    batch = reader.collate(trees, read="choices", as_trees=as_trees)
    scores = torch.zeros(3 * len(trees), device=reader.model.device)
    return scores.index_add(0, batch.owners, reader.log_probabilities(batch)).cpu()
