"""`rango gate`: from posteriors or a run to a file that `rango predict` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command import Capture, fails
from helpers.made_posteriors import make

from rango.cli import main
from rango.decisions import Gate, Posteriors, write_posteriors

CLASSES = ["keep", "return", "exchange"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for seed, name in enumerate(("validation", "test")):
        made = make(400, seed=seed, sharpness=1.0)
        ids = [f"{name}-{row}" for row in range(400)]
        named = Posteriors(made.log_posteriors, made.labels, ids, choices=[CLASSES] * 400)
        write_posteriors(tmp_path / f"{name}.parquet", named)
    return tmp_path / "validation.parquet", tmp_path / "test.parquet"


def test_chosen_on_one_file_and_judged_on_another(files: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    out, figure = tmp_path / "gate.json", tmp_path / "gate.svg"
    command = ["gate", str(files[1]), "--fit", str(files[0]), "--costs", "abstain=0.3", "--out", str(out)]
    assert main([*command, "--figure", str(figure), "--replicates", "100"]) == 0
    written, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert written["judged"]["held_out"] is True
    assert set(written["judged"]["costs"]) == {"gate", "Bayes rule", "act on all", "pass on all"}
    assert "act where the confidence is at least" in printed
    assert "judged on 400 other instances: acts on" in printed
    assert figure.read_text().startswith("<?xml")
    assert Gate.load(out).threshold == written["threshold"]


def test_a_gate_that_loses_to_passing_everything_on_is_warned_of(
    files: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    made = make(400, seed=1, sharpness=1.0)
    elsewhere = Posteriors(made.log_posteriors, (made.labels + 1) % 3, [f"x{row}" for row in range(400)],
                           choices=[CLASSES] * 400)  # fmt: skip
    write_posteriors(tmp_path / "elsewhere.parquet", elsewhere)
    command = ["gate", str(tmp_path / "elsewhere.parquet"), "--fit", str(files[0]), "--costs", "abstain=0.3"]
    assert main(command) == 0
    assert "warning: here the gate costs more than to pass on all (0.300)" in capsys.readouterr().out
    assert main([*command[:1], str(files[1]), *command[2:]]) == 0
    assert "warning" not in capsys.readouterr().out


def test_a_file_alone_is_judged_out_of_bag(files: tuple[Path, Path], capsys: Capture) -> None:
    assert main(["gate", str(files[1]), "--max-error", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert "judged out of bag (400 instances)" in printed
    assert "at most 0.3 with probability 95%" in printed
    assert main(["gate", str(files[1]), "--max-error", "0.001"]) == 0
    assert "never act: on 400 instances no threshold reaches the aim" in capsys.readouterr().out


def test_what_is_refused(files: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    source = ["gate", str(files[1])]
    assert "a gate needs an aim" in fails(capsys, *source)
    assert "max_error is 5; expected a fraction" in fails(capsys, *[*source, "--max-error", "5"])
    assert "did you mean 'keep'" in fails(capsys, *[*source, "--precision", "kep=0.9"])
    assert "expected CLASS=SHARE" in fails(capsys, *[*source, "--precision", "keep"])
    assert "--fit and SOURCE hold the same" in fails(capsys, *[*source, "--max-error", "0.1", "--fit", str(files[1])])
    assert "is not a figure's" in fails(capsys, *[*source, "--max-error", "0.1", "--figure", str(tmp_path / "a.txt")])


def test_a_run_chooses_on_validation_and_predict_takes_its_gate(
    run: Path, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "gate.json"
    assert main(["gate", str(run), "--costs", "abstain=0.4", "--out", str(out), "--replicates", "50"]) == 0
    assert "validation, adapted and calibrated" in capsys.readouterr().out
    rows, answers = table / "rows.jsonl", tmp_path / "answers.parquet"
    new = tmp_path / "new.jsonl"
    texts = [json.loads(line)["text"] for line in rows.read_text().splitlines()[:12]]
    new.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(["predict", str(run), str(new), "--gate", str(out), "--out", str(answers), "--quiet"]) == 0
    chosen, moods = Gate.load(out), ["happy", "sad", "angry"]
    for row in pq.read_table(answers).to_pylist():
        shares = np.array([row[f"probability_{mood}"] for mood in moods])
        assert row["act"] == ("yes" if shares.max() >= chosen.threshold - 1e-9 else "no")
        # Passing on is the gate's part: the decision is the one that would be acted on.
        assert row["decision"] == moods[int(shares.argmax())]
    both = ["predict", str(run), str(new), "--gate", str(out), "--out", str(answers), "--quiet"]
    assert "costs beside a gate (--costs, --gate)" in fails(capsys, *[*both, "--costs", "abstain=0.2"])
