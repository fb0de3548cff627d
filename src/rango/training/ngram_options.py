"""What can be configured of an n-gram. Free of torch, so that the command line answers at once."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rango.config import Config


class NGramOptions(Config):
    """Which n-grams are counted and how their counts become probabilities."""

    order: Annotated[int, Field(ge=1, le=5)] = 3
    """Tokens of the longest n-grams: each token is predicted from the order - 1 before it."""
    smoothing: Literal["kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood"] = "kneser-ney"
    """kneser-ney (interpolated), stupid-backoff (scores that do not sum to one), add-k, or maximum-likelihood (what was
    never seen is impossible: -inf)."""
    k: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Of add-k: what is added to every count; 1 when absent."""
    discount: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of kneser-ney: one fixed discount for the orders above 1 (tokens that the text lacks are then impossible); when
    absent, modified Kneser-Ney: three discounts for each order, estimated from the text."""
    unit: Literal["tokens", "words"] = "tokens"
    """tokens of the byte-level BPE tokenizer, or words and punctuation marks, with <unk> for words that the text has
    once only or that are beyond --vocabulary."""
    arpa: bool = False
    """Also write the model to model.arpa in the folder."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.k is not None and self.smoothing != "add-k":
            raise ValueError(f"k is {self.k:g} but smoothing is {self.smoothing}: k is of add-k, leave it out")
        if self.discount is not None and self.smoothing != "kneser-ney":
            raise ValueError(
                f"discount is {self.discount:g} but smoothing is {self.smoothing}: it is of kneser-ney, leave it out"
            )
        if self.arpa and self.smoothing in ("stupid-backoff", "add-k"):
            raise ValueError(
                f"arpa with smoothing {self.smoothing}: an ARPA file cannot say how it backs off; "
                "use kneser-ney or maximum-likelihood"
            )
        return self
