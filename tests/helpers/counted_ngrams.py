"""Small n-gram models, counted from made-up documents."""

from __future__ import annotations

import numpy as np
import torch

from rango.language.ngram_estimation import Smoothing, count_ngrams, smooth
from rango.models.ngram import NGramForCausalLM

END = 0
SMOOTHINGS: tuple[Smoothing, ...] = ("kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood")
Documents = list[list[int]]


def made_documents(count: int = 40, *, vocabulary: int = 9, seed: int = 0) -> Documents:
    """Documents of 1 to 11 tokens in which low ids are frequent."""
    generator = np.random.default_rng(seed)
    return [
        (1 + generator.geometric(0.35, generator.integers(1, 12)) % (vocabulary - 1)).tolist() for _ in range(count)
    ]


def stream(documents: Documents) -> np.ndarray:
    return np.array([token for document in documents for token in (*document, END)])


def network(
    documents: Documents,
    order: int,
    *,
    smoothing: Smoothing = "kneser-ney",
    vocabulary: int = 9,
    k: float = 1.0,
    discount: float | None = None,
) -> NGramForCausalLM:
    counts = count_ngrams([stream(documents)], order=order, vocabulary=vocabulary, end=END)
    return NGramForCausalLM.from_tables(smooth(counts, smoothing=smoothing, k=k, discount=discount))


def after(model: NGramForCausalLM, *history: int) -> list[float]:
    """P(. | history) for every token."""
    probabilities: list[float] = model(torch.tensor([history])).logits[0, -1].double().exp().tolist()
    return probabilities
