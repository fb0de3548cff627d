"""The state that an exact resume needs, in one file, so that it is whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rango.files import atomic_path
from rango.models import Adapter


@dataclass
class Progress:
    """How far a training run is."""

    step: int = 0
    """Optimizer steps done."""
    best_step: int | None = None
    best_value: float | None = None
    """The selected metric's best value on validation, as it is read (not negated)."""
    waited: int = 0
    """Validations since the best one."""
    validated_step: int | None = None
    """The last step whose validation is in the log."""
    seconds: float = 0.0
    tokens: int = 0
    """Tokens read while training."""


def save_state(path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write adapter, optimizer moments and counters atomically to `path`."""
    tensors = {f"adapter/{name}": tensor.contiguous() for name, tensor in adapter.state().items()}
    for number, parameter in enumerate(adapter.parameters()):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{number}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(progress))})


def load_state(path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer) -> Progress:
    """Put adapter and optimizer back as `save_state` found them."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        progress = Progress(**json.loads(file.metadata()["progress"]))
    adapter.load_state(
        {name.removeprefix("adapter/"): tensor for name, tensor in tensors.items() if name.startswith("adapter/")}
    )
    for number, parameter in enumerate(adapter.parameters()):
        prefix = f"optimizer/{number}/"
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for name, tensor in found.items():
            # Adam's step counter stays on the CPU, its moments live with the parameter.
            optimizer.state[parameter][name] = tensor if name == "step" else tensor.to(parameter.device)
    return progress
