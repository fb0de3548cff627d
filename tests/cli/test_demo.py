"""`rango demo` hands its flags to `run_demo`, and checks the place first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command import Capture, fails

from rango.cli import main
from rango.console import Screen


def test_the_flags_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def run_demo(out: Path, *, seed: int, screen: Screen) -> SimpleNamespace:
        calls.append((out, seed, screen.quiet))
        return SimpleNamespace(path=out)

    monkeypatch.setattr("rango.demo.run_demo", run_demo)
    monkeypatch.setattr(
        "rango.reports.run.terminal.print_result", lambda path, *, split, shown: calls.append((path, split, shown))
    )
    assert main(["demo", "--out", str(tmp_path), "--seed", "5", "--quiet"]) == 0
    assert calls == [(tmp_path, 5, True), (tmp_path, "test", tmp_path / "report.html")]


def test_a_seed_that_is_no_number_is_refused(capsys: Capture) -> None:
    assert "--seed" in fails(capsys, "demo", "--seed", "x")
