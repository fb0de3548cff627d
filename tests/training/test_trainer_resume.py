"""A run that is interrupted or killed in the middle of the loop ends with the bits of one that never stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.same_runs import same_result
from helpers.toy import toy_task

from rango.errors import Interrupted
from rango.models.loading import load_model
from rango.training.finetune import finetune
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 12, "batch": 8, "learning_rate": 1e-2, "validate_every": 4, "lora": {"rank": 4}}


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return finetune(load_model(checkpoint("phi")), toy_task(), out=out, **QUICK)


@pytest.mark.parametrize("stop_after", [2, 5, 8])
def test_an_interrupted_run_goes_on_to_the_same_result(
    finished: Run, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, active: Any) -> Any:
        records = step(self, active)
        if active[0].progress.step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return records

    model = load_model(checkpoint("phi"))
    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(
        Interrupted, match="stopped by SIGTERM; the run in .* is saved; repeat the command to go on"
    ) as stop:
        finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    assert stop.value.signal_number == signal.SIGTERM
    assert not Run(tmp_path / "run").complete
    monkeypatch.setattr(Trainer, "_step", step)
    same_result(finished, finetune(model, toy_task(), out=tmp_path / "run", **QUICK))


def test_a_killed_run_goes_on_from_its_last_validation(
    finished: Run, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def killed(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == 6:
            raise MemoryError
        return step(self, active)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(MemoryError):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "tr')  # what a crash in the middle of a line leaves
    monkeypatch.setattr(Trainer, "_step", step)
    same_result(finished, finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK))
