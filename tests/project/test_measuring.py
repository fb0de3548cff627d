"""Benchmarks record a line with what their figures depend on, and share one measure of the machine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def measuring() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "measuring.py"
    spec = importlib.util.spec_from_file_location("measuring_of_benchmarks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_record_is_one_line_more_with_its_conditions(measuring: ModuleType, tmp_path: Path) -> None:
    setting = measuring.conditions(dtype="float32", device="cpu", threads=1)
    for ratio in (1.5, 2.5):
        measuring.record("steps", {"ratio": ratio}, setting, folder=tmp_path / "results")
    lines = [json.loads(line) for line in (tmp_path / "results" / "steps.json").read_text().splitlines()]
    assert [line["ratio"] for line in lines] == [1.5, 2.5]
    assert {"benchmark", "date", "commit", "machine", "dtype", "threads", "matrix_gflops", "versions"} <= set(lines[0])
    assert lines[0]["versions"]["torch"]


def test_the_matrix_rate_is_a_rate(measuring: ModuleType) -> None:
    assert 1e8 < measuring.matrix_rate("float32", "cpu") < 1e14
