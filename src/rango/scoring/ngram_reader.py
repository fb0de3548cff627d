"""Reading batches with an n-gram model: only the scored tokens are looked up, each with its last N - 1 tokens."""

from __future__ import annotations

import torch
from torch import nn

from rango.models import Model
from rango.models.ngram import NGramForCausalLM
from rango.scoring.batches import Batch
from rango.scoring.forward import Reader


class NGramReader(Reader):
    """An n-gram model has no hidden states and no head: a scored token costs a few binary searches.

    Branches are read one to a row: a row's tokens are then the history as it stands in the text.
    """

    def __init__(self, model: Model) -> None:
        network = _network(model)
        reach = network.order - 1
        history = f"from the {reach} before it" if reach else "whatever stands before it"
        note = f"{network.order}-gram ({network.config.smoothing}): a token is scored {history}"
        super().__init__(model=model, reads_trees=False, window=None, splits_head=False, notes=(note,))

    def log_probabilities(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """log P(target) of each scored token over the whole vocabulary, (m,) float32, in nats; there are no states."""
        assert states is None
        network = _network(self.model)
        reach = max(1, network.order - 1)
        padded = nn.functional.pad(batch.tokens, (reach - 1, 0), value=-1)
        # Column c of the batch is column c + reach - 1 here, so its last `reach` tokens begin at c.
        columns = batch.columns[:, None] + torch.arange(reach, device=batch.columns.device)
        histories = network.histories(padded[batch.rows[:, None], columns])
        last = torch.arange(1, len(batch.rows) + 1, device=batch.rows.device) * reach - 1
        return network.log_probabilities_of(histories[last[batch.at]], batch.targets)

    def choice_logits(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """The log-probabilities themselves, (m,) float32: there is no cheaper score."""
        return self.log_probabilities(batch, states)


def _network(model: Model) -> NGramForCausalLM:
    assert isinstance(model.network, NGramForCausalLM)
    return model.network
