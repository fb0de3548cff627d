"""Runs of LoRA's variants: in a bank as alone, stored and read back, interrupted, retrained, with dropout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task
from safetensors.torch import load_file

from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.options import FinetuneConfig
from rango.scoring.scorer import evaluate
from rango.tasks import Task
from rango.training.bank import TrainingJob, bankable
from rango.training.finetune import finetune, finetune_bank
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 4, "batch": 6, "validate_every": 2, "learning_rate": 5e-3}
VARIANTS: list[dict[str, Any]] = [
    {"rank": 2, "init": "pissa", "targets": "v,o"},
    {"rank": 4, "rslora": True, "plus": 8, "rank_pattern": "mlp=2", "alpha_pattern": "q=3", "targets": "q,mlp"},
    {"rank": 2, "dora": True, "init": "pissa", "plus": 2, "targets": "q,v,head"},
]


def task() -> Task:
    return toy_task(train=18, validation=6, test=6)


def jobs(folder: Path, model: str) -> list[TrainingJob]:
    options = {**task().options.model_dump(), "model": model, "task": "toy", **QUICK}
    configs = [FinetuneConfig.build({**options, "lora": lora, "seed": n}) for n, lora in enumerate(VARIANTS)]
    assert bankable(configs) is None
    return [TrainingJob(folder / str(number), config) for number, config in enumerate(configs)]


@pytest.fixture(scope="module")
def bank(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder, model = tmp_path_factory.mktemp("variants"), load_model(checkpoint("phi"))
    return finetune_bank(model, task(), jobs(folder, model.name), state=folder / "state")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / "last" / "adapter_model.safetensors")


@pytest.mark.parametrize("number", [2, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 1))])
def test_a_run_in_a_bank_of_variants_equals_the_run_alone(
    bank: list[Run], checkpoint: Checkpoint, tmp_path: Path, number: int
) -> None:
    model = load_model(checkpoint("phi"))
    solo = finetune(model, task(), out=tmp_path / "solo", **QUICK, lora=VARIANTS[number], seed=number)
    for name, tensor in weights(solo).items():
        torch.testing.assert_close(weights(bank[number])[name], tensor, rtol=0, atol=1e-4, msg=name)
    mine, alone = (run.posteriors("adapted").log_posteriors for run in (bank[number], solo))
    np.testing.assert_allclose(mine, alone, rtol=0, atol=1e-4)
    assert not np.allclose(mine, solo.posteriors("base").log_posteriors, atol=1e-3), "it learnt something"
    # The base is the base again, and the stored adapter gives the stored posteriors.
    base = evaluate(model, task().test, task=task())
    np.testing.assert_array_equal(base.log_posteriors, solo.posteriors("base").log_posteriors)
    load_adapter(model, solo.path)
    adapted = evaluate(model, task().test, task=task())
    np.testing.assert_allclose(adapted.log_posteriors, alone, rtol=0, atol=1e-6)


def test_a_killed_bank_of_variants_goes_on_to_the_same_bits(
    bank: list[Run], checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Trainer._step, []

    def killed(self: Trainer, active: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return step(self, active)

    monkeypatch.setattr(Trainer, "_step", killed)
    model = load_model(checkpoint("phi"))
    with pytest.raises(MemoryError):
        finetune_bank(model, task(), jobs(tmp_path, model.name), state=tmp_path / "state")
    model = load_model(checkpoint("phi"))
    again = finetune_bank(model, task(), jobs(tmp_path, model.name), state=tmp_path / "state")
    for mine, undisturbed in zip(again, bank, strict=True):
        for name, tensor in weights(undisturbed).items():
            assert torch.equal(weights(mine)[name], tensor), name
        np.testing.assert_array_equal(
            mine.posteriors("adapted").log_posteriors, undisturbed.posteriors("adapted").log_posteriors
        )


def test_variants_train_on_slices_with_dropout_and_begin_anew(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("gpt2"))
    lora = {"dora": True, "init": "pissa", "rank": 2, "targets": "q,v", "dropout": 0.1}
    settings = {**QUICK, "regime": "retrain", "lora": lora}
    run = finetune(model, task(), out=tmp_path / "run", **settings)
    assert run.complete
    assert run.log[-1]["train_loss"] < run.log[1]["train_loss"] * 1.5
    load_adapter(model, run.path)
    adapted = evaluate(model, task().test, task=task())
    np.testing.assert_allclose(adapted.log_posteriors, run.posteriors("adapted").log_posteriors, rtol=0, atol=1e-6)
