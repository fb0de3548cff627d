"""An n-gram language model as a transformers network, so that it loads, scores and generates as the others do.

Its parameters are the log-probabilities and back-off weights of `NGramTables`, its buffers the sorted keys; nothing in
it is trained by gradients. It has no context limit: it looks at the last N - 1 tokens.

The n-gram of order m with the prefix number s (the place of its first m - 1 tokens in the table of order m - 1) and the
last token w has the key s V + w. The tables are sorted by key, so all tokens that follow one history stand together:

    order 1    0: the    1: cat    2: sat                    V = 3, a token is its own number
    order 2    0: the cat (0 V + 1)    1: cat sat (1 V + 2)
    order 3    0: the cat sat (0 V + 2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

NGRAM = "rango_ngram"
"""The model type in config.json."""
SMOOTHINGS = ("kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood", "arpa")
STUPID_WEIGHT = 0.4  # Brants et al. 2007, section 4

Discounts = tuple[float, float, float]
"""What is taken from counts of 1, of 2, and of 3 or more."""


@dataclass(frozen=True, eq=False)
class NGramTables:
    """A smoothed model. Logarithms in nats, float32; orders as in `NGramCounts`."""

    vocabulary: int
    end: int
    smoothing: str
    keys: tuple[NDArray[np.int64], ...]
    log_probabilities: tuple[NDArray[np.float32], ...]
    """For orders 1 .. N."""
    back_off: tuple[NDArray[np.float32], ...]
    """For histories of 1 .. N - 1 tokens."""
    discounts: tuple[Discounts, ...] = ()
    """For orders 1 .. N; Kneser-Ney only."""


class NGramConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the tables and how they are looked up."""

    model_type = NGRAM

    vocab_size: int = 1
    entries: Sequence[int] = (1,)  # n-grams of each order from 1 to N; the first is V
    smoothing: str = "kneser-ney"
    eos_token_id: int = 0  # the end-of-text token, which also stands for the start of a document
    bos_token_id: int = 0
    tie_word_embeddings: bool = False


@dataclass(frozen=True, eq=False)
class Histories:
    """What stands before u places: the longest history of each, and all its ends."""

    states: tuple[torch.Tensor, ...]
    """For m = 1 .. N - 1, (u,) the index of the m-token history in the table of order m; -1 where it was never seen or
    the text does not reach back so far."""
    lengths: torch.Tensor
    """(u,) how many tokens of history there are, as far back as the start of the document or of the input."""

    def __getitem__(self, places: torch.Tensor) -> Histories:
        """Those of some places, in the order asked."""
        return Histories(tuple(state[places] for state in self.states), self.lengths[places])


