"""What can be configured of scoring. Free of torch, so that the command line answers at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rango.config import Config
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
    shots_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of shots."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of one forward pass while scoring, padding included; the result does not depend on it."""
