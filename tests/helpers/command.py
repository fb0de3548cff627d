"""The command line as tests call it."""

from __future__ import annotations

import pytest

from rango.cli import main

Capture = pytest.CaptureFixture[str]
SIZES = ("--train", "30", "--validation", "12", "--test", "20")


def fails(capsys: Capture, *arguments: object, code: int = 2) -> str:
    """The one line that a bad command prints."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err
