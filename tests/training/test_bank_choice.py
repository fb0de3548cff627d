"""`--bank auto`: the choice by memory and measurement, its words, and that it leaves no trace."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import toy_task

from rango.models.loading import Model, load_model
from rango.models.lora import LoRALinear
from rango.options import FinetuneConfig
from rango.scoring.trees import encode
from rango.training import bank_choice
from rango.training.bank import BankJob
from rango.training.bank_choice import choose_bank, free_bytes, step_bytes

Checkpoint = Callable[..., Path]


def jobs(model: Model, folder: Path, count: int, **settings: Any) -> list[BankJob]:
    task = toy_task()
    shared = {
        **task.options.model_dump(),
        "model": model.name,
        "task": task.name,
        "batch": 4,
        "steps": 2000,
        **settings,
    }
    return [BankJob(folder / str(seed), FinetuneConfig.build({**shared, "seed": seed})) for seed in range(count)]


def test_the_measurement_leaves_no_trace(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    ids = torch.arange(12)[None]
    network: Any = model.network
    before = network(ids).logits
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 4), measure=True)
    assert torch.equal(torch.rand(4), expected), "the stream of random numbers is where it was"
    assert choice.ratio is not None
    assert choice.ratio > 0
    assert choice.size in (1, 2, 4)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())
    assert torch.equal(network(ids).logits, before)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ratios", "size", "reason"),
    [
        ({2: 1.2, 3: 1.5, 6: 1.9}, 6, "6 together: a step is 1.90 times faster than one after the other"),
        ({2: 1.2, 3: 1.5, 6: 1.1}, 3, "3 together: a step is 1.50 times faster than one after the other"),
        ({2: 0.9, 3: 1.0, 6: 0.8}, 1, r"trained apart: a step is not 1.05 times faster \(2 together 0.90, 3 together"),
    ],
)
def test_the_fastest_way_is_chosen_and_said(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratios: Mapping[int, float],
    size: int,
    reason: str,
) -> None:
    model = load_model(checkpoint("phi"))
    monkeypatch.setattr(bank_choice, "_measure", lambda _model, _data, chosen: ratios[len(chosen)])
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 6), measure=True)
    assert choice.size == size
    assert re.match(reason, choice.reason)


def test_memory_limits_a_bank(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("phi"))
    trees = encode(model, toy_task().train, task=toy_task(), form="cloze")
    each = step_bytes(model, trees, 4)
    longest = max(tree.input_length for tree in trees)
    assert each == int(longest * 4 * 32 * 2 * (34 + 5 * 4 * longest / 32) * 2)
    monkeypatch.setattr(bank_choice, "_measure", lambda _model, _data, chosen: float(len(chosen)))
    monkeypatch.setattr(bank_choice, "free_bytes", lambda _: 5 * each)
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 6), measure=True)
    assert choice.size == 4
    assert "at most 4 fit" in choice.reason
    monkeypatch.setattr(bank_choice, "free_bytes", lambda _: each)
    assert "two do not fit" in choose_bank(model, toy_task(), jobs(model, tmp_path, 6), measure=True).reason


def test_on_a_cpu_arithmetic_decides_and_not_a_stopwatch(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same study must give the same bits whenever it is computed."""
    monkeypatch.setattr(bank_choice, "_measure", None)
    model = load_model(checkpoint("phi"))
    trees = encode(model, toy_task().train, task=toy_task(), form="cloze")
    work = 4 * sum(tree.input_length for tree in trees) / len(trees) * 12 * 2 * 32**2
    monkeypatch.setattr(bank_choice, "_LIGHT", work * 1.001)
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 6))
    assert (choice.size, choice.ratio) == (6, None)
    assert choice.reason.startswith("6 together: a step is light (")
    monkeypatch.setattr(bank_choice, "_LIGHT", work * 0.999)
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 6))
    assert (choice.size, choice.ratio) == (1, None)
    assert re.match(r"trained apart: a step takes \de\+06 multiply-adds; on a CPU a bank pays below", choice.reason)


def test_what_cannot_be_a_bank_is_not_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    assert choose_bank(model, toy_task(), jobs(model, tmp_path, 1)).reason == "one run needs no bank"
    choice = choose_bank(model, toy_task(), jobs(model, tmp_path, 2, lora={"dropout": 0.1}))
    assert (choice.size, choice.ratio) == (1, None)
    assert "lora.dropout is not 0" in choice.reason
    assert free_bytes(torch.device("cpu")) > 2**20
