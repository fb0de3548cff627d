"""Banks: each run equals its solo run, resumes exactly, and does not fall with another."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task
from safetensors.torch import load_file

from rango.errors import InputError
from rango.models.loading import Model, load_model
from rango.models.lora import LoRALinear
from rango.options import FinetuneConfig
from rango.training.bank import TrainingJob, bankable
from rango.training.finetune import finetune, finetune_bank
from rango.training.run_folder import Run
from rango.training.run_writer import RunWriter
from rango.training.trainer import Trainer
from rango.training.training_run import TrainingRun

Checkpoint = Callable[..., Path]

SIX: list[dict[str, Any]] = [
    {"lora": {"rank": 1, "targets": "q"}, "learning_rate": 1e-3, "seed": 1, "objective": "tokens"},
    {"lora": {"rank": 8, "alpha": 4, "targets": "q,v"}, "learning_rate": 3e-3, "seed": 0},
    {"lora": {"rank": 3, "targets": "q,k,v,o,mlp"}, "learning_rate": 1e-3, "seed": 2, "objective": "answer"},
    {"lora": {"rank": 2, "targets": "o,head", "layers": "1"}, "learning_rate": 1e-3, "seed": 3, "rule": "brier"},
    {"lora": {"rank": 4, "alpha": 32, "targets": "mlp"}, "learning_rate": 5e-4, "seed": 4, "weight_decay": 0.1},
    {"lora": {"rank": 5, "targets": "head"}, "learning_rate": 2e-3, "seed": 5, "decay": "constant", "clip": 0.3},
]
SHARED: dict[str, Any] = {"steps": 50, "batch": 6, "validate_every": 25}
QUICK: dict[str, Any] = {"steps": 9, "batch": 6, "validate_every": 3, "learning_rate": 1e-2}


def config(model: Model, **settings: Any) -> FinetuneConfig:
    task = toy_task()
    return FinetuneConfig.build({**task.options.model_dump(), "model": model.name, "task": task.name, **settings})


def jobs(model: Model, folder: Path, settings: list[dict[str, Any]]) -> list[TrainingJob]:
    return [TrainingJob(folder / str(number), config(model, **one)) for number, one in enumerate(settings)]


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / which / "adapter_model.safetensors")


def files(run: Run) -> dict[str, bytes]:
    """Everything of a run that does not depend on the clock, weights apart from the order of their file's header."""
    found = {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in run.path.rglob("*")
        if path.is_file() and path.name not in ("log.jsonl", "run.yaml", "adapter_model.safetensors")
    }
    for which in ("best", "last"):
        found |= {f"{which}/{name}": tensor.numpy().tobytes() for name, tensor in weights(run, which).items()}
    log = [{key: value for key, value in record.items() if key != "seconds"} for record in run.log]
    return {**found, "log": repr(log).encode(), "status": str(run.record["status"]).encode()}


@pytest.mark.parametrize(("form", "steps", "runs"), [("cloze", 50, SIX), ("letter", 10, SIX[1::2])])
def test_every_run_of_a_bank_of_six_equals_its_solo_run(
    checkpoint: Checkpoint, tmp_path: Path, form: str, steps: int, runs: list[dict[str, Any]]
) -> None:
    model = load_model(checkpoint("phi"))
    settings = [{**SHARED, **one, "form": form, "steps": steps} for one in runs]
    bank = finetune_bank(model, toy_task(), jobs(model, tmp_path / "bank", settings), state=tmp_path / "state")
    assert not (tmp_path / "state").exists()
    for number, one in enumerate(settings):
        solo = finetune(model, toy_task(), out=tmp_path / f"solo-{number}", **one)
        mine, alone = weights(bank[number]), weights(solo)
        assert set(mine) == set(alone)
        moved = max(float(tensor.abs().max()) for name, tensor in alone.items() if "lora_B" in name)
        assert moved > 1e-3, "a run that learns nothing shows nothing"
        for name, tensor in alone.items():
            torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-5, msg=f"run {number}: {name}")
        losses = [[record.get("train_loss", 0.0) for record in run.log] for run in (bank[number], solo)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            bank[number].posteriors("adapted").log_posteriors, solo.posteriors("adapted").log_posteriors, atol=1e-5
        )
        assert bank[number].record["best_step"] == solo.record["best_step"]


