"""A beginning that many trees share, such as shots: its keys and values are computed once, and every batch goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from rango.models import Model
from rango.models.loading import accepts
from rango.scoring.trees import TokenTree

# A shorter beginning saves less than a forward pass of its own costs.
_WORTH_IT = 16


@dataclass(frozen=True, eq=False)
class Prefix:
    """The keys and values of some tokens in every layer. It serves batches of any size and is never changed."""

    length: int
    """Tokens."""
    cache: Cache

    def inputs(self, model: Model) -> dict[str, Any]:
        """The arguments of a forward pass that goes on from here."""
        return {_name_of_cache(model): self.cache, "use_cache": True}


class _PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, (1, heads, p, d) each, put before those of each batch, which are not kept."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of prefix and batch, (b, heads, p + t, d); this layer stays as it was."""
        assert self.keys is not None
        assert self.values is not None
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([prefix.expand(len(states), -1, -1, -1), states], dim=-2)


@torch.inference_mode()
def read_prefix(model: Model, tokens: Sequence[int]) -> Prefix:
    """Read some tokens once, with the adapter and its dropout as they are."""
    cache = DynamicCache()
    network: Any = model.network
    inputs = {"input_ids": torch.tensor([list(tokens)], device=model.device), "use_cache": True}
    network.get_decoder()(**inputs, **{_name_of_cache(model): cache})
    read: list[Any] = list(cache.layers)
    return Prefix(length=len(tokens), cache=Cache(layers=[_PrefixLayer(layer.keys, layer.values) for layer in read]))


def shared_beginning(trees: Sequence[TokenTree]) -> int:
    """How many tokens begin every trunk and are worth reading once; at least one token is left to every trunk.

    It is found in the tokens, not computed from the shots' text: wherever the tokenizer cuts, what is scored is the
    tokens of the whole text.
    """
    if len(trees) < 2:
        return 0
    # What the first and the last in order share, all between them share.
    first, last = min(tree.trunk for tree in trees), max(tree.trunk for tree in trees)
    most = min(len(tree.trunk) for tree in trees) - 1
    shared = next((at for at in range(most) if first[at] != last[at]), most)
    return shared if shared >= _WORTH_IT else 0


def longest_short_rope(model: Model) -> int | None:
    """The length beyond which the rotary frequencies of a model change (longrope), None where they never do.

    Keys that were computed below that length do not fit a text that is longer.
    """
    config: Any = model.network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    length = rope.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
    return length if isinstance(length, int) else 0


def _name_of_cache(model: Model) -> str:
    return "cache" if accepts(model.network, "cache") else "past_key_values"
