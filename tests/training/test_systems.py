"""What a person names as a system: which posteriors are taken, what is said about it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.made_posteriors import make
from helpers.reports_run import RECORD, make_states, write_run

from rango.decisions import Posteriors, StatedCosts, write_posteriors
from rango.errors import InputError
from rango.files import write_yaml
from rango.training.run_folder import Run
from rango.training.systems import RAW, read_costs, read_priors, read_system


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {**RECORD, "costs": {"abstain": 0.2}}, make_states(40))


def test_of_a_run_what_one_would_act_on_is_taken_and_said(run: Path) -> None:
    posteriors, notes = read_system(str(run))
    assert posteriors.nce() == Run(run).posteriors("calibrated").nce()
    assert notes == (f"{run}, test, adapted and calibrated",)
    assert read_system(run, states=RAW)[1] == (f"{run}, test, adapted, not calibrated",)
    assert read_system(f"{run}:base")[1] == (f"{run}, test, base, not calibrated",)
    write_yaml(run / "run.yaml", {**RECORD, "status": "running"})
    with pytest.raises(InputError, match="is not complete; repeat its command"):
        read_system(run)


def test_notes_of_a_file_name_it_and_labels_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("target,p_0,p_1\n0,0.2,0.8\n")
    _, notes = read_system(tmp_path / "a.csv")
    assert all(note.startswith(f"{tmp_path}/a.csv: ") for note in notes)
    assert any("target is read as label" in note for note in notes)
    unlabelled = Posteriors(make(3, 2).log_posteriors, None)
    with pytest.raises(InputError, match="have no labels"):
        read_system(unlabelled)
    assert read_system(unlabelled, need_labels=False)[0] is unlabelled


def test_costs_are_the_given_ones_or_those_of_the_runs(run: Path, tmp_path: Path) -> None:
    assert read_costs(None, run) == (StatedCosts(abstain=0.2), (f"{StatedCosts(abstain=0.2).words}, as {run} states",))
    assert read_costs("abstain=0.4", run) == (StatedCosts(abstain=0.4), ())
    assert read_costs(None, make(3, 2)) == (None, ())
    other = write_run(tmp_path / "other", {**RECORD, "costs": {"abstain": 0.3}}, make_states(40))
    with pytest.raises(InputError, match="state different costs; say with --costs"):
        read_costs(None, run, f"{other}:base")


@pytest.mark.parametrize("text", ["1_0,0.5", "0.5;0.5", "0.5,no=0.5", "no=0.5,no=0.5", "no=1.0"])
def test_priors_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    posteriors = Posteriors(make(4, 2).log_posteriors, None, choices=[("no", "yes")] * 4)
    write_posteriors(tmp_path / "p.parquet", posteriors)
    with pytest.raises(InputError, match=r"--priors is '"):
        read_priors(text, posteriors, option="--priors")
    with pytest.raises(InputError, match="the posteriors name no classes"):
        read_priors({"no": 0.5, "yes": 0.5}, make(4, 2))