@pytest.fixture(scope="module")
def three(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """An undisturbed bank: one run stops by patience, one is shorter than the others."""
    folder = tmp_path_factory.mktemp("three")
    model = load_model(checkpoint("phi"))
    return finetune_bank(model, toy_task(), jobs(model, folder, THREE), state=folder / "state")


THREE: list[dict[str, Any]] = [
    {**QUICK, "lora": {"rank": 2}, "seed": 0},
    {**QUICK, "lora": {"rank": 3, "targets": "mlp"}, "seed": 1, "steps": 5, "objective": "answer"},
    {**QUICK, "seed": 2, "validate_every": 1, "learning_rate": 1e-9, "patience": 2, "select": "error_rate"},
]


def test_runs_of_a_bank_may_end_at_different_steps(three: list[Run], checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert [run.record["steps"] for run in three] == [9, 5, 2]
    model = load_model(checkpoint("phi"))
    solo = finetune(model, toy_task(), out=tmp_path / "solo", **THREE[0])
    for name, tensor in weights(solo).items():
        torch.testing.assert_close(weights(three[0])[name], tensor, rtol=0, atol=1e-5)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


KILLS = [(Trainer, "_step", 1), (Trainer, "_step", 4), (TrainingRun, "checkpoint", 2), (TrainingRun, "checkpoint", 6)]
KILLS += [(Trainer, "_step", 9), (RunWriter, "write_metrics", 2), (RunWriter, "finish", 3), (RunWriter, "begin", 2)]


@pytest.mark.parametrize(("owner", "method", "call"), KILLS)
def test_a_killed_bank_goes_on_to_the_same_bits(
    three: list[Run],
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    call: int,
) -> None:
    whole, calls = getattr(owner, method), []

    def killed(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise MemoryError
        return whole(self, *arguments, **named)

    monkeypatch.setattr(owner, method, killed)
    for attempt in range(2):
        model = load_model(checkpoint("phi"))
        asked = jobs(model, tmp_path, THREE)
        if attempt == 0:
            with pytest.raises(MemoryError):
                finetune_bank(model, toy_task(), asked, state=tmp_path / "state")
        else:
            again = finetune_bank(model, toy_task(), asked, state=tmp_path / "state")
    for mine, undisturbed in zip(again, three, strict=True):
        assert files(mine) == files(undisturbed)


def test_a_run_that_diverges_does_not_stop_the_others(three: list[Run], checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    wild = {**QUICK, "learning_rate": 1e30, "seed": 9}
    asked = jobs(model, tmp_path, [THREE[0], wild])
    well, ill = finetune_bank(model, toy_task(), asked, state=tmp_path / "state")
    assert well.complete
    assert ill.failure is not None
    assert "became nan at step" in ill.failure
    assert "lower --learning-rate" in ill.failure
    assert all(math.isfinite(record["train_loss"]) for record in well.log[1:])
    for name, tensor in weights(three[0]).items():
        torch.testing.assert_close(weights(well)[name], tensor, rtol=0, atol=1e-5)
    assert not (tmp_path / "state").exists()
    again = finetune_bank(model, toy_task(), asked, state=tmp_path / "state")
    assert [run.record["status"] for run in again] == ["complete", "failed"]


def test_base_posteriors_are_computed_once_or_given(three: list[Run], checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    known = {split: three[0].posteriors("base", split) for split in ("test", "validation")}
    assert all(run.posteriors("base").ids == known["test"].ids for run in three)
    possible = np.isfinite(known["test"].log_posteriors)  # (N, K)
    uniform = np.where(possible, -np.log(possible.sum(axis=1, keepdims=True)), -np.inf)
    shifted = {"test": known["test"].replaced(uniform)}
    run = finetune(model, toy_task(), out=tmp_path / "run", **QUICK, base=shifted)
    assert run.posteriors("base").log_posteriors[0, 0] == uniform[0, 0], "what was given is stored"
    np.testing.assert_array_equal(
        run.posteriors("base", "validation").log_posteriors, known["validation"].log_posteriors
    )
    with pytest.raises(
        InputError, match=r"base posteriors on test are of other instances \(16, the first 'validation-0'"
    ):
        finetune(model, toy_task(), out=tmp_path / "other", **QUICK, base={"test": known["validation"]})
    with pytest.raises(InputError, match="base has posteriors for 'train'; expected test and validation"):
        finetune(model, toy_task(), out=tmp_path / "other", **QUICK, base={"train": known["validation"]})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 4}, r"batch differs \(6 and 4\)"),
        ({"form": "letter"}, r"form differs \(None and 'letter'\)"),
        ({"data_seed": 3}, r"data_seed differs"),
        ({"lora": {"dropout": 0.1}}, r"lora\.dropout is not 0"),
        ({}, r"two of the runs have the same configuration"),
    ],
)
def test_runs_that_cannot_be_one_bank_are_refused_in_words(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    model = load_model(checkpoint("phi"))
    asked = jobs(model, tmp_path, [QUICK, {**QUICK, **changes}])
    assert bankable([asked[0].config]) is None
    with pytest.raises(InputError, match=rf"these 2 runs cannot be one bank: {reason}.*; train them apart"):
        finetune_bank(model, toy_task(), asked, state=tmp_path / "state")
    assert not any(tmp_path.iterdir())


def out_of_memory(*_: Any) -> None:
    raise MemoryError


def test_a_bank_is_refused_another_banks_state_and_a_folder_for_two(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint("phi"))
    asked = jobs(model, tmp_path / "runs", [{**QUICK, "seed": seed} for seed in range(3)])
    with pytest.raises(InputError, match="two jobs of a bank have the same output folder"):
        finetune_bank(
            model, toy_task(), [asked[0], TrainingJob(asked[0].out, asked[1].config)], state=tmp_path / "state"
        )
    with pytest.raises(InputError, match="a bank has no jobs"):
        finetune_bank(model, toy_task(), [], state=tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", out_of_memory)
        with pytest.raises(MemoryError):
            finetune_bank(model, toy_task(), asked[:2], state=tmp_path / "state")
    with pytest.raises(InputError, match=r"state is the state of another bank: it lacks the run of .*2; give another"):
        finetune_bank(model, toy_task(), asked[1:], state=tmp_path / "state")
    with pytest.raises(InputError, match=r"state is the state of another run, or of another version's; delete it"):
        finetune_bank(model, toy_task(), asked[2:], state=tmp_path / "state")
