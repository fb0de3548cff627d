"""Reading a run directory: what is broken is told, not raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rango.files import write_json
from rango.reports.run.run_files import read_run


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"test": 3}, "metrics.json: test is a int; expected an object of states"),
        ({"test": {"base": [1]}}, "metrics.json: test.base is a list; expected an object of metrics"),
        ({"test": {"base": {"nce": 1.0}}}, "metrics.json: test.base.nce is a float; expected an object of numbers"),
        ({"test": {"base": {"nce": {"low": "x"}}}}, "metrics.json: test.base.nce.low is 'x'; expected a number"),
    ],
)
def test_metrics_of_another_shape_are_told(tmp_path: Path, metrics: dict[str, Any], message: str) -> None:
    write_json(tmp_path / "metrics.json", metrics)
    found = read_run(tmp_path)
    assert found.metrics == {}
    assert found.missing["metrics.json"] == message


def test_metrics_as_they_should_be_are_read(tmp_path: Path) -> None:
    metrics = {"test": {"base": {"nce": {"value": 0.5, "low": None, "note": "one class"}}}, "validation": {}}
    write_json(tmp_path / "metrics.json", metrics)
    found = read_run(tmp_path)
    assert found.metrics == metrics
    assert "metrics.json" not in found.missing
