"""`rango serve` refuses before it loads anything, and ends when it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.command import Capture, fails

from rango.cli import main


def test_bad_options_are_refused_in_one_line(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RANGO_KEY", raising=False)
    for arguments, message in {
        (): "there is no run to serve",
        (tmp_path / "none",): "is not a folder",
        (run, "--port", "70000"): "port is 70000; expected 1 to 65535",
        (run, "--waiting", "0"): "waiting is 0; expected at least 1",
        (run, "--host", "0.0.0.0"): "where others reach this server; name a key with --key-env",
        (run, "--key-env", "RANGO_KEY"): "the environment variable RANGO_KEY is not set",
        (run, "--log-state"): "--log-state is given without --log",
        (run, f"b={run}", "--log", tmp_path / "log"): "--log is of one run, and 2 are to be served",
        (run, "--log", run / "run.yaml"): "run.yaml is no log of decisions",
        (run, "--gate", run / "metrics.json"): "is no gate; expected a file that rango gate --out wrote",
    }.items():
        assert message in fails(capsys, "serve", *arguments)


def test_the_server_gets_the_run_under_its_name(run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    started: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: started.append(self.config))
    monkeypatch.setenv("RANGO_KEY", "secret")
    assert main(["serve", f"moods={run}", "--port", "8123", "--key-env", "RANGO_KEY"]) == 0
    output = capsys.readouterr().err
    assert "Serving at http://127.0.0.1:8123" in output
    assert "moods: LoRA of" in output
    assert "secret" not in output
    app: Any = started[0].app
    assert [route.path for route in app.routes] == ["/v1/systemone", "/v1/models", "/metrics", "/health", "/"]
