"""The demo with small budgets: its parts, states and files; repeating it does nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rango import demo
from rango.models import load_model
from rango.scoring import ScoringOptions, evaluate
from rango.tasks import load_task
from rango.training import Run


def test_the_demo_runs_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NARRATIVE_LINES", 2000)
    monkeypatch.setattr(demo, "BASE", demo.BASE.model_copy(update={"tokens": 20_000, "hidden": 32, "layers": 1}))
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "steps": 4, "validate_every": 2})
    monkeypatch.setattr(demo, "SIZES", {"train": 60, "validation": 20, "test": 60})
    run = demo.run_demo(tmp_path / "demo")
    states = run.metrics["test"]
    assert list(states) == ["prior", "ngram", "base", "adapted", "calibrated", "control", "floor", "difference"]
    assert states["floor"]["cross_entropy"].value < states["adapted"]["cross_entropy"].value
    # The trigram has the base's tokens and reads the test prompts in the same form.
    model, task = load_model(tmp_path / "demo-ngram"), load_task("simulated", run.config)
    alone = evaluate(model, task.test, task=task, options=ScoringOptions(form="cloze"))
    assert np.array_equal(alone.log_posteriors, run.posteriors("ngram").log_posteriors)
    assert model.tokenizer.get_vocab() == load_model(tmp_path / "demo-base").tokenizer.get_vocab()
    control = Run(tmp_path / "demo-control")
    assert control.config.model == str(tmp_path / "demo-control-base")
    assert control.record["trainable_parameters"] == run.record["trainable_parameters"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    page = (run.path / "report.html").read_bytes()
    assert b"control" in page.lower()
    assert b"n-gram" in page
    again = demo.run_demo(tmp_path / "demo")
    assert again.metrics == run.metrics
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written
