"""The command line as tests call it."""

from __future__ import annotations

import re

import pytest

from rango.cli import main

Capture = pytest.CaptureFixture[str]
SIZES = ("--train", "30", "--validation", "12", "--test", "20")


def fails(capsys: Capture, *arguments: object, code: int = 2) -> str:
    """The one line that a bad command prints."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    error = without_loading(capsys.readouterr().err)
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def without_loading(errors: str) -> str:
    """What stderr has beside the lines that say that a model is being loaded."""
    return re.sub(r"^(Loading .* \.\.\.|· loaded in .* s)\n", "", errors, flags=re.MULTILINE)
