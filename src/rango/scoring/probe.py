"""Finding out how a model can be read. It is tried on the model itself, not concluded from its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rango.errors import InputError
from rango.models.loading import Model, accepts
from rango.models.ngram import NGRAM
from rango.scoring.forward import NGramReader, Reader, check_numbers, longest_tree_row
from rango.scoring.narrowing import REFUSALS, find_narrowing
from rango.scoring.trees import TokenTree

# Largest difference in nats between a tree's score and the full sequence's that rounding explains.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def probe_reader(model: Model) -> Reader:
    """Check how a model can be read, on a small tree of its own tokens.

    Two kinds of model give wrong scores silently when a tree is read as one row: those whose attention ignores the mask
    or the positions that they are given (ALiBi, recurrent and hybrid layers), and those whose attention counts places
    in the row, which shows only beyond a window (`longest_tree_row`). The first are read one choice at a time; of the
    second only longer trees are.

    In the same way it is tried whether a model continues from the keys and values of a prefix: recurrent ones do not.

    Raises:
        InputError: a network that reads the tokens after those it predicts, such as BERT's: it scores no text.
    """
    if model.network.config.model_type == NGRAM:
        return NGramReader(model)
    # A fresh adapter's dropout is on, and would make two readings of one text differ.
    model.network.train(False)
    config: Any = model.network.config.get_text_config()
    window = longest_tree_row(model)
    # A fixed tree whose branches share no token.
    ids = [(7 * n + 3) % int(config.vocab_size) for n in range(13)]
    probe = TokenTree("probe", tuple(ids[:5]), (tuple(ids[5:8]), tuple(ids[8:12]), tuple(ids[12:])), (1, 1, 1), 0)

    # The whole network on whole sequences is right by definition; what is faster has to agree with it.
    reader = Reader(model=model, reads_trees=False, window=window, splits_head=False)
    _check_causal(model, ids)
    truth = _scores(reader, [probe], as_trees=False)
    # Without this every comparison fails, and a note would blame the architecture.
    check_numbers(model, truth.numpy(), "a first text of a few tokens")
    reader = replace(reader, splits_head=_agrees(replace(reader, splits_head=True), [probe], truth))
    of_trees = replace(reader, reads_trees=True)
    if accepts(model.network, "position_ids") and _agrees(of_trees, [probe], truth):
        note = f"attention changes beyond {window} tokens (a window or chunk): longer trees are read per choice"
        reader = replace(of_trees, notes=() if window is None else (note,))
    else:
        kind = model.network.config.model_type
        note = f"{kind} cannot read token trees (no position ids or other layers than attention): read per choice"
        reader = replace(reader, notes=(note,))
    reader = _narrowed(reader, probe, truth)
    return replace(reader, reads_prefix=_continues(reader, probe))


@torch.no_grad()
def _check_causal(model: Model, ids: Sequence[int]) -> None:
    network: Any = model.network
    texts = torch.tensor([ids, [*ids[:-4], *ids[:4]]], device=model.device)
    # What is predicted of the first tokens may not depend on the last four.
    logits = network(texts).logits[:, :-4].float().log_softmax(-1)  # (2, t, V)
    # The same sums on both sides: in float32 a tenth of the tolerance already shows the weakest look ahead.
    if (logits[0] - logits[1]).abs().max() > _TOLERANCE[model.dtype] * (0.1 if model.dtype == torch.float32 else 10):
        raise InputError(
            f"model {model.name}: {network.config.model_type} as configured also reads what follows a token, so that "
            "it gives no probability of a text; choose a causal language model (a decoder: is_decoder true)"
        )


def _narrowed(reader: Reader, probe: TokenTree, truth: torch.Tensor) -> Reader:
    """The reader with what may be left out of the last layer, if the scores stay the same without it."""
    if not reader.splits_head:
        return reader
    batch = reader.collate([probe], read="choices", as_trees=reader.reads_trees)
    network: Any = reader.model.network
    try:
        narrowing = find_narrowing(network.get_decoder(), reader.inputs(batch), batch)
    except REFUSALS:
        return reader
    # Another layer that read what is left out would read nan.
    tried = replace(reader, narrowing=replace(narrowing, fill=torch.nan))
    return replace(reader, narrowing=narrowing) if narrowing.modules and _agrees(tried, [probe], truth) else reader


def _continues(reader: Reader, probe: TokenTree) -> bool:
    """Whether trees score the same after a prefix that was read once as after one that is read with each of them.

    Tried on two kinds of batches, both padded: branching ones, which come with mask and positions, and ordinary
    sequences, which come with neither.
    """
    prefix = probe.trunk[::-1]
    shorter = replace(probe, trunk=probe.trunk[2:])
    letters = replace(probe, trunk=probe.trunk[1:], branches=tuple(branch[:1] for branch in probe.branches))
    for trees in ([probe, shorter], [replace(letters, trunk=probe.trunk), letters]):
        prepended = [replace(tree, trunk=prefix + tree.trunk) for tree in trees]
        if not _agrees(reader, trees, _scores(reader, prepended, as_trees=False), prefix=prefix):
            return False
    return True


def _agrees(reader: Reader, trees: Sequence[TokenTree], truth: torch.Tensor, *, prefix: Sequence[int] = ()) -> bool:
    try:
        scores = _scores(reader.after(prefix) if prefix else reader, trees, as_trees=reader.reads_trees)
    except REFUSALS:
        # A pass that breaks off leaves a sharded model's layers in the middle of it.
        network: Any = reader.model.network
        getattr(network.get_decoder(), "reset_iter_state", lambda: None)()
        return False  # an architecture that takes no such input is one that cannot be read this way
    return bool((scores - truth).abs().max() <= _TOLERANCE[reader.model.dtype])


@torch.no_grad()
def _scores(reader: Reader, trees: Sequence[TokenTree], *, as_trees: bool) -> torch.Tensor:
    """Scores of every choice, (trees * 3,)."""
    batch = reader.collate(trees, read="choices", as_trees=as_trees)
    scores = torch.zeros(3 * len(trees), device=reader.model.device)
    return scores.index_add(0, batch.owners, reader.log_probabilities(batch)).cpu()
