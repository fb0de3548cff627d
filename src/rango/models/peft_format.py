"""Reading adapters in PEFT's format, and refusing those that Rango would read wrongly."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError
from rango.files import ADAPTER_CONFIG, FULL_RECORD, check_adapter_folder, read_json, read_tensors
from rango.models.adapter import (
    CONFIG_DIGEST,
    MAGNITUDE,
    PREFIX,
    WEIGHTS,
    Adapter,
    Plans,
    TrainableModel,
    UpdatePlan,
    check_unadapted,
    config_digest,
    joint_scaling,
    split_updates,
    wrap,
)
from rango.models.full_finetuning import FullTuning, add_full
from rango.models.loading import Model, quiet_transformers
from rango.models.lora import Slice, weight_shape
from rango.options import LoRA

# Options of PEFT with which the network computes something else than W x + (alpha / r) B A x in the named layers.
_UNREAD = (
    *("lora_bias", "bias", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config"),
)
# Starts of A and B that PEFT takes out of the base weights, each time it loads the adapter.
_CHANGES_BASE = ("pissa_niter", "olora", "corda", "loftq", "lora_ga")


def load_adapter(model: Model, folder: Path | str) -> TrainableModel:
    """Put a saved adapter into the model: a run directory (its best checkpoint) or a folder in PEFT's format.

    The checkpoint of full fine-tuning is a whole model, whose weights replace the base's.

    Raises:
        InputError: the folder holds no adapter, a kind that Rango does not read, or an adapter of another base model.
    """
    folder = Path(folder)
    checkpoint = check_adapter_folder(folder)
    if (checkpoint / FULL_RECORD).is_file():
        return _load_full(model, checkpoint)
    check_unadapted(model)
    stored = read_adapter(model, folder)
    (adapter,) = put_adapters(model, [stored])
    return adapter


@dataclass(frozen=True, eq=False)
class StoredAdapter:
    """A LoRA adapter that was read from a folder and fits a model."""

    lora: LoRA
    plans: Plans
    state: Mapping[str, torch.Tensor]
    """Its matrices, by the names that `Adapter.load_state` takes."""
    notes: tuple[str, ...]
    """What could not be checked, in words."""


def put_adapters(model: Model, stored: Sequence[StoredAdapter]) -> tuple[Adapter, ...]:
    """Put adapters that were read for a model into its network.

    Raises:
        InputError: one began as PiSSA does from the weights of another base; the network is then as it was.
    """
    adapters = wrap(model, [(each.lora, each.plans) for each in stored])
    try:
        for adapter, each in zip(adapters, stored, strict=True):
            adapter.load_state(each.state)
            _check_start(adapter)
    except InputError:
        for adapter in adapters:
            adapter.remove()
        raise
    return tuple(replace(adapter, notes=each.notes) for adapter, each in zip(adapters, stored, strict=True))


def _check_start(adapter: Adapter) -> None:
    """Raise InputError where B A is farther from PiSSA's start on this base than zero is.

    PEFT's file holds A and B alone: their start, which was taken out of the base, is computed from the base again, and
    on another base it is another. What training adds is small beside it.
    """
    moved, start = 0.0, 0.0
    with torch.no_grad():
        for layer in adapter.layers.values():
            for key, A0 in layer.lora_start_A.items():
                beginning = layer.lora_start_B[key] @ A0  # (out, in)
                moved += float((layer.lora_B[key] @ layer.lora_A[key] - beginning).square().sum())
                start += float(beginning.square().sum())
    if moved > start:
        raise InputError(
            f"init_lora_weights is pissa, but the adapter did not begin with the principal part of the weights of "
            f"{adapter.model.name}; give the model it was trained on"
        )


def read_adapter(model: Model, folder: Path) -> StoredAdapter:
    """Read a LoRA adapter for a model, without putting it into the network; errors as in `load_adapter`."""
    folder = Path(folder)
    checkpoint = check_adapter_folder(folder)
    if (checkpoint / FULL_RECORD).is_file():
        raise InputError(f"{folder} is a checkpoint of full fine-tuning, a whole model; expected a LoRA adapter")
    config = _read_record(checkpoint / ADAPTER_CONFIG)
    _check_kinds(config, checkpoint)
    state, metadata = _read_weights(checkpoint / WEIGHTS)
    made_for = metadata.get("base_fingerprint")
    _check_base(model, checkpoint, config.get("base_model_name_or_path"), made_for)
    state = _without_copies(model, state)
    lora = _read_options(config, checkpoint / ADAPTER_CONFIG)
    plans = _check_tensors(model, state, lora, checkpoint) | _read_slices(metadata, state, lora, checkpoint)
    if metadata.get(CONFIG_DIGEST, config_digest(config)) != config_digest(config):
        raise InputError(
            f"{checkpoint / ADAPTER_CONFIG} is not the one that {WEIGHTS} was written with: it is damaged or changed; "
            "take it from a copy"
        )
    notes = (_check_architecture(model, checkpoint, config),) if made_for is None else _quantise_note(model, metadata)
    return StoredAdapter(lora, plans, split_updates(state, plans), notes)


def _read_options(config: Mapping[str, Any], path: Path) -> LoRA:
    """The options that a configuration of PEFT has the names of; placements and layers are those of the weights."""
    for key in ("r", "lora_alpha"):
        if key not in config:
            raise InputError(f"{path}: {key} is missing; expected a configuration that PEFT or Rango wrote")
    values = {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "rank_pattern": config.get("rank_pattern") or {},
        "alpha_pattern": config.get("alpha_pattern") or {},
        "rslora": config.get("use_rslora") or False,
        "dora": config.get("use_dora") or False,
        "init": "pissa" if str(config.get("init_lora_weights")).lower() == "pissa" else "normal",
    }
    return LoRA.build(values, where=str(path))


def _load_full(model: Model, folder: Path) -> FullTuning:
    record = _read_record(folder / FULL_RECORD)
    _check_base(model, folder, record.get("base_model_name_or_path"), record.get("base_fingerprint"))
    full = add_full(model)
    try:
        full.load(folder)
    except InputError:
        full.remove()
        raise
    return full


def _check_base(model: Model, folder: Path, name: str | None, made_for: str | None) -> None:
    if made_for is not None and made_for != model.fingerprint:
        raise InputError(
            f"{folder} adapts another base model: it was made for {name} "
            f"(fingerprint {made_for}), {model.name} has {model.fingerprint}; give the model it was trained on"
        )


def _quantise_note(model: Model, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What to know of an adapter that was trained on the same base in other bits: it acts, but not as measured."""
    then = metadata.get("base_quantise", "none")
    if then == model.quantise:
        return ()
    return (f"the adapter was trained on the base with quantise {then}, and this is {model.quantise}",)


