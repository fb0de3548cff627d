"""`rango evaluate` writes the posteriors of a run, and refuses what does not fit together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.command import SIZES, Capture, fails

from rango.cli import main
from rango.decisions import read_posteriors
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import LoRA
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]


def test_evaluate_gives_the_posteriors_of_the_run(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["evaluate", str(checkpoint("phi")), str(table), *SIZES, "--quiet"]
    assert main([*command, "--adapter", str(run), "--out", str(tmp_path / "adapted")]) == 0
    assert main([*command, "--out", str(tmp_path / "base"), "--split", "validation"]) == 0
    adapted = read_posteriors(tmp_path / "adapted" / "posteriors" / "test-adapted.parquet")
    np.testing.assert_array_equal(adapted.log_posteriors, Run(run).posteriors("adapted").log_posteriors)
    base = read_posteriors(tmp_path / "base" / "posteriors" / "validation-base.parquet")
    np.testing.assert_array_equal(base.log_posteriors, Run(run).posteriors("base", "validation").log_posteriors)
    assert "already holds other files" in fails(capsys, *command, "--out", tmp_path / "adapted", "--seed", 3)
    assert "NCE" in capsys.readouterr().out or (tmp_path / "base" / "metrics.json").is_file()


def test_instances_without_labels_get_posteriors_and_decisions(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The posteriors are those of the same instances with labels; nothing is measured."""
    model = str(checkpoint("phi"))
    for name, labels in (("with", ["happy", "sad"] * 3), ("without", [""] * 6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "task.yaml").write_text('{prompt: "{text}. Mood:", choices: [happy, sad], label: mood, splits: part}')
        lines = [f"Ann {k},{label},test" for k, label in enumerate(labels)]
        (folder / "rows.csv").write_text("\n".join(["text,mood,part", *lines, ""]))
        assert main(["evaluate", model, str(folder), "--quiet", "--out", str(tmp_path / f"{name}-out")]) == 0
    with_labels, without = (
        tmp_path / f"{name}-out" / "posteriors" / "test-base.parquet" for name in ("with", "without")
    )
    labelled, bare = read_posteriors(with_labels), read_posteriors(without, need_labels=False)
    np.testing.assert_array_equal(bare.log_posteriors, labelled.log_posteriors)
    assert (bare.has_labels, bare.ids, bare.choices) == (False, labelled.ids, labelled.choices)
    assert (tmp_path / "without-out" / "metrics.json").read_text().split() == ["{", '"test":', "{}", "}"]
    (tmp_path / "costs.yaml").write_text("{classes: [happy, sad], decisions: [happy, sad], costs: [[0, 1], [2, 0]]}")
    decisions = ["--costs", str(tmp_path / "costs.yaml"), "--out", str(tmp_path / "decisions.csv")]
    assert main(["decide", str(without), *decisions]) == 0


def test_an_adapter_of_another_model_is_refused(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = checkpoint("phi", seed=1)
    line = fails(capsys, "evaluate", other, table, *SIZES, "--adapter", run, "--out", tmp_path / "out")
    assert "adapts another base model" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("plain_page")
def test_shots_and_mc_dropout_are_flags(checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture) -> None:
    model = checkpoint("phi", max_position_embeddings=512)
    command = ["evaluate", model, table, *SIZES, "--quiet"]
    assert main([str(part) for part in [*command, "--shots", "3", "--shots-seed", "1", "--out", tmp_path / "out"]]) == 0
    assert yaml.safe_load((tmp_path / "out" / "evaluation.yaml").read_text())["config"]["shots"] == 3
    line = fails(capsys, *command, "--mc-dropout", "4", "--out", tmp_path / "other")
    assert "mc_dropout is 4 but there is no adapter" in line
    line = fails(capsys, *command, "--shots", "31", "--out", tmp_path / "other")
    assert "shots is 31 but the training split has 30 instances" in line
    line = fails(capsys, *command, "--orders", "3", "--out", tmp_path / "other")
    assert "orders is 3, but the cloze form lists no options whose order could matter; use --form letter" in line


def test_an_evaluation_without_its_configuration_is_other_files(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "evaluation.yaml").write_text("form: cloze\n")
    line = fails(capsys, "evaluate", checkpoint("phi"), table, *SIZES, "--out", tmp_path)
    assert "already holds other files" in line


def test_an_adapter_without_dropout_is_refused_before_scoring(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    model = load_model(checkpoint("phi"))
    add_adapter(model, LoRA(), seed=0).save(tmp_path / "adapter")
    masks = ("--adapter", tmp_path / "adapter", "--mc-dropout", 4, "--out", tmp_path / "out")
    line = fails(capsys, "evaluate", checkpoint("phi"), table, *SIZES, *masks)
    assert "the adapter has dropout 0" in line
    assert not (tmp_path / "out").exists()


def test_a_run_is_evaluated_as_a_whole(run: Path, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture) -> None:
    """Model, task and sizes are the run's; the calibrated state is that of the run, and what was used is printed."""
    out = tmp_path / "out"
    assert main(["evaluate", "--adapter", str(run), "--out", str(out), "--costs", "abstain=0.3"]) == 0
    printed = capsys.readouterr()
    assert f"model {checkpoint('phi')}" in printed.err
    assert f"calibrated by {run / 'calibrator.json'}" in " ".join(printed.err.split())
    assert "Under these costs acting on the calibrated model" in " ".join(printed.out.split())
    for state in ("adapted", "calibrated"):
        stored = Run(out).posteriors(state).log_posteriors
        np.testing.assert_array_equal(stored, Run(run).posteriors(state).log_posteriors)
    assert yaml.safe_load((out / "evaluation.yaml").read_text())["costs"] == {"abstain": 0.3}
    assert Run(out).costs.decisions[-1] == "abstain"  # type: ignore[union-attr]
    # Wherever the folder goes, the calibrated state and the stated costs are taken.
    assert main(["metrics", str(out), "--replicates", "50"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "test, adapted and calibrated" in shown
    assert f"costs: a wrong choice 1, abstaining 0.3, as {out} states" in shown
    # On validation, where the calibrator was fitted, calibrated posteriors would look too good.
    assert main(["evaluate", "--adapter", str(run), "--split", "validation", "--out", str(tmp_path / "v")]) == 0
    assert "is not applied: it was fitted on the validation split" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "v" / "posteriors" / "validation-calibrated.parquet").exists()


def test_without_a_run_model_and_task_must_be_given(
    run: Path, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    out = ("--out", tmp_path / "out")
    assert "MODEL is missing, and there is no --adapter; give MODEL and TASK" in fails(capsys, "evaluate", *out)
    assert "TASK is missing" in fails(capsys, "evaluate", checkpoint("phi"), *out)
    copied = tmp_path / "adapter"
    shutil.copytree(run / "adapter" / "best", copied)
    assert "is an adapter without its run" in fails(capsys, "evaluate", "--adapter", copied, *out)
    costs = ("--costs", "abstain=2")
    assert "abstain is 2.0; expected a cost between 0 and 1" in fails(
        capsys, "evaluate", "--adapter", run, *costs, *out
    )
    (tmp_path / "costs.yaml").write_text("{classes: [happy, sad], costs: [[0, 1], [1, 0]]}")
    costs = ("--costs", str(tmp_path / "costs.yaml"))
    line = fails(capsys, "evaluate", "--adapter", run, *costs, *out)
    assert "costs have 2 rows but there are 3 classes" in line
    assert not (tmp_path / "out").exists()
