"""Who answers: loading from the Hub or a folder, LoRA and its placements."""

from rango.models.adapter import Adapter, add_adapter, load_adapter
from rango.models.loading import Model, choose_device, load_model
from rango.models.lora import LoRA, LoRALinear, linear_rows
from rango.models.placement import PLACEMENTS, Placement, place

__all__ = [
    "PLACEMENTS",
    "Adapter",
    "LoRA",
    "LoRALinear",
    "Model",
    "Placement",
    "add_adapter",
    "choose_device",
    "linear_rows",
    "load_adapter",
    "load_model",
    "place",
]
