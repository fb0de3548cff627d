"""The demo with small budgets: its parts, states and files; repeating it does nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango import demo
from rango.cli import main
from rango.errors import InputError
from rango.files import read_yaml
from rango.models.loading import load_model
from rango.options import ScoringOptions
from rango.scoring.scorer import evaluate
from rango.tasks import load_task
from rango.training.run_folder import Run


def test_the_demo_runs_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    # Another seed is refused at once: the one line says which folder.
    before = sorted(path.name for path in tmp_path.iterdir())
    capsys.readouterr()
    assert main(["demo", "--out", str(tmp_path / "demo"), "--seed", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "demo-base, where the demo writes a model, already holds something else or that of another seed" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    again = demo.run_demo(tmp_path / "demo")
    assert again.metrics == run.metrics
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written


@pytest.mark.parametrize("suffix", ["", "-base", "-ngram", "-control-base", "-control"])
@pytest.mark.parametrize("file", [True, False])
def test_a_folder_that_holds_something_else_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, file: bool
) -> None:
    monkeypatch.setattr(demo, "SIZES", {"train": 60, "validation": 20, "test": 60})
    monkeypatch.setattr(demo, "simulated_narratives", lambda *_, **__: pytest.fail("work began"))
    taken = tmp_path / f"demo{suffix}"
    if file:
        taken.write_text("mine")
    else:
        taken.mkdir()
        (taken / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match=rf"demo{suffix} is a file|demo{suffix}(,.*)? already holds (other files|something)"
    ):
        demo.run_demo(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]


def test_a_control_that_was_killed_while_written_is_written_again(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise MemoryError

    out, record = tmp_path / "twin", {"architecture_of": "base", "seed": 3}
    write_yaml = demo.write_yaml
    monkeypatch.setattr(demo, "write_yaml", killed)
    with pytest.raises(MemoryError):
        demo._write_untrained(checkpoint("phi"), out, record)
    assert not out.exists()
    monkeypatch.setattr(demo, "write_yaml", write_yaml)
    demo._write_untrained(checkpoint("phi"), out, record)
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
    assert read_yaml(out / "untrained.yaml") == record
    assert load_model(out).fingerprint != load_model(checkpoint("phi")).fingerprint
