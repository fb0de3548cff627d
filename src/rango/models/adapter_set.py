"""Several named adapters on one loaded base: one of them at work, rows of different ones in one batch, or a sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path

import torch

from rango.errors import InputError, unknown_name
from rango.models.adapter import Adapter, check_rows_apart, check_unadapted, joint_scaling
from rango.models.loading import Model
from rango.models.peft_format import put_adapters, read_adapter
from rango.options import LoRA

_BASE = -1
"""The number of no adapter: rows that belong to it are the base model's."""


class AdapterSet(Mapping[str, Adapter]):
    """Adapters by name, in one network. Outside of the blocks below the network is the base model.

    with adapters.only("tone"):                     # every row
        network(tokens)
    with adapters.mixed(["tone", "law", None]):     # a batch of three rows, the last one the base model's
        network(tokens)
    """

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = dict(adapters)
        first = next(iter(self._adapters.values()))
        self._model, self._grouping = first.model, first.grouping
        self._grouping.members = ()
        self._rows_apart = False  # whether a batch of several adapters has been tried

    def __getitem__(self, name: str) -> Adapter:
        """The adapter of a name."""
        if name not in self._adapters:
            raise unknown_name("adapter", name, list(self._adapters))
        return self._adapters[name]

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were given."""
        return iter(self._adapters)

    def __len__(self) -> int:
        """How many adapters there are."""
        return len(self._adapters)

    def only(self, name: str) -> AbstractContextManager[None]:
        """Within the block every row belongs to one adapter.

        Raises:
            InputError: no adapter has that name.
        """
        return self[name].alone()

    def mixed(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within the block row i of a batch belongs to the adapter `names[i]`, or to the base model where it is None.

        The network's forward pass must then be given as many rows as there are names. Rows of one adapter that stand
        together are computed together.

        Raises:
            InputError: no adapter has one of the names, there are none, or an adapted module is not given the batch row
                by row (see `check_rows_apart`).
        """
        if not names:
            raise InputError("mixed has no names; give one for each row of the batch")
        owners = [_BASE if name is None else self[name].number for name in names]
        if not self._rows_apart and len(set(owners)) > 1:
            with self._grouping.off():
                check_rows_apart(self._model, {name for adapter in self._adapters.values() for name in adapter.layers})
            self._rows_apart = True
        spans = [(owner, len(list(rows))) for owner, rows in groupby(owners)]
        return self._grouping.split([owner for owner, _ in spans], [count for _, count in spans])

    def add_mix(self, name: str, weights: Mapping[str, float]) -> Adapter:
        """Add the weighted sum of adapters as one more: sum over i of w_i s_i B_i A_i, with the rank of all together.

        It equals what PEFT's `add_weighted_adapter` makes as `cat`, and can be saved as any other.

        Raises:
            InputError: the name is taken, an adapter is unknown, a weight is not finite, there are none, or one has
                DoRA, of which no sum is an adapter.
        """
        if name in self._adapters or not weights:
            raise InputError(f"the mix {name!r} " + ("has no weights" if not weights else "exists; give another name"))
        matrices: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        # The sum of products is the product of the matrices side by side.
        for part, weight in weights.items():
            adapter = self[part]
            if adapter.lora.dora or not math.isfinite(weight):
                why = f"has the weight {weight}; expected a number" if not adapter.lora.dora else "has DoRA"
                raise InputError(f"the mix {name!r} cannot be made: {part!r} {why}")
            joint, plans = adapter.joint_updates(), adapter.plans()
            for layer in adapter.layers:
                A, B = joint[f"{layer}.lora_A.weight"], joint[f"{layer}.lora_B.weight"]
                matrices.setdefault(layer, []).append((A, B * weight * joint_scaling(plans[layer])))
        number = max(adapter.number for adapter in self._adapters.values()) + 1
        modules = {key: module for adapter in self._adapters.values() for key, module in adapter.layers.items()}
        layers = {key: modules[key] for key in matrices}
        for key, pairs in matrices.items():
            A, B = torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1)
            layers[key].add(rank=len(A), scaling=1.0, adapter=number)
            layers[key].take(A, B, number)
        rank = max(sum(len(A) for A, _ in pairs) for pairs in matrices.values())
        mix = Adapter(self._model, LoRA(rank=rank, alpha=rank), layers, self._grouping, number)
        self._adapters[name] = mix
        return mix

    def remove(self) -> None:
        """Take all adapters out of the network, which is the base model again."""
        for adapter in self._adapters.values():
            adapter.remove()


def load_adapters(model: Model, folders: Mapping[str, Path | str]) -> AdapterSet:
    """Put saved LoRA adapters into one model, each under a name; none is at work before one is asked for.

    Args:
        model: a loaded base without adapters.
        folders: by name, a run directory or a folder in PEFT's format, as `load_adapter` takes it.

    Raises:
        InputError: there are no folders, or one cannot be read for this model; the network is then as it was.
    """
    check_unadapted(model)
    if not folders:
        raise InputError("load_adapters has no folders; give at least one, by name")
    # All are read and checked before the first layer is replaced.
    stored = [read_adapter(model, Path(folder)) for folder in folders.values()]
    return AdapterSet(dict(zip(folders, put_adapters(model, stored), strict=True)))
