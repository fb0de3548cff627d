"""Studies of a tiny random model that tests plan, work on and look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import Posteriors
from rango.errors import Interrupted
from rango.studies.plan import Job, Plan
from rango.studies.queue import WorkItem
from rango.studies.store import Store
from rango.studies.worker import Worker
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]
Made = Callable[..., tuple[Plan, Store]]

BASE: dict[str, Any] = {
    "task": "simulated", "form": "cloze", "normalise": "none", "objective": "choice", "train": 12, "validation": 12,
    "test": 10, "steps": 3, "batch": 4, "validate_every": 1, "learning_rate": 0.03, "device": "cpu", "dtype": "float32",
}  # fmt: skip


def work(plan: Plan, store: Store) -> None:
    Worker(store, plan).work()


def statuses(plan: Plan, store: Store) -> list[str]:
    return [store.status(job) for job in plan.jobs]


def runs_of(plan: Plan) -> list[Job]:
    return [job for job in plan.jobs if job.kind == "run"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The loop meets a signal after so many steps and an ordinary end of its saving."""
    step = Trainer._step
    done = []

    def stopped(self: Trainer, active: Any) -> Any:
        if len(done) == steps:
            raise Interrupted(15, "stopped by SIGTERM")
        done.append(1)
        return step(self, active)

    monkeypatch.setattr(Trainer, "_step", stopped)


def finish(store: Store, item: WorkItem) -> None:
    """Make the jobs of an item look done."""
    dummy = Posteriors(np.log([[0.5, 0.5]]), np.array([0]))
    for job in item.jobs:
        for split in ("validation", "test"):
            store.write_posteriors(job, split, "base", dummy)
        (store.folder(job) / "run.yaml").write_text("status: complete\n")
