"""Pre-trainings that take a second, and a text in which there is something to learn."""

from __future__ import annotations

import random
from typing import Any

from rango.language.options import PretrainConfig

TINY: dict[str, Any] = {
    "hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300, "context": 16,
    "batch_tokens": 128, "learning_rate": 1e-2, "evaluate_every": 10, "tokens": 128 * 30,
    "dtype": "float32",
}  # fmt: skip


def tiny(**changes: Any) -> PretrainConfig:
    return PretrainConfig.build(TINY | changes)


def lstm(**changes: Any) -> PretrainConfig:
    sizes = {key: value for key, value in TINY.items() if key != "heads"}
    return PretrainConfig.build(sizes | {"model": "lstm"} | changes)


def ngram(**changes: Any) -> PretrainConfig:
    """An n-gram of a small vocabulary; names that are no option of pre-training are options of the n-gram."""
    options = {name: changes.pop(name) for name in list(changes) if name not in PretrainConfig.model_fields}
    return PretrainConfig.build({"model": "ngram", "vocabulary": 400, "ngram": options} | changes)


def story(lines: int = 400) -> list[str]:
    """Sentences in which the second word follows from the first, so that there is something to learn."""
    generator = random.Random(0)
    follows = {"sam": "runs", "ana": "sings", "leo": "reads", "mia": "paints"}
    places = ["home", "outside", "quietly", "again", "today"]
    return [f"{name} {follows[name]} {generator.choice(places)}." for name in generator.choices([*follows], k=lines)]
