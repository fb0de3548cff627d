"""The trainable part of a model: the interface that training uses, and the LoRA adapters that implement it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rango.errors import InputError
from rango.files import ADAPTER_CONFIG, fingerprint, read_tensors, write_json, write_tensors
from rango.models.loading import Model
from rango.models.lora import Grouping, LoRALinear, Slice, output_numbers, stored_transposed, weight_shape
from rango.models.placement import head_name, place
from rango.options import LoRA, pattern_fits, scaling_divisor

WEIGHTS = "adapter_model.safetensors"
MAGNITUDE = "lora_magnitude_vector"
CONFIG_DIGEST = "config_digest"
"""The key of the weights' metadata under which their configuration's digest stands: PEFT reads that file as it is."""
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
        """A and B of each layer by its name, `NAME.lora_A.weight` (r, in) and `NAME.lora_B.weight` (out, r).

        Those of a slice are `NAME.q.lora_A.weight` (r, in) and `NAME.q.lora_B.weight` (n, r). DoRA has
        `NAME.lora_magnitude_vector` (out,) beside them.
        """
        named: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            for part in layer.slices[self.number]:
                update = update_name(name, part)
                named[f"{update}.lora_A.weight"], named[f"{update}.lora_B.weight"] = layer.weights(self.number, part)
                if f"{self.number}{part}" in layer.lora_magnitude:
                    named[f"{update}.{MAGNITUDE}"] = layer.lora_magnitude[f"{self.number}{part}"]
        return named

    def plans(self) -> dict[str, dict[str, UpdatePlan]]:
        """The updates of each layer as they are written, by module name, then by the slice's name."""
        return {
            name: {
                part: UpdatePlan(len(layer.pair(self.number, part)[0]), layer.scaling[self.number][part], piece)
                for part, piece in layer.slices[self.number].items()
            }
            for name, layer in self.layers.items()
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A and B, as LoRA+ has them learn: B at `lora.plus` times the rate of A, and DoRA's magnitudes as B.

        Magnitudes do not decay: at 0 the base's own weights would be gone.
        """
        named = self.named_parameters()
        options: dict[str, dict[str, Any]] = {
            "lora_A.weight": {"ratio": 1.0},
            "lora_B.weight": {"ratio": self.lora.plus},
            MAGNITUDE: {"ratio": self.lora.plus, "weight_decay": 0.0},
        }
        groups = [
            {"params": [named[name] for name in named if name.endswith(end)], **values}
            for end, values in options.items()
        ]
        return [group for group in groups if group["params"]]

    def module_count(self) -> int:
        """How many linear maps are adapted; a slice of a fused one counts as one."""
        return sum(len(layer.slices[self.number]) for layer in self.layers.values())

    def load(self, folder: Path) -> None:
        """Copy A and B from a checkpoint of this same adapter."""
        state = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(folder / WEIGHTS)[0].items()}
        split = split_updates(state, self.plans())
        for name, layer in self.layers.items():
            for part in layer.slices[self.number]:
                update = update_name(name, part)
                layer.take(split[f"{update}.lora_A.weight"], split[f"{update}.lora_B.weight"], self.number, part)
                if f"{self.number}{part}" in layer.lora_magnitude:
                    layer.lora_magnitude[f"{self.number}{part}"].data.copy_(split[f"{update}.{MAGNITUDE}"])

    def reset(self, seed: int) -> None:
        """Start afresh: A drawn again, B zero; or both as PiSSA begins.

        Each update's A is drawn from a stream of its own, seeded by `seed` and the layer's name, so that it does not
        depend on which other layers are adapted.
        """
        for name, layer in self.layers.items():
            for part in layer.slices[self.number]:
                digest = hashlib.sha256(f"{seed}:{update_name(name, part)}".encode()).digest()
                stream = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
                layer.initialise(stream, self.number, part)

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

    def merge(self, *, keep: bool = True) -> None:
        """Add the update to the frozen weights. A tied head is untied first, or the embeddings would change too.

        Without `keep` no copy of the weights is held, and nothing can be unmerged.
        """
        network: Any = self.model.network
        head: Any = self.layers.get(head_name(network))
        if head is not None and head.base.weight is network.get_input_embeddings().weight:
            head.base.weight = nn.Parameter(head.base.weight.detach().clone(), requires_grad=False)
            network.config.tie_word_embeddings = False
        for layer in self.layers.values():
            layer.merge(keep=keep)

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

    def joint_updates(self) -> dict[str, torch.Tensor]:
        """A and B of each layer as they are written, on the CPU: slices joined, PiSSA as an update of the base."""
        plans = self.plans()
        outputs = {name: weight_shape(layer.base)[0] for name, layer in self.layers.items()}
        pairs = {
            f"{update_name(name, part)}.lora_{letter}.weight": matrix.detach().cpu().clone()
            for name, parts in plans.items()
            for part in parts
            for letter, matrix in zip("AB", self.layers[name].pair(self.number, part), strict=True)
        }
        return join_updates(pairs, plans, outputs)

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them.

        PEFT knows no slices: those of a layer are written as one update of the whole, see `join_updates`. PiSSA is
        written as a plain update of the base of twice the rank, as PEFT converts it, and loads everywhere.
        """
        # The plans say what is joined; they are stored too, so that Rango takes the joined updates apart again.
        plans = self.plans()
        tensors = {PREFIX + name: tensor for name, tensor in self.joint_updates().items()}
        for name, layer in self.layers.items():
            magnitude = layer.joint_magnitude(self.number)
            if magnitude is not None:
                tensors[f"{PREFIX}{name}.{MAGNITUDE}"] = magnitude.cpu()
        # PEFT passes over the metadata; Rango refuses an adapter whose base is another.
        metadata = {"format": "pt", "base_fingerprint": self.model.fingerprint}
        if self.model.quantise != "none":
            metadata["base_quantise"] = self.model.quantise
        sliced = {
            name: {part: asdict(plan) for part, plan in parts.items()}
            for name, parts in plans.items()
            if "" not in parts
        }
        if sliced:
            metadata["slices"] = json.dumps(sliced)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.model.name,
            **self._ranks_and_alphas(),
            "use_rslora": self.lora.rslora,
            "use_dora": self.lora.dora,
            "lora_dropout": self.lora.dropout,
            "target_modules": list(self.layers),
            "bias": "none",
            "fan_in_fan_out": any(stored_transposed(layer.base) for layer in self.layers.values()),
            "inference_mode": True,
        }
        metadata[CONFIG_DIGEST] = config_digest(config)
        write_tensors(folder / WEIGHTS, tensors, metadata=metadata)
        write_json(folder / ADAPTER_CONFIG, config)

    def _ranks_and_alphas(self) -> dict[str, Any]:
        """Rank and alpha of every layer as PEFT writes them: one for all, and patterns for the others."""
        ranks, alphas = {}, {}
        for name, parts in self.plans().items():
            ranks[name] = sum(plan.rank for plan in parts.values())
            alpha = joint_scaling(parts) * scaling_divisor(ranks[name], rslora=self.lora.rslora)
            alphas[name] = float(f"{alpha:.12g}")  # without the rounding of the division by which scaling was made
        [(common, _)] = Counter(zip(ranks.values(), alphas.values(), strict=True)).most_common(1)
        return {
            "r": common[0],
            "lora_alpha": common[1],
            "rank_pattern": {name: rank for name, rank in ranks.items() if rank != common[0]},
            "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != common[1]},
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
        InputError: as `add_adapter`, or `check_rows_apart`.
    """
    check_unadapted(model)
    # All placements are checked before the first layer is replaced.
    plans = [(lora, _plan(model.network, lora)) for lora, _ in configurations]
    if len(plans) > 1:
        check_rows_apart(model, dict.fromkeys(name for _, plan in plans for name in plan))
    adapters = wrap(model, plans)
    for adapter, (_, seed) in zip(adapters, configurations, strict=True):
        adapter.reset(seed)
    return adapters


def check_rows_apart(model: Model, names: Iterable[str]) -> None:
    """Raise InputError where an adapted module is not given the batch row by row, so that a bank cannot share it.

    Some layers put the tokens of all rows into one list (OPT's feed-forward part) or pick tokens for each expert. The
    first dimension does not say there whose tokens these are. A pass over two rows of three tokens shows it.
    """
    rows, tokens = 2, 3
    mixing: list[str] = []

    def look(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[:-1] != (rows, tokens):
            mixing.append(name)

    network, training = model.network, model.network.training
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name in names:
            hook = network.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: look(name, x))
            hooks.callback(hook.remove)
        hooks.callback(network.train, training)
        network.train(False)
        network(input_ids=torch.arange(rows * tokens, device=model.device).view(rows, tokens), use_cache=False)
    if mixing:
        raise InputError(
            f"{mixing[0]} of {model.name} is given the tokens of all rows together, so that several adapters cannot "
            "share a batch there; compute with one adapter at a time, or leave this module out of lora.targets"
        )


@dataclass(frozen=True)
class UpdatePlan:
    """An update that a layer gets, of all its outputs or of a slice."""

    rank: int
    scaling: float
    slice: Slice | None = None


Plans = Mapping[str, Mapping[str, UpdatePlan]]
"""The updates of an adapter: by module name, then by the name of the slice, which is empty for all outputs."""


def _plan(network: nn.Module, lora: LoRA) -> Plans:
    """The updates that `lora` places.

    Raises:
        InputError: as `place`, or a pattern has a name that fits none of the modules.
    """
    sites = place(network, lora.targets, lora.layers)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in (entry.rpartition("=")[0] for entry in getattr(lora, key)):
            if not any(pattern_fits(pattern, site.name, site.placement) for site in sites):
                names = dict.fromkeys(site.name for site in sites)
                raise InputError(
                    f"lora.{key}: {pattern!r} fits none of the adapted modules ({', '.join([*names][:3])}, ...); "
                    "name a placement among the targets, or the end of a module's name"
                )
    plans: dict[str, dict[str, UpdatePlan]] = {}
    for site in sites:
        rank, scaling = lora.rank_of(site.name, site.placement), lora.scaling_of(site.name, site.placement)
        outputs, inputs = weight_shape(network.get_submodule(site.name))
        most = min(site.slice.count() if site.slice else outputs, inputs)
        if lora.init == "pissa" and rank > most:
            raise InputError(
                f"lora.init is pissa and the rank of {'.'.join(filter(None, (site.name, site.part)))} is {rank}, but "
                f"its weights have {most} singular values; give a rank of at most that"
            )
        plans.setdefault(site.name, {})[site.part] = UpdatePlan(rank, scaling, site.slice)
    return plans


def wrap(model: Model, bank: Sequence[tuple[LoRA, Plans]]) -> tuple[Adapter, ...]:
    """Put adapters of zeros into a network and freeze everything else.

    `bank` holds the configuration of each adapter and its updates.
    """
    network = model.network
    # Frozen first: what the wrappers add below is then all that is trained.
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    grouping = Grouping(range(len(bank)))
    layers: dict[str, LoRALinear] = {}
    # One wrapper for each module, shared by all adapters that adapt the module.
    for number, (lora, plans) in enumerate(bank):
        for name, parts in plans.items():
            if name not in layers:
                layers[name] = LoRALinear(network.get_submodule(name), grouping)
                _replace(network, name, layers[name])
            for part, plan in parts.items():
                layers[name].add(
                    rank=plan.rank,
                    scaling=plan.scaling,
                    dropout=lora.dropout,
                    adapter=number,
                    part=part,
                    piece=plan.slice,
                    dora=lora.dora,
                    pissa=lora.init == "pissa",
                )
    return tuple(
        Adapter(model, lora, {name: layers[name] for name in plans}, grouping, number)
        for number, (lora, plans) in enumerate(bank)
    )


def config_digest(config: Mapping[str, Any]) -> str:
    """The digest of what an adapter's configuration says, but for the name of the base, which may move."""
    kept = {key: value for key, value in config.items() if key != "base_model_name_or_path"}
    return fingerprint(json.dumps(kept, sort_keys=True))


def update_name(layer: str, part: str) -> str:
    """The name of an update: its layer's, and the slice's where it has one."""
    return f"{layer}.{part}" if part else layer


def joint_scaling(parts: Mapping[str, UpdatePlan]) -> float:
    """The scaling of a layer's updates when they are written as one; that of the first."""
    return next(iter(parts.values())).scaling


def join_updates(
    state: Mapping[str, torch.Tensor], plans: Plans, outputs: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """A and B of each layer from those of its slices: the same function as one update of all outputs.

            ⎡ A_q ⎤ (r_q + r_v, in)      ⎡ B_q  0  ⎤
        A = ⎣ A_v ⎦                  B = ⎢  0   0  ⎥ (out, r_q + r_v), each B at the outputs of its slice
                                         ⎣  0  B_v ⎦

    The joint update has one scaling, so a B of another scaling is multiplied by what it lacks: with equal ranks and
    alphas, or ranks that differ by powers of two, nothing is rounded.
    """
    joined: dict[str, torch.Tensor] = {}
    for name, parts in plans.items():
        A = torch.cat([state[f"{update_name(name, part)}.lora_A.weight"] for part in parts])
        columns = []
        for part, plan in parts.items():
            B = state[f"{update_name(name, part)}.lora_B.weight"] * (plan.scaling / joint_scaling(parts))
            columns.append(B if plan.slice is None else plan.slice.widen(B.T, outputs[name]).T)  # (out, r)
        joined |= {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": torch.cat(columns, dim=1).contiguous()}
    return joined


def split_updates(state: Mapping[str, torch.Tensor], plans: Plans) -> dict[str, torch.Tensor]:
    """Undo `join_updates`."""
    split: dict[str, torch.Tensor] = {}
    for name, parts in plans.items():
        A, B = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        ranks = [plan.rank for plan in parts.values()]
        pairs = zip(torch.split(A, ranks), torch.split(B, ranks, dim=1), strict=True)
        for (part, plan), (a, b) in zip(parts.items(), pairs, strict=True):
            rows = b if plan.slice is None else b[plan.slice.index(len(b))]
            if (magnitude := state.get(f"{name}.{MAGNITUDE}")) is not None:
                split[f"{update_name(name, part)}.{MAGNITUDE}"] = magnitude[output_numbers(plan.slice, len(b))]
            split[f"{update_name(name, part)}.lora_A.weight"] = a
            split[f"{update_name(name, part)}.lora_B.weight"] = rows / (plan.scaling / joint_scaling(parts))
    return split


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def check_unadapted(model: Model) -> None:
    """Raise InputError for a network that carries an adapter already."""
    if any(isinstance(module, LoRALinear) for module in model.network.modules()):
        raise InputError(f"{model.name} carries an adapter already; remove it first or load the model again")
