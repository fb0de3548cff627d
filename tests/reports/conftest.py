"""Fixtures of the reports: a small run directory and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.reports_run import RECORD, make_log, make_metrics, make_states, write_run

from rango.decisions import Posteriors


@pytest.fixture(scope="session")
def states() -> dict[str, Posteriors]:
    return make_states()


@pytest.fixture(scope="session")
def metrics(states: dict[str, Posteriors]) -> dict[str, Any]:
    return make_metrics(states)


@pytest.fixture(scope="session")
def log() -> list[dict[str, Any]]:
    return make_log()


@pytest.fixture
def run_dir(tmp_path: Path, states: dict[str, Posteriors]) -> Path:
    return write_run(tmp_path / "run", RECORD, states)
