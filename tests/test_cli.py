"""The command line as a whole: exit codes, one-line errors, places that cannot be written to; never a traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.command import SIZES, Capture, fails

from rango import __version__
from rango.cli import main
from rango.errors import RunError
from rango.files import write_text

Checkpoint = Callable[..., Path]


def test_version_and_help(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    for command in ("finetune", "evaluate", "pretrain", "metrics", "calibrate", "decide", "compare", "demo"):
        assert main([command, "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Rank r of the update" in help_text


BAD = [
    (["finetune"], "MODEL is missing; give it on the command line or as `model:` in --config"),
    (["finetune", "m", "t"], "--out is missing"),
    (["finetune", "MODEL", "socialqa", "--out", "OUT"], "did you mean 'socialiqa'?"),
    (["finetune", "EMPTY", "simulated", "--out", "OUT"], "has no config.json; expected a Hub id or a folder"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.rank", "0"], "rank"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.rnk", "3"], "Did you mean --lora.rank?"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.targets", "w"], "targets"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--steps", "2", "--epochs", "2"], "give one of them"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--device", "tpux"], "device 'tpux' is not known"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--config", "NONE"], "does not exist"),
    (["finetune", "MODEL", "EMPTY", "--out", "OUT"], "EMPTY"),
    (["metrics", "NONE.parquet"], "does not exist"),
    (["fintune"], "finetune"),
    (["tasks", "simulated", "--show", "-1"], "--show is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"MODEL": str(checkpoint("phi")), "OUT": str(tmp_path / "out")}
    places |= {name: str(tmp_path / name) for name in ("EMPTY", "NONE", "NONE.parquet")}
    assert message in fails(capsys, *(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["afile/run", "/proc/nowhere/run"])
@pytest.mark.parametrize("command", ["finetune", "evaluate", "pretrain", "study", "demo"])
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(
    command: str, place: str, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "afile").write_text("Ann sings.\n")
    out = tmp_path / place  # an absolute one stays as it is
    model = str(checkpoint("phi"))
    base = {"model": model, "task": "simulated", "steps": 1, "train": 8, "validation": 4, "test": 6}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"base": base}))
    arguments = {
        "finetune": [model, "simulated", *SIZES],
        "evaluate": [model, "simulated", *SIZES],
        "pretrain": [tmp_path / "afile"],
        "study": [tmp_path / "study.yaml"],
        "demo": [],
    }[command]
    line = fails(capsys, command, *arguments, "--out", out)
    reasons = ("it is a file", "Not a directory", "No such file or directory", "Permission denied")
    assert any(f"cannot be written to ({reason})" in line for reason in reasons), line
    assert line.endswith("; give another place\n")


def test_a_fault_while_running_exits_with_one(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_arguments: object, **_options: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr("rango.cli.app", SimpleNamespace(meta=faulty))
    assert "the disk is full" in fails(capsys, "tasks", code=1)


def test_a_full_disk_is_a_fault_while_running(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    monkeypatch.setattr("rango.files.tempfile.mkstemp", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a", "x")
    monkeypatch.setattr("rango.cli.app", SimpleNamespace(meta=full))
    assert fails(capsys, "tasks", code=1) == "rango: there: No space left on device\n"


def test_of_a_copy_that_failed_both_ends_are_named(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/calibrator.json", None, "out/calibrator.json")

    monkeypatch.setattr("rango.cli.app", SimpleNamespace(meta=full))
    words = "rango: run/calibrator.json to out/calibrator.json: No space left on device\n"
    assert fails(capsys, "tasks", code=1) == words
