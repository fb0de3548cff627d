"""The options as keywords that a type checker knows: a misspelt one is found before anything runs.

They are those of `options.py`, group by group, where their meaning, their ranges and their defaults stand; a test
compares the two. Where an option may be written in more than one way (a path as text, targets as one text), so may it
be here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from rango.options import (
    Decay,
    Dtype,
    Form,
    LoRA,
    Normalisation,
    Objective,
    Prompts,
    Quantisation,
    Rule,
    Selection,
    Words,
)


class TaskKeywords(TypedDict, total=False):
    """`TaskOptions` as keywords of `load_task`."""

    data: Path | str | None
    train: int
    validation: int
    test: int
    data_seed: int
    prompt: Prompts
    words: Words


class ProbeKeywords(TaskKeywords, total=False):
    """`ProbeConfig` as keywords of `probe`, beside those that it names."""

    form: Form | None
    normalise: Normalisation
    shots: int
    shots_seed: int
    batch_tokens: int
    dtype: Dtype
    quantise: Quantisation
    device: str
    other_data: bool


class LoRAKeywords(TypedDict, total=False):
    """`LoRA` as a dictionary, for `finetune(..., lora={"rank": 4})`."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...] | Sequence[str] | str
    layers: str | None
    rank_pattern: tuple[str, ...] | Mapping[str, int] | str
    alpha_pattern: tuple[str, ...] | Mapping[str, float] | str
    rslora: bool
    plus: float
    dora: bool
    init: Literal["normal", "pissa"]


class FinetuneOptions(TaskKeywords, total=False):
    """`FinetuneConfig` as keywords of `finetune`; model and task are its arguments."""

    # How the base is loaded; what was given to `load_model` is what counts.
    dtype: Dtype
    quantise: Quantisation
    device: str
    # How instances are put into words and scored.
    form: Form | None
    normalise: Normalisation
    shots: int
    shots_seed: int
    batch_tokens: int
    # How the adapter is trained.
    adaptation: Literal["lora", "full"]
    regime: Literal["validation", "retrain", "all"]
    objective: Objective
    rule: Rule
    label_smoothing: float
    learning_rate: float
    weight_decay: float
    warmup: float
    decay: Decay
    clip: float
    epochs: int | None
    steps: int | None
    batch: int
    train_tokens: int | None
    micro_batch: int | None
    gradient_checkpointing: bool
    validate_every: int | None
    patience: int | None
    select: Selection
    seed: int
    lora: LoRA | LoRAKeywords
