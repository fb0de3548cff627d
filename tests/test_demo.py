"""The demo with small budgets: its parts, states and files; repeating it does nothing twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.failing_work import fail

from rango import demo
from rango.cli import main
from rango.errors import InputError
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.models.loading import load_model
from rango.options import FinetuneConfig, ScoringOptions, TaskOptions
from rango.scoring.scorer import evaluate
from rango.tasks import Task, load_task, simulated_narratives
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
    place = tmp_path / f"demo{suffix}"
    if file:
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match=rf"demo{suffix} is a file|demo{suffix}(,.*)? already holds (other files|something)"
    ):
        demo.run_demo(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def small_control(tmp_path: Path) -> tuple[Task, Path, FinetuneConfig, PretrainConfig, list[str]]:
    """What `_make_control` takes, for a control of two steps."""
    task = load_task("simulated", TaskOptions(train=40, validation=10, test=20))
    settings = {**task.options.model_dump(), **demo.SETTINGS, "steps": 2, "validate_every": 1}
    config = FinetuneConfig.build({**settings, "model": str(tmp_path / "twin"), "task": "simulated", "seed": 3})
    base = demo.BASE.model_copy(update={"tokens": 20_000, "hidden": 32, "layers": 1, "seed": 3})
    return task, tmp_path / "control", config, base, list(simulated_narratives(2000, seed=3))


def test_a_control_that_was_killed_while_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise MemoryError

    arguments = small_control(tmp_path)
    write_yaml = demo.write_yaml
    monkeypatch.setattr(demo, "write_yaml", killed)
    with pytest.raises(MemoryError):
        demo._make_control(*arguments)
    assert not (tmp_path / "twin").exists()
    monkeypatch.setattr(demo, "write_yaml", write_yaml)
    run = demo._make_control(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control", "twin"]
    assert run.record["status"] == "complete"


def test_the_control_starts_where_pretraining_starts(tmp_path: Path) -> None:
    arguments = small_control(tmp_path)
    demo._make_control(*arguments)
    twin = load_model(tmp_path / "twin")
    sized = arguments[3].model_copy(update={"vocabulary": len(twin.tokenizer)})
    fresh = build_network(sized, end_of_text=twin.tokenizer.eos_token_id)
    for (name, one), other in zip(twin.network.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_what_fails_in_the_other_process_is_left_to_the_caller(tmp_path: Path) -> None:
    with demo._in_another_process(fail, (tmp_path,)) as wait:
        wait()
    assert (tmp_path / "began").exists()


def test_on_one_core_no_other_process_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with demo._in_another_process(fail, (tmp_path,)) as wait:
        wait()
    assert not (tmp_path / "began").exists()
