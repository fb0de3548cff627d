"""The state that an exact resume needs: of all runs of a bank in one file, so that it is whole or absent.

metadata  progress                  {key: counters} as JSON
tensors   KEY/adapter/NAME          trained weights
          KEY/optimizer/NUMBER/NAME moments and step counter of the optimizer, by number of the parameter
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError

from rango.errors import InputError
from rango.files import read_tensors, write_tensors
from rango.models.adapter import TrainableModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass
class Progress:
    """How far a run of fine-tuning is."""

    step: int = 0
    """Optimizer steps done."""
    best_step: int | None = None
    best_value: float | None = None
    """The selected metric's best value on validation, as it is read (not negated)."""
    waited: int = 0
    """Validations since the best one."""
    validated_step: int | None = None
    """The last step whose validation or checkpoint is in the log."""
    retrained_from: int | None = None
    """The step after which the run began anew on train and validation; None before."""
    failed: str | None = None
    """Why the run cannot go on."""
    pruned: bool = False
    """Whether it was ended early because others do better."""
    seconds: float = 0.0
    """Time of the steps; in a bank the run's share of it."""
    tokens: int = 0
    """Tokens read while training."""


class Saved(Protocol):
    """What is saved of a run of fine-tuning, alone or in a bank, or of a pre-training."""

    @property
    def key(self) -> str:
        """A name that distinguishes the runs of a bank and is the same whenever the same run is repeated."""

    @property
    def adapter(self) -> TrainableModel:
        """The trained weights."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its state is saved: Adam's moments and step counters."""

    @property
    def progress(self) -> DataclassInstance:
        """The counters, whose values JSON can hold."""


def save_state(path: Path, runs: Sequence[Saved]) -> None:
    """Write adapters, optimizer states and counters of all runs to one file, atomically."""
    tensors = {}
    for run in runs:
        for name, tensor in run.adapter.state().items():
            tensors[f"{run.key}/adapter/{name}"] = tensor
        # A parameter that has had no step yet, or no gradient, has no optimizer state.
        for number, parameter in enumerate(run.adapter.parameters()):
            for name, value in run.optimizer.state.get(parameter, {}).items():
                tensors[f"{run.key}/optimizer/{number}/{name}"] = torch.as_tensor(value)
    progress = {run.key: asdict(run.progress) for run in runs}
    write_tensors(path, tensors, metadata={"progress": json.dumps(progress)})


def load_state(path: Path, *, advice: str = "delete the run's folder and begin it anew") -> State:
    """Read what `save_state` wrote.

    Args:
        path: the state file.
        advice: the end of the message where the file cannot be read.

    Raises:
        InputError: the file is damaged.
    """
    try:
        tensors, metadata = read_tensors(path)
        progress = json.loads(metadata["progress"])
        if not isinstance(progress, dict) or not all(isinstance(counters, dict) for counters in progress.values()):
            raise TypeError("its counters are no counters by run")
        return State(progress, tensors)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from None


@dataclass(frozen=True, eq=False)
class State:
    """The content of a state file."""

    progress: Mapping[str, Mapping[str, Any]]
    """Key of a run → its counters."""
    tensors: Mapping[str, torch.Tensor]

    def restore(self, run: Saved) -> None:
        """Put a run's adapter and optimizer back into the state in which `save_state` was given them."""
        run.adapter.load_state(self._below(f"{run.key}/adapter/"))
        for number, parameter in enumerate(run.adapter.parameters()):
            for name, tensor in self._below(f"{run.key}/optimizer/{number}/").items():
                # Adam's moments live with the parameter; its step counter only where one kernel does the whole step.
                stays = name == "step" and not run.optimizer.defaults.get("fused")
                run.optimizer.state[parameter][name] = tensor if stays else tensor.to(parameter.device)

    def _below(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
