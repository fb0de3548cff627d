"""How objects show themselves: one short line, and HTML that escapes everything and never raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.made_posteriors import make
from helpers.reports_run import make_states, write_run
from helpers.toy import class_task

from rango.commands import calibrate
from rango.decisions import CALIBRATORS, Costs, Posteriors, fit_calibrator
from rango.results.outcomes import Outcome
from rango.results.table import study_table
from rango.showing import Grid, Shown
from rango.studies.study import Study
from rango.training.run_folder import Run
from rango.training.verification import Verification


class Hostile(Shown):
    def _facts(self) -> Iterator[str]:
        yield "<script>alert(1)</script>"
        yield "two\nlines\x1b[31m"
        yield "x" * 500
        raise ValueError("the folder has gone")

    def _grid(self) -> Grid:
        return Grid([f"<{n}>" for n in range(40)], [["<b>"] * 40 for _ in range(50)])


def test_whatever_a_text_holds_it_is_one_line_and_no_markup() -> None:
    shown, html = repr(Hostile()), Hostile()._repr_html_()
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert len(shown) < 300
    assert shown.endswith("not all can be read)")
    assert "<script" not in html
    assert "<b>Hostile</b>" in html
    assert html.count("<b>") == 1
    assert "… and 30 more rows" in html
    assert "… and 28 more columns" in html


def test_posteriors_say_their_size_and_what_they_are_worth() -> None:
    posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1], choices=[["no", "yes"]] * 3)
    assert repr(posteriors) == f"Posteriors(3 instances, no, yes, NCE {posteriors.nce():.3f}, error rate 0.333)"
    assert "0.800" in posteriors._repr_html_()
    unlabelled = Posteriors(np.log([[0.8, 0.2]]), None)
    assert repr(unlabelled) == "Posteriors(1 instance, 2 choices, no labels)"
    assert "label" not in unlabelled._repr_html_().replace("no labels", "")


def test_a_task_is_one_line_and_counts_its_classes() -> None:
    task = class_task()
    assert len(repr(task)) < 200
    assert repr(task).startswith(f"Task('{task.name}', 60 train, 30 validation, 30 test, ")
    assert task.classes is not None
    assert all(name in task._repr_html_() for name in task.classes)


def test_costs_show_their_matrix() -> None:
    costs = Costs([[0, 1, 0.3], [5, 0, 0.3]], classes=["ham", "spam"], decisions=["keep", "drop", "ask"])
    assert repr(costs) == "Costs(2 classes, 3 decisions, from 0 to 5)"
    assert repr(Costs.zero_one(2)) == "Costs(2 classes, 2 decisions, errors cost 1)"
    assert "<td" in costs._repr_html_()
    assert ">0.3<" in costs._repr_html_()


@pytest.mark.parametrize("method", CALIBRATORS)
def test_a_calibrator_says_how_it_was_fitted(method: str) -> None:
    posteriors = make(200, 2)
    fitted = fit_calibrator(posteriors, method=method)  # type: ignore[arg-type]
    assert repr(fitted).startswith(f"{type(fitted).__name__}(")
    assert "fitted on 200 instances" in repr(fitted)
    assert len(repr(fitted)) < 120
    assert "nats" in fitted._repr_html_()


def test_a_calibration_says_by_what_and_what_it_was_worth() -> None:
    fit, apply = make(n=60, seed=1), make(n=40, seed=2)
    done = calibrate(fit=fit, apply=apply, method="temperature")
    shown = repr(done)
    assert shown.startswith("Calibration(Temperature(")
    assert f"applied to 40 instances, NCE {done.raw.nce():.3f} to {done.posteriors.nce():.3f})" in shown
    assert f">{done.posteriors.brier():.3f}<" in done._repr_html_()
    bare = calibrate(calibrator=done.calibrator, apply=Posteriors(apply.log_posteriors, None))
    assert repr(bare).endswith("applied to 40 instances)")
    assert "<table" not in bare._repr_html_()


def test_a_verification_lists_its_faults() -> None:
    assert "12 files as written" in repr(Verification(12, 0, 5, ()))
    assert "<table" not in Verification(12, 0, 5, ())._repr_html_()
    html = Verification(11, 0, 5, ("run.yaml is damaged",))._repr_html_()
    assert "1 fault" in html
    assert "run.yaml is damaged" in html


def test_a_run_shows_its_states_and_survives_its_folder(tmp_path: Path) -> None:
    record = {"status": "complete", "seconds": 12.3, "config": {"model": "gpt2", "task": "simulated"}}
    run = Run(write_run(tmp_path / "run", record, make_states(60)))
    assert repr(run) == f"Run('{run.path}', complete, gpt2 on simulated, 12 s)"
    assert "adapted" in run._repr_html_()
    assert "[" in run._repr_html_()
    other = Run(run.path)
    (run.path / "run.yaml").write_text("status: [", encoding="utf-8")
    (run.path / "metrics.json").write_text("{", encoding="utf-8")
    assert "not all can be read" in repr(other)
    assert "not all can be read" in other._repr_html_()


def test_a_study_and_its_table_name_what_varies() -> None:
    study = Study.build({"name": "ranks", "vary": {"lora.rank": [2, 4, 8]}, "seeds": [0, 1]})
    assert repr(study) == "Study('ranks', 3 configurations, 2 seeds, select nce)"
    assert "2, 4, 8" in study._repr_html_()
    outcomes = [Outcome({"lora.rank": rank}, {0: make(80, seed=0, sharpness=rank)}) for rank in (1, 3)]
    table = study_table(outcomes, select="nce", replicates=20)
    assert repr(table).startswith("StudyTable(2 configurations, best by nce: ")
    assert "rank 3" in table._repr_html_()
