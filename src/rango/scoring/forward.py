"""How one model reads batches of token trees: the states and log-probabilities of a forward pass.

A beginning that all trees share, such as shots, can be read once (`Reader.after`): its keys and values in every layer
are kept, and each batch continues from them.

What counts places in the row (a local window, chunks, blocks, a selection of the best keys) or takes its rotary
frequencies from the longest position of the batch is right for a tree only below some length. A short probe cannot see
that, so these lengths are looked up in the configuration (`longest_tree_row`, `longest_padded_row`, `rope_switches`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from rango.errors import InputError
from rango.models.loading import Model, accepts
from rango.scoring import head
from rango.scoring.batches import Batch, Read, collate
from rango.scoring.narrowing import WHOLE, Narrowing
from rango.scoring.trees import TokenTree

# A shorter beginning saves less than a forward pass of its own costs.
SHORTEST_PREFIX = 16
# Names of lengths in the configurations of transformers: windows, chunks, blocks, and numbers of keys that are kept.
_LENGTH = re.compile(
    r"window(_size|_len|_length)?$|chunk_(size|length|len)$|block_size$|^local_attention$|compress_(rate|ratio)s?$"
    r"|index_topk$|floor(_scale)?$|rel_extent$"
)
_SELECTION = re.compile(r"^(index_topk|index_block_size|keep_window_size)$")
# These sound like lengths of text and are none.
_OTHER = re.compile(r"feed_forward|^use_|vision|audio|image|conv_|max_window")


@dataclass(frozen=True, eq=False)
class Reader:
    """How one model reads batches: whether it may read trees, and whether its head can be applied apart.

    In the shapes below b, t, u and m are those of `Batch`; H is the size of a state and V that of the vocabulary.
    """

    model: Model
    reads_trees: bool
    window: int | None
    """The longest row that may hold a tree, for attention that counts places in the row; None for no limit."""
    splits_head: bool
    reads_prefix: bool = False
    """Whether a beginning that all trees share may be read once, see `after`."""
    narrowing: Narrowing = WHOLE
    """What of the last layer is computed at the positions that predict alone."""
    notes: tuple[str, ...] = ()
    prefix_length: int = 0
    """Tokens that were read before every tree."""
    prefix: Cache | None = None
    """Their keys and values in every layer; they serve batches of any size and are never changed."""

    def as_tree(self, tree: TokenTree) -> bool:
        """Whether this tree may be read as one row."""
        if not self.reads_trees or (self.window is not None and tree.input_length > self.window):
            return False
        # One row has one set of rotary frequencies: all its paths have to be on the same side of a switch.
        shortest, longest = tree.path_length_of(min(tree.branches, key=len)) - 1, tree.path_length - 1
        return not any(shortest <= switch < longest for switch in self.rope_switches)

    def row_length(self, tree: TokenTree) -> int:
        """Tokens of the longest row that holds this tree or, where each choice has a row, one of its paths."""
        return tree.input_length if self.as_tree(tree) else tree.path_length

    @cached_property
    def rope_switches(self) -> tuple[int, ...]:
        """The lengths beyond which the model takes other rotary frequencies."""
        return rope_switches(self.model)

    def collate(self, trees: Sequence[TokenTree], *, read: Read, as_trees: bool) -> Batch:
        """The tensors of one forward pass of this reader, on its model's device."""
        batch = collate(trees, read=read, as_trees=as_trees, pad=self.pad(), prefix=self.prefix_length)
        return batch.to(self.model.device)

    @torch.inference_mode()
    def after(self, tokens: Sequence[int]) -> Reader:
        """A reader for the trees that follow these tokens, which are read now, with adapter and dropout as they are."""
        cache = DynamicCache()
        network: Any = self.model.network
        inputs = {"input_ids": torch.tensor([list(tokens)], device=self.model.device), "use_cache": True}
        network.get_decoder()(**inputs, **{_name_of_cache(self.model): cache})
        layers: list[Any] = list(cache.layers)
        prefix = Cache(layers=[_PrefixLayer(layer.keys, layer.values) for layer in layers])
        return replace(self, prefix_length=len(tokens), prefix=prefix)

    def pad(self) -> int:
        """A token id for padding; never seen, so any valid id will do."""
        token = self.model.tokenizer.pad_token_id
        return int(token) if isinstance(token, int) and token >= 0 else 0

    def states(self, batch: Batch) -> torch.Tensor:
        """The last layer's states at the positions that predict, (u, H).

        Where the head cannot be applied apart, the logits there, (u, V); `log_probabilities` takes both.
        """
        padded = longest_padded_row(self.model)
        if not self.rope_switches and padded is None:
            with self.narrowing.at(batch):
                output = self._output(batch)
            return output[batch.rows, batch.columns]  # (u, H) or (u, V)
        # The longest position of a pass decides its rotary frequencies, so rows on two sides of a switch need two
        # passes. Each has all rows, as the adapters of a bank count them, cut to the longest row of its side.
        places = batch.columns if batch.positions is None else batch.positions[batch.rows, batch.columns]  # (u,)
        lengths = _largest(places, batch.rows, len(batch.tokens)) + 1  # (b,): a row's last token predicts
        sides = sum((lengths > switch).long() for switch in self.rope_switches) + torch.zeros_like(lengths)  # (b,)
        if padded is not None:  # a side for each length
            sides = sides.where(lengths <= padded, lengths + len(self.rope_switches))
        states: torch.Tensor | None = None
        for side in sorted(set(sides.tolist())):
            at = (sides == side)[batch.rows]  # (u,)
            width, length = int(batch.columns[at].max()) + 1, int(lengths[sides == side].max())
            output = self._output(batch.cut(width, length, prefix=self.prefix_length))
            part = output[batch.rows.where(at, 0), batch.columns.where(at, 0)]  # (u, H) or (u, V)
            states = part if states is None else torch.where(at[:, None], part, states)
        assert states is not None
        return states

    def _output(self, batch: Batch) -> torch.Tensor:
        network: Any = self.model.network
        inputs = self.inputs(batch)
        # (b, t, H) or (b, t, V)
        output: torch.Tensor = (
            network.get_decoder()(**inputs).last_hidden_state if self.splits_head else network(**inputs).logits
        )
        return output

    def log_probabilities(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """log P(target) of each scored token over the whole vocabulary, (m,) float32, in nats.

        `states` are those of the batch, where they are computed already.
        """
        states = self.states(batch) if states is None else states
        if not self.splits_head:
            return head.pick(states.float(), batch.at, batch.targets)
        return head.log_probabilities(self.model, batch, states)

    def choice_logits(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the scored tokens alone, (m,) float32: enough where every branch is one token.

        The log-normaliser over the vocabulary is the same for all choices of an instance then, and cancels in the
        posterior. Only the head's rows for the distinct targets are computed.
        """
        if not self.splits_head:
            return self.log_probabilities(batch, states)
        states = self.states(batch) if states is None else states  # (u, H)
        return head.target_logits(self.model, batch, states)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """What the network's forward pass is given."""
        inputs: dict[str, Any] = {"input_ids": batch.tokens}
        if self.prefix is not None:
            inputs |= {_name_of_cache(self.model): self.prefix, "use_cache": True}
        elif accepts(self.model.network, "use_cache"):
            inputs["use_cache"] = False
        if batch.visible is not None:
            dtype = self.model.dtype
            # Added to the attention scores: 0 where a token is seen, the lowest number where it is not.
            mask = torch.zeros(batch.visible.shape, dtype=dtype, device=batch.visible.device)
            inputs["attention_mask"] = mask.masked_fill_(~batch.visible, torch.finfo(dtype).min)
            inputs["position_ids"] = batch.positions
        return inputs


def _largest(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """The largest value of each row, (count,)."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).scatter_reduce(0, rows, values, "amax")


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
        keys = torch.cat([self.keys.expand(len(key_states), -1, -1, -1), key_states], dim=-2)  # (b, heads, p + t, d)
        values = torch.cat([self.values.expand(len(value_states), -1, -1, -1), value_states], dim=-2)
        return keys, values


def _name_of_cache(model: Model) -> str:
    return "cache" if accepts(model.network, "cache") else "past_key_values"


def shared_beginning(trees: Sequence[TokenTree]) -> int:
    """How many tokens begin every trunk and are worth reading once; every trunk keeps at least one token.

    The tokens are compared, not the text of the shots: wherever the tokenizer cuts, what is scored is the tokens of the
    whole text.
    """
    if len(trees) < 2:
        return 0
    # What the first and the last in order share, all between them share.
    first, last = min(tree.trunk for tree in trees), max(tree.trunk for tree in trees)
    most = min(len(tree.trunk) for tree in trees) - 1
    shared = next((at for at in range(most) if first[at] != last[at]), most)
    return shared if shared >= SHORTEST_PREFIX else 0


def longest_tree_row(model: Model) -> int | None:
    """The longest row, in tokens, that may hold branches side by side; None where the network has no such limit."""
    config = model.network.config.get_text_config()
    lengths = [length for name, length in _numbers(config.to_dict()) if _LENGTH.search(name) and length > 0]
    # Scaled by the position (Ministral 3): the configuration keeps the length among the rotary settings.
    lengths += [
        rope["original_max_position_embeddings"]
        for rope in _rope_settings(config)
        if rope.get("llama_4_scaling_beta") and "original_max_position_embeddings" in rope
    ]
    return min(lengths, default=None)


def longest_padded_row(model: Model) -> int | None:
    """The longest row, in tokens, that may be padded; None where padding never matters.

    What keeps the k best keys of a row (DeepSeek's sparse attention, Doge) keeps others where padding stands.
    """
    numbers = _numbers(model.network.config.get_text_config().to_dict())
    return min((length for name, length in numbers if _SELECTION.search(name) and length > 0), default=None)


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if _OTHER.search(name) or (name == "sliding_window" and values.get("use_sliding_window", True) is False):
            continue
        # A length may be given for each kind or each number of layer.
        each = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for number in each:
            if isinstance(number, int) and not isinstance(number, bool):
                yield name, number


def rope_switches(model: Model) -> tuple[int, ...]:
    """The lengths beyond which a model takes other rotary frequencies (longrope), for a whole batch at once.

    Keys that were computed below such a length do not fit a longer text, and a row read beside a longer one gets the
    frequencies of that one.
    """
    config: Any = model.network.config.get_text_config()
    switches = set()
    for rope in _rope_settings(config):
        if rope.get("rope_type", rope.get("type")) == "longrope" or "long_mscale" in rope:
            length = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            switches.add(length if isinstance(length, int) else 0)
    return tuple(sorted(switches))


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """The rotary settings of a configuration: one dict, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return []
    return [rope, *(inner for inner in rope.values() if isinstance(inner, dict))]


def check_numbers(model: Model, scores: np.ndarray, where: str) -> None:
    """Raise InputError where a score is no number: the network's states have outgrown its type."""
    if not np.isnan(scores).any():
        return
    dtype = str(model.dtype).removeprefix("torch.")
    if model.dtype == torch.float16:
        reason = "numbers above 65,504 overflow in float16; use --dtype bfloat16 or --dtype float32"
    else:
        reason = f"in {dtype} that means damaged weights or an adapter that diverged; use another checkpoint"
    raise InputError(f"{where}: {model.name} gives nan for a probability; {reason}")


class NGramReader(Reader):
    """An n-gram model has no hidden states and no head: a scored token costs a few binary searches.

    Branches are read one to a row, so that a row's tokens are the history as it stands in the text.
    """

    def __init__(self, model: Model) -> None:
        network: Any = model.network
        reach = network.order - 1
        history = f"from the {reach} before it" if reach else "whatever stands before it"
        note = f"{network.order}-gram ({network.config.smoothing}): a token is scored {history}"
        super().__init__(model=model, reads_trees=False, window=None, splits_head=False, notes=(note,))

    def log_probabilities(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """log P(target) of each scored token over the whole vocabulary, (m,) float32, in nats; there are no states."""
        assert states is None
        network: Any = self.model.network
        reach = max(1, network.order - 1)
        padded = nn.functional.pad(batch.tokens, (reach - 1, 0), value=-1)  # (b, reach - 1 + t)
        # Column c of the batch is column c + reach - 1 here, so its last `reach` tokens begin at c.
        columns = batch.columns[:, None] + torch.arange(reach, device=batch.columns.device)  # (u, reach)
        histories = network.histories(padded[batch.rows[:, None], columns])  # of u * reach places
        last = torch.arange(1, len(batch.rows) + 1, device=batch.rows.device) * reach - 1  # (u,)
        scores: torch.Tensor = network.log_probabilities_of(histories[last[batch.at]], batch.targets)  # (m,)
        return scores

    def choice_logits(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """The log-probabilities themselves, (m,) float32: there is no cheaper score."""
        return self.log_probabilities(batch, states)