def _check_architecture(model: Model, folder: Path, config: Mapping[str, Any]) -> str:
    """Raise InputError where the base that the adapter names is of another architecture; returns what stays unchecked.

    Matrices of equal shapes do not show it: a Llama adapter fits many a Mistral.
    """
    network, named = model.network, config.get("base_model_name_or_path")
    made_for = config.get("auto_mapping")
    kind = made_for.get("base_model_class") if isinstance(made_for, dict) else None
    own: str | None = type(network).__name__
    if kind is None and isinstance(named, str) and named:
        own = network.config.model_type
        with contextlib.suppress(Exception), quiet_transformers():  # the base may be gone, or anything
            kind = AutoConfig.from_pretrained(named, trust_remote_code=False, local_files_only=True).model_type
    if kind is not None and kind != own:
        raise InputError(
            f"{folder} adapts another base model: it was made for {named or 'a model'} ({kind}), "
            f"{model.name} is {own}; give the model it was trained on"
        )
    return f"adapter {folder} has no fingerprint of its base, so nothing shows that {model.name} is " + (
        f"{named}, which it was trained on" if named else "the model it was trained on"
    )


def _without_copies(model: Model, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter without those that equal the base's own: PEFT can save embeddings and head along.

    A head that is adapted as well is saved as the layer within the adapted one.
    """
    base = model.network.state_dict()

    def copied(name: str, tensor: torch.Tensor) -> bool:
        module, _, kind = name.rpartition(".base_layer.")
        own = base.get(f"{module}.{kind}" if f"{module}.lora_A.weight" in state else name)
        if own is None or own.shape != tensor.shape:
            return False
        own = own.cpu()  # either may have been rounded to the other's type
        return torch.equal(own.to(tensor.dtype), tensor) or torch.equal(own, tensor.to(own.dtype))

    return {name: tensor for name, tensor in state.items() if not copied(name, tensor)}


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path} holds a {type(record).__name__}; expected a JSON object")
    return record


def _check_kinds(config: Mapping[str, Any], folder: Path) -> None:
    if "peft_type" not in config:
        mlx = any(key in config for key in ("lora_parameters", "fine_tune_type", "lora_layers"))
        raise InputError(
            f"{folder / ADAPTER_CONFIG} names no peft_type"
            + (": it is MLX's; convert the adapter to PEFT's format (lora_A and lora_B" if mlx else "; expected LORA (")
            + f" in {WEIGHTS})"
        )
    if config["peft_type"] != "LORA":
        raise InputError(f"{folder} holds a {config.get('peft_type')} adapter; expected LORA")
    for key in _UNREAD:
        if config.get(key) and (key, config[key]) != ("bias", "none"):
            raise InputError(
                f"{folder}: {key} is {config[key]!r}, which Rango does not read; expected an adapter without"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        # The fast start of PiSSA is drawn at random: whoever loads the file draws another.
        drawn = " by what is drawn at random each time" if start.lower().startswith("pissa") else ""
        raise InputError(
            f"{folder}: init_lora_weights is {start!r}, which changes the base model's weights too{drawn}; convert it "
            "into a plain LoRA adapter with PEFT (path_initial_model_for_weight_conversion)"
        )


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    if not path.is_file():
        if path.with_suffix(".bin").is_file():
            raise InputError(
                f"{path.with_suffix('.bin')} is a pickle, which can run code when it is read; convert it to {WEIGHTS}: "
                "load it with PEFT where you trust it and save it again (save_pretrained)"
            )
        others = sorted(file.name for file in path.parent.glob("*.safetensors"))
        seen = f" (there is {', '.join(others[:3])})" if others else ""
        raise InputError(f"{path} does not exist{seen}; the adapter has no weights in PEFT's format")
    try:
        tensors, metadata = read_tensors(path)
        return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, metadata
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file ({error}); the adapter is damaged") from None


def _check_tensors(
    model: Model, state: Mapping[str, torch.Tensor], lora: LoRA, folder: Path
) -> dict[str, dict[str, UpdatePlan]]:
    """The updates of the adapted modules, as PEFT has them: one of all outputs each.

    Raises:
        InputError: tensors that are not A and B of linear maps of the model, or of other ranks than `lora` says.
    """
    names = [key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")]
    # `load_state` would pass over any other tensor, and its update would be missing from every probability.
    read = {f"{name}.lora_{letter}.weight" for name in names for letter in "AB"}
    read |= {f"{name}.{MAGNITUDE}" for name in names if lora.dora}
    for name in sorted(state.keys() - read):
        if name.endswith(f".{MAGNITUDE}"):
            raise InputError(
                f"{folder}: {WEIGHTS} holds {name}, but use_dora in {ADAPTER_CONFIG} is false; they must agree"
            )
        raise InputError(
            f"{folder}: {WEIGHTS} holds {name}, which Rango does not read; expected lora_A and lora_B of linear "
            "layers, beside them at most weights equal to the base model's"
        )
    if not names:
        raise InputError(f"{folder}: {WEIGHTS} holds no lora_A weights; the adapter is damaged")
    modules = dict(model.network.named_modules())
    plans = {}
    for name in names:
        if not isinstance(modules.get(name), (nn.Linear, Conv1D)):
            raise InputError(
                f"{folder} adapts {name}, which {model.name} does not have; give the model it was trained on"
            )
        outputs, inputs = weight_shape(modules[name])
        A, B = state[f"{name}.lora_A.weight"], state.get(f"{name}.lora_B.weight")
        rank = A.shape[0] if A.ndim else 0
        if B is None or (A.shape, B.shape) != ((rank, inputs), (outputs, rank)):
            seen = "no lora_B" if B is None else f"({', '.join(map(str, (*B.shape[:1], *A.shape[1:])))})"
            raise InputError(
                f"{folder} adapts {name} with shape {seen}, but in {model.name} it is ({outputs}, {inputs}); "
                "give the model it was trained on"
            )
        magnitude = state.get(f"{name}.{MAGNITUDE}")
        if lora.dora and (magnitude is None or magnitude.shape != (outputs,)):
            seen = "no magnitudes" if magnitude is None else f"{magnitude.numel()} magnitudes"
            raise InputError(
                f"{folder}: use_dora is true and {name} has {seen} ({MAGNITUDE}) of {outputs}; the adapter is damaged"
            )
        # The scaling comes from the configuration's rank, which must then be that of the matrices.
        if rank != lora.rank_of(name):
            raise InputError(
                f"{folder}: {name} has rank {rank}, but {ADAPTER_CONFIG} says r {lora.rank_of(name)}; they must agree"
            )
        plans[name] = {"": UpdatePlan(rank, lora.scaling_of(name))}
    return plans


def _read_slices(
    metadata: Mapping[str, str], state: Mapping[str, torch.Tensor], lora: LoRA, folder: Path
) -> dict[str, dict[str, UpdatePlan]]:
    """The updates that Rango wrote joined, from the metadata; the tensors are checked already.

    Raises:
        InputError: the weights are not the joint update of such slices.
    """
    damaged = InputError(f"{folder}: the slices in {WEIGHTS}'s metadata do not fit its weights; the adapter is damaged")
    try:
        plans = {
            name: {
                part: UpdatePlan(int(plan["rank"]), float(plan["scaling"]), Slice(**plan["slice"]))
                for part, plan in parts.items()
            }
            for name, parts in json.loads(metadata.get("slices", "{}")).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged from None
    for name, parts in plans.items():
        B = state.get(f"{name}.lora_B.weight")
        if B is None or sum(plan.rank for plan in parts.values()) != B.shape[1]:
            raise damaged
        if not math.isclose(joint_scaling(parts), lora.scaling_of(name), rel_tol=1e-6):
            raise damaged
        if not all(plan.slice and plan.slice.fits(len(B)) and plan.scaling > 0 < plan.rank for plan in parts.values()):
            raise damaged
        # A number outside of the slices would be lost in silence.
        split = split_updates(state, {name: parts})
        if sum(int(x.count_nonzero()) for key, x in split.items() if "lora_B" in key) != int(B.count_nonzero()):
            raise damaged
    return plans
