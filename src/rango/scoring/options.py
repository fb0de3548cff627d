"""What can be configured of scoring. Free of torch, so that the command line answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rango.config import Config, Seed
from rango.models.options import ModelOptions
from rango.tasks import Form

Normalisation = Literal["none", "tokens", "characters"]


class ScoringOptions(Config):
    """How instances are put into words and scored."""

    form: Form | None = None
    """Prompt form: letter (choices listed, the answer is a letter) or cloze (the answer's text continues the prompt);
    the task's own default when absent."""
    normalise: Normalisation = "none"
    """Divide each choice's score by its number of tokens or of characters."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Training instances that stand answered before every question, balanced over the labels (the places of the right
    answer); they leave the training split."""
    shots_seed: Seed = 0
    """Seed of the choice of shots."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of one forward pass while scoring, padding included; the result does not depend on it."""


class GenerateOptions(ModelOptions):
    """How a text is continued."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """The logits are divided by it before drawing; 0 always takes the most probable token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the fewest tokens, the most probable ones, that hold this share of the probability."""
    max_tokens: Annotated[int, Field(ge=1)] = 200
    """Write at most this many tokens; it ends earlier with the end of the text or when the model's context is full."""
    seed: Seed = 0
    """Seed of the draws: the same seed gives the same text."""
    adapter: Path | None = None
    """A run directory (its best checkpoint is taken) or an adapter folder in PEFT's format."""


class GenerateConfig(GenerateOptions):
    """The resolved configuration of `rango generate`."""

    model: str
    """Hub id or folder of the model."""
    prompt: str
    """The text to continue; may be empty."""


class SpellingOptions(Config):
    """How misspelt words are found."""

    threshold: float = 0.0
    """A word is flagged when the log-odds (nats) that another word was meant exceed this: at 0 where it is more
    probable than not; higher flags less."""
    error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Probability that a word is mistyped, before it is seen."""
    unlisted: Annotated[float, Field(gt=0, le=1)] = 0.05
    """What the language model's belief in a word as typed is multiplied by where the word list lacks it: models spell
    out strings that are no words too readily."""
    unlisted_names: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """The same for a word with a capital inside a sentence: most are names that the list and the model have never seen,
    and in those models believe too little."""
    candidates: Annotated[int, Field(ge=1)] = 20
    """Known words near each word that the language model compares."""
