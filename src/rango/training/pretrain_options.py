"""The configuration of `rango pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rango.config import Config
from rango.training.corpus import SMALLEST_VOCABULARY
from rango.training.ngram_options import NGramOptions

Architecture = Literal["phi", "llama", "gpt2", "mistral", "qwen2"]


class PretrainConfig(Config):
    """The size of a language model, how long it is trained and how."""

    model: Literal["transformer", "ngram"] = "transformer"
    """The kind of language model."""
    ngram: NGramOptions = NGramOptions()
    """Only with model ngram, which has no other options than these, vocabulary and tokenizer."""
    architecture: Architecture = "phi"
    """The transformers architecture (its `model_type`)."""
    hidden: Annotated[int, Field(ge=8)] = 256
    """Hidden size; a multiple of four times the heads."""
    layers: Annotated[int, Field(ge=1)] = 4
    """Number of layers."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads of each layer."""
    vocabulary: Annotated[int, Field(ge=SMALLEST_VOCABULARY)] = 8000
    """Tokens of the byte-level BPE tokenizer that is trained on the text: 256 bytes, end of text, and merges."""
    tokenizer: Path | None = None
    """Folder of an existing model whose tokenizer is used; none is trained then, and vocabulary does not count."""
    context: Annotated[int, Field(ge=8)] = 256
    """Tokens of a training window; the model takes no longer input."""
    tie_embeddings: bool = False
    """Use one matrix for the token embedding and the output head."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget: train on this many tokens (the same seed then gives the same model); three passes over the text when
    neither budget is given."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Budget: train for this many minutes of wall clock (the result depends on the machine)."""
    batch_tokens: Annotated[int, Field(ge=8)] = 2048
    """Tokens of an optimizer step, rounded down to whole windows (at least one)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW; it then falls along a cosine to a tenth."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the budget over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of AdamW, on matrices only."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    evaluate_every: Annotated[int, Field(ge=1)] = 500
    """Optimizer steps between measurements of the held-out loss."""
    save_minutes: Annotated[float, Field(ge=0)] = 5.0
    """Minutes between saved states, from which a repeated command goes on."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; weights and moments are float32. auto: bfloat16 where the machine has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the order of the windows."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tokens is not None and self.minutes is not None:
            raise ValueError(f"tokens is {self.tokens} and minutes is {self.minutes}: give one budget")
        if self.model == "ngram":
            self._check_ngram()
            return self
        if self.ngram != NGramOptions():
            raise ValueError(f"ngram options with model {self.model}: give --model ngram or leave them out")
        if self.hidden % (4 * self.heads):
            # Rotary embeddings turn pairs of numbers, and Phi turns half of each head.
            raise ValueError(
                f"hidden {self.hidden} with {self.heads} heads: expected a multiple of {4 * self.heads} (4 x heads)"
            )
        return self

    def _check_ngram(self) -> None:
        for name in ("tokens", "minutes"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} is {value}: an n-gram counts the whole text once, leave the budget out")
        if self.tokenizer is not None and self.ngram.unit == "words":
            raise ValueError("tokenizer and ngram.unit words: the given tokenizer decides, leave ngram.unit out")
