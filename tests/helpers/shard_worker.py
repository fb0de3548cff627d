"""What the processes of one run over a sharded base do in `test_sharding`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers import torchrun
from helpers.toy import toy_task

from rango.models.loading import Model, load_model
from rango.options import FinetuneConfig, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.trees import encode
from rango.training.bank import TrainingJob
from rango.training.distributed import ProcessGroup
from rango.training.finetune import finetune, finetune_bank
from rango.training.sharding import load_sharded
from rango.training.trainer import Trainer

SHARED: dict[str, Any] = {"steps": 4, "batch": 5, "validate_every": 2, "learning_rate": 1e-3}
RETRAINED: dict[str, Any] = {**SHARED, "objective": "tokens", "micro_batch": 2, "regime": "retrain"}
RETRAINED["gradient_checkpointing"] = True
BANK: list[dict[str, Any]] = [
    {**SHARED, "lora": {"rank": 2}, "form": "letter"},
    {**SHARED, "lora": {"rank": 3, "targets": "mlp,head", "init": "pissa", "dora": True}, "form": "letter", "seed": 1},
]
Work = Callable[[Model, Path, ProcessGroup], None]


def train(model: Model, out: Path, _: ProcessGroup) -> None:
    """A run in two phases, then a bank; numbers of instances that no number of processes divides."""
    task = toy_task(train=23, validation=9, test=15)
    finetune(model, task, out=out / "retrained", **RETRAINED)
    named = {**task.options.model_dump(), "model": model.name, "task": task.name}
    jobs = [TrainingJob(out / f"bank-{n}", FinetuneConfig.build({**named, **one})) for n, one in enumerate(BANK)]
    finetune_bank(model, task, jobs, state=out / "state")


def train_until(model: Model, out: Path, processes: ProcessGroup, *, step: int) -> None:
    """The same, ended in the middle of the first run as a fault in all processes would end it."""
    take_step = Trainer._step

    def stop(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == step:
            raise MemoryError
        return take_step(self, active)

    Trainer._step = stop  # type: ignore[method-assign]
    try:
        train(model, out, processes)
    except MemoryError:
        return
    raise AssertionError("the run was to be stopped")


def look_inside(model: Model, out: Path, processes: ProcessGroup) -> None:
    """Write what this process holds, and its scores of few trees, which leave a process without any."""
    network: Any = model.network
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in network.parameters())
    task = toy_task(test=3)
    trees, reader = encode(model, task.test, task=task, form="cloze"), probe_reader(model)
    scores = processes.score(reader, trees, options=ScoringOptions(batch_tokens=30), form="cloze")
    values = {"held": held, "all": model.parameter_count, "notes": model.notes, "scores": scores.values.tolist()}
    (out / f"{processes.rank}.json").write_text(json.dumps(values))


def start(work: Work, size: int, checkpoint: Path, out: Path) -> list[int | None]:
    """Do `work` in `size` processes over one sharded base; returns their exit codes, None for one that hung."""
    return torchrun.start(_over_shares, size, work, checkpoint, out)


def _over_shares(work: Work, checkpoint: Path, out: Path, processes: ProcessGroup, device: str) -> None:
    work(load_sharded(partial(load_model, checkpoint, device=device), device, processes), out, processes)
