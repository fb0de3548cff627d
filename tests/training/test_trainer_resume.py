"""A run that is interrupted or killed in the middle of the loop ends with the bits of one that never stopped."""

from __future__ import annotations

import os
import signal
import time
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
            time.sleep(0.3)
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
    interrupted_after = Run(tmp_path / "run").record["seconds"]
    assert interrupted_after >= 0.3
    monkeypatch.setattr(Trainer, "_step", step)
    started = time.perf_counter()
    resumed = finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    same_result(finished, resumed)
    # The time of both parts, where the second alone would be at most what has passed here.
    assert interrupted_after < resumed.record["seconds"] <= interrupted_after + time.perf_counter() - started + 0.1


def test_a_killed_run_goes_on_from_its_last_validation(
    finished: Run, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def killed(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == 6:
            raise MemoryError
        records = step(self, active)
        active[0].progress.seconds += 100  # as if steps took long
        return records

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(MemoryError):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "tr')  # what a crash in the middle of a line leaves
    monkeypatch.setattr(Trainer, "_step", step)
    resumed = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK)
    same_result(finished, resumed)
    # What nothing had recorded is at least the training up to the saved state.
    assert resumed.record["seconds"] >= 300
