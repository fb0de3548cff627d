"""Training runs without a model: two numbers to train, and validation scores that a test writes down."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rango.options import FinetuneConfig
from rango.scoring.scorer import Scores
from rango.scoring.trees import TokenTree
from rango.tasks import Instance
from rango.training.distributed import ProcessGroup
from rango.training.run_writer import RunWriter
from rango.training.training_run import BankData, TrainingRun


class TwoNumbers:
    """A trainable model that is one parameter of two numbers, which `reset` sets to 1 and 2."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.weight]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.parameters(), "ratio": 1.0}]

    def parameter_count(self) -> int:
        return 2

    def module_count(self) -> int:
        return 1

    def state(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.detach().clone()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])

    def reset(self, seed: int) -> None:  # noqa: ARG002 - nothing is drawn
        self.load_state({"weight": torch.tensor([1.0, 2.0])})

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.json").write_text(json.dumps(self.weight.tolist()))

    def load(self, folder: Path) -> None:
        self.load_state({"weight": torch.tensor(json.loads((folder / "weight.json").read_text()))})

    def alone(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    disabled = alone

    def enable_dropout(self) -> None:
        pass

    def remove(self) -> None:
        pass


@dataclass(frozen=True)
class Prepared(ProcessGroup):
    """Scores validation with the next of the posteriors that a test gives."""

    posteriors: list[list[list[float]]] = field(default_factory=list)

    def score(self, *_: Any, **__: Any) -> Scores:
        with np.errstate(divide="ignore"):
            return Scores(np.log(self.posteriors.pop(0)), letter_mass=None, tokens=0, seconds=0.0)


def tree(length: int, label: int) -> TokenTree:
    """Two choices of one token each after a trunk of `length` tokens."""
    return TokenTree(f"{length}", tuple(range(length)), ((1,), (2,)), (1, 1), label)


TRAIN = [tree(length, label=0) for length in range(2, 12)]
LABELS = (0, 1)


def make_run(
    folder: Path,
    *,
    posteriors: list[list[list[float]]] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], bool] | None = None,
    labels: Sequence[int] = LABELS,
    **settings: Any,
) -> TrainingRun:
    """A run on ten training instances and two validation instances, labelled 0 and 1 unless `labels` says else."""
    config = FinetuneConfig.build({"model": "none", "task": "none", "batch": 5, **settings})
    instances = [
        Instance(id=str(n), context="", question="which?", choices=("a", "b"), label=label, group=str(n))
        for n, label in enumerate(labels)
    ]
    reader: Any = None
    trees = [tree(20 + n, label) for n, label in enumerate(labels)]
    data = BankData(reader, "cloze", TRAIN, trees, instances, Prepared(posteriors=posteriors or []))
    writer = RunWriter(folder, {})
    writer.begin()
    return TrainingRun("key", config, TwoNumbers(), writer, data, on_validation)


def take_step(run: TrainingRun, gradient: tuple[float, float] = (0.3, -0.4), loss: float = 0.5) -> dict[str, float]:
    """One optimizer step with a gradient that a test gives; returns its record."""
    (weight,) = run.adapter.parameters()
    weight.grad = torch.tensor(gradient)
    record = run.update(loss, run.batch())
    assert record is not None
    return run.add_time(record, 0.25)
