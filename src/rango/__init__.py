"""Rango adapts causal language models with LoRA to tasks of choosing, and tells what their probabilities are worth.

The public names below are imported when they are first used, so that `import rango` costs nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> the room that defines it
_PUBLIC = {
    "Costs": "rango.decisions",
    "FinetuneConfig": "rango.training",
    "InputError": "rango.errors",
    "Instance": "rango.tasks",
    "LoRA": "rango.models",
    "Model": "rango.models",
    "Posteriors": "rango.decisions",
    "Run": "rango.training",
    "Task": "rango.tasks",
    "evaluate": "rango.scoring",
    "finetune": "rango.training",
    "load_model": "rango.models",
    "load_task": "rango.tasks",
    "pretrain": "rango.training",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from rango.decisions import Costs as Costs
    from rango.decisions import Posteriors as Posteriors
    from rango.errors import InputError as InputError
    from rango.models import LoRA as LoRA
    from rango.models import Model as Model
    from rango.models import load_model as load_model
    from rango.scoring import evaluate as evaluate
    from rango.tasks import Instance as Instance
    from rango.tasks import Task as Task
    from rango.tasks import load_task as load_task
    from rango.training import FinetuneConfig as FinetuneConfig
    from rango.training import Run as Run
    from rango.training import finetune as finetune
    from rango.training import pretrain as pretrain


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rango' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
