"""What is measured of a model's states, and how costs that are stated later change it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rango.decisions import Posteriors, StatedCosts, write_posteriors
from rango.errors import InputError
from rango.files import read_json, read_yaml, write_json, write_yaml
from rango.training.measurement import balance_of_run, deployed_state, measure, state_costs
from rango.training.run_folder import Run, posteriors_file
from rango.training.run_writer import as_json


def halves(right: float) -> Posteriors:
    """Two instances of two classes, each with this probability for its label."""
    return Posteriors.from_scores(np.log([[right, 1 - right], [1 - right, right]]), np.array([0, 1]))


def test_metrics_of_all_states_by_hand() -> None:
    """Priors 1/2 and 1/2: NCE is the mean of -log2 of the right class's posterior, and the prior-only system has 1."""
    metrics = measure({"base": halves(0.25), "adapted": halves(0.5**0.5)})
    assert list(metrics) == ["prior", "base", "adapted", "difference"]
    values = {state: metrics[state]["nce"].value for state in metrics}
    assert values == pytest.approx({"prior": 1.0, "base": 2.0, "adapted": 0.5, "difference": -1.5})
    assert metrics["base"]["error_rate"].value == 1
    assert metrics["adapted"]["error_rate"].value == 0
    assert metrics["adapted"]["cross_entropy"].value == pytest.approx(math.log(2) / 2)


def test_a_difference_needs_base_and_adapted() -> None:
    assert list(measure({"adapted": halves(0.5)})) == ["prior", "adapted"]
    assert list(measure({"base": halves(0.5), "floor": halves(0.9)})) == ["prior", "base", "floor"]


def test_intervals_are_those_of_the_seed() -> None:
    states = {"base": Posteriors.from_scores(np.log([[0.2, 0.8], [0.6, 0.4]] * 20), np.array([0, 1, 0, 1] * 10))}
    assert measure(states, seed=3) == measure(states, seed=3)
    one, other = (measure(states, seed=seed)["base"]["nce"] for seed in (3, 4))
    assert one.value == other.value
    assert one != other


def test_prior_only_under_costs_is_the_best_constant_decision() -> None:
    """Errors cost 1 and passing on 0.3: where both classes are as frequent, passing on always costs 0.3."""
    metrics = measure({"adapted": halves(0.9)}, costs=StatedCosts(abstain=0.3))
    prior, adapted = metrics["prior"], metrics["adapted"]
    assert (prior["expected_cost"].value, prior["normalised_expected_cost"].value) == pytest.approx((0.3, 1.0))
    assert (adapted["expected_cost"].value, adapted["normalised_expected_cost"].value) == (0.0, 0.0)
    unsure = measure({"adapted": halves(0.6)}, costs=StatedCosts(abstain=0.3))["adapted"]
    assert (unsure["expected_cost"].value, unsure["error_rate"].value) == pytest.approx((0.3, 0.0))


def test_what_one_would_deploy() -> None:
    assert deployed_state(["prior", "base", "adapted", "calibrated"]) == "calibrated"
    assert deployed_state({"base": 1, "adapted": 2}) == "adapted"
    assert deployed_state(["base", "floor"]) == "base"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run of two states without costs, as `rango finetune` leaves it."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 80)
    states = {}
    for state, weight in (("base", 0.2), ("adapted", 1.0)):
        scores = weight * (2 * np.stack([1 - labels, labels], axis=1) - 1) + generator.normal(size=(80, 2))
        states[state] = Posteriors.from_scores(scores, labels, choices=[("no", "yes")] * 80)
        write_posteriors(posteriors_file(tmp_path, state, "test"), states[state])
    write_json(tmp_path / "metrics.json", as_json({"test": measure(states, seed=4)}))
    write_yaml(tmp_path / "run.yaml", {"status": "complete", "config": {"seed": 4}, "notes": []})
    return Run(tmp_path)


def test_costs_stated_later_are_those_stated_at_once(run: Run) -> None:
    """The metrics of costs are what `measure` would have given under them, and nothing else changes."""
    before, costs = read_json(run.path / "metrics.json")["test"], StatedCosts(abstain=0.2)
    assert balance_of_run(run) is None
    assert state_costs(run, costs)
    assert not state_costs(Run(run.path), costs)
    assert read_yaml(run.path / "run.yaml")["costs"] == {"abstain": 0.2}
    states = {state: run.posteriors(state) for state in ("base", "adapted")}
    after = read_json(run.path / "metrics.json")["test"]
    at_once = as_json({"test": measure(states, seed=4, costs=costs)})["test"]
    for state, metrics in after.items():
        for name, entry in metrics.items():
            of_costs = name in ("expected_cost", "normalised_expected_cost")
            # Sums over a batch of other metrics are rounded differently.
            assert entry == (pytest.approx(at_once[state][name]) if of_costs else before[state][name])
    assert after["adapted"]["expected_cost"] != before["adapted"]["expected_cost"]
    # The verdict compares the very numbers of the table.
    balance = balance_of_run(Run(run.path))
    assert balance is not None
    assert balance.real.as_dict() == after["adapted"]["expected_cost"]
    assert balance.constant_cost == pytest.approx(after["prior"]["expected_cost"]["value"])


def test_costs_that_do_not_fit_change_nothing(run: Run) -> None:
    files = {name: (run.path / name).read_bytes() for name in ("metrics.json", "run.yaml")}
    with pytest.raises(InputError, match="costs have 3 rows but there are 2 classes"):
        state_costs(run, StatedCosts(costs=((0, 1, 1), (1, 0, 1), (1, 1, 0))))
    assert {name: (run.path / name).read_bytes() for name in files} == files


def test_without_labels_costs_are_kept_for_decisions_to_come(run: Run) -> None:
    write_json(run.path / "metrics.json", {"test": {}})
    assert state_costs(run, StatedCosts(abstain=0.2))
    assert read_json(run.path / "metrics.json") == {"test": {}}
    assert balance_of_run(Run(run.path)) is None
