"""One forward pass: from a batch of token trees to scores, with the output head applied only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rango.models import Model, linear_rows
from rango.models.loading import accepts
from rango.scoring.batches import Batch, Read, collate
from rango.scoring.prefix import Prefix, read_prefix
from rango.scoring.trees import TokenTree

# Rows of logits computed at once: 256 x a vocabulary of 51,200 in float32 is 50 MB.
_HEAD_ROWS = 256


@dataclass(frozen=True, eq=False)
class Reader:
    """How one model reads batches: whether trees are safe, and whether its head can be applied apart."""

    model: Model
    reads_trees: bool
    window: int | None
    """The longest tree that may be read at once, for a model with a sliding window; None for no limit."""
    splits_head: bool
    reads_prefix: bool = False
    """Whether a beginning that all trees share may be read once, see `Prefix`."""
    notes: tuple[str, ...] = ()
    prefix: Prefix | None = None
    """What was read before every tree."""

    def as_tree(self, tree: TokenTree) -> bool:
        """Whether this tree may be read as one row."""
        return self.reads_trees and (self.window is None or tree.path_length <= self.window)

    def collate(self, trees: Sequence[TokenTree], *, read: Read, as_trees: bool) -> Batch:
        """The tensors of one forward pass of this reader, on its model's device."""
        prefix = self.prefix.length if self.prefix is not None else 0
        batch = collate(trees, read=read, as_trees=as_trees, pad=self.pad(), prefix=prefix)
        return batch.to(self.model.device)

    def after(self, tokens: Sequence[int]) -> Reader:
        """A reader for the trees that follow these tokens, which are read now, with the adapter as it is now."""
        return replace(self, prefix=read_prefix(self.model, tokens))

    def pad(self) -> int:
        """A token id for padding; never seen, so any valid id will do."""
        token = self.model.tokenizer.pad_token_id
        return int(token) if isinstance(token, int) and token >= 0 else 0

    def states(self, batch: Batch) -> torch.Tensor:
        """The last layer's states at the positions that predict, (u, H).

        Logits there, (u, V), where the head cannot be applied apart: what `log_probabilities` needs is the same to say.
        """
        network: Any = self.model.network
        if not self.splits_head:
            logits: torch.Tensor = network(**self._inputs(batch)).logits[batch.rows, batch.columns]
            return logits
        output = network.get_decoder()(**self._inputs(batch))
        states: torch.Tensor = output.last_hidden_state
        return states[batch.rows, batch.columns]

    def log_probabilities(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """log P(target) of each scored token over the whole vocabulary, (m,) float32, in nats.

        `states` are those of the batch where they are there already.
        """
        states = self.states(batch) if states is None else states
        if not self.splits_head:
            return _pick(states.float(), batch.at, batch.targets)
        parts = []
        for start in range(0, len(states), _HEAD_ROWS):
            stop = min(start + _HEAD_ROWS, len(states))
            scored = slice(batch.offsets[start], batch.offsets[stop])
            part = states[start:stop], batch.at[scored] - start, batch.targets[scored]
            if torch.is_grad_enabled() and len(states) > _HEAD_ROWS:
                # Recompute the logits in the backward pass rather than keep (u, V) of them.
                parts.append(checkpoint(self._head_log_probabilities, *part, use_reentrant=False))
            else:
                parts.append(self._head_log_probabilities(*part))
        return torch.cat(parts)

    def choice_logits(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the scored tokens alone, (m,) float32: enough where every branch is one token.

        The log-normaliser over the vocabulary is the same for all choices of an instance then, and cancels in the
        posterior. Only the head's rows for the distinct targets are computed.
        """
        if not self.splits_head:
            return self.log_probabilities(batch, states)
        states = self.states(batch) if states is None else states
        distinct, where = torch.unique(batch.targets, return_inverse=True)
        network: Any = self.model.network
        logits = self._cap(linear_rows(network.get_output_embeddings(), states, distinct).float())
        return logits[batch.at, where]

    def _head_log_probabilities(self, states: torch.Tensor, at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _pick(self._head(states), at, targets)

    def _head(self, states: torch.Tensor) -> torch.Tensor:
        network: Any = self.model.network
        logits: torch.Tensor = network.get_output_embeddings()(states)
        return self._cap(logits.float())

    def _cap(self, logits: torch.Tensor) -> torch.Tensor:
        cap = getattr(self.model.network.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.tokens}
        if accepts(self.model.network, "use_cache"):
            inputs["use_cache"] = False
        if self.prefix is not None:
            inputs |= self.prefix.inputs(self.model)
        if batch.visible is not None:
            dtype = self.model.dtype
            mask = torch.zeros(batch.visible.shape, dtype=dtype, device=batch.visible.device)
            inputs["attention_mask"] = mask.masked_fill_(~batch.visible, torch.finfo(dtype).min)
            inputs["position_ids"] = batch.positions
        return inputs


def _pick(logits: torch.Tensor, at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits[at, targets] - logits.logsumexp(dim=-1)[at]
