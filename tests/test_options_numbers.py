"""What every configuration refuses: numbers that are none, seeds that no generator takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rango.config import Config
from rango.errors import InputError
from rango.language.options import GenerateOptions, PretrainConfig, SpellingOptions
from rango.options import EvaluateConfig, FinetuneConfig, LoRA, ScoringOptions, TaskOptions, TrainingOptions
from rango.studies.study import Search, Study


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (GenerateOptions, "temperature"),
        (SpellingOptions, "threshold"),
        (TrainingOptions, "learning_rate"),
        (TrainingOptions, "clip"),
        (LoRA, "alpha"),
        (PretrainConfig, "learning_rate"),
        (PretrainConfig, "minutes"),
    ],
)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_only_finite_numbers(kind: type[Config], name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}: input should be a finite number"):
        kind.build({name: value})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (GenerateOptions, {"seed": 2**64}),
        (ScoringOptions, {"shots_seed": 2**63}),
        (FinetuneConfig, {"model": "m", "task": "t", "seed": 2**63}),
        (EvaluateConfig, {"model": "m", "task": "t", "seed": 2**63}),
        (PretrainConfig, {"seed": 2**63}),
        (TaskOptions, {"data_seed": 2**63}),
        (Search, {"seed": 2**63}),
        (Study, {"name": "s", "seeds": [2**63]}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_seeds_that_every_generator_takes(kind: type[Config], values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"seeds?(\.0)? is \d+: input should be less than 9223372036854775808"):
        kind.build(values)
