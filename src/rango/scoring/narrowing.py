"""The last layer computed only where a position predicts: the others' results nobody reads.

    position          t0  t1  t2  a0        t2 and a0 predict
    last layer: k, v  x   x   x   x         what attention looks at
                q, o          x   x
                mlp           x   x

Which maps of a layer may be left out elsewhere is not concluded from their names. It is tried: each is computed at some
positions alone, with nan at the others, and may be if the layer's results at those positions stay as they were.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from rango.models.lora import LoRALinear
from rango.scoring.batches import Batch

# Where more of the positions predict, picking them costs more than is saved.
_LARGEST_SHARE = 0.5
# Rounding of products with fewer rows, as a share of the largest result.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# What a network or a part of it raises that cannot take an input: for a part at some positions alone, attention, a
# router with two results, a k or v that others need.
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, NotImplementedError, AssertionError)


@dataclass(frozen=True, eq=False)
class Narrowing:
    """Parts of the last layer that may be computed at the positions that predict alone."""

    layer: nn.Module | None = None
    modules: tuple[nn.Module, ...] = ()
    fill: float = 0.0
    """What stands at the other positions; nan shows who reads it."""

    @contextlib.contextmanager
    def at(self, batch: Batch) -> Iterator[None]:
        """Within the block the modules compute what `batch` predicts from; all else is `fill`.

        Nothing is narrowed where much is scored, as in the objective `tokens`. Where layers are computed again in the
        backward pass, the block has to hold that too. Within another block this one changes nothing.
        """
        rows, width = batch.tokens.shape
        few = len(batch.rows) <= _LARGEST_SHARE * rows * width
        if self.layer is None or not (few or self.fill != 0.0):
            yield
            return
        flat = batch.rows * width + batch.columns  # (u,)
        # On a GPU a layer is computed again by another thread than the one that scores.
        thread = None if "forward" in vars(self.layer) else threading.get_ident()
        # Who has a forward of its own already, such as in another thread, keeps it.
        maps: list[Any] = [m for part in self.modules for m in _unadapted(part) if "forward" not in vars(m)]
        for module in maps:
            module.forward = partial(_at, module.forward, (rows, width), flat, self.fill, thread)
        try:
            yield
        finally:
            for module in maps:
                del module.forward  # that of the class is back


WHOLE = Narrowing()
"""Every position is computed."""


def _at(
    forward: Any,
    shape: tuple[int, int],
    flat: torch.Tensor,
    fill: float,
    thread: int | None,
    x: torch.Tensor,
    *further: Any,
) -> torch.Tensor:
    """The results of a map at the positions `flat`, among `fill`: (b, t, in) gives (b, t, out)."""
    if x.shape[:-1] != shape or thread not in (None, threading.get_ident()):
        whole: torch.Tensor = forward(x, *further)
        return whole
    y = forward(x.flatten(0, 1).index_select(0, flat)[None], *further)  # (1, u, out)
    others = y.new_full((shape[0] * shape[1], y.shape[-1]), fill)
    spread: torch.Tensor = others.index_copy(0, flat, y[0]).unflatten(0, shape)  # (b, t, out)
    return spread


def _unadapted(module: nn.Module) -> Iterator[nn.Module]:
    """The module or, where adapters are in it, its frozen maps: an adapter counts the rows of a whole batch."""
    if isinstance(module, LoRALinear):
        yield module.base
    elif any(isinstance(part, LoRALinear) for part in module.modules()):
        for child in filter(_multiplies, module.children()):
            yield from _unadapted(child)
    else:
        yield module


def _multiplies(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


@torch.no_grad()
def find_narrowing(network: nn.Module, inputs: dict[str, Any], batch: Batch) -> Narrowing:
    """Try which parts of a decoder's last layer may be narrowed, the largest that may.

    Args:
        network: the decoder, whose layers are transformers' own.
        inputs: of one pass.
        batch: what the inputs are made from.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    # A share of a layer that is cut over processes is gathered by the pass of the whole network alone.
    if not layers or any(isinstance(parameter, DTensor) for parameter in layers[-1].parameters()):
        return WHOLE
    layer = layers[-1]
    calls: list[tuple[Any, Any]] = []
    hook = layer.register_forward_pre_hook(lambda _, args, named: calls.append((args, named)), with_kwargs=True)
    try:
        network(**inputs)
    finally:
        hook.remove()
    if len(calls) != 1:
        return WHOLE
    ((arguments, named),) = calls

    def results() -> torch.Tensor:
        output = layer(*arguments, **named)
        states: torch.Tensor = (output if isinstance(output, torch.Tensor) else output[0])[batch.rows, batch.columns]
        return states.float()  # (u, H)

    def may_be(module: nn.Module) -> bool:
        try:
            with Narrowing(layer, (module,), fill=torch.nan).at(batch):
                difference = (results() - truth).abs().max()
        except REFUSALS:
            return False
        return bool(difference <= tolerance)

    def search(module: nn.Module) -> Iterator[nn.Module]:
        for child in filter(_multiplies, module.children()):
            if may_be(child):
                yield child
            elif not isinstance(child, LoRALinear):
                yield from search(child)

    truth = results()
    tolerance = _TOLERANCE.get(next(layer.parameters()).dtype, 0.0) * float(truth.abs().max())
    return Narrowing(layer, tuple(search(layer)))
