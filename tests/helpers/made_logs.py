"""Logs of decisions to test with, as `rango predict` writes them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rango.decisions import Costs, DecisionLog, Posteriors

CLASSES = ("keep", "return", "exchange")
PRIORS = (0.6, 0.25, 0.15)
COSTS = Costs.zero_one(CLASSES).with_abstention(0.3)


def make_log(
    n: int = 600,
    *,
    seed: int = 0,
    noise: float = 1.0,
    priors: Sequence[float] = PRIORS,
    known: float = 1.0,
    name: str = "r",
) -> DecisionLog:
    """Posteriors that are calibrated at noise 1 under PRIORS; above it they are too sure. A share has labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=priors)
    features = 1.8 * np.eye(3)[labels] + noise * rng.normal(size=(n, 3))
    scores = 1.8 * features + np.log(PRIORS)
    posteriors = Posteriors.from_scores(scores, None, [f"{name}{row}" for row in range(n)], choices=[CLASSES] * n)
    rows = np.flatnonzero(rng.random(n) < known)
    kept = np.full(n, -1)
    kept[rows] = labels[rows]
    return DecisionLog(posteriors, kept, rows)


def gated_log(*, acted_wrong: int = 6, name: str = "g") -> DecisionLog:
    """40 decisions for class a at 0.75, of which a gate acts on 30 (18 of the first 20) and `acted_wrong` of these err.

    Of the 10 that are passed on, 14 − `acted_wrong` are wrong, so that 14 of all 40 are.
    """
    acts = np.ones(40, dtype=np.bool_)
    acts[[3, 9, *range(20, 28)]] = False
    wrong = np.zeros(40, dtype=np.int64)
    wrong[np.flatnonzero(acts)[:acted_wrong]] = 1
    wrong[np.flatnonzero(~acts)[: 14 - acted_wrong]] = 1
    ids = [f"{name}{row}" for row in range(40)]
    posteriors = Posteriors.from_probabilities([[0.75, 0.25]] * 40, None, ids, choices=[("a", "b")] * 40)
    return DecisionLog(posteriors, wrong, np.arange(40), None, None, ("a",) * 40, acts)


def write_log(path: Path, log: DecisionLog, further: Mapping[str, Sequence[Any]] | None = None) -> Path:
    """The log as CSV, with the columns of `rango predict` and others."""
    columns: dict[str, Sequence[Any]] = {"id": log.posteriors.ids}
    columns["label"] = ["" if label < 0 else CLASSES[label] for label in log.labels]
    for k, name in enumerate(CLASSES):
        columns[f"probability_{name}"] = np.exp(log.posteriors.log_posteriors[:, k]).tolist()
    columns["decision"] = [CLASSES[k] for k in log.posteriors.log_posteriors.argmax(axis=1)]
    columns |= further or {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
