"""Adapters that act, and the same adapters as PEFT reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from rango.models.adapter import add_adapter
from rango.models.loading import Model, load_model
from rango.options import LoRA

ALL = ("q", "k", "v", "o", "mlp", "head")
IDS = torch.arange(2, 26).reshape(2, 12)


def logits(model: Model | nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    network: Any = model.network if isinstance(model, Model) else model
    out: torch.Tensor = network(ids).logits
    return out


def shaken(model: Model, lora: LoRA, seed: int = 0) -> Any:
    """An adapter whose B is not zero."""
    adapter = add_adapter(model, lora, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return adapter


def peft_twin(folder: Path, adapter: Any, tmp_path: Path) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The same adapter, written by Rango and read by PEFT, with its trainable parameters by Rango's names."""
    adapter.save(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied heads
        twin = peft.PeftModel.from_pretrained(load_model(folder).network, str(tmp_path / "adapter"), is_trainable=True)
    named = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in twin.named_parameters()
        if "lora_" in name
    }
    return twin, named
