"""`rango evaluate` of an endpoint: what is refused before anything is asked, and the files that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Capture, fails

from rango.cli import main
from rango.serving import asking
from rango.serving.asking import LoggedAnswer
from rango.serving.endpoint import Answer
from rango.serving.endpoint_evaluation import evaluate_endpoint


def test_the_command_takes_an_endpoint_as_its_model(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, table: Path
) -> None:
    def stub(*given: Any, **rest: Any) -> Any:
        instances, log = given[1], rest["log"]
        logged = {each.id: LoggedAnswer(Answer((-0.4, -1.6, -2.0), "m"), 0.1) for each in instances}
        log.write_text(json.dumps({}))
        return logged, asking.Tally()

    command = ("evaluate", "systemone:http://127.0.0.1:1#m", str(table), "--out", str(tmp_path / "out"))
    wrong: dict[tuple[str, ...], str] = {
        ("--form", "letter"): "form is the endpoint's own choice",
        ("--concurrency", "0"): "concurrency is 0; expected at least 1",
        ("--quantise", "nf4"): "quantise is nf4",
    }
    for flags, message in wrong.items():
        assert message in fails(capsys, *command, *flags)
    assert "has no URL" in fails(capsys, "evaluate", "systemone:x", str(table), "--out", str(tmp_path / "out"))
    defaults: Callable[..., Any] = evaluate_endpoint
    monkeypatch.setitem(defaults.__kwdefaults__, "ask", stub)
    assert main([*command, "--quiet"]) == 0
    assert "error rate" in capsys.readouterr().out.lower()
    assert (tmp_path / "out/report.html").is_file()
