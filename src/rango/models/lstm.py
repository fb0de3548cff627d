"""A recurrent language model (LSTM) as one more transformers causal language model.

Embedding, one to three LSTM layers (Hochreiter and Schmidhuber 1997), an output head that is the embedding transposed,
dropout on the connections that are not recurrent (arXiv:1409.2329):

    x_t = E[token_t],   (h_t, c_t) = LSTM(x_t, h_{t-1}, c_{t-1}),   logits_t = E h_t

The state after a text says all that the model knows of it, so generation carries the state and reads each token once.
There are no positions and there is no limit to the length of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput, can_return_tuple


class LSTMConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the recurrent model; the names are those of transformers."""

    model_type = "rango_lstm"

    vocab_size: int = 8000
    hidden_size: int = 256
    num_hidden_layers: int = 2
    dropout: float = 0.0
    initializer_range: float = 0.3  # of the embedding; at 0.05 the gates see next to nothing, and learning begins late
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    use_cache: bool = True


@dataclass(eq=False)
class LSTMState:
    """What the model knows of the texts it has read: hidden and cell states, each (layers, b, H)."""

    hidden: torch.Tensor
    cell: torch.Tensor

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order, as beam search asks."""
        self.hidden, self.cell = self.hidden.index_select(1, rows), self.cell.index_select(1, rows)


@dataclass
class LSTMModelOutput(ModelOutput):
    """The last layer's states (b, t, H), after dropout, and the state from which the next token goes on."""

    last_hidden_state: torch.Tensor | None = None
    cache: LSTMState | None = None


@dataclass
class LSTMOutput(ModelOutput):
    """Logits (b, t, V), the loss in nats per token if labels were given, and the state."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: LSTMState | None = None


class LSTMPreTrainedModel(PreTrainedModel):
    """What the network with and without its head share."""

    config_class = LSTMConfig
    config: LSTMConfig
    base_model_prefix = "model"
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.LSTM):
            for name, bias in module.named_parameters():
                if name.startswith("bias_ih") and not getattr(bias, "_is_hf_initialized", False):
                    # Remember by default: a forget gate of 1/2 would lose half of the state with every token.
                    with torch.no_grad():
                        bias[module.hidden_size : 2 * module.hidden_size] = 1.0


class LSTMModel(LSTMPreTrainedModel):
    """Embedding and recurrent layers, without the head."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        layers = config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lstm = nn.LSTM(
            config.hidden_size,
            config.hidden_size,
            layers,
            batch_first=True,
            dropout=config.dropout if layers > 1 else 0.0,  # between layers
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: LSTMState | None = None,
        use_cache: bool | None = None,
    ) -> LSTMModelOutput:
        """Read tokens (b, t), going on from `cache` if given.

        Raises:
            ValueError: padding before a text, which would change its state. Pad on the right.
        """
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise ValueError("attention_mask has padding before a text; a recurrent model needs it after the text")
        before = None if cache is None else (cache.hidden, cache.cell)
        embedded = self.dropout(self.embed_tokens(input_ids))  # (b, t, H)
        states, after = self.lstm(embedded, before)  # (b, t, H)
        kept = LSTMState(*after) if (self.config.use_cache if use_cache is None else use_cache) else None
        return LSTMModelOutput(last_hidden_state=self.dropout(states), cache=kept)


class LSTMForCausalLM(LSTMPreTrainedModel, GenerationMixin):
    """The recurrent language model: log P(token | tokens before it) from the head's logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - transformers' own form

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # its state is no keys and values

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: LSTMState | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> LSTMOutput:
        """Logits of the next token at each position, or at those of `logits_to_keep` (an int: the last ones).

        Shapes:
            input_ids, attention_mask, labels: (b, t); logits: (b, t or positions kept, V)

        Raises:
            ValueError: see `LSTMModel.forward`.
        """
        read: LSTMModelOutput = self.model(
            input_ids=input_ids, attention_mask=attention_mask, cache=cache, use_cache=use_cache
        )
        assert read.last_hidden_state is not None
        # transformers' convention: 0 keeps every position, and slice(-0, None) is all of them.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(read.last_hidden_state[:, kept])  # (b, kept, V)
        loss: Any = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return LSTMOutput(loss=loss, logits=logits, cache=read.cache)
