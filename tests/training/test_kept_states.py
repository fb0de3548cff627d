"""States below the first adapted layer are kept: the same gradients and results, and when nothing is kept."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.same_runs import same_result
from helpers.toy import toy_task

from rango.errors import Interrupted
from rango.models.adapter import add_bank
from rango.models.loading import Model, load_model
from rango.options import FinetuneConfig
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode
from rango.training import kept_states
from rango.training.finetune import finetune
from rango.training.kept_states import KeptStates, keep_states
from rango.training.run_folder import Run
from rango.training.run_writer import RunWriter
from rango.training.trainer import Trainer, accumulate_gradients
from rango.training.training_run import BankData, TrainingRun

Checkpoint = Callable[..., Path]
TASK = toy_task()
TOP: dict[str, Any] = {"rank": 4, "layers": "1", "targets": "q,v"}
QUICK: dict[str, Any] = {"steps": 14, "batch": 8, "learning_rate": 1e-2, "validate_every": 7, "lora": TOP}


def make_run(model: Model, folder: Path, **settings: Any) -> TrainingRun:
    """A run of the top layer whose adapter has moved already."""
    values = {"model": "m", "task": "toy", "steps": 100, "batch": 8, "lora": TOP, **settings}
    config = FinetuneConfig.build(values)
    reader = probe_reader(model)
    (adapter,) = add_bank(model, [(config.lora, 0)])
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    trees = encode(model, TASK.train, task=TASK, form="cloze")
    return TrainingRun("0", config, adapter, RunWriter(folder, {}), BankData(reader, "cloze", trees, trees[:4], ()))


def gradients(
    run: TrainingRun, trees: Sequence[TokenTree], kept: KeptStates | None
) -> tuple[float, list[torch.Tensor]]:
    (loss,) = accumulate_gradients(run.data.reader, [run], [trees], kept=kept)
    taken = [parameter.grad.clone() for parameter in run.adapter.parameters() if parameter.grad is not None]
    run.optimizer.zero_grad(set_to_none=True)
    return loss, taken


@pytest.mark.parametrize("architecture", ["phi", "llama", "gpt2", "gemma3_text", "qwen2"])
@pytest.mark.parametrize("objective", ["choice", "answer", "tokens"])
def test_gradients_are_those_of_the_whole_pass_in_every_epoch(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, objective: str
) -> None:
    # Where one matrix computes q, k and v, o is a map of its own.
    lora = {**TOP, "targets": "o"}
    run = make_run(load_model(checkpoint(architecture)), tmp_path, objective=objective, lora=lora, micro_batch=3)
    kept = keep_states(run)
    assert kept is not None
    steps = run.plan.steps_per_epoch
    for step in (0, 1, steps, 2 * steps + 1):  # of the third epoch's batch nothing was asked for before
        trees = [run.trees[number] for number in run.plan.step(step)]
        loss, expected = gradients(run, trees, None)
        again, found = gradients(run, trees, kept)
        assert again == pytest.approx(loss, rel=1e-5)
        assert expected
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_frozen_layer_reads_each_instance_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    run = make_run(model, tmp_path)
    kept = keep_states(run)
    layer: Any = model.network.get_decoder().layers[0]
    read: list[int] = []
    layer.mlp.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    for step in range(3 * run.plan.steps_per_epoch):
        gradients(run, [run.trees[number] for number in run.plan.step(step)], kept)
    # The first batch was read when it was tried.
    assert sum(read) == len(run.trees) - len(run.plan.step(0))


def test_the_limit_is_of_what_is_kept_with_its_padding(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(load_model(checkpoint("phi")), tmp_path)
    kept = keep_states(run)
    assert kept is not None
    for step in range(run.plan.steps_per_epoch):
        gradients(run, [run.trees[number] for number in run.plan.step(step)], kept)
    # The rows of a batch are parts of one tensor.
    storages = {states.untyped_storage().data_ptr(): states.untyped_storage() for states in kept.states.values()}
    size = sum(storage.nbytes() for storage in storages.values())
    for most, keeps in ((size, True), (size - 1, False)):
        monkeypatch.setattr(kept_states, "MOST_BYTES", most)
        assert (keep_states(run) is not None) is keeps


def test_a_run_has_the_results_of_one_that_keeps_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[KeptStates | None] = []

    def watched(run: TrainingRun) -> KeptStates | None:
        made.append(keep_states(run))
        return made[-1]

    monkeypatch.setattr("rango.training.trainer.keep_states", watched)
    runs = []
    for name, most in (("kept", kept_states.MOST_BYTES), ("plain", 0)):
        monkeypatch.setattr(kept_states, "MOST_BYTES", most)
        runs.append(finetune(load_model(checkpoint("phi")), TASK, out=tmp_path / name, **QUICK))
    assert [kept is not None for kept in made] == [True, False]
    ours, plain = (run.posteriors("adapted").log_posteriors for run in runs)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(plain), rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_ends_with_the_bits_of_one_that_never_stopped(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = finetune(load_model(checkpoint("phi")), TASK, out=tmp_path / "whole", **QUICK)
    step = Trainer._step

    def interrupted(self: Trainer, active: Any) -> Any:
        assert self.kept is not None
        records = step(self, active)
        if active[0].progress.step == 11:  # in a later epoch, whose batches hold others together
            os.kill(os.getpid(), signal.SIGTERM)
        return records

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(Interrupted):
        finetune(load_model(checkpoint("phi")), TASK, out=tmp_path / "run", **QUICK)
    monkeypatch.setattr(Trainer, "_step", step)
    same_result(finished, finetune(load_model(checkpoint("phi")), TASK, out=tmp_path / "run", **QUICK))
    assert Run(tmp_path / "run").complete


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {**TOP, "layers": "0"}},
        {"lora": {**TOP, "layers": None}},
        {"steps": 2},
        {"gradient_checkpointing": True},
    ],
    ids=["lowest layer", "all layers", "one epoch", "computed again"],
)
def test_nothing_is_kept_where_it_would_save_nothing(
    checkpoint: Checkpoint, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert keep_states(make_run(load_model(checkpoint("phi")), tmp_path, **settings)) is None


def test_nothing_is_kept_where_layers_hand_on_more_than_states(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    layers: Any = model.network.get_decoder().layers
    handed: list[torch.Tensor] = []
    # The second layer looks at what the first has left, as those do that share keys and values.
    layers[0].register_forward_hook(lambda *called: handed.append(called[-1]))
    layers[1].register_forward_pre_hook(lambda _, args: (args[0] + len(handed) * torch.linspace(0, 1, 32),))
    assert keep_states(make_run(model, tmp_path)) is None


def test_nothing_is_kept_where_layers_give_more_than_states(checkpoint: Checkpoint, tmp_path: Path) -> None:
    # Bloom's give a tuple.
    assert keep_states(make_run(load_model(checkpoint("bloom")), tmp_path, lora={**TOP, "targets": "o"})) is None


def test_layers_are_as_before_when_a_pass_fails(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    run = make_run(model, tmp_path)
    kept = keep_states(run)
    assert kept is not None
    trees = [run.trees[number] for number in run.plan.step(0)]
    batch = run.micro_batch(trees).batch
    with contextlib.suppress(RuntimeError), kept.at(trees, batch):
        raise RuntimeError("out of memory")
    assert all("forward" not in vars(layer) for layer in model.network.get_decoder().layers)