class NGramForCausalLM(PreTrainedModel, GenerationMixin):
    """log P(token | last N - 1 tokens), looked up in sorted tables. The logits are log-probabilities, in nats."""

    config_class = NGramConfig
    config: NGramConfig
    _keep_in_fp32_modules_strict = {"log_probabilities", "back_off"}  # noqa: RUF012 - half has three digits
    _supports_sdpa = True  # there is no attention for either choice to change

    def __init__(self, config: NGramConfig) -> None:
        super().__init__(config)
        entries, vocabulary, end = config.entries, config.vocab_size, config.eos_token_id
        if not isinstance(entries, (list, tuple)) or not entries or not all(type(n) is int and n >= 0 for n in entries):
            raise ValueError(f"entries is {entries}; expected the number of n-grams of each order")
        if type(vocabulary) is not int or vocabulary != entries[0]:
            raise ValueError(f"vocab_size is {vocabulary!r}; expected {entries[0]}, the first of entries")
        # Histories are cut at this token, and smoothing says how to back off: other values change probabilities unseen.
        if type(end) is not int or not 0 <= end < vocabulary:
            raise ValueError(f"eos_token_id is {end!r}; expected the end-of-text token, 0 to {vocabulary - 1}")
        if config.smoothing not in SMOOTHINGS:
            raise ValueError(f"smoothing is {config.smoothing!r}; expected one of {', '.join(SMOOTHINGS)}")
        self.log_probabilities = nn.ParameterList(_frozen(size) for size in entries)
        self.back_off = nn.ParameterList(_frozen(size) for size in entries[:-1])
        for order, size in enumerate(entries[1:], start=2):
            self.register_buffer(f"keys_{order}", torch.zeros(size, dtype=torch.int64))
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_tables(cls, tables: NGramTables) -> NGramForCausalLM:
        """The network of a smoothed model; the arrays are shared, not copied."""
        config = NGramConfig(
            vocab_size=tables.vocabulary,
            entries=[len(values) for values in tables.log_probabilities],
            smoothing=tables.smoothing,
            eos_token_id=tables.end,
            bos_token_id=tables.end,
        )
        # On the meta device no memory is taken for tables that are put in next.
        with torch.device("meta"):
            network = cls(config)
        for name in ("log_probabilities", "back_off"):
            for number, array in enumerate(getattr(tables, name)):
                getattr(network, name)[number] = nn.Parameter(torch.from_numpy(array), requires_grad=False)
        for order, keys in enumerate(tables.keys, start=2):
            setattr(network, f"keys_{order}", torch.from_numpy(keys))
        network.train(False)
        return network

    @property
    def order(self) -> int:
        """N, the tokens of the longest n-grams."""
        return len(self.config.entries)

    def keys(self, order: int) -> torch.Tensor:
        """The sorted keys of the n-grams of an order from 2 to N."""
        keys: torch.Tensor = getattr(self, f"keys_{order}")
        return keys

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutput:
        """The distribution after each token.

        Args:
            input_ids: (b, t) token ids. What stands before the first is unknown, not the start of a document.
            attention_mask: (b, t), 0 for padding on the left.
            logits_to_keep: how many of the last places are wanted; 0 for all.

        Returns:
            `logits` (b, t, V), log-probabilities in nats; -inf for what cannot follow.
        """
        tokens = input_ids if attention_mask is None else input_ids.masked_fill(attention_mask == 0, -1)  # (b, t)
        kept = tokens.shape[1] if not logits_to_keep else min(logits_to_keep, tokens.shape[1])
        places = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)[:, -kept:].flatten()
        values = self.distributions(self.histories(tokens)[places])  # (b * kept, V)
        return CausalLMOutput(logits=values.view(len(tokens), kept, -1))

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the last tokens are all the state there is

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The last N - 1 tokens are all that the next one depends on."""
        last = max(1, self.order - 1)
        mask = None if attention_mask is None else attention_mask[:, -last:]
        return {"input_ids": input_ids[:, -last:], "attention_mask": mask, "logits_to_keep": 1}

    def histories(self, tokens: torch.Tensor) -> Histories:
        """The histories that end at each place of (b, t) tokens, -1 for none: u = b t places, row by row."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)  # (b, t)
        # A history reaches back to the last end of text, which belongs to it, or to the last padding, which does not.
        starts = torch.where(tokens == self.config.eos_token_id, places, 0)
        starts = torch.where(tokens < 0, places + 1, starts).cummax(dim=1).values  # (b, t)
        lengths = places - starts + 1
        states = [tokens]
        # The m-token history at a place is that of m - 1 tokens at the place before, and the token.
        for order in range(2, self.order):
            before = nn.functional.pad(states[-1][:, :-1], (1, 0), value=-1)
            states.append(self._find(order, before, tokens))  # (b, t)
        kept = [torch.where(lengths >= m, state, -1).flatten() for m, state in enumerate(states[: self.order - 1], 1)]
        return Histories(tuple(kept), lengths.flatten())

    def log_probabilities_of(self, histories: Histories, targets: torch.Tensor) -> torch.Tensor:
        """log P(target | history) of u places and (u,) tokens, in nats."""
        values: torch.Tensor = self.log_probabilities[0][targets]  # (u,)
        # From the shortest history to the longest: where the longer n-gram was seen, its own probability counts.
        for m, state in enumerate(histories.states, start=1):
            values = self._back_off(values, m, state, histories.lengths)
            entries = self._find(m + 1, state, targets)  # (u,)
            values = torch.where(entries >= 0, _take(self.log_probabilities[m], entries), values)
        return values

    def distributions(self, histories: Histories) -> torch.Tensor:
        """log P(. | history) of u places, (u, V) in nats."""
        count = len(histories.lengths)
        values: torch.Tensor = self.log_probabilities[0].expand(count, -1).clone()  # (u, V)
        size = self.config.vocab_size
        for m, state in enumerate(histories.states, start=1):
            values = self._back_off(values, m, state[:, None], histories.lengths[:, None])
            keys = self.keys(m + 1)
            # The e n-grams that continue a history of the u places stand in one span of the table for each place.
            begins, ends = (torch.searchsorted(keys, (state + more) * size) for more in (0, 1))  # (u,) each
            each = torch.where(state >= 0, ends - begins, 0)
            rows = torch.repeat_interleave(torch.arange(count, device=state.device), each)  # (e,)
            offsets = torch.arange(len(rows), device=state.device) - (each.cumsum(0) - each)[rows]
            entries = begins[rows] + offsets  # (e,)
            values[rows, keys[entries] % size] = self.log_probabilities[m][entries]
        return values

    def sequence_log_probabilities(self, tokens: torch.Tensor) -> torch.Tensor:
        """log P(token | tokens before it) of (b, t) tokens, without the first: (b, t - 1), in nats."""
        last = tokens.shape[1] - 1
        histories = self.histories(tokens[:, :last])
        return self.log_probabilities_of(histories, tokens[:, 1:].flatten()).view(-1, last)

    def _back_off(self, lower: torch.Tensor, m: int, state: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What a token that never followed the m-token history gets, from what the shorter history gives it."""
        weight = _take(self.back_off[m - 1], state)
        if self.config.smoothing == "add-k":
            return torch.where(lengths >= m, weight - math.log(self.config.vocab_size), lower)
        if self.config.smoothing == "stupid-backoff":
            # Its recursion takes the weight for every history that the document has, seen or not.
            weight = torch.where((state < 0) & (lengths >= m), math.log(STUPID_WEIGHT), weight)
        return lower + weight

    def _find(self, order: int, prefixes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The index of each n-gram (prefix, token) in the table of its order, -1 where the table lacks it."""
        keys = self.keys(order)
        if not len(keys):
            return torch.full_like(prefixes, -1)
        wanted = prefixes * self.config.vocab_size + tokens
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return torch.where((keys[at] == wanted) & (prefixes >= 0) & (tokens >= 0), at, -1)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is drawn: a table is read or counted."""


def _frozen(size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size), requires_grad=False)


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]`, and 0 where the index is -1."""
    if not len(values):
        return torch.zeros_like(index, dtype=values.dtype)
    return torch.where(index >= 0, values[index.clamp(min=0)], 0.0)
