"""Full fine-tuning: a plain loop's steps, a checkpoint that transformers loads, exact resume, the base given back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task
from transformers import AutoModelForCausalLM

from rango.console import Screen
from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.full_finetuning import FullTuning, add_full
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.options import EvaluateConfig, FinetuneConfig, LoRA
from rango.scoring.scorer import evaluate
from rango.scoring.trees import encode
from rango.training.bank import TrainingJob
from rango.training.evaluate import write_evaluation
from rango.training.finetune import finetune, finetune_bank
from rango.training.run_folder import Run
from rango.training.schedule import BatchPlan, learning_rate_factor
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {
    "adaptation": "full",
    "steps": 6,
    "batch": 4,
    "learning_rate": 1e-3,
    "validate_every": 3,
    "objective": "answer",
}


def weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    network: Any = AutoModelForCausalLM.from_pretrained(run.path / "adapter" / which)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("full") / "run"
    return finetune(load_model(checkpoint("phi")), toy_task(), out=out, **QUICK)


def test_its_steps_are_those_of_a_plain_loop(finished: Run, checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    network: Any = model.network
    trees = encode(model, toy_task().train, task=toy_task(), form="cloze")
    plan = BatchPlan([tree.input_length for tree in trees], batch=4, batch_tokens=None, seed=0)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0)
    for step in range(6):
        loss, terms = torch.zeros(()), 0
        for tree in (trees[number] for number in plan.step(step)):
            ids = [*tree.trunk, *tree.branches[tree.label]]
            logs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
            for at in range(len(tree.trunk), len(ids)):
                loss, terms = loss - logs[at - 1, ids[at]], terms + 1
        (loss / terms).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * learning_rate_factor(step, 6, warmup=0.05, decay="cosine")
        optimizer.step()
        optimizer.zero_grad()
        assert finished.log[step + 1]["train_loss"] == pytest.approx(float(loss.detach()) / terms, rel=1e-4)
    trained = weights(finished, "last")
    for name, parameter in network.named_parameters():
        if not name.endswith("k_proj.bias"):  # the softmax cancels it: its gradient is rounding, which Adam magnifies
            torch.testing.assert_close(trained[name], parameter.detach(), rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_given_back_to_the_bit(checkpoint: Checkpoint, tmp_path: Path, dtype: Any) -> None:
    model = load_model(checkpoint("phi"), dtype=dtype)
    network: Any = model.network
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    run = finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.dtype == before[name].dtype
        assert not parameter.requires_grad
        assert parameter.grad is None
    base = evaluate(model, toy_task().test, task=toy_task())
    np.testing.assert_array_equal(base.log_posteriors, run.posteriors("base").log_posteriors)
    assert {parameter.dtype for parameter in weights(run, "best").values()} == {torch.float32}


def test_its_checkpoint_is_a_model_and_an_adapter(finished: Run, checkpoint: Checkpoint) -> None:
    folder = finished.path / "adapter" / "best"
    whole = evaluate(load_model(folder), toy_task().test, task=toy_task())
    np.testing.assert_array_equal(whole.log_posteriors, finished.posteriors("adapted").log_posteriors)
    model = load_model(checkpoint("phi"))
    base = evaluate(model, toy_task().test, task=toy_task())
    adapter = load_adapter(model, finished.path)
    assert isinstance(adapter, FullTuning)
    adapted = evaluate(model, toy_task().test, task=toy_task())
    np.testing.assert_array_equal(adapted.log_posteriors, finished.posteriors("adapted").log_posteriors)
    with adapter.disabled():
        there = evaluate(model, toy_task().test, task=toy_task())
    np.testing.assert_array_equal(there.log_posteriors, base.log_posteriors)
    adapter.remove()
    with pytest.raises(InputError, match="adapts another base model: it was made for"):
        load_adapter(load_model(checkpoint("phi", seed=1)), finished.path)


def test_equal_weights_are_equal_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    full = add_full(load_model(checkpoint("qwen2", tie_word_embeddings=True)))
    for number in range(3):
        full.save(tmp_path / str(number))
    names = sorted(file.name for file in (tmp_path / "0").iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json", "full_finetuning.json"} <= set(names)
    for name in names:
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(3)}) == 1, name


def test_a_killed_run_goes_on_to_the_same_bits(
    finished: Run, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def killed(self: Trainer, active: Any) -> Any:
        if active[0].progress.step == 5:
            raise MemoryError
        return step(self, active)

    model = load_model(checkpoint("phi"))
    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(MemoryError):
        finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    monkeypatch.setattr(Trainer, "_step", step)
    again = finetune(model, toy_task(), out=tmp_path / "run", **QUICK)
    for which in ("best", "last"):
        mine, undisturbed = weights(again, which), weights(finished, which)
        assert all(torch.equal(mine[name], undisturbed[name]) for name in undisturbed)
    assert (
        again.posteriors("adapted").log_posteriors.tobytes() == finished.posteriors("adapted").log_posteriors.tobytes()
    )


def test_it_is_never_in_a_bank_nor_beside_an_adapter(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    config = FinetuneConfig.build({"model": model.name, "task": "toy", **toy_task().options.model_dump(), **QUICK})
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match="full fine-tuning changes the base that the others would share"):
        finetune_bank(
            model,
            toy_task(),
            [TrainingJob(tmp_path / "0", config), TrainingJob(tmp_path / "1", other)],
            state=tmp_path / "s",
        )
    add_adapter(model, LoRA(), seed=0)
    with pytest.raises(InputError, match="carries an adapter already"):
        add_full(model)
    assert not any(tmp_path.iterdir())


def test_it_has_no_dropout_to_be_left_on(finished: Run, checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    config = EvaluateConfig(model=str(folder), task="toy", adapter=finished.path, mc_dropout=2)
    with pytest.raises(InputError, match="mc_dropout is 2 but .* is a fully fine-tuned model, which has no adapter"):
        write_evaluation(load_model(folder), toy_task(), out=tmp_path / "out", config=config, screen=Screen(quiet=True))
    assert not (tmp_path / "out").exists()
