"""`rango metrics`, `calibrate`, `decide` and `compare`: results, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.command import Capture, fails

from rango.cli import main
from rango.decisions import Posteriors, read_posteriors, write_posteriors
from rango.training.run_folder import Run


def test_metrics_calibrate_decide_compare(run: Path, tmp_path: Path, capsys: Capture) -> None:
    files = {
        name: run / "posteriors" / f"{name}.parquet" for name in ("test-base", "test-adapted", "validation-adapted")
    }
    assert main(["metrics", str(files["test-adapted"]), "--out", str(tmp_path / "metrics.json")]) == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["nce"]["value"] == pytest.approx(Run(run).metrics["test"]["adapted"]["nce"].value)
    fit = ["--fit", str(files["validation-adapted"]), "--method", "temperature"]
    calibrator = ["--calibrator", str(tmp_path / "calibrator.json")]
    apply = ["--apply", str(files["test-adapted"]), "--out"]
    assert main(["calibrate", *fit, *apply, str(tmp_path / "one.parquet"), *calibrator]) == 0
    assert main(["calibrate", *apply, str(tmp_path / "two.parquet"), *calibrator]) == 0
    one, two = (read_posteriors(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    np.testing.assert_array_equal(one.log_posteriors, two.log_posteriors)
    assert "calibration loss" in capsys.readouterr().out
    classes = ["happy", "sad", "angry"]
    costs = {
        "classes": classes,
        "decisions": [*classes, "ask"],
        "costs": [[0, 1, 1, 0.3], [1, 0, 1, 0.3], [9, 9, 0, 0.3]],
    }
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(costs))
    decide = ["decide", str(run), "--costs", str(tmp_path / "costs.yaml"), "--out", str(tmp_path / "decisions.csv")]
    assert main(decide) == 0
    lines = (tmp_path / "decisions.csv").read_text().splitlines()
    assert lines[0] == "id,decision,expected_cost,runner_up,runner_up_cost"
    assert len(lines) == 21
    assert (
        main(["compare", str(files["test-base"]), str(files["test-adapted"]), "--out", str(tmp_path / "c.json")]) == 0
    )
    assert "exact McNemar" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["sentence"].startswith("On 20 shared instances")


def test_compare_refuses_other_instances(run: Path, tmp_path: Path, capsys: Capture) -> None:
    one = Run(run).posteriors("base")
    write_posteriors(tmp_path / "b.parquet", Posteriors(one.log_posteriors, one.labels, ids=("x", *one.ids[1:])))
    assert "x" in fails(capsys, "compare", run / "posteriors" / "test-base.parquet", tmp_path / "b.parquet")


def test_one_choice_has_no_metrics(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.jsonl").write_text('{"label": 0, "posteriors": [1.0]}\n' * 4)
    assert "has 1 column; expected at least two choices" in fails(capsys, "metrics", tmp_path / "p.jsonl")


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"label": k % 2, "posteriors": [0.6, 0.4]} for k in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["metrics", tmp_path / "p.jsonl", "--replicates", 100, "--out"]
    assert "cannot be written to (it is a file); give another" in fails(capsys, *few, tmp_path / "p.jsonl" / "m.json")
    assert "is a folder; give the path of a file" in fails(capsys, *few, tmp_path)
