"""Posteriors to test with."""

from __future__ import annotations

import numpy as np

from rango.decisions import Posteriors


def make(n: int = 200, k: int = 3, *, seed: int = 0, sharpness: float = 1.5, group_size: int = 0) -> Posteriors:
    """Posteriors whose labels follow their scores at sharpness 1: above it they are overconfident."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k))
    labels = (scores + rng.gumbel(size=(n, k))).argmax(axis=1)
    groups = [str(i // group_size) for i in range(n)] if group_size else None
    return Posteriors.from_scores(scores * sharpness, labels, groups=groups)
