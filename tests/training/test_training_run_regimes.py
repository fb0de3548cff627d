"""What validation instances are for: to stop on, to find the number of steps, or to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task
from safetensors.torch import load_file

from rango.models.loading import load_model
from rango.options import FinetuneConfig
from rango.reports.run.page import write_report
from rango.scoring.scorer import evaluate
from rango.training.bank import TrainingJob
from rango.training.finetune import finetune, finetune_bank
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]
# A constant rate, so that the same number of steps is the same training whatever the length of the schedule.
QUICK: dict[str, Any] = {
    "steps": 10,
    "batch": 8,
    "learning_rate": 0.1,
    "validate_every": 2,
    "warmup": 0,
    "decay": "constant",
}


def weights(run: Run, which: str = "best") -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / which / "adapter_model.safetensors")


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.fixture(scope="module")
def regimes(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("regimes")
    model = load_model(checkpoint("phi"))
    return {
        regime: finetune(model, toy_task(), out=folder / regime, **QUICK, regime=regime)
        for regime in ("validation", "retrain", "all")
    }


def test_all_is_training_on_train_and_validation(
    regimes: dict[str, Run], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    task = toy_task()
    both = replace(task, train=(*task.train, *task.validation))
    plain = finetune(load_model(checkpoint("phi")), both, out=tmp_path / "plain", **QUICK)
    assert same_weights(weights(regimes["all"]), weights(plain, "last"))
    assert not any("validation" in record for record in regimes["all"].log)
    assert regimes["all"].record["best_step"] == 10


def test_retrain_takes_the_steps_that_validation_found(
    regimes: dict[str, Run], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    run, found = regimes["retrain"], regimes["validation"].record["best_step"]
    assert 0 < found < 10, "a case where stopping on validation stops early"
    assert run.record["best_step"] == found
    assert run.record["steps"] == 10 + found
    assert [record["retrain"] for record in run.log if "retrain" in record] == list(range(1, found + 1))
    straight = finetune(
        load_model(checkpoint("phi")), toy_task(), out=tmp_path / "all", **{**QUICK, "steps": found}, regime="all"
    )
    assert same_weights(weights(run), weights(straight))
    model = load_model(checkpoint("phi"))
    assert not same_weights(weights(run), weights(regimes["validation"]))
    np.testing.assert_array_equal(
        evaluate(model, toy_task().test, task=toy_task()).log_posteriors, run.posteriors("base").log_posteriors
    )


def test_what_would_not_be_honest_is_left_out_and_said(regimes: dict[str, Run]) -> None:
    for regime, run in regimes.items():
        honest = regime == "validation"
        names = {path.name for path in (run.path / "posteriors").iterdir()}
        assert ("test-calibrated.parquet" in names) == honest
        assert ("validation-adapted.parquet" in names) == honest
        assert ("calibrated" in run.metrics["test"]) == honest
        note = f"not calibrated: regime {regime!r} trained on the validation instances"
        assert (note in run.record["notes"]) != honest
    assert write_report(regimes["all"].path).is_file(), "a log without validation has a page"


@pytest.mark.parametrize("steps_before", [7, 10, 11])
def test_a_killed_search_or_retraining_goes_on_to_the_same_bits(
    regimes: dict[str, Run],
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_before: int,
) -> None:
    step = Trainer._step

    def killed(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == steps_before:
            raise MemoryError
        return step(self, active)

    model = load_model(checkpoint("phi"))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", killed)
        with pytest.raises(MemoryError):
            finetune(model, toy_task(), out=tmp_path / "run", **QUICK, regime="retrain")
    again = finetune(model, toy_task(), out=tmp_path / "run", **QUICK, regime="retrain")
    assert same_weights(weights(again), weights(regimes["retrain"]))
    timeless = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in run.log] for run in (again, regimes["retrain"])
    ]
    assert timeless[0] == timeless[1]


def test_regimes_may_share_a_bank(regimes: dict[str, Run], checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    asked = [TrainingJob(tmp_path / regime, run.config) for regime, run in regimes.items()]
    asked.append(TrainingJob(tmp_path / "slow", asked[0].config.model_copy(update={"learning_rate": 1e-3})))
    for run in finetune_bank(model, toy_task(), asked, state=tmp_path / "state")[:3]:
        for name, tensor in weights(regimes[run.config.regime]).items():
            torch.testing.assert_close(weights(run)[name], tensor, rtol=0, atol=1e-4)


def test_a_search_that_finds_no_better_step_than_the_base_keeps_the_base(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    settings = {**QUICK, "steps": 3, "learning_rate": 1e-12, "select": "error_rate"}
    run = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **settings, regime="retrain")
    assert run.record["best_step"] == 0
    assert all(not tensor.any() for name, tensor in weights(run).items() if "lora_B" in name)
    assert FinetuneConfig.build(run.record["config"]).regime == "retrain"
