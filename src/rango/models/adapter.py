"""The trainable part of a model: the interface that training uses, and the LoRA adapters that implement it."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError
from rango.files import ADAPTER_CONFIG, write_json, write_tensors
from rango.models.loading import Model
from rango.models.lora import Grouping, LoRALinear
from rango.models.placement import head_name, place, placement_of
from rango.options import LoRA, pattern_fits, scaling_divisor

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # how PEFT names the wrapped network


class TrainableModel(ABC):
    """A change of a model's network that can be trained, saved, switched off and taken back."""

    notes: tuple[str, ...] = ()
    """What could not be checked when it was loaded, in words."""

    @abstractmethod
    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        """The trainable parameters by name, float32, in a fixed order."""

    @abstractmethod
    def module_count(self) -> int:
        """How many of the network's modules are adapted."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start afresh."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a checkpoint that other programs read."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read a checkpoint of this same adaptation."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model with this adaptation."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model."""

    @abstractmethod
    def enable_dropout(self) -> None:
        """Switch on the adaptation's own dropout, if it has any."""

    @abstractmethod
    def remove(self) -> None:
        """Give the network back as it was."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters in their fixed order."""
        return list(self.named_parameters().values())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters as an optimizer takes them; `ratio` is what multiplies the learning rate of a group."""
        return [{"params": self.parameters(), "ratio": 1.0}]

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the trained numbers by name, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.named_parameters().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy the numbers from what `state` gave."""
        with torch.no_grad():
            for name, parameter in self.named_parameters().items():
                parameter.copy_(state[name])


