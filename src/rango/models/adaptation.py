"""What LoRA and full fine-tuning have in common: all that training asks of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import nn


class Adaptation(Protocol):
    """A change of a model's network that can be trained, saved, switched off and taken back."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, float32, in a fixed order."""

    def parameter_count(self) -> int:
        """How many numbers are trained."""

    def module_count(self) -> int:
        """How many of the network's modules are adapted."""

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the trained numbers on the CPU."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy the numbers from what `state` gave."""

    def reset(self, seed: int) -> None:
        """Start afresh."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint that other programs read."""

    def load(self, folder: Path) -> None:
        """Read a checkpoint of this same adaptation."""

    def alone(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model with this adaptation."""

    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model."""

    def enable_dropout(self) -> None:
        """Switch on the adaptation's own dropout, if it has any."""

    def remove(self) -> None:
        """Give the network back as it was."""
