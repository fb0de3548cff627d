"""Made-up outcomes of studies: posteriors drawn from a known law, sharper or noisier by configuration and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rango.decisions import Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.results.outcomes import Outcome, StudyResult
from rango.results.table import StudyTable, study_table
from rango.studies.study import Reference


def make_truth(n: int, *, choices: int = 3, seed: int = 0, name: str = "q") -> Posteriors:
    """True posteriors of n instances with labels drawn from them."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n, choices)) * 1.8
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = (generator.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, choices - 1)
    return Posteriors.from_scores(scores, labels, [f"{name}{row}" for row in range(n)])


def make_system(truth: Posteriors, *, scale: float, noise: float, seed: int) -> Posteriors:
    """The truth as a model sees it: flattened by `scale`, disturbed by `noise`."""
    generator = np.random.default_rng(seed)
    scores = scale * truth.log_posteriors + noise * generator.normal(size=truth.log_posteriors.shape)
    return Posteriors.from_scores(scores, truth.labels, truth.ids, truth.groups)


def make_log(seed: int, *, end: float, steps: int = 120, every: int = 2) -> tuple[dict[str, Any], ...]:
    generator = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        decay = float(np.exp(-step / 40))
        record: dict[str, Any] = {"step": step, "train_loss": end + 0.5 * decay + 0.05 * float(generator.normal())}
        if step % 20 == 0:
            nce = end + (1 - end) * decay + 0.015 * float(generator.normal())
            record["validation"] = {"nce": nce, "error_rate": 0.5 * nce, "accuracy": 1 - 0.5 * nce}
        records.append(record)
    return tuple(records)


def make_outcome(
    axes: Mapping[str, object],
    truth: Posteriors,
    *,
    scale: float,
    noise: float,
    seeds: Sequence[int] = (0, 1, 2),
    floor: bool = False,
    logs: bool = False,
) -> Outcome:
    start = sum(map(ord, repr(sorted(axes.items(), key=str))))
    end = 1 - 0.6 * scale
    return Outcome(
        axes=axes,
        posteriors={seed: make_system(truth, scale=scale, noise=noise, seed=start + seed) for seed in seeds},
        floor=truth if floor else None,
        logs={seed: make_log(start + seed, end=end) for seed in seeds} if logs else {},
    )


def placement_study(n: int = 400, *, logs: bool = False) -> list[Outcome]:
    """Several placements on two tasks, with the base model."""
    placements: dict[str, tuple[float, float]] = {
        "q": (0.55, 0.5),
        "k": (0.5, 0.5),
        "v": (0.75, 0.5),
        "o": (0.7, 0.5),
        "q,v": (0.85, 0.4),
        "q,k,v,o": (0.9, 0.4),
        "mlp": (0.8, 0.45),
    }
    outcomes = []
    for task, choices, seed in (("socialiqa", 3, 1), ("hellaswag", 4, 2)):
        truth = make_truth(n, choices=choices, seed=seed, name=task)
        axes = {"task": task, "adaptation": "none", "lora.targets": None}
        outcomes.append(make_outcome(axes, truth, scale=0.2, noise=0.5, seeds=(0,)))
        for name, (scale, noise) in placements.items():
            axes = {"task": task, "adaptation": "lora", "lora.targets": tuple(name.split(","))}
            outcomes.append(make_outcome(axes, truth, scale=scale, noise=noise, logs=logs))
    return outcomes


def ladder_study(n: int = 400, *, logs: bool = False) -> list[Outcome]:
    """Adaptations against the number of training instances, with the true posterior known."""
    truth = make_truth(n, seed=5)
    outcomes = [
        make_outcome({"adaptation": "none", "train": None}, truth, scale=0.2, noise=0.6, seeds=(0,), floor=True)
    ]
    for name, best in (("few-shot", 0.45), ("calibration", 0.35), ("lora", 1.0), ("lora+calibration", 1.05)):
        for train in (16, 64, 256, 1024, 5000):
            gain = np.log(train / 8) / np.log(625)
            scale = 0.15 + best * gain * (0.85 if name == "lora" else 0.9)
            noise = 0.55 - 0.3 * gain * (name.startswith("lora"))
            outcomes.append(
                make_outcome(
                    {"adaptation": name, "train": train}, truth, scale=scale, noise=noise, floor=True, logs=logs
                )
            )
    return outcomes


