"""`rango export`: what another person does with the folder gives the numbers of the run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.command import Capture, fails

from rango.cli import main
from rango.decisions import read_posteriors
from rango.training.run_folder import Run


def evaluated(command: list[str], out: Path, state: str) -> np.ndarray:
    assert main(["evaluate", *command, "--out", str(out), "--quiet"]) == 0
    return read_posteriors(out / "posteriors" / f"test-{state}.parquet").log_posteriors


@pytest.mark.usefixtures("plain_page")
def test_an_adapter_is_evaluated_as_the_run_was(run: Path, table: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "adapter")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "adapter")
    # Form, sizes and seeds come from the run.yaml in the folder.
    base = Run(run).config.model
    values = evaluated([base, str(table), "--adapter", str(tmp_path / "adapter")], tmp_path / "out", "adapted")
    np.testing.assert_array_equal(values, Run(run).posteriors("adapted").log_posteriors)


@pytest.mark.usefixtures("plain_page")
def test_the_command_of_the_card_evaluates_a_merged_model(run: Path, table: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert main(["export", str(run), "--merge", "--out", str(merged), "--quiet"]) == 0
    (line,) = [line for line in (merged / "README.md").read_text().splitlines() if "`rango evaluate THIS" in line]
    command = shlex.split(line.split("`")[1].replace("THIS", str(merged)).replace("TASK", str(table)))[2:-2]
    values = evaluated(command, tmp_path / "out", "base")
    np.testing.assert_allclose(values, Run(run).posteriors("adapted").log_posteriors, rtol=0, atol=1e-5)


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert "is not a folder" in fails(capsys, "export", tmp_path / "none", "--out", out)
    assert "give --merge" in fails(capsys, "export", run, "--out", out, "--dtype", "bfloat16")
    assert "expected ORG/NAME" in fails(capsys, "export", run, "--out", out, "--push-to-hub", "mood")
    (out / "notes.txt").parent.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "already holds other files" in fails(capsys, "export", run, "--out", out)
    assert (out / "notes.txt").read_text() == "mine"
