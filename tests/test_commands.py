"""The commands as functions: what they take, that they agree with the functions below them, and what they refuse."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from helpers.made_posteriors import make
from helpers.reports_run import RECORD, make_states, write_run

import rango
from rango import decisions
from rango.cli import evaluate as evaluate_command
from rango.cli import posteriors as commands_of_posteriors
from rango.cli import predict as predict_command
from rango.cli import study as study_command
from rango.decisions import Costs, Posteriors, decide, fit_calibrator, summarise, write_posteriors
from rango.errors import InputError

COSTS = Costs.zero_one(3).with_abstention(0.3)


@pytest.fixture(scope="module")
def system() -> Posteriors:
    return make(120, 3, sharpness=2.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = {**RECORD, "costs": {"abstain": 0.3}}
    return write_run(tmp_path_factory.mktemp("commands") / "run", record, make_states(90))


def test_a_function_has_the_options_of_its_command() -> None:
    """Beside what a command writes and prints, what only a terminal or a cluster needs, and more than one call."""
    not_in_python = {
        "language",
        "out",
        "quiet",
        "ray",
        "gpus",
        "dry_run",
        "replicates",
        "seed",
        "sources",
        "source",
    }
    commands = {
        "metrics": commands_of_posteriors.metrics,
        "decide": commands_of_posteriors.decide,
        "compare": commands_of_posteriors.compare,
        "predict": predict_command.predict,
        "study": study_command.study,
    }
    for name, command in commands.items():
        options = set(inspect.signature(command).parameters) - not_in_python
        assert options <= set(inspect.signature(getattr(rango, name)).parameters), name
    assert callable(evaluate_command.evaluate)


def test_metrics_are_those_of_summarise_and_one_is_taken_by_its_name(system: Posteriors) -> None:
    table = rango.metrics(system, replicates=100)
    assert table == summarise(system, replicates=100)
    nce = table["nce"]
    assert nce.value == system.nce()
    assert nce.low is not None
    assert str(nce) == f"{nce.value:.3f} [{nce.low:.3f}, {nce.high:.3f}]"


def test_metrics_show_themselves_and_become_a_frame(system: Posteriors) -> None:
    table = rango.metrics(system, costs=COSTS, replicates=50)
    lines = repr(table).splitlines()
    assert lines[0].split() == ["value", "95%", "interval"]
    assert lines[-1].startswith("120 instances")
    assert "<table" in table._repr_html_()
    frame = table.to_frame("polars")
    assert frame.columns == ["metric", "value", "low", "high", "n", "direction", "note"]
    assert dict(zip(frame["metric"], frame["value"], strict=True))["nce"] == table["nce"].value


def test_a_system_is_a_file_a_frame_a_run_or_a_state(system: Posteriors, run: Path, tmp_path: Path) -> None:
    write_posteriors(tmp_path / "system.parquet", system)
    values = [
        rango.metrics(source, replicates=0)["nce"].value
        for source in (system, tmp_path / "system.parquet", str(tmp_path / "system.parquet"))
    ]
    assert values == [system.nce()] * 3
    assert rango.metrics(system.to_frame("pyarrow"), replicates=0)["nce"].value == pytest.approx(system.nce())
    opened = rango.Run(run)
    calibrated = opened.posteriors("calibrated").nce()
    assert rango.metrics(run, replicates=0)["nce"].value == calibrated
    assert rango.metrics(opened, replicates=0)["nce"].value == calibrated
    assert rango.metrics(f"{run}:base", replicates=0)["nce"].value == opened.posteriors("base").nce()


def test_decisions_are_taken_under_the_costs_that_are_given_or_those_of_the_run(system: Posteriors, run: Path) -> None:
    taken = rango.decide(system, costs=COSTS)
    np.testing.assert_array_equal(taken.chosen, decide(system, costs=COSTS).chosen)
    for same in ("abstain=0.3", {"abstain": 0.3}):
        np.testing.assert_array_equal(rango.decide(system, costs=same).chosen, taken.chosen)
    assert rango.decide(run).names[-1] == "abstain"
    assert list(taken.to_frame().columns) == ["id", "decision", "expected_cost", "runner_up", "runner_up_cost"]
    assert "mean expected cost" in repr(taken)
    with pytest.raises(InputError, match="costs are missing, and no run states them"):
        rango.decide(system)
    with pytest.raises(InputError, match="training_priors without priors"):
        rango.decide(system, costs=COSTS, training_priors=[0.2, 0.3, 0.5])


def test_priors_are_numbers_or_names(run: Path) -> None:
    opened = rango.Run(run).posteriors("adapted")
    assert opened.column_names is not None
    first, second, third = opened.column_names
    by_name = {third: 0.5, first: 0.2, second: 0.3}
    for priors in ([0.2, 0.3, 0.5], by_name, "0.2,0.3,0.5"):
        value = rango.metrics(opened, priors=priors, replicates=0)["nce"].value
        assert value == opened.nce(priors=[0.2, 0.3, 0.5])
    with pytest.raises(InputError, match="unknown class in priors 'zero'"):
        rango.metrics(opened, priors={**by_name, "zero": 0.0})


def test_a_comparison_says_what_differs(system: Posteriors) -> None:
    other = system.replaced(make(120, 3, sharpness=1.0).log_posteriors)
    comparison = rango.compare(system, other, replicates=100)
    assert "instances" in comparison.sentence()
    assert repr(comparison).startswith("Comparison(120 shared instances, NCE ")
    assert "b − a" in comparison._repr_html_()


def test_several_systems_are_each_compared_with_the_first_and_shown_on_a_page(
    system: Posteriors, run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    rango.compare(f"{run}:base", rango.Run(run), page=page, replicates=50)
    text = page.read_text(encoding="utf-8")
    assert 'id="disagreements"' in text
    assert "costs are stated" in text
    other = system.replaced(make(120, 3, sharpness=1.0).log_posteriors)
    several = rango.compare(system, other, system, replicates=50)
    assert list(several) == ["system 2", "system 3"]
    assert several["system 2"].difference["nce"] == rango.compare(system, other, replicates=50).difference["nce"]
    with pytest.raises(InputError, match="page shows the instances as they are; leave priors out, or page"):
        rango.compare(system, other, page=page, priors=[0.2, 0.3, 0.5])


def test_a_gate_is_chosen_on_validation_and_judged_on_test_of_a_run(run: Path) -> None:
    states, names = make_states(80, seed=5), [f"v{number}" for number in range(80)]
    for key in ("adapted", "calibrated"):
        each = states[key]
        held_out = Posteriors(each.log_posteriors, each.labels, names, None, each.choices)
        write_posteriors(run / "posteriors" / f"validation-{key}.parquet", held_out)
    chosen = rango.gate(run, replicates=0)
    fitting, test = (rango.Run(run).posteriors("calibrated", split) for split in ("validation", "test"))
    assert chosen.as_dict() == decisions.gate(fitting, costs="abstain=0.3", replicates=0).as_dict()
    assert rango.judge(chosen, run, replicates=0) == decisions.judge(chosen, test, replicates=0)
    assert rango.gate(f"{run}:adapted", max_error=0.3, replicates=0).max_error == 0.3
    with pytest.raises(InputError, match="a gate has one aim"):
        rango.gate(fitting)


def test_calibration_gives_the_posteriors_and_what_made_them(system: Posteriors) -> None:
    held_out = make(150, 3, seed=7, sharpness=2.0)
    named = Posteriors(held_out.log_posteriors, held_out.labels, ids=[f"v{n}" for n in range(150)])
    done = rango.calibrate(fit=named, apply=system, method="temperature")
    expected = fit_calibrator(named, method="temperature")
    assert done.calibrator == expected
    np.testing.assert_array_equal(done.posteriors.log_posteriors, expected.apply(system).log_posteriors)
    again = rango.calibrate(apply=system, calibrator=done.calibrator)
    np.testing.assert_array_equal(again.posteriors.log_posteriors, done.posteriors.log_posteriors)
    with pytest.raises(InputError, match="hold the same posteriors"):
        rango.calibrate(fit=system, apply=system, method="bias")
    with pytest.raises(InputError, match="--fit is missing"):
        rango.calibrate(apply=system)


def test_two_splits_with_the_priors_for_each_instance_are_not_taken_for_one() -> None:
    labels = [0, 1, 2] * 20
    priors = [np.full((60, 3), 1 / 3)] * 2
    fit, apply = (
        Posteriors.from_probabilities(array, labels, ids=[f"{split}{n}" for n in range(60)])
        for split, array in zip("vt", priors, strict=True)
    )
    assert len(rango.calibrate(fit=fit, apply=apply, method="temperature").posteriors) == 60
    with pytest.raises(InputError, match=r"60 of the 60 ids in --apply are in --fit too"):
        rango.calibrate(fit=fit, apply=fit, method="temperature")


def test_a_study_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers is 0"):
        rango.study(tmp_path / "none.yaml", workers=0)
    with pytest.raises(InputError, match=r"none\.yaml"):
        rango.study(tmp_path / "none.yaml")
