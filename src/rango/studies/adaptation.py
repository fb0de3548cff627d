"""The ladder of adaptations as values of one axis: what a configuration is asked for beyond a fine-tuning run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rango.config import Config

Way = Literal["none", "few-shot", "lora", "ensemble", "mc-dropout", "full"]
"""Where posteriors come from, before calibration."""

Adaptation = Literal[
    "none",
    "calibration",
    "few-shot",
    "few-shot+calibration",
    "lora",
    "lora+calibration",
    "ensemble",
    "ensemble+calibration",
    "mc-dropout",
    "mc-dropout+calibration",
    "full",
    "full+calibration",
]


class AdaptationOptions(Config):
    """How a configuration of a study is adapted."""

    adaptation: Adaptation = "lora"
    """none (the base, zero-shot), few-shot (`shots` training instances in the prompt), lora, ensemble (mean posterior
    of `members` adapters that differ by their seed), mc-dropout (mean posterior of `samples` passes with dropout on),
    full (every weight trained); `calibration` alone or behind a plus: the same with a calibrator fitted on validation."""
    members: Annotated[int, Field(ge=2)] = 3
    """Adapters of an ensemble."""
    samples: Annotated[int, Field(ge=2)] = 10
    """Passes of MC dropout."""
    calibrator: Literal["temperature", "bias", "affine", "vector", "matrix"] | None = None
    """Calibrator of `+calibration`; temperature in cloze form and affine in letter form when absent."""

    @property
    def way(self) -> Way:
        """Where the posteriors come from."""
        source = self.adaptation.removesuffix("+calibration")
        return "none" if source == "calibration" else source  # type: ignore[return-value]

    @property
    def calibrated(self) -> bool:
        """Whether a calibrator fitted on validation is applied."""
        return self.adaptation.endswith("calibration")
