"""Reading a study folder back: what cannot be read of one cell is that cell's reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.studies_made import make_system, make_truth

from rango.cli import main
from rango.decisions import Posteriors
from rango.errors import InputError
from rango.files import write_yaml
from rango.results.outcomes import read_outcomes
from rango.studies.plan import Plan, plan_study
from rango.studies.store import Store
from rango.studies.study import Study


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Plan, Store]:
    """Two models with two ranks, and an ensemble of one of them; only the first model is a configuration too."""
    base = {"task": "simulated", "train": 30, "validation": 20, "test": 25}
    runs = [
        {"model": "a", "adaptation": "none"},
        *({"model": model, "lora.rank": rank} for model in "ab" for rank in (1, 2)),
        {"model": "b", "lora.rank": 2, "adaptation": "ensemble", "members": 2},
    ]
    plan, store = plan_study(Study.build({"name": "s", "base": base, "runs": runs}), tmp_path), Store(tmp_path)
    store.write_plan(plan)
    (tmp_path / "study.yaml").write_text("base: {}\n")
    for number, job in enumerate(plan.jobs):
        posteriors = make_system(make_truth(40), scale=0.5, noise=0.2, seed=number)
        store.write_posteriors(job, "test", "base" if job.kind == "base" else "adapted", posteriors)
        if job.kind == "run":
            write_yaml(store.folder(job) / "run.yaml", {"status": "complete"})
        else:
            store.write_posteriors(job, "validation", "base", posteriors)
    return plan, store


def test_the_bases_that_no_configuration_stands_for_are_read_too(trained: tuple[Plan, Store]) -> None:
    plan, store = trained
    study = read_outcomes(store.path)
    bases = {job.config.model: job.id for job in plan.jobs if job.kind == "base"}
    assert [outcome.base for outcome in study.outcomes] == [bases[name] for name in "aaabbb"]
    (base,) = study.bases
    # Its axes are those that mean something to a base, so no rank.
    assert (base.axes, base.base) == ({"model": "b", "adaptation": "none"}, bases["b"])
    assert base.posteriors[0].ids == study.outcomes[0].posteriors[0].ids
    # One that has not been scored yet is left out.
    store.posteriors_file(plan.by_id[bases["b"]], "test", "base").unlink()
    assert read_outcomes(store.path).bases == ()


def test_pages_of_runs_are_written_on_demand_and_then_belong_to_their_rows(
    trained: tuple[Plan, Store], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, store = trained
    assert not any(outcome.pages for outcome in read_outcomes(store.path).outcomes)
    written = []

    def page_of_run(folder: Path, *, language: str) -> Path:
        assert language == "en"
        written.append(folder)
        if len(written) == 1:
            raise InputError("its log is damaged")
        (folder / "report.html").write_text("page")
        return folder / "report.html"

    monkeypatch.setattr("rango.reports.run.page.write_report", page_of_run)
    monkeypatch.setattr("rango.reports.study.report.study_figures", lambda *_: {})
    monkeypatch.setattr(
        "rango.reports.study.report.render_study_page", lambda study, _, **__: str(study.outcomes[2].pages)
    )
    assert main(["report", str(store.path), "--runs"]) == 0
    printed = capsys.readouterr().out
    assert written == [store.folder(job) for job in plan.jobs if job.kind == "run"]
    assert f"{written[0]}: no page: its log is damaged" in printed
    assert f"\n{written[1]}/report.html\n" in printed
    none, broken, whole, *_, ensemble = read_outcomes(store.path).outcomes
    assert none.pages == broken.pages == {}
    assert whole.pages == {"seed 0": f"runs/{written[1].name}/report.html"}
    assert list(ensemble.pages) == ["seed 0, member 0", "seed 0, member 1"]
    assert written[1].name in (store.path / "report.html").read_text(), "the pages of runs are written first"
    assert main(["report", str(written[1]), "--runs"]) == 2
    assert f"--runs is for a study, and {written[1]} is a run; leave --runs out" in capsys.readouterr().err


def test_a_posterior_of_zero_is_the_reason_of_the_matrix_alone(tmp_path: Path) -> None:
    base = {"model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25}
    runs = [{"adaptation": "none"}, *({"adaptation": "calibration", "calibrator": way} for way in ("matrix", "bias"))]
    plan, store = plan_study(Study.build({"name": "s", "base": base, "runs": runs}), tmp_path), Store(tmp_path)
    store.write_plan(plan)
    with np.errstate(divide="ignore"):
        some = Posteriors(np.log([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]), np.array([0, 2, 1]))
    for split in ("validation", "test"):
        store.write_posteriors(plan.jobs[0], split, "base", some)
    none, matrix, bias = read_outcomes(tmp_path).outcomes
    assert "has a choice of posterior 0; a matrix calibrator needs every choice" in matrix.failures[0]
    assert not matrix.posteriors
    assert none.posteriors.keys() == bias.posteriors.keys() == {0}
