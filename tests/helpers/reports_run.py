"""A small run directory as the training room leaves it, with posteriors drawn from a known law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rango.decisions import Posteriors, summarise, summarise_difference, summarise_prior_only, write_posteriors
from rango.files import write_json, write_yaml

HOSTILE = "<script>alert('x')</script>"


def make_states(n: int = 600, seed: int = 0) -> dict[str, Posteriors]:
    """Posteriors of each state: the truth, and versions of it that are noisier and surer of themselves."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(n, 3)) * 2.2
    shares = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = (generator.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    ids = [f"question-{row}" for row in range(n)]
    words = [["grateful", "bored with it all", HOSTILE] for _ in range(n)]

    def state(scale: float, noise: float) -> Posteriors:
        scores = scale * truth + noise * generator.normal(size=truth.shape)
        return Posteriors.from_scores(scores, labels, ids, None, words)

    floor = state(1.0, 0.0)
    return {
        "prior": floor.prior_only(),
        "base": state(0.25, 0.7),
        "control": state(0.1, 0.3),
        "adapted": state(1.35, 0.5),
        "calibrated": state(1.0, 0.35),
        "floor": floor,
    }


def make_metrics(states: dict[str, Posteriors]) -> dict[str, Any]:
    found = {key: summarise(posteriors, replicates=200) for key, posteriors in states.items()}
    if "prior" in states:
        found["prior"] = summarise_prior_only(states["prior"], replicates=200)
    found["difference"] = summarise_difference(states["base"], states["adapted"], replicates=200)
    return {"test": {key: {name: value.as_dict() for name, value in row.items()} for key, row in found.items()}}


def make_log(steps: int = 200, every: int = 2) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    records, best = [], np.inf
    for step in range(every, steps + 1, every):
        decay = np.exp(-step / 60)
        record: dict[str, Any] = {"step": step, "train_loss": float(0.5 + 0.6 * decay + 0.08 * generator.normal())}
        record |= {"seconds": step / 8, "tokens": step * 900}
        if step % 20 == 0:
            nce = float(0.5 + 0.4 * decay + 0.0006 * max(0, step - 140))
            record["validation"] = {"nce": nce, "error_rate": float(0.22 + 0.25 * decay), "accuracy": 0.7}
            record["best"], best = nce < best, min(nce, best)
        records.append(record)
    return records


RECORD = {
    "config": {
        "model": "runs/demo/phi-tiny",
        "task": "simulated",
        "train": 5000,
        "validation": 300,
        "test": 2000,
        "seed": 0,
        "form": "cloze",
        "objective": "choice",
        "normalise": "none",
        "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["q", "v"], "layers": None},
        "learning_rate": 0.002,
        "steps": 250,
        "batch": 16,
        "select": "nce",
    },
    "model": {"name": "runs/demo/phi-tiny", "parameters": 531_264, "dtype": "torch.float32", "device": "cpu"},
    "trainable_parameters": 9216,
    "versions": {"rango": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
    "fingerprints": {"model": "0f6d1c83a92b44e1", "data": {"train": "aa01", "validation": "bb02", "test": "cc03"}},
    "notes": ["asked for 2,000 test instances, 600 exist: all taken"],
    "seconds": 95.4,
    "status": "complete",
}


def write_run(path: Path, record: dict[str, Any], states: dict[str, Posteriors]) -> Path:
    write_yaml(path / "run.yaml", record)
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_log()))
    write_json(path / "metrics.json", make_metrics(states))
    for key, posteriors in states.items():
        write_posteriors(path / "posteriors" / f"test-{key}.parquet", posteriors)
    return path
