"""A run directory that has begun, for the tests of what writes and what reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.run_record import RECORD

from rango.training.run_writer import RunWriter


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    made = RunWriter(tmp_path / "run", dict(RECORD))
    made.begin(most_steps=2)
    return made
