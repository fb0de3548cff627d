"""`rango finetune`: what it writes, what it refuses, and how a signal ends it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command import SIZES, Capture, fails

from rango.cli import main
from rango.options import FinetuneConfig
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]


def test_finetune_writes_a_run_and_a_page(run: Path) -> None:
    assert Run(run).complete
    assert (run / "report.html").stat().st_size > 10_000
    assert Run(run).config.lora.targets == ("q", "v")
    assert set(json.loads((run / "metrics.json").read_text())["test"]) == {
        "prior", "base", "adapted", "calibrated", "difference",
    }  # fmt: skip


def test_a_yaml_file_has_the_same_keys_and_flags_win(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = {
        "model": str(checkpoint("phi")),
        "task": str(table),
        "train": 30,
        "validation": 12,
        "test": 20,
        "steps": 2,
        "learning-rate": 0.01,
        "lora": {"rank": 3, "targets": ["o"]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [
        "finetune",
        "--config",
        str(tmp_path / "config.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--lora.rank",
        "2",
    ]
    assert main([*command, "--quiet"]) == 0
    config = Run(tmp_path / "run").config
    assert (config.lora.rank, config.lora.targets, config.learning_rate, config.train) == (2, ("o",), 0.01, 30)
    assert main(command) == 0  # again: nothing to do
    assert "is complete with this configuration: nothing to do" in capsys.readouterr().err
    assert "already holds another run: its lora.rank is 2" in fails(capsys, *command[:-1], 4)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, "lora": {"rnk": 3}}))
    assert "did you mean 'lora.rank'?" in fails(capsys, *command)


def test_a_module_that_is_not_there_is_refused(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    asked = ["finetune", checkpoint("gpt2"), table, *SIZES, "--out", tmp_path / "out", "--lora.targets"]
    assert "unknown placement 'attn.c_atn': did you mean 'attn.c_attn'?" in fails(capsys, *asked, "attn.c_atn")
    assert "unknown placement 'hed': did you mean 'head'? (known: all-linear, head" in fails(capsys, *asked, "q,hed")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits_with_its_number(
    number: int,
    code: int,
    checkpoint: Checkpoint,
    table: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, active: Any) -> Any:
        records = step(self, active)
        if active[0].progress.step == 2:
            os.kill(os.getpid(), number)
        return records

    monkeypatch.setattr(Trainer, "_step", interrupted)
    command = ["finetune", checkpoint("phi"), table, *SIZES, "--steps", "4", "--out", tmp_path / "run", "--quiet"]
    assert "repeat the command to go on" in fails(capsys, *command, code=code)
    assert not Run(tmp_path / "run").complete
    monkeypatch.setattr(Trainer, "_step", step)
    assert main([str(argument) for argument in command]) == 0
    assert Run(tmp_path / "run").complete


@pytest.mark.parametrize("part", ["config", "fingerprints"])
def test_a_record_without_its_parts_is_refused(
    part: str, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["finetune", checkpoint("phi"), table, *SIZES, "--steps", 1, "--quiet", "--out", tmp_path]
    config = FinetuneConfig.build(
        {"model": str(command[1]), "task": str(table), "train": 30, "validation": 12, "test": 20, "steps": 1}
    )
    record = {"status": "running", "config": config.model_dump(mode="json"), "fingerprints": {}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({key: value for key, value in record.items() if key != part}))
    assert f"run.yaml has no {part}; expected a file that rango finetune wrote" in fails(capsys, *command)


def test_a_loss_that_is_no_number_is_one_line(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    wild = ("--learning-rate", "1e30", "--steps", 6, "--quiet")
    line = fails(capsys, "finetune", checkpoint("phi"), table, *SIZES, *wild, "--out", tmp_path / "out")
    assert "became nan at step" in line
    assert "lower --learning-rate" in line