def changes_study(n: int = 200, *, seeds: Sequence[int] = (0,)) -> list[Outcome]:
    """A centre and single changes of it, some of which move nothing, with the base model."""
    truth = make_truth(n, seed=3)
    centre: dict[str, object] = {"lora.targets": ("q", "v"), "lora.rank": 8, "learning_rate": 5e-4, "train": 5000}
    base = {"adaptation": "none", **dict.fromkeys(centre)}
    outcomes = [make_outcome(base, truth, scale=0.2, noise=0.2, seeds=(0,))]
    changes: list[tuple[dict[str, object], float]] = [
        ({}, 0.8),
        ({"lora.targets": ("k",)}, 0.45),
        ({"lora.rank": 1}, 0.79),
        ({"learning_rate": 1e-3}, 0.82),
        ({"train": 64}, 0.3),
    ]
    for place, (change, scale) in enumerate(changes):
        axes = {"adaptation": "lora", **centre, **change}
        systems = {seed: make_system(truth, scale=scale, noise=0.2, seed=10 * place + seed) for seed in seeds}
        outcomes.append(Outcome(axes=axes, posteriors=systems))
    return outcomes


THESIS = (
    Reference("phi-2 base", {"task": "socialiqa"}, "accuracy", 0.67, "reference thesis, table 4.1"),
    Reference("phi-2 adapted", {"task": "socialiqa"}, "accuracy", 0.72, "reference thesis, table 4.1"),
    Reference("phi-2 base", {"task": "hellaswag"}, "accuracy", 0.44, "reference thesis, table 4.1"),
    Reference("human", {"task": "socialiqa"}, "accuracy", 0.885, "as the reference thesis quotes it"),
)


def calibration_table() -> StudyTable:
    """A study that names its metrics, with an axis that follows from the adaptation and labels too wide for 80."""
    truth = make_truth(120)
    ways = [
        ("none", 0.0, None),
        ("mc-dropout", 0.1, None),
        ("lora+calibration", 0.0, "temperature"),
        ("ensemble+calibration", 0.0, "temperature"),
        ("ensemble+calibration", 0.0, "affine"),
    ]
    outcomes = []
    for place, way in enumerate(ways):
        axes = dict(zip(("adaptation", "lora.dropout", "calibrator"), way, strict=True))
        seeds = (0, 1) if place else (0,)
        outcomes.append(make_outcome(axes, truth, scale=0.2 + 0.1 * place, noise=0.2, seeds=seeds))
    return study_table(
        outcomes,
        select="cross_entropy",
        metrics=["cross_entropy", "ece", "normalised_expected_cost"],
        costs=StatedCosts(abstain=0.3),
        replicates=20,
    )


HOSTILE = "<script>alert('x')</script>"


def hostile_study() -> StudyResult:
    """A study of two tasks in which texts are HTML, and one configuration has no result."""
    placements = placement_study(60, logs=True)
    outcomes = [*placements[:3], *placements[8:11]]
    outcomes[1] = Outcome(**{**vars(outcomes[1]), "facts": {"seconds": 95.4, "trainable_parameters": 9216.0}})
    axes = {"task": "hellaswag", "adaptation": HOSTILE, "lora.targets": None}
    outcomes.append(Outcome(axes, {}, failures={0: f"{HOSTILE} memory"}))
    references = (*THESIS, Reference(HOSTILE, {}, "nce", 0.5, HOSTILE))
    return StudyResult("placement & co", "Where should LoRA go?", "nce", tuple(outcomes), references)
