"""`rango predict` answers rows that came later as the run itself would have."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.command import Capture, fails

from rango.cli import main
from rango.decisions import read_posteriors
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
MOODS = ["happy", "sad", "angry"]


@pytest.fixture
def new_rows(run: Path, table: Path, tmp_path: Path) -> Path:
    """The texts of the run's own test instances, in its order, with a column of the user's own and without labels."""
    rows = [json.loads(line) for line in (table / "rows.jsonl").read_text().splitlines()]
    by_id = {str(number): row for number, row in enumerate(rows, start=1)}
    path = tmp_path / "new.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "text"])
        writer.writerows([f"T{name}", by_id[name]["text"]] for name in Run(run).posteriors("adapted").ids)
    return path


@pytest.mark.parametrize("state", ["calibrated", "adapted", "base"])
def test_rows_without_labels_get_the_posteriors_of_the_run(
    run: Path, new_rows: Path, tmp_path: Path, state: str
) -> None:
    assert main(["predict", f"{run}:{state}", str(new_rows), "--out", str(tmp_path / "out.parquet"), "--quiet"]) == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    expected = np.exp(Run(run).posteriors(state).log_posteriors)
    predicted = np.array([[row[f"probability_{mood}"] for mood in MOODS] for row in rows])
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    assert [row["ticket"] for row in rows] == [f"T{name}" for name in Run(run).posteriors(state).ids]
    assert "mood" not in rows[0]
    # Without costs the decision is the most probable choice, and its expected cost the probability of an error.
    for row, shares in zip(rows, predicted, strict=True):
        assert row["decision"] == MOODS[int(shares.argmax())]
        assert row["expected_cost"] == pytest.approx(1 - shares.max(), abs=1e-9)


def test_a_run_that_its_own_test_calls_useless_is_named(
    run: Path, new_rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    # The record has a digest of the metrics, which are others here.
    record = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump({key: value for key, value in record.items() if key != "digests"}))
    metrics = json.loads((copy / "metrics.json").read_text())
    for value, said in ((1.4, True), (0.2, False)):
        for metric in ("nce", "error_rate"):
            metrics["test"]["calibrated"][metric] = {
                "value": value / 2,
                "low": value / 2 - 0.05,
                "high": value / 2 + 0.05,
            }
        metrics["test"]["calibrated"]["nce"] = {"value": value, "low": value - 0.05, "high": value + 0.05}
        (copy / "metrics.json").write_text(json.dumps(metrics))
        assert main(["predict", str(copy), str(new_rows), "--out", str(tmp_path / "out.csv")]) == 0
        notes = " ".join(capsys.readouterr().err.split())
        assert ("Warning, from the run's own test: The calibrated model is not usable: worse than the" in notes) is said


def test_costs_are_promised_and_where_labels_stand_measured(
    run: Path, new_rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Costs in another order than the choices are matched by name; a label in some rows measures those alone."""
    (tmp_path / "costs.yaml").write_text(
        "{classes: [sad, angry, happy], decisions: [sad, angry, happy, ask], "
        "costs: [[0, 1, 1, 0.1], [1, 0, 1, 0.1], [1, 1, 0, 0.1]]}"
    )
    lines = new_rows.read_text().splitlines()
    labels = ["mood", *(["sad", "happy", ""] * len(lines))[: len(lines) - 1]]
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("".join(f"{line},{label}\n" for line, label in zip(lines, labels, strict=True)))
    command = ["predict", str(run), str(labelled), "--costs", str(tmp_path / "costs.yaml"), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "out.csv")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "decisions: sad" in printed or "decisions: happy" in printed
    assert "mean expected cost" in printed
    assert "Warning: Under these costs acting on these posteriors does not cost significantly less than" in printed
    assert "always deciding 'ask'. It costs 0.100 on average, the posteriors promise 0.100" in printed
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mood"] for row in rows] == labels[1:]
    for row in rows:
        risks = {mood: 1 - float(row[f"probability_{mood}"]) for mood in MOODS} | {"ask": 0.1}
        assert row["decision"] == min(risks, key=lambda name: risks[name])
        assert float(row["expected_cost"]) == pytest.approx(min(risks.values()))
    # What is written can be measured by the commands on posteriors: the label is a column, the classes are names.
    kept = [row for row in rows if row["mood"]]
    with (tmp_path / "kept.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["label", *(f"probability_{mood}" for mood in MOODS)])
        writer.writeheader()
        for row in kept:
            writer.writerow({"label": row["mood"], **{k: v for k, v in row.items() if k.startswith("probability")}})
    assert len(read_posteriors(tmp_path / "kept.csv")) == len(kept)


@pytest.mark.parametrize("command", [["-"], ["-", "--out", "-"], ["FILE", "--out", "-"]])
def test_rows_on_stdin_are_answered_on_stdout(
    run: Path,
    new_rows: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    with new_rows.open(newline="") as file:
        lines = "".join(json.dumps(row) + "\n" for row in csv.DictReader(file))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    given = [str(new_rows) if word == "FILE" else word for word in command]
    capsys.readouterr()
    assert main(["predict", str(run), *given]) == 0
    printed = capsys.readouterr()
    answered = [json.loads(line) for line in printed.out.splitlines()]
    expected = np.exp(Run(run).posteriors("calibrated").log_posteriors)
    shares = [[row[f"probability_{mood}"] for mood in MOODS] for row in answered]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    assert [row["ticket"] for row in answered] == [f"T{name}" for name in Run(run).posteriors("adapted").ids]
    # What is said of the answers stands beside them.
    assert "mean expected cost" in printed.err
    assert list(tmp_path.iterdir()) == [new_rows]


def test_what_cannot_be_answered_is_refused_before_the_model_is_loaded(
    run: Path, new_rows: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rango.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    out = tmp_path / "out.csv"
    assert "--out is missing; give the file to write, or - for stdout" in fails(capsys, "predict", run, new_rows)
    assert "rows on stdin are answered on stdout" in fails(capsys, "predict", run, "-", "--out", out)
    orders = ("--orders", "2", "--out", out)
    assert "the cloze form lists no options whose order" in fails(capsys, "predict", run, new_rows, *orders)
    assert "fitted for one order of the options" in fails(capsys, "predict", f"{run}:calibrated", new_rows, *orders)
    assert "ending '.txt'" in fails(capsys, "predict", run, new_rows, "--out", tmp_path / "out.txt")
    assert "unknown state 'adaptd'" in fails(capsys, "predict", f"{run}:adaptd", new_rows, "--out", out)
    (tmp_path / "other.csv").write_text("ticket,words\n1,Ann sings\n")
    assert "unknown column 'text'" in fails(capsys, "predict", run, tmp_path / "other.csv", "--out", out)
    (tmp_path / "twice.csv").write_text("text,decision\nAnn sings,yes\n")
    assert "a column decision already" in fails(capsys, "predict", run, tmp_path / "twice.csv", "--out", out)
    (tmp_path / "costs.yaml").write_text("{classes: [happy, sad, blue], costs: [[0, 1, 1], [1, 0, 1], [1, 1, 0]]}")
    costs = ("--costs", tmp_path / "costs.yaml")
    assert "blue" in fails(capsys, "predict", run, new_rows, *costs, "--out", out)
    (tmp_path / "label.csv").write_text("text,mood\nAnn sings,joyful\n")
    assert "label is 'joyful'" in fails(capsys, "predict", run, tmp_path / "label.csv", "--out", out)
    assert not out.exists()


@pytest.mark.usefixtures("plain_page")
def test_choices_of_each_row_are_named_in_its_decision(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Rows with choices of their own: the decision is a text, and a row with fewer choices has blanks behind them."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "task.yaml").write_text('{prompt: "{text}. Next:", choices: options, label: right}')
    rows = [{"text": f"Ann {n}", "options": ["sings", "cries", f"runs {n}"], "right": n % 3} for n in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--steps", "1", "--train", "8", "--validation", "6", "--test", "6", "--quiet"]
    assert main(["finetune", str(checkpoint("phi")), str(folder), "--out", str(tmp_path / "run"), *flags]) == 0
    further = [{"text": "Bo", "options": ["waits", "eats"]}, {"text": "Cy", "options": ["a", "b", "c"]}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in further))
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.jsonl"), "--out", str(out), "--quiet"]) == 0
    answered = [json.loads(line) for line in out.read_text().splitlines()]
    assert answered[0]["posterior_2"] is None
    assert answered[0]["posterior_0"] + answered[0]["posterior_1"] == pytest.approx(1)
    for row in answered:
        shares = [row[f"posterior_{place}"] for place in range(len(row["options"]))]
        assert row["decision"] == row["options"][int(np.argmax(shares))]
        assert row["runner_up"] in row["options"]
