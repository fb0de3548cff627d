"""`rango tasks` and `rango report`, which only read."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.command import SIZES, Capture, fails

from rango.cli import main


def test_report_is_written_again(run: Path, capsys: Capture) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == before
    assert "run.yaml" in fails(capsys, "report", run / "posteriors")


def test_tasks_are_listed_and_shown(capsys: Capture, table: Path) -> None:
    assert main(["tasks"]) == 0
    assert "socialiqa" in capsys.readouterr().out
    assert main(["tasks", str(table), "--show", "1", *SIZES]) == 0
    shown = capsys.readouterr().out
    assert "letter form" in shown
    assert "Mood:" in shown


def test_tasks_tells_the_test_contexts_in_a_text(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "task.yaml").write_text('{prompt: "{text}", choices: [no, yes], label: label, splits: part}')
    sentences = [" ".join(f"word{10 * k + n}" for n in range(10)) for k in range(9)]
    parts = ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    rows = [f"{text},yes,{part}" for text, part in zip(sentences, parts, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,part", *rows, ""]))
    (tmp_path / "texts.txt").write_text(f"A book. {sentences[6]} and {sentences[7]}.\n")
    assert main(["tasks", str(tmp_path), "--texts", str(tmp_path / "texts.txt")]) == 0
    shown = capsys.readouterr().out
    assert "train: 0 of 4 contexts stand in the texts\n" in shown
    assert "test: 2 of 3 contexts stand in the texts, such as that of instance" in shown
    assert "does not exist" in fails(capsys, "tasks", tmp_path, "--texts", tmp_path / "none.txt")


def test_texts_without_a_file_are_not_passed_over(capsys: Capture) -> None:
    assert "--texts has no file" in fails(capsys, "tasks", "simulated", "--texts")


def test_ctrl_c_inside_a_destructor_stops_the_command_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Python drops what is raised in a destructor, as libraries have many while a model is loaded."""

    class Library:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def load(*_: Any) -> None:
        Library()
        time.sleep(20)

    monkeypatch.setattr("rango.cli.show.load_task", load)
    begun = time.monotonic()
    assert main(["tasks", "simulated"]) == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
    assert time.monotonic() - begun < 15
