"""The configuration of `rango finetune`: the keys of its YAML file and its flags, each in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rango.config import Config, Seed
from rango.models.options import LoRA, ModelOptions
from rango.scoring.options import ScoringOptions
from rango.tasks import Split, TaskOptions

Objective = Literal["tokens", "answer", "choice"]
Rule = Literal["logarithmic", "brier"]
Adapting = Literal["lora", "full"]
Regime = Literal["validation", "retrain", "all"]
Decay = Literal["cosine", "constant"]
Selection = Literal["nce", "cross_entropy", "error_rate", "accuracy", "brier"]


class TrainingOptions(Config):
    """How the adapter is trained."""

    adaptation: Adapting = "lora"
    """What is trained: lora (a low-rank update of some matrices), or full (every parameter, in float32; the options of
    lora mean nothing then)."""
    regime: Regime = "validation"
    """What validation instances are for: validation (they choose the checkpoint), retrain (they choose the number of
    steps, and are then trained on for that many, with the rest and from the start), all (they are trained on at once,
    for all the steps; nothing is chosen)."""
    objective: Objective = "choice"
    """What is minimised: tokens (every token of prompt and right answer), answer (the right answer's tokens), choice
    (a proper scoring rule of the posterior over the choices)."""
    rule: Rule = "logarithmic"
    """The proper scoring rule of the objective `choice`."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    decay: Decay = "cosine"
    """What the learning rate does after the warm-up: cosine (to zero) or constant."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the training instances; 3 when neither epochs nor steps is given."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps, instead of epochs."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Training instances per optimizer step."""
    train_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens per optimizer step with padding, instead of a number of instances."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Instances per forward pass, to save memory; the loss does not depend on it."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between validations; a twentieth of the run when absent."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better one; never when absent."""
    select: Selection = "nce"
    """Validation metric that chooses the best checkpoint."""
    seed: Seed = 0
    """Seed of the adapter's start, the order of the instances and dropout. The choice of instances has its own,
    data-seed."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}: give one of them")
        return self


class FinetuneOptions(TrainingOptions, ScoringOptions, TaskOptions, ModelOptions):
    """Everything `rango finetune` can be told beside model, task and output folder."""

    lora: LoRA = LoRA()
    """The low-rank update."""

    @model_validator(mode="after")
    def _shots_are_not_learned(self) -> Self:
        if self.shots and self.objective == "tokens":
            raise ValueError(
                f"objective is tokens and shots is {self.shots}: the words of the shots would be learned again with "
                "every instance; use answer or choice"
            )
        return self


class FinetuneConfig(FinetuneOptions):
    """The resolved configuration of a run, as in its run.yaml."""

    model: str
    """Hub id or folder of the base model."""
    task: str
    """Name of a task, or path of a table."""


class EvaluateOptions(ScoringOptions, TaskOptions, ModelOptions):
    """Everything `rango evaluate` can be told beside model, task and output folder."""

    adapter: Path | None = None
    """A run directory (its best checkpoint is taken) or an adapter folder in PEFT's format."""
    split: Split = "test"
    """The split to evaluate on."""
    mc_dropout: Annotated[int, Field(ge=1)] | None = None
    """Average the posteriors of this many passes with the adapter's dropout on (MC dropout); one pass without dropout
    when absent."""
    seed: Seed = 0
    """Seed of the bootstrap and of MC dropout's masks."""

    @model_validator(mode="after")
    def _dropout_of_an_adapter(self) -> Self:
        if self.mc_dropout is not None and self.adapter is None:
            raise ValueError(
                f"mc_dropout is {self.mc_dropout} but there is no adapter whose dropout could be on: give adapter"
            )
        return self


class EvaluateConfig(EvaluateOptions):
    """The resolved configuration of an evaluation, as in its evaluation.yaml."""

    model: str
    """Hub id or folder of the base model."""
    task: str
    """Name of a task, or path of a table."""
