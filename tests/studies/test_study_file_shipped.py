"""Every shipped study, small: trained, scored and reported through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rango.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_small_variant_of_a_shipped_study(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workers = "2"
    if path.stem == "search":
        pytest.importorskip("optuna")
        workers = "1"  # its trials come one after the other
    assert main(["study", str(path), "--tiny", "--out", str(tmp_path), "--workers", workers, "--quiet"]) == 0
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "configuration"]
    # What a search has ended early has no result; of anything else a seed may not be missing.
    measured = [row for row in rows if row["nce"]]
    assert len(measured) == len(rows) or path.stem == "search"
    assert min(float(row["nce"]) for row in measured) > 0
    assert any((tmp_path / "figures").glob("*.png"))
    assert (tmp_path / "report.html").stat().st_size > 10_000
    # Either the best is marked, or a sentence says why none is.
    output = " ".join(capsys.readouterr().out.split())
    assert "★" in output or "o configuration is better than the priors" in output
