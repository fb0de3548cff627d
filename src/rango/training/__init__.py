"""How it learns: objectives, the loop, checkpoints, the run directory, pre-training."""

from rango.training.finetune import finetune
from rango.training.measures import measure, true_posteriors
from rango.training.objectives import DivergenceError, Objective, Rule, count_terms, loss_sum
from rango.training.options import FinetuneConfig, FinetuneOptions, ModelOptions
from rango.training.progress import Screen
from rango.training.run import Run

__all__ = [
    "DivergenceError",
    "FinetuneConfig",
    "FinetuneOptions",
    "ModelOptions",
    "Objective",
    "Rule",
    "Run",
    "Screen",
    "count_terms",
    "finetune",
    "loss_sum",
    "measure",
    "true_posteriors",
]
