"""States below the first adapted layer, kept from epoch to epoch: where only top layers are adapted they never change.

    layers 0 to 5, frozen     read once for each instance ── kept
    layers 6 and 7, adapted   read in every step, from the kept states on

What is kept of an instance is a function of the plan of batches alone, however often a run is stopped: its states are
always those of the batch that it has in the first epoch, whose other instances decide how products are rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from rango.models.adapter import Adapter
from rango.scoring.batches import Batch
from rango.scoring.forward import Reader, longest_padded_row
from rango.scoring.narrowing import REFUSALS
from rango.scoring.trees import TokenTree, input_lengths
from rango.training.objectives import SCORED
from rango.training.training_run import TrainingRun

MOST_BYTES = 2**31
"""Larger states are not kept: the limit is no share of the free memory, so that a resumed run does as it did before."""
# Fewer frozen layers save less time than their states are worth in memory.
_SMALLEST_SHARE = 0.25
# The same numbers go through the same upper layers: what differs more has come there on another way.
_TOLERANCE = 1e-5


class KeptStates:
    """The states that enter the first adapted layer, of every instance that a run trains on."""

    def __init__(self, run: TrainingRun, lower: Sequence[nn.Module], first: nn.Module) -> None:
        """Plan what is read together.

        Args:
            run: at the beginning of a phase; its instances are those of the phase.
            lower: the frozen layers at the bottom of the decoder, in their order.
            first: the adapted layer that follows them.
        """
        self._reader = run.data.reader
        self._read = SCORED[run.config.objective]
        self._lower, self._first = list(lower), first
        self._batches = run.plan.epoch(0)
        self._trees = run.trees
        self._batch_of: dict[object, int] = {}
        for number, members in enumerate(self._batches):
            for member in members:
                self._batch_of.setdefault(_key(self._trees[member]), number)
        self.states: dict[object, torch.Tensor] = {}
        """Of each instance that was read, (t, H) on the CPU, t being the width of its batch in the first epoch."""

    @contextlib.contextmanager
    def at(self, trees: Sequence[TokenTree], batch: Batch) -> Iterator[None]:
        """Within the block a pass over `batch`, made from `trees`, begins at the first adapted layer.

        A batch that has a row for each choice is read as a whole.
        """
        states = self._rows(trees, batch) if len(batch.tokens) == len(trees) else None
        if states is None:
            yield
            return
        layers: list[Any] = self._lower
        # The first layer gives the states, the others hand them on.
        layers[0].forward = lambda *_, **__: states
        for layer in layers[1:]:
            layer.forward = lambda *states, **named: states[0] if states else named["hidden_states"]
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward  # that of the class is back

    def agree(self) -> bool:
        """Whether a pass from kept states on gives what the whole pass gives, on the first batch and without adapter.

        Some networks hand on more than states from layer to layer, or their layers take no plain states.
        """
        trees = [self._trees[member] for member in self._batches[0]]
        batch = self._collate(trees)
        try:
            with torch.no_grad():
                whole = self._reader.states(batch)  # (u, H)
                with self.at(trees, batch):
                    difference = (self._reader.states(batch) - whole).abs().max()
        except (*REFUSALS, KeyError):
            return False
        return bool(self.states) and bool(difference <= _TOLERANCE * whole.abs().max())

    def _rows(self, trees: Sequence[TokenTree], batch: Batch) -> torch.Tensor | None:
        """The kept states of each row, (b, t, H) with zeros where it is padded; None where one cannot be kept."""
        for tree in trees:
            if _key(tree) not in self.states and not self._fill(self._batch_of[_key(tree)]):
                return None
        kept = [self.states[_key(tree)] for tree in trees]
        rows, width = batch.tokens.shape
        states = kept[0].new_zeros(rows, width, kept[0].shape[-1])  # (b, t, H)
        for row, values in enumerate(kept):
            # Columns beyond a row's own are padding, in the batch of the first epoch as here.
            columns = min(width, len(values))
            states[row, :columns] = values[:columns]
        return states.to(batch.tokens.device, non_blocking=True)

    def _fill(self, number: int) -> bool:
        """Keep the states of a batch of the first epoch, unless it has a row for each choice."""
        trees = [self._trees[member] for member in self._batches[number]]
        batch = self._collate(trees)
        if len(batch.tokens) != len(trees):
            return False
        states = self._states_of(batch).cpu()  # (b, t, H)
        for tree, row in zip(trees, states, strict=True):
            if self._batch_of[_key(tree)] == number:
                self.states[_key(tree)] = row
        return True

    @torch.no_grad()
    def _states_of(self, batch: Batch) -> torch.Tensor:
        """What enters the first adapted layer, (b, t, H): a pass that ends there."""
        taken: list[torch.Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            taken.append(args[0] if args else named["hidden_states"])
            raise _Reached

        hook = self._first.register_forward_pre_hook(take, with_kwargs=True)
        network: Any = self._reader.model.network
        try:
            network.get_decoder()(**self._reader.inputs(batch))
        except _Reached:
            pass
        finally:
            hook.remove()
        (states,) = taken
        return states

    def _collate(self, trees: Sequence[TokenTree]) -> Batch:
        as_trees = all(self._reader.as_tree(tree) for tree in trees)
        return self._reader.collate(trees, read=self._read, as_trees=as_trees)


class _Reached(Exception):  # noqa: N818
    """The pass has come to the first adapted layer."""


def _key(tree: TokenTree) -> object:
    """What the states of a tree depend on."""
    return tree.trunk, tree.branches, tree.label


def keep_states(run: TrainingRun) -> KeptStates | None:
    """Kept states for the phase that a run begins, or None where they save nothing or would not be the same.

    They are kept where instances are read more than once, a quarter of the layers or more lies below the first adapted
    one, everything fits into `MOST_BYTES`, and each row is read on its own: no layers computed again, no beginning that
    is read once, no rotary frequencies of the longest row, no base that is cut over processes.
    """
    reader, adapter = run.data.reader, run.adapter
    if type(reader) is not Reader or not isinstance(adapter, Adapter) or not reader.splits_head:
        return None
    if run.config.gradient_checkpointing or run.total <= run.plan.steps_per_epoch or reader.prefix is not None:
        return None
    if reader.rope_switches or longest_padded_row(reader.model) is not None:
        return None
    network: Any = reader.model.network
    layers = [module for module in network.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)]
    place = {module: number for number, layer in enumerate(layers) for module in layer.modules()}
    head = network.get_output_embeddings()
    adapted = [place.get(module) for module in adapter.layers.values() if module is not head]
    if not adapted or None in adapted:
        return None
    first = min(number for number in adapted if number is not None)
    if first < max(1, _SMALLEST_SHARE * len(layers)):
        return None
    if any(isinstance(parameter, DTensor) for parameter in layers[0].parameters()):
        return None
    # Rows are kept as wide as the batch that they were read in.
    lengths = input_lengths(run.trees)
    tokens = sum(len(members) * int(lengths[members].max()) for members in run.plan.epoch(0))
    numbers = tokens * network.config.get_text_config().hidden_size
    if numbers * reader.model.dtype.itemsize > MOST_BYTES:
        return None
    kept = KeptStates(run, layers[:first], layers[first])
    with adapter.disabled():
        return kept if kept.agree() else None
