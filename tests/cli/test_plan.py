"""`rango plan`, and the sentence that stands under every comparison."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.command import Capture, fails
from helpers.made_posteriors import make

from rango.cli import main
from rango.decisions import plan_sample, write_posteriors


def test_one_pilot_and_two(tmp_path: Path, capsys: Capture) -> None:
    a, b = make(200), make(200, sharpness=1.0)
    for name, system in (("a", a), ("b", b)):
        write_posteriors(tmp_path / f"{name}.parquet", system)
    files = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    assert main(["plan", files[0]]) == 0
    assert "two that agree need fewer" in capsys.readouterr().out
    assert main(["plan", *files, "--difference", "0.05", "--out", str(tmp_path / "plan.json")]) == 0
    written, printed = json.loads((tmp_path / "plan.json").read_text()), capsys.readouterr().out
    assert written["instances"] == plan_sample(a, b, difference=0.05).instances
    assert f"{written['instances']:,} test instances show a difference of 0.05 in NCE" in printed
    assert f"{written['temperature_instances']:,} validation instances fix a temperature" in printed
    assert "expected_cost needs costs" in fails(capsys, *["plan", files[0], "--metric", "expected_cost"])
    assert "difference is 0" in fails(capsys, *["plan", files[0], "--difference", "0"])
    assert main(["compare", *files]) == 0
    assert "Resolution: 200 instances show a true difference of" in capsys.readouterr().out
