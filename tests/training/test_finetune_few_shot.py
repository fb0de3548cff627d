"""Runs with shots before every question, and shots that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import toy_task

from rango.console import Screen
from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.options import EvaluateConfig, FinetuneConfig, ScoringOptions
from rango.scoring.scorer import evaluate
from rango.training.evaluate import write_evaluation
from rango.training.finetune import finetune

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 3, "batch": 4, "learning_rate": 1e-2, "validate_every": 3, "lora": {"rank": 2}}


def test_a_run_with_shots_trains_and_is_measured_with_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi", max_position_embeddings=512)), toy_task(train=12, validation=6, test=6)
    run = finetune(model, task, out=tmp_path / "run", shots=2, **QUICK)
    assert run.record["instances"] == {"train": 10, "validation": 6, "test": 6}
    assert "2 training instances answered in every prompt" in run.record["notes"][-1]
    assert run.record["fingerprints"]["task"] == task.fingerprint
    options = ScoringOptions(shots=2)
    expected = evaluate(model, task.test, task=task, options=options)
    np.testing.assert_allclose(run.posteriors("base").log_posteriors, expected.log_posteriors, atol=1e-5)
    adapter = load_adapter(model, run.path)
    adapted = evaluate(model, task.test, task=task, options=options)
    adapter.remove()
    np.testing.assert_allclose(run.posteriors("adapted").log_posteriors, adapted.log_posteriors, atol=1e-5)


def test_shots_that_cannot_be_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi", max_position_embeddings=512)), toy_task(train=4, validation=4, test=4)
    with pytest.raises(InputError, match="the 4 shots are the whole training split"):
        finetune(model, task, out=tmp_path / "run", shots=4, **QUICK)
    with pytest.raises(InputError, match="shots is 5 but the training split has 4 instances"):
        finetune(model, task, out=tmp_path / "run", shots=5, **QUICK)
    config = EvaluateConfig(model="phi", task="toy", shots=4, split="train")
    with pytest.raises(InputError, match="the 4 shots are the whole training split"):
        write_evaluation(model, task, out=tmp_path / "out", config=config, screen=Screen(quiet=True))
    with pytest.raises(InputError, match="objective is tokens and shots is 2: the words of the shots would be learned"):
        FinetuneConfig.build({"model": "phi", "task": "toy", "shots": 2, "objective": "tokens"})
    assert list(tmp_path.iterdir()) == []