@dataclass(frozen=True, eq=False)
class Adapter(TrainableModel):
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
    notes: tuple[str, ...] = ()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """A and B of each layer by its name, `NAME.lora_A.weight` (r, in) and `NAME.lora_B.weight` (out, r)."""
        return {
            f"{name}.lora_{letter}.weight": parameter
            for name, layer in self.layers.items()
            for letter, parameter in zip("AB", layer.weights(self.number), strict=True)
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A and B, as LoRA+ has them learn: B at `lora.plus` times the rate of A."""
        named = self.named_parameters()
        ratios = {"lora_A.weight": 1.0, "lora_B.weight": self.lora.plus}
        return [
            {"params": [named[name] for name in named if name.endswith(end)], "ratio": ratio}
            for end, ratio in ratios.items()
        ]

    def module_count(self) -> int:
        """How many linear maps are adapted."""
        return len(self.layers)

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
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            stream = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            layer.initialise(stream, self.number)

    def alone(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model with this adapter."""
        return self.grouping.only(self.number)

    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the network is the base model."""
        return self.grouping.off()

    def enable_dropout(self) -> None:
        """Switch on the adapter's dropout; the network's own stays off."""
        for layer in self.layers.values():
            layer.train()

    def merge(self) -> None:
        """Add the update to the frozen weights. A tied head is untied first, or the embeddings would change too."""
        network: Any = self.model.network
        head: Any = self.layers.get(head_name(network))
        if head is not None and head.base.weight is network.get_input_embeddings().weight:
            head.base.weight = nn.Parameter(head.base.weight.detach().clone(), requires_grad=False)
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
            if not layer.scaling:  # no other adapter of the bank uses the layer
                _replace(self.model.network, name, layer.base)

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
        tensors = {PREFIX + name: tensor for name, tensor in self.state().items()}
        # PEFT passes over the metadata; Rango refuses an adapter whose base is another.
        metadata = {"format": "pt", "base_fingerprint": self.model.fingerprint}
        write_tensors(folder / WEIGHTS, tensors, metadata=metadata)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.model.name,
            **self._ranks_and_alphas(),
            "use_rslora": self.lora.rslora,
            "lora_dropout": self.lora.dropout,
            "target_modules": list(self.layers),
            "bias": "none",
            "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for layer in self.layers.values()),
            "inference_mode": True,
        }
        write_json(folder / ADAPTER_CONFIG, config)

    def _ranks_and_alphas(self) -> dict[str, Any]:
        """Rank and alpha of every layer as PEFT writes them: one for all, and patterns for the others."""
        ranks = {name: len(layer.weights(self.number)[0]) for name, layer in self.layers.items()}
        alphas = {
            name: layer.scaling[self.number] * scaling_divisor(ranks[name], rslora=self.lora.rslora)
            for name, layer in self.layers.items()
        }
        # scaling came from alpha by a division, whose rounding must not make a pattern of equal alphas
        alphas = {name: alpha for name, alpha in alphas.items() if not math.isclose(alpha, self.lora.alpha)}
        return {
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "rank_pattern": {name: rank for name, rank in ranks.items() if rank != self.lora.rank},
            "alpha_pattern": alphas,
        }


def add_adapter(model: Model, lora: LoRA, *, seed: int) -> Adapter:
    """Put a fresh adapter into the model's network and freeze everything else; its start is that of `Adapter.reset`.

    Raises:
        InputError: the architecture lacks the placement (see `place`), or the network carries an adapter already.
    """
    return add_bank(model, [(lora, seed)])[0]


def add_bank(model: Model, configurations: Sequence[tuple[LoRA, int]]) -> tuple[Adapter, ...]:
    """Put several fresh adapters, each a configuration and a seed, into one network and freeze everything else.

    Each starts as it would alone. The adapters share one `grouping`, which says whose rows a batch holds; at first
    each has an equal share.

    Raises:
        InputError: as `add_adapter`.
    """
    check_unadapted(model)
    # All placements are checked before the first layer is replaced.
    adapters = wrap(model, [(lora, _plan(model.network, lora)) for lora, _ in configurations])
    for adapter, (_, seed) in zip(adapters, configurations, strict=True):
        adapter.reset(seed)
    return adapters


@dataclass(frozen=True)
class LayerPlan:
    """The update that a layer gets."""

    rank: int
    scaling: float


def _plan(network: nn.Module, lora: LoRA) -> dict[str, LayerPlan]:
    """The update of each module that `lora` places, by module name.

    Raises:
        InputError: as `place`, or a pattern has a name that fits none of the modules.
    """
    names = place(network, lora.targets, lora.layers)
    placements = {name: placement_of(network, name) for name in names}
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in (entry.rpartition("=")[0] for entry in getattr(lora, key)):
            if not any(pattern_fits(pattern, name, placements[name]) for name in names):
                raise InputError(
                    f"lora.{key}: {pattern!r} fits none of the adapted modules ({', '.join(names[:3])}, ...); "
                    "name a placement among the targets, or the end of a module's name"
                )
    return {
        name: LayerPlan(lora.rank_of(name, placements[name]), lora.scaling_of(name, placements[name])) for name in names
    }


def wrap(model: Model, bank: Sequence[tuple[LoRA, Mapping[str, LayerPlan]]]) -> tuple[Adapter, ...]:
    """Put adapters of zeros into a network and freeze everything else.

    `bank` holds the configuration of each adapter and the update of each of its layers by module name.
    """
    network = model.network
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    grouping = Grouping(range(len(bank)))
    layers: dict[str, LoRALinear] = {}
    # One wrapper for each module, shared by all adapters that adapt the module.
    for number, (lora, plans) in enumerate(bank):
        for name, plan in plans.items():
            if name not in layers:
                layers[name] = LoRALinear(network.get_submodule(name), grouping)
                _replace(network, name, layers[name])
            layers[name].add(rank=plan.rank, scaling=plan.scaling, dropout=lora.dropout, adapter=number)
    return tuple(
        Adapter(model, lora, {name: layers[name] for name in plans}, grouping, number)
        for number, (lora, plans) in enumerate(bank)
    )


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def check_unadapted(model: Model) -> None:
    """Raise InputError for a network that carries an adapter already."""
    if any(isinstance(module, LoRALinear) for module in model.network.modules()):
        raise InputError(f"{model.name} carries an adapter already; remove it first or load the model again")
