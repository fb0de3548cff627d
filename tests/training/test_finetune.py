"""The main job on a toy task: run files, determinism, resume, signals, divergence, refusals."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from helpers.toy import toy_task
from rich.console import Console
from safetensors.torch import load_file

from rango.console import Screen
from rango.errors import DivergenceError, InputError, Interrupted
from rango.models.loading import load_model
from rango.models.lora import LoRALinear
from rango.models.peft_format import load_adapter
from rango.scoring.scorer import evaluate
from rango.tasks import Task
from rango.training.finetune import finetune
from rango.training.run_folder import Run
from rango.training.trainer import Trainer, accumulate_gradients

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 12, "batch": 8, "learning_rate": 1e-2, "validate_every": 4, "lora": {"rank": 4}}


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return finetune(load_model(checkpoint("phi")), toy_task(), out=out, **QUICK)


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / which / "adapter_model.safetensors")


def same_result(one: Run, two: Run) -> None:
    for which in ("best", "last"):
        first, second = weights(one, which), weights(two, which)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.posteriors("adapted").log_posteriors.tobytes() == two.posteriors("adapted").log_posteriors.tobytes()

    def timeless(run: Run) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.items() if k != "seconds"} for record in run.log]

    assert timeless(one) == timeless(two)


def test_the_run_directory_has_the_promised_files(finished: Run) -> None:
    names = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    assert names == {
        "run.yaml",
        "log.jsonl",
        "metrics.json",
        "calibrator.json",
        "posteriors/test-calibrated.parquet",
        *(
            f"adapter/{which}/adapter_{name}"
            for which in ("best", "last")
            for name in ("config.json", "model.safetensors")
        ),
        *(f"posteriors/{split}-{state}.parquet" for split in ("test", "validation") for state in ("base", "adapted")),
    }
    assert finished.complete
    assert {"config", "versions", "fingerprints", "model", "notes", "seconds"} <= set(finished.record)


def test_adaptation_helps_on_what_can_be_learnt(finished: Run) -> None:
    test = finished.metrics["test"]
    assert test["adapted"]["nce"].value < test["base"]["nce"].value
    assert test["difference"]["nce"].value == pytest.approx(test["adapted"]["nce"].value - test["base"]["nce"].value)
    prior = test["prior"]["nce"]
    assert (prior.value, prior.low, prior.high) == pytest.approx((1, 1, 1))
    metrics = json.loads((finished.path / "metrics.json").read_text())
    assert set(metrics["test"]["base"]["nce"]) == {"value", "low", "high", "n", "direction"}
    assert {"nce", "cross_entropy", "error_rate", "accuracy", "brier"} <= set(metrics["test"]["adapted"])


def test_the_log_tells_steps_and_validations(finished: Run) -> None:
    assert [record["step"] for record in finished.log] == list(range(13))
    validated = [record["step"] for record in finished.log if "validation" in record]
    assert validated == [0, 4, 8, 12]
    best = [record for record in finished.log if record.get("best")][-1]
    assert best["step"] == finished.record["best_step"]
    assert best["validation"]["nce"] == min(r["validation"]["nce"] for r in finished.log if "validation" in r)


def test_stored_posteriors_are_those_of_the_stored_adapter(finished: Run, checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    base = evaluate(model, toy_task().test, task=toy_task())
    np.testing.assert_array_equal(base.log_posteriors, finished.posteriors("base").log_posteriors)
    load_adapter(model, finished.path)
    adapted = evaluate(model, toy_task().test, task=toy_task())
    np.testing.assert_array_equal(adapted.log_posteriors, finished.posteriors("adapted").log_posteriors)


def test_peft_takes_the_checkpoints_as_they_are(finished: Run, checkpoint: Checkpoint) -> None:
    twin = peft.PeftModel.from_pretrained(
        load_model(checkpoint("phi")).network, str(finished.path / "adapter" / "best")
    )
    model = load_model(checkpoint("phi"))
    load_adapter(model, finished.path / "adapter" / "best")
    ids = torch.arange(2, 22)[None]
    network: Any = model.network
    torch.testing.assert_close(twin(ids).logits, network(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_configuration_reads_back_equal(finished: Run) -> None:
    again = Run(finished.path).config
    assert again == finished.config
    assert again.lora.rank == 4
    assert again.steps == 12


def test_the_model_is_given_back_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    before = model.network(torch.arange(9)[None]).logits
    finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())
    assert torch.equal(model.network(torch.arange(9)[None]).logits, before)


def test_the_same_seed_gives_the_same_run_and_another_gives_another(
    finished: Run, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = load_model(checkpoint("phi"))
    same_result(finished, finetune(model, toy_task(), out=tmp_path / "same", **QUICK))
    other = finetune(model, toy_task(), out=tmp_path / "other", **QUICK, seed=1)
    assert not torch.equal(next(iter(weights(other).values())), next(iter(weights(finished).values())))


@pytest.mark.parametrize("objective", ["tokens", "answer", "choice"])
@pytest.mark.parametrize("form", ["cloze", "letter"])
def test_every_objective_trains_in_both_forms(
    checkpoint: Checkpoint, tmp_path: Path, objective: str, form: str
) -> None:
    run = finetune(
        load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK, objective=objective, form=form
    )
    losses = [record["train_loss"] for record in run.log if "train_loss" in record]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert ("letter_mass" in run.record) == (form == "letter")


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


def test_a_finished_run_is_returned_as_it_is(finished: Run, checkpoint: Checkpoint) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    finetune(load_model(checkpoint("phi")), toy_task(), out=finished.path, **QUICK)
    assert before == {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}


def test_another_configuration_or_model_is_refused(finished: Run, checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match=r"already holds another run: its lora\.rank is 4, asked is 5"):
        finetune(model, toy_task(), out=finished.path, **{**QUICK, "lora": {"rank": 5}})
    changed = replace(toy_task(), test=toy_task(test=24).test[::-1])
    with pytest.raises(InputError, match=r"already holds another run: its task is '[0-9a-f]{16}', asked is"):
        finetune(model, changed, out=finished.path, **QUICK)
    other = load_model(checkpoint("phi", seed=1))
    with pytest.raises(InputError, match=r"already holds another run: its model is"):
        finetune(other, toy_task(), out=finished.path, **QUICK)


def test_a_folder_with_other_files_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="already holds other files; give a folder that does not exist yet"):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file; give a folder"):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "thesis.tex", **QUICK)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_best(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reader: Any, runs: Any, *arguments: Any) -> list[float]:
        losses = accumulate_gradients(reader, runs, *arguments)
        return [math.nan] if runs[0].progress.step == 6 else losses

    monkeypatch.setattr("rango.training.trainer.accumulate_gradients", broken)
    with pytest.raises(
        DivergenceError,
        match=r"became nan at step 7 with learning rate 0\.01 and lora\.alpha 16; the best checkpoint \(step 4\)",
    ):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK)
    model = load_model(checkpoint("phi"))
    assert load_adapter(model, tmp_path / "run").parameter_count() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "the scores on validation became nan at step 0 with .* lora.alpha 1e\\+300; no checkpoint had been made; ",
        ),
        ({"regime": "all"}, "the loss became nan at step 1 with .*; the last checkpoint .step 0. is kept in .*last; "),
    ],
)
def test_a_divergence_names_only_checkpoints_that_are_there(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    settings = {**QUICK, "lora": {"rank": 4, "alpha": 1e300}, **change}
    with pytest.raises(DivergenceError, match=message + "lower --learning-rate or --lora.alpha"):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **settings)
    there = [path.name for path in (tmp_path / "run").glob("adapter/*")]
    assert there == (["last"] if change else [])


ONE_LABEL = replace(toy_task(), validation=tuple(i for i in toy_task(validation=60).validation if i.label == 1))


def test_validation_of_one_class_is_refused_before_anything_is_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    assert len(ONE_LABEL.validation) > 1
    many = f"all {len(ONE_LABEL.validation)} validation instances have"
    for task, who in ((toy_task(validation=1), "the one validation instance has"), (ONE_LABEL, many)):
        expected = f"select is nce, but {who} label [0-3], so that NCE is undefined; give more validation instances, or"
        with pytest.raises(InputError, match=expected):
            finetune(model, task, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"select": "cross_entropy"}, {"select": "error_rate"}, {"regime": "all"}])
@pytest.mark.parametrize("task", [toy_task(validation=1), ONE_LABEL], ids=["one instance", "one class"])
def test_validation_of_one_class_serves_other_choices(
    checkpoint: Checkpoint, tmp_path: Path, task: Task, change: dict[str, Any]
) -> None:
    run = finetune(load_model(checkpoint("phi")), task, out=tmp_path / "run", **{**QUICK, "steps": 2}, **change)
    assert run.complete
    assert math.isfinite(run.metrics["test"]["adapted"]["nce"].value)
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_steps_loss_validation_and_time_left(checkpoint: Checkpoint, tmp_path: Path, width: int) -> None:
    screen, shown = Screen(), io.StringIO()
    screen.console = Console(file=shown, width=width, force_terminal=True, color_system=None, highlight=False)
    run = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK, screen=screen)
    bars = [line for line in re.split(r"[\r\n]", shown.getvalue()) if "training" in line]
    last = bars[-1]
    assert all(len(re.sub(r"\x1b\[\S*?[A-Za-z]", "", line)) <= width for line in bars)
    nce = run.log[-1]["validation"]["nce"]
    assert re.search(rf"training .*12/12 loss \d\.\d{{3}} · val NCE {nce:.3f} · [\d,]+ tokens/s +00:0", last), last
    assert " 0/12 " in bars[0]


def test_a_quiet_run_shows_no_bar(checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(checkpoint("phi"))
    capsys.readouterr()
    finetune(model, toy_task(), out=tmp_path / "run", **QUICK, screen=Screen(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_patience_stops_early(checkpoint: Checkpoint, tmp_path: Path) -> None:
    settings = {**QUICK, "steps": 40, "validate_every": 1, "learning_rate": 1e-9, "patience": 3}
    run = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **settings, select="error_rate")
    assert run.record["steps"] == 3
    assert run.record["best_step"] == 0


def test_nothing_is_written_when_the_input_is_bad(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="epochs is 1 and steps is 12: give one of them"):
        finetune(model, toy_task(), out=tmp_path / "run", **QUICK, epochs=1)
    with pytest.raises(
        InputError, match=r"unknown key in configuration 'learning_rat': did you mean 'learning_rate'\?"
    ):
        finetune(model, toy_task(), out=tmp_path / "run", learning_rat=1)
    with pytest.raises(InputError, match="placement"):
        finetune(load_model(checkpoint("gpt2")), toy_task(), out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_the_run_says_how_many_steps_it_may_take(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Of the instances in batches of 8 a pass has a step each; the regime retrain may take twice as many."""
    model, task = load_model(checkpoint("phi")), toy_task()
    options: dict[str, Any] = {key: value for key, value in QUICK.items() if key != "steps"} | {"epochs": 2}
    expected = 2 * math.ceil(len(task.train) / 8)
    assert finetune(model, task, out=tmp_path / "a", **options).record["most_steps"] == expected
    assert finetune(model, task, out=tmp_path / "b", regime="retrain", **options).record["most_steps"] == 2 * expected
