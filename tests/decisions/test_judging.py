"""Judging gates: by hand, on other instances, out of bag, and by group."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import Estimate, Judgement, Posteriors, gate, judge, judge_out_of_bag
from rango.errors import InputError


def test_coverage_error_and_cost_by_hand() -> None:
    """Chosen on calibrated instances the gate acts from 0.9 on; of the four judged that are two, one of them wrong."""
    fit = Posteriors.from_probabilities([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, [0] * 9 + [1] + [0, 1] * 5)
    chosen = gate(fit, costs="abstain=0.3")
    rows = [[0.95, 0.05], [0.09, 0.91], [0.7, 0.3], [0.4, 0.6]]
    judged = judge(chosen, Posteriors.from_probabilities(rows, [0, 0, 0, 0]), replicates=200)
    assert (judged.coverage.value, judged.error.value, judged.error.n) == (0.5, 0.5, 2)
    values = {name: round(cost.value, 9) for name, cost in judged.costs.items()}
    # The Bayes rule acts on the third too (0.7), which is right: (0 + 1 + 0 + 0.3) / 4.
    assert values == {"gate": 0.4, "Bayes rule": 0.325, "act on all": 0.5, "pass on all": 0.3}
    assert judged.as_dict()["held_out"] is True


def test_a_judgement_shows_itself_in_a_line_and_its_costs_in_a_table() -> None:
    estimate = Estimate(0.25, 0.125, 0.5, 8, "lower")
    shown = Judgement(estimate, Estimate(0.5, 0.25, 0.75, 2, "lower"), costs={"gate": estimate}, held_out=False)
    assert repr(shown) == "Judgement(acts on 0.250 [0.125, 0.500], error 0.500 [0.250, 0.750], 8 instances out of bag)"
    assert "cost of gate" in shown._repr_html_()


def test_the_instances_it_was_chosen_on_do_not_judge_it() -> None:
    fit = make(200)
    with pytest.raises(InputError, match="these very instances"):
        judge(gate(fit, max_error=0.3, replicates=0), fit)


def test_groups_are_judged_one_by_one_where_they_are_few() -> None:
    fit, test = make(600, sharpness=1.0), make(300, seed=1, sharpness=1.0)
    groups = ["north" if row % 3 else "south" for row in range(300)]
    grouped = Posteriors(test.log_posteriors, test.labels, groups=groups)
    chosen = gate(fit, max_error=0.3, replicates=0)
    judged = judge(chosen, grouped, replicates=200)
    assert set(judged.groups) == {"north", "south"}
    # The whole is the mean of its parts, weighted by what is acted on.
    parts = judged.groups.values()
    assert sum(part.coverage.value * part.coverage.n for part in parts) / 300 == pytest.approx(judged.coverage.value)
    assert sum(part.error.value * part.error.n for part in parts) / judged.error.n == pytest.approx(judged.error.value)
    alone = judge(chosen, test.take(np.flatnonzero(np.array(groups) == "south")), replicates=0)
    assert judged.groups["south"].error == alone.error
    contexts = Posteriors(test.log_posteriors, test.labels, groups=[str(row // 2) for row in range(300)])
    assert judge(chosen, contexts, replicates=50).groups == {}


def test_out_of_bag_is_as_a_fresh_test_says() -> None:
    """The mean out of bag lies close to what many fresh instances show, and its interval holds that."""
    fit, fresh = make(800, sharpness=1.0), make(20_000, seed=5, sharpness=1.0)
    chosen = gate(fit, costs="abstain=0.3", replicates=0)
    bag, test = judge_out_of_bag(chosen, fit, replicates=100), judge(chosen, fresh, replicates=50)
    assert not bag.held_out
    for name in ("gate", "act on all"):
        low, high = bag.costs[name].low, bag.costs[name].high
        assert low is not None
        assert high is not None
        assert low < test.costs[name].value < high
    assert abs(bag.costs["gate"].value - test.costs["gate"].value) < 0.03


def test_a_gate_that_never_acts_has_no_error() -> None:
    judged = judge(gate(make(100), max_error=0.001, replicates=0), make(50, seed=1))
    assert judged.coverage.value == 0
    assert np.isnan(judged.error.value)
    assert judged.error.note == "undefined: no instance is acted on"
