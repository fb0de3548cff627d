"""Small made-up corpora in English and Spanish, and tiny language models that learn them in seconds."""

from __future__ import annotations

import random
from pathlib import Path

from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain

ENGLISH = {
    "who": ["the boy", "the girl", "my brother", "our cat", "the old man", "she"],
    "does": ["eats an apple", "eats a pear", "drinks milk", "reads a book", "sees the house", "goes to the school"],
    "when": ["every day", "in the morning", "at night", "with his friend", "from time to time"],
}
SPANISH = {
    "who": ["el niño", "la niña", "mi hermano", "tu abuela", "el señor", "ella"],
    "does": ["come manzana", "come una pera", "bebe leche", "lee un libro", "va al colegio", "come piña"],
    "when": ["todos los días", "por la mañana", "en el jardín", "con su amigo", "después de jugar"],
}


def sentences(language: dict[str, list[str]], count: int = 900) -> list[str]:
    """Sentences of a who, a does and a when, some with a full stop."""
    draw = random.Random(0)
    lines = (" ".join(draw.choice(part) for part in language.values()) for _ in range(count))
    return [line[0].upper() + line[1:] + draw.choice(["", "."]) for line in lines]


def tiny_language_model(folder: Path, language: dict[str, list[str]]) -> Path:
    """A transformer of 25,000 parameters that has learned the sentences of one language."""
    config = PretrainConfig.build(
        {
            "hidden": 32, "layers": 1, "heads": 2, "vocabulary": 340, "context": 32, "batch_tokens": 512,
            "learning_rate": 1e-2, "tokens": 150_000, "evaluate_every": 1000, "dtype": "float32",
        }
    )  # fmt: skip
    return pretrain(sentences(language), out=folder, config=config)
