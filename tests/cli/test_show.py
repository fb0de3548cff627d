"""`rango tasks` and `rango report`, which only read."""

from __future__ import annotations

from pathlib import Path

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
