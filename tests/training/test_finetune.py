"""Fine-tuning on a toy task: run files, determinism, stored posteriors and adapters, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from helpers.same_runs import same_result, weights
from helpers.toy import toy_task

from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.lora import LoRALinear
from rango.models.peft_format import load_adapter
from rango.output_folder import only_writer
from rango.scoring.scorer import evaluate
from rango.tasks import Task
from rango.training.finetune import finetune
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 12, "batch": 8, "learning_rate": 1e-2, "validate_every": 4, "lora": {"rank": 4}}


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return finetune(load_model(checkpoint("phi")), toy_task(), out=out, **QUICK)


def test_the_run_directory_has_the_promised_files(finished: Run) -> None:
    names = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    assert names == {
        "run.yaml",
        "log.jsonl",
        "metrics.json",
        "calibrator.json",
        "instances/test.jsonl.gz",
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
    entry = metrics["test"]["base"]["nce"]
    assert set(entry) == {"value", "low", "high", "n", "direction", "note"}
    assert entry["note"].startswith("24 instances are few for 3 classes")
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


def test_with_another_number_of_threads_only_the_last_digits_may_change(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same number two runs are equal to the bit; sums over threads are added up in another order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or a small model lowers the number by itself
    before = torch.get_num_threads()
    runs = []
    try:
        for number, threads in enumerate((2, 2, 1)):
            torch.set_num_threads(threads)
            model = load_model(checkpoint("phi"))
            assert torch.get_num_threads() == threads
            runs.append(finetune(model, toy_task(), out=tmp_path / str(number), **QUICK | {"steps": 4}))
    finally:
        torch.set_num_threads(before)
    same_result(runs[0], runs[1])
    logs = [run.posteriors("adapted").log_posteriors for run in runs]
    np.testing.assert_allclose(logs[2], logs[0], rtol=0, atol=1e-3)


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


ONE_LABEL = replace(toy_task(), validation=tuple(i for i in toy_task(validation=60).validation if i.label == 1))


def test_validation_of_one_class_is_refused_before_anything_is_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    assert len(ONE_LABEL.validation) > 1
    many = f"all {len(ONE_LABEL.validation)} validation instances have"
    for task, who in ((toy_task(validation=1), "the one validation instance has"), (ONE_LABEL, many)):
        expected = f"select is nce, but {who} label [0-3], so that NCE is undefined; give more validation instances, or"
        with pytest.raises(InputError, match=expected):
            finetune(model, task, out=tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match="select is calibrated_nce, but all"):
        finetune(model, ONE_LABEL, out=tmp_path / "run", **QUICK, select="calibrated_nce")
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


def test_nothing_is_written_when_the_input_is_bad(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="epochs is 1 and steps is 12: give one of them"):
        finetune(model, toy_task(), out=tmp_path / "run", **QUICK, epochs=1)
    with pytest.raises(
        InputError, match=r"unknown key in configuration 'learning_rat': did you mean 'learning_rate'\?"
    ):
        finetune(model, toy_task(), out=tmp_path / "run", learning_rat=1)
    with pytest.raises(InputError, match="placement"):
        finetune(load_model(checkpoint("rango_lstm")), toy_task(), out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_second_process_on_one_run_is_refused(finished: Run, checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, message = load_model(checkpoint("phi")), r"--out \S+ is being written by process \d+ on"
    with only_writer(tmp_path / "run"), pytest.raises(InputError, match=message):
        finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    assert list(tmp_path.iterdir()) == []
    with only_writer(finished.path):  # nothing is written where nothing is left to do
        assert finetune(model, toy_task(), out=finished.path, **QUICK).complete
