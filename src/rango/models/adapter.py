"""What is trained of a network: an adapter of LoRA layers, or anything else that training can ask the same of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError
from rango.files import write_json, write_tensors
from rango.models.loading import Model
from rango.models.lora import Grouping, LoRALinear
from rango.models.placement import head_name, place
from rango.options import LoRA


class TrainableModel(Protocol):
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


WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."  # how PEFT names the wrapped network


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter: its updates in the LoRA layers of a model's network.

    The network is changed in place; `remove` gives it back. Several adapters of a bank share layers and `grouping`.
    """

    model: Model
    lora: LoRA
    layers: Mapping[str, LoRALinear]
    """The layers that this adapter adapts, by module name."""
    grouping: Grouping
    number: int = 0
    """Which adapter of the bank it is."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, A and B of each layer in the network's order."""
        return [parameter for layer in self.layers.values() for parameter in layer.weights(self.number)]

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def module_count(self) -> int:
        """How many linear maps are adapted."""
        return len(self.layers)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of A and B by module name, `NAME.lora_A.weight` (r, in) and `NAME.lora_B.weight` (out, r), on CPU."""
        state = {}
        for name, layer in self.layers.items():
            for letter, parameter in zip("AB", layer.weights(self.number), strict=True):
                state[f"{name}.lora_{letter}.weight"] = parameter.detach().cpu().clone()
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy A and B from what `state` gave."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                for letter, parameter in zip("AB", layer.weights(self.number), strict=True):
                    parameter.copy_(state[f"{name}.lora_{letter}.weight"])

    def load(self, folder: Path) -> None:
        """Copy A and B from a checkpoint of this same adapter."""
        state = load_file(folder / WEIGHTS)
        self.load_state({name.removeprefix(PREFIX): tensor for name, tensor in state.items()})

    def reset(self, seed: int) -> None:
        """Start afresh: A drawn again, B zero.

        Each layer's A is drawn from a stream of its own, seeded by `seed` and the layer's name, so that it does not
        depend on which other layers are adapted.
        """
        for name, layer in self.layers.items():
            layer.initialise(_stream(seed, name), self.number)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the network is the base model with this adapter."""
        return self.grouping.only(self.number)

    def disabled(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the network is the base model."""
        return self.grouping.off()

    def enable_dropout(self) -> None:
        """Switch on the adapter's dropout; the network's own stays off."""
        for layer in self.layers.values():
            layer.train()

    def merge(self) -> None:
        """Add the update to the frozen weights. A tied head is untied first, or the embeddings would change too."""
        network = self.model.network
        head = head_name(network)
        if head in self.layers and _is_tied(network):
            base: Any = self.layers[head].base
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
            network.config.tie_word_embeddings = False
        for layer in self.layers.values():
            layer.merge()

    def unmerge(self) -> None:
        """Take the update out of the weights again, bit for bit."""
        for layer in self.layers.values():
            layer.unmerge()

    def remove(self) -> None:
        """Take the adapter out of the network; what is merged stays merged."""
        for name, layer in self.layers.items():
            layer.drop(self.number)
            if not layer.scaling:
                _replace(self.model.network, name, layer.base)

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
        tensors = {PREFIX + name: tensor for name, tensor in self.state().items()}
        # PEFT passes over the metadata; Rango refuses an adapter whose base is another.
        metadata = {"format": "pt", "base_fingerprint": self.model.fingerprint}
        write_tensors(folder / WEIGHTS, tensors, metadata=metadata)
        write_json(folder / CONFIG, self._peft_config())

    def _peft_config(self) -> dict[str, Any]:
        transposed = any(isinstance(layer.base, Conv1D) for layer in self.layers.values())
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.model.name,
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "lora_dropout": self.lora.dropout,
            "target_modules": list(self.layers),
            "bias": "none",
            "fan_in_fan_out": transposed,
            "inference_mode": True,
        }


def _is_tied(network: Any) -> bool:
    """Whether the output head and the input embeddings are one matrix, seen through a LoRA layer around the head."""
    head = network.get_output_embeddings()
    head = head.base if isinstance(head, LoRALinear) else head
    return head.weight is network.get_input_embeddings().weight


def add_adapter(model: Model, lora: LoRA, *, seed: int) -> Adapter:
    """Put a fresh adapter into the model's network and freeze everything else; its start is that of `Adapter.reset`.

    Raises:
        InputError: a placement that the architecture lacks (see `place`), or an adapter is there already.
    """
    return add_bank(model, [(lora, seed)])[0]


def add_bank(model: Model, asked: Sequence[tuple[LoRA, int]]) -> tuple[Adapter, ...]:
    """Put several fresh adapters, each a configuration and a seed, into one network and freeze everything else.

    Each starts as it would alone. The adapters share one `grouping`, which says whose rows a batch holds; at first
    each has an equal share.

    Raises:
        InputError: as `add_adapter`.
    """
    check_unadapted(model)
    names = [place(model.network, lora.targets, lora.layers) for lora, _ in asked]
    ranks = [dict.fromkeys(found, lora.rank) for (lora, _), found in zip(asked, names, strict=True)]
    adapters = wrap(model, [(lora, found) for (lora, _), found in zip(asked, ranks, strict=True)])
    for adapter, (_, seed) in zip(adapters, asked, strict=True):
        adapter.reset(seed)
    return adapters


def wrap(model: Model, bank: Sequence[tuple[LoRA, Mapping[str, int]]]) -> tuple[Adapter, ...]:
    """Adapters of zeros in a network whose other parameters are frozen; each is given its rank by module name."""
    network = model.network
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    grouping = Grouping(range(len(bank)))
    layers: dict[str, LoRALinear] = {}
    for number, (lora, ranks) in enumerate(bank):
        for name, rank in ranks.items():
            if name not in layers:
                layers[name] = LoRALinear(network.get_submodule(name), grouping)
                _replace(network, name, layers[name])
            layers[name].add(rank=rank, scaling=lora.alpha / rank, dropout=lora.dropout, adapter=number)
    return tuple(
        Adapter(model, lora, {name: layers[name] for name in ranks}, grouping, number)
        for number, (lora, ranks) in enumerate(bank)
    )


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _stream(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def check_unadapted(model: Model) -> None:
    """Refuse a network that carries an adapter already."""
    if any(isinstance(module, LoRALinear) for module in model.network.modules()):
        raise InputError(f"{model.name} carries an adapter already; remove it first or load the model again")
