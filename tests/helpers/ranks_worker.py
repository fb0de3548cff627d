"""What each process of `test_distributed` does; `torchrun ranks_worker.py CHECKPOINT OUT` fails in the second."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from helpers.toy import toy_task

from rango.models.loading import Model, load_model
from rango.options import FinetuneConfig
from rango.training.bank import TrainingJob
from rango.training.distributed import ProcessGroup, launched
from rango.training.finetune import finetune, finetune_bank
from rango.training.trainer import Trainer

SHARED: dict[str, Any] = {"steps": 8, "batch": 5, "validate_every": 3, "learning_rate": 1e-3}
RUNS: dict[str, dict[str, Any]] = {
    "tokens": {**SHARED, "objective": "tokens", "micro_batch": 2, "regime": "retrain"},
    "full": {**SHARED, "objective": "answer", "adaptation": "full", "lora": {"rank": 1}},
}
BANK: list[dict[str, Any]] = [
    {**SHARED, "lora": {"rank": 2}, "form": "letter"},
    {**SHARED, "lora": {"rank": 3, "targets": "mlp,head"}, "form": "letter", "seed": 1},
]


def bank_jobs(model: Model, out: Path) -> list[TrainingJob]:
    task = toy_task()
    named = {**task.options.model_dump(), "model": model.name, "task": task.name}
    return [TrainingJob(out / f"bank-{n}", FinetuneConfig.build({**named, **one})) for n, one in enumerate(BANK)]


def run_all(checkpoint: Path, out: Path) -> None:
    """Every run, whether this is one process of several or alone; an odd number of instances leaves unequal parts."""
    task = toy_task(train=23, validation=9, test=15)
    model = load_model(checkpoint)
    for name, settings in RUNS.items():
        finetune(model, task, out=out / name, **settings)
    finetune_bank(model, task, bank_jobs(model, out), state=out / "state")


def interrupted_once(checkpoint: Path, out: Path, group: ProcessGroup, _: str) -> None:
    """Stop the first run in the middle, as a fault in all processes would; then run everything."""
    assert group.size == 2
    step = Trainer._step

    def stop(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == 5:
            raise MemoryError
        return step(self, active)

    Trainer._step = stop  # type: ignore[method-assign]
    try:
        run_all(checkpoint, out)
    except MemoryError:
        Trainer._step = step  # type: ignore[method-assign]
        run_all(checkpoint, out)


def fail_in_one(rank: int) -> None:
    """Make the second process fail while the first waits for its gradients."""
    step = Trainer._step

    def fail(self: Trainer, active: Any) -> Any:
        if rank == 1 and active[0].progress.step == 2:
            raise RuntimeError("out of memory, say")
        return step(self, active)

    Trainer._step = fail  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with launched("cpu") as (processes, _):
        assert processes.size == 2
        fail_in_one(processes.rank)
        run_all(Path(sys.argv[1]), Path(sys.argv[2]))
