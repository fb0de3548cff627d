"""An adapter: the LoRA layers put into a network, read and written in PEFT's format."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError
from rango.files import atomic_path, read_json, write_json
from rango.models.loading import Model
from rango.models.lora import LoRALinear, weight_shape
from rango.models.options import LoRA
from rango.models.placement import head_name, place

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."  # how PEFT names the wrapped network


@dataclass(frozen=True, eq=False)
class Adapter:
    """LoRA layers inside a model's network. The network is changed in place; `remove` gives it back."""

    model: Model
    lora: LoRA
    layers: Mapping[str, LoRALinear]

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, A and B of each layer in the network's order."""
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_A, layer.lora_B)]

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of A and B by module name, `NAME.lora_A.weight` (r, in) and `NAME.lora_B.weight` (out, r), on CPU."""
        state = {}
        for name, layer in self.layers.items():
            state[f"{name}.lora_A.weight"] = layer.lora_A[0].detach().cpu().clone()
            state[f"{name}.lora_B.weight"] = layer.lora_B[0].detach().cpu().clone()
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy A and B from what `state` gave."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.lora_A[0].copy_(state[f"{name}.lora_A.weight"])
                layer.lora_B[0].copy_(state[f"{name}.lora_B.weight"])

    def load(self, folder: Path) -> None:
        """Copy A and B from a checkpoint of this same adapter."""
        self.load_state(_read_weights(folder / WEIGHTS)[0])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the network is the base model."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True

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
        """Take the LoRA layers out of the network; what is merged stays merged."""
        for name, layer in self.layers.items():
            _replace(self.model.network, name, layer.base)

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
        tensors = {_PREFIX + name: tensor.contiguous() for name, tensor in self.state().items()}
        with atomic_path(folder / WEIGHTS) as temporary:
            # PEFT passes over the metadata; Rango refuses an adapter whose base is another.
            save_file(tensors, temporary, metadata={"format": "pt", "base_fingerprint": self.model.fingerprint})
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
    """Put a fresh adapter into the model's network and freeze everything else.

    Each layer's A is drawn from a stream of its own, seeded by `seed` and the layer's name, so that it does not depend
    on which other layers are adapted.

    Raises:
        InputError: a placement that the architecture lacks (see `place`), or an adapter is there already.
    """
    _refuse_second(model)
    names = place(model.network, lora.targets, lora.layers)
    adapter = _wrap(model, lora, dict.fromkeys(names, lora.rank))
    for name, layer in adapter.layers.items():
        layer.initialise(0, _stream(seed, name))
    return adapter


def load_adapter(model: Model, folder: Path) -> Adapter:
    """Put a saved adapter into the model: a run directory (its best checkpoint) or a folder in PEFT's format.

    Raises:
        InputError: no adapter there, a kind of adapter that Rango does not have, or one of another base model.
    """
    place_of = folder / "adapter" / "best" if (folder / "adapter" / "best").is_dir() else folder
    if not (place_of / CONFIG).is_file():
        raise InputError(f"{folder} holds no {CONFIG}; give a run directory or an adapter folder in PEFT's format")
    config = read_json(place_of / CONFIG)
    _refuse_other_kinds(config, place_of)
    _refuse_second(model)
    state, metadata = _read_weights(place_of / WEIGHTS)
    made_for = metadata.get("base_fingerprint")
    if made_for is not None and made_for != model.fingerprint:
        raise InputError(
            f"{place_of} adapts another base model: it was made for {config.get('base_model_name_or_path')} "
            f"(fingerprint {made_for}), {model.name} has {model.fingerprint}; give the model it was trained on"
        )
    ranks = {
        key.removesuffix(".lora_A.weight"): tensor.shape[0]
        for key, tensor in state.items()
        if key.endswith(".lora_A.weight")
    }
    _refuse_other_shapes(model, state, ranks, place_of)
    lora = LoRA.build(
        {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "dropout": config.get("lora_dropout", 0.0),
        },
        where=str(place_of / CONFIG),
    )
    adapter = _wrap(model, lora, ranks)
    adapter.load_state(state)
    return adapter


def _wrap(model: Model, lora: LoRA, ranks: Mapping[str, int]) -> Adapter:
    network = model.network
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    layers = {}
    for name, rank in ranks.items():
        layer = LoRALinear(network.get_submodule(name), rank=rank, scaling=[lora.alpha / rank], dropout=lora.dropout)
        _replace(network, name, layer)
        layers[name] = layer
    return Adapter(model=model, lora=lora, layers=layers)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _stream(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _refuse_second(model: Model) -> None:
    if any(isinstance(module, LoRALinear) for module in model.network.modules()):
        raise InputError(f"{model.name} carries an adapter already; remove it first or load the model again")


def _refuse_other_kinds(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"{folder} holds a {config.get('peft_type')} adapter; expected LORA")
    for key, plain in (("use_dora", False), ("use_rslora", False), ("bias", "none"), ("modules_to_save", None)):
        if config.get(key, plain) not in (plain, None):
            raise InputError(f"{folder}: {key} is {config[key]!r}, which Rango does not read; expected {plain!r}")
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise InputError(f"{folder}: {key} is {json.dumps(config[key])}, which Rango does not read; expected none")


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; the adapter has no weights")
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = list(file.keys())
            return {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file ({error}); the adapter is damaged") from None


def _refuse_other_shapes(
    model: Model, state: Mapping[str, torch.Tensor], ranks: Mapping[str, int], folder: Path
) -> None:
    modules = dict(model.network.named_modules())
    if not ranks:
        raise InputError(f"{folder}: {WEIGHTS} holds no lora_A weights; the adapter is damaged")
    for name in ranks:
        if name not in modules:
            raise InputError(
                f"{folder} adapts {name}, which {model.name} does not have; give the model it was trained on"
            )
        outputs, inputs = weight_shape(modules[name])
        A, B = state[f"{name}.lora_A.weight"], state.get(f"{name}.lora_B.weight")
        if B is None or (B.shape[0], A.shape[1]) != (outputs, inputs):
            seen = "no lora_B" if B is None else f"({B.shape[0]}, {A.shape[1]})"
            raise InputError(
                f"{folder} adapts {name} with shape {seen}, but in {model.name} it is ({outputs}, {inputs}); "
                "give the model it was trained on"
            )
