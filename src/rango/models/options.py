"""What can be configured of a model and its adapter. Free of torch, so that the command line answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from rango.config import Config

Placement = Literal["q", "k", "v", "o", "mlp", "head"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelOptions(Config):
    """Where and in which type the model computes."""

    dtype: Dtype = "auto"
    """Type of the frozen weights."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def _split_names(value: Any) -> Any:
    """`"q,v"` or `("q,v", "o")` to a tuple of names, so that one flag, a list and a YAML string mean the same."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip())


class LoRA(Config):
    """Which low-rank update is learnt, and where (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the update is dropped while training."""
    targets: Annotated[tuple[Placement, ...], BeforeValidator(_split_names), Field(min_length=1)] = ("q", "v")
    """Which projections are adapted: a comma-separated list among q, k, v, o, mlp, head."""
    layers: str | None = None
    """Which decoder layers are adapted, for example 0-7 or 0,3; all when absent."""


def folder_problem(source: str) -> str | None:
    """Why a model's name that means a folder names no model; None for one with config.json, and for a Hub id."""
    path = Path(source)
    looks_local = path.exists() or source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1
    if not looks_local or (path / "config.json").is_file():
        return None
    what = "has no config.json" if path.is_dir() else "does not exist" if not path.exists() else "is a file"
    return f"model folder {source} {what}; expected a Hub id or a folder with a transformers checkpoint"
