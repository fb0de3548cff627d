"""Reading adapters in PEFT's format, and refusing those that Rango does not read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rango.errors import InputError
from rango.files import read_json
from rango.models.adaptation import Adaptation
from rango.models.adapter import CONFIG, PREFIX, WEIGHTS, refuse_second, wrap
from rango.models.full import RECORD, FullTuning, add_full
from rango.models.loading import Model
from rango.models.lora import weight_shape
from rango.models.options import LoRA


def load_adapter(model: Model, folder: Path) -> Adaptation:
    """Put a saved adapter into the model: a run directory (its best checkpoint) or a folder in PEFT's format.

    A run of full fine-tuning has a whole model there, whose weights replace the base's.

    Raises:
        InputError: no adapter there, a kind of adapter that Rango does not have, or one of another base model.
    """
    place_of = folder / "adapter" / "best" if (folder / "adapter" / "best").is_dir() else folder
    if (place_of / RECORD).is_file():
        return _load_full(model, place_of)
    if not (place_of / CONFIG).is_file():
        raise InputError(f"{folder} holds no {CONFIG}; give a run directory or an adapter folder in PEFT's format")
    config = read_json(place_of / CONFIG)
    _refuse_other_kinds(config, place_of)
    refuse_second(model)
    state, metadata = _read_weights(place_of / WEIGHTS)
    _refuse_other_base(model, place_of, config.get("base_model_name_or_path"), metadata.get("base_fingerprint"))
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
    (adapter,) = wrap(model, [(lora, ranks)])
    adapter.load_state(state)
    return adapter


def _load_full(model: Model, folder: Path) -> FullTuning:
    record = read_json(folder / RECORD)
    _refuse_other_base(model, folder, record.get("base_model_name_or_path"), record.get("base_fingerprint"))
    full = add_full(model)
    full.load(folder)
    return full


def _refuse_other_base(model: Model, folder: Path, name: str | None, made_for: str | None) -> None:
    if made_for is not None and made_for != model.fingerprint:
        raise InputError(
            f"{folder} adapts another base model: it was made for {name} "
            f"(fingerprint {made_for}), {model.name} has {model.fingerprint}; give the model it was trained on"
        )


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
            return {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}, file.metadata() or {}
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
