"""`rango monitor`: from a log to a report, and exit codes for CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command import Capture, fails
from helpers.made_logs import make_log, write_log

import rango
from rango.cli import main
from rango.decisions import Baseline

QUICK = ("--replicates", "50")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accepted")
    test, path = write_log(folder / "test.csv", make_log(500, name="test")), folder / "baseline.json"
    command = ["monitor", str(test), "--costs", "abstain=0.3", "--save-baseline", str(path), "--margin", "0.05", *QUICK]
    assert main(command) == 0
    return path


def test_a_log_by_month_and_group(tmp_path: Path, baseline: Path, capsys: Capture) -> None:
    months = {"when": [f"2026-{1 + row // 100:02d}-15" for row in range(400)], "shop": ["north", "south"] * 200}
    log, out = (
        write_log(tmp_path / "log.csv", make_log(400, seed=1, known=0.6, name="log"), months),
        tmp_path / "r.json",
    )
    capsys.readouterr()
    command = ["monitor", str(log), "--time", "when", "--period", "month", "--by", "shop", "--check", str(baseline)]
    assert main([*command, "--out", str(out), *QUICK]) == 0
    printed, report = capsys.readouterr().out, json.loads(out.read_text())
    assert list(report["periods"]) == ["2026-01", "2026-02", "2026-03", "2026-04"]
    assert list(report["groups"]) == ["north", "south"]
    assert "no alarm, error rate at most" in printed
    assert "the probability that any of the 4 is ever raised falsely is at most 5%" in printed
    assert "class shares of" in printed
    assert "labels fix the gap to ± 0.02" in printed
    assert "none of the 4 limits of" in printed


def test_broken_limits_are_a_line_each_and_exit_with_one(tmp_path: Path, baseline: Path, capsys: Capture) -> None:
    log = write_log(tmp_path / "log.csv", make_log(600, seed=2, noise=1.7, name="log"))
    capsys.readouterr()
    assert main(["monitor", str(log), "--check", str(baseline), *QUICK]) == 1
    streams = capsys.readouterr()
    assert streams.out.count("BROKEN: ") == 4
    assert streams.err == f"rango: 4 of the 4 limits of {baseline} are broken\n"
    # Without --check an alarm is told, and is no failure.
    assert main(["monitor", str(log), *QUICK]) == 0
    assert "ALARM, calibrated: refuted by" in capsys.readouterr().out


def test_a_new_model_on_the_instances_of_the_baseline(tmp_path: Path, baseline: Path, capsys: Capture) -> None:
    same = baseline.with_name("test.csv")
    capsys.readouterr()
    assert main(["monitor", str(same), "--check", str(baseline), *QUICK]) == 0
    assert "none of the 5 limits of" in capsys.readouterr().out
    # The next model has seen the instances with more noise, under the same ids and labels.
    worse = write_log(tmp_path / "worse.csv", make_log(500, noise=1.6, name="test"))
    assert main(["monitor", str(worse), "--check", str(baseline), *QUICK]) == 1
    assert "on the same 500 instances (difference 0." in capsys.readouterr().out


def test_the_log_of_a_gate_has_limits_of_its_own(tmp_path: Path, baseline: Path, capsys: Capture) -> None:
    own, out = tmp_path / "own.json", tmp_path / "report.json"
    gated = write_log(tmp_path / "gated.csv", make_log(200, name="gated"), {"act": ["yes", "yes", "yes", "no"] * 50})
    assert main(["monitor", str(gated), "--save-baseline", str(own), *QUICK]) == 0
    assert main(["monitor", str(gated), "--check", str(own), "--out", str(out), *QUICK]) == 0
    printed, whole = capsys.readouterr().out, json.loads(out.read_text())["whole"]
    assert "passed on (act): 50 of 200 decisions (0.250, in the baseline 0.250)" in printed
    assert (whole["acted_on"], whole["passed_on"], whole["error_rate"]["n"], whole["nce"]["n"]) == (150, 0.25, 150, 200)
    # The baseline without a gate is of all decisions: its limits are of something else.
    refused = fails(capsys, "monitor", str(gated), "--check", str(baseline), *QUICK)
    assert "the log says which decisions were acted on (act) and the baseline does not" in refused


def test_labels_that_come_in_a_file(tmp_path: Path, capsys: Capture) -> None:
    made = make_log(200, seed=3)
    log = write_log(tmp_path / "log.csv", make_log(200, seed=3, known=0.0))
    labels = tmp_path / "labels.csv"
    rows = [f"r{row},{('keep', 'return', 'exchange')[made.labels[row]]}" for row in range(0, 200, 4)]
    labels.write_text("\n".join(["id,label", *rows]) + "\n")
    assert main(["monitor", str(log), "--labels", str(labels), *QUICK]) == 0
    assert "200       50" in capsys.readouterr().out


def test_what_is_refused(tmp_path: Path, capsys: Capture) -> None:
    log = write_log(tmp_path / "log.csv", make_log(60))
    source = ["monitor", str(log)]
    assert "is no baseline" in fails(capsys, *source, "--check", write_json(tmp_path, {"a": 1}))
    assert "did you mean 'decision'" in fails(capsys, *source, "--by", "decisions")
    assert "a day needs times" in fails(capsys, *source, "--period", "day")
    assert "alpha is 2; expected a probability" in fails(capsys, *source, "--alpha", "2")
    assert "precision is 0; expected" in fails(capsys, *source, "--precision", "0")
    both = tmp_path / "both.json"
    message = fails(capsys, *source, "--out", both, "--save-baseline", both)
    assert f"--out and --save-baseline are both {both}; give each a file of its own" in message
    assert "--margin without --save-baseline" in fails(capsys, *source, "--margin", "0.1")
    # Before anything is read: neither the log nor the baseline exists.
    for option in ("--out", "--save-baseline"):
        refused = fails(capsys, "monitor", "no.csv", "--check", "no.json", option, str(tmp_path / "report.csv"))
        assert "report.csv: ending '.csv' is not known; the file is JSON, expected .json" in refused
    other = str(write_json(tmp_path, {"a": 1}))
    assert "is one of the inputs" in fails(capsys, *source, "--check", other, "--out", other)
    assert "does not exist" in fails(capsys, "monitor", str(tmp_path / "no.csv"))
    assert "no decision has a label yet" in fails(
        capsys, "monitor", write_log(tmp_path / "bare.csv", make_log(60, known=0))
    )


def write_json(folder: Path, value: object) -> Path:
    path = folder / "other.json"
    path.write_text(json.dumps(value))
    return path


def test_the_functions_give_what_the_command_writes(baseline: Path) -> None:
    test = baseline.with_name("test.csv")
    saved = rango.save_baseline(test, costs="abstain=0.3", margin=0.05, replicates=50)
    assert saved.as_dict() == Baseline.load(baseline).as_dict()
    report = rango.monitor(test, baseline=baseline, period="250", replicates=20)
    assert list(report.periods) == ["1-250", "251-500"]
    assert repr(report) == "Monitoring(500 decisions, 500 with labels, no alarm)"
    with pytest.raises(rango.InputError, match="--time is for a log with columns"):
        rango.monitor(make_log(30).labelled, time="when")
