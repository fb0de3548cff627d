"""Gates: the Bayes rule where posteriors are calibrated, what is refused, and files that are read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

import rango
from rango.decisions import Costs, Gate, Posteriors, gate
from rango.errors import InputError

CLASSES = ["keep", "return", "exchange"]


def named(n: int = 400, *, seed: int = 0, sharpness: float = 2.0) -> Posteriors:
    made = make(n, seed=seed, sharpness=sharpness)
    return Posteriors(made.log_posteriors, made.labels, choices=[CLASSES] * n)


def calibrated(tenths: list[int]) -> Posteriors:
    """Ten instances for each number: of posterior number / 10 for class 0, which that many of the ten have."""
    rows = [[tenth / 10, 1 - tenth / 10] for tenth in tenths for _ in range(10)]
    return Posteriors.from_probabilities(rows, [int(i >= tenth) for tenth in tenths for i in range(10)])


@given(st.lists(st.integers(5, 10), min_size=1, max_size=6), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_on_calibrated_posteriors_a_gate_is_the_bayes_rule(tenths: list[int], cost: int) -> None:
    posteriors = calibrated(tenths)
    chosen = gate(posteriors, costs=f"abstain={cost / 10}", replicates=0)
    top = np.exp(posteriors.log_posteriors).max(axis=1)
    np.testing.assert_array_equal(chosen.decide(posteriors).acts, top >= 1 - cost / 10 - 1e-9)
    assert chosen.bayes_threshold == pytest.approx(1 - cost / 10)


@given(st.integers(0, 5), st.floats(0.02, 0.5), st.floats(0.02, 0.5))
@settings(deadline=None, max_examples=20)
def test_coverage_falls_with_the_threshold(seed: int, one: float, other: float) -> None:
    posteriors = make(300, seed=seed)
    few, many = (gate(posteriors, max_error=error, replicates=0) for error in sorted((one, other)))
    assert few.threshold >= many.threshold
    assert few.decide(posteriors).acts.sum() <= many.decide(posteriors).acts.sum()


def test_costs_by_which_errors_differ_measure_what_acting_saves() -> None:
    """keep where it is a return costs 5, asking costs 1: of four instances one is better passed on."""
    costs = Costs([[0, 1, 1], [5, 0, 1]], classes=["keep", "return"], decisions=["keep", "return", "ask"])
    posteriors = Posteriors.from_probabilities([[0.95, 0.05], [0.1, 0.9], [0.5, 0.5], [0.2, 0.8]], [0, 1, 0, 1])
    chosen = gate(posteriors, costs=costs, replicates=0)
    assert not chosen.by_confidence
    assert chosen.pass_on == "ask"
    decided = chosen.decide(posteriors)
    # Expected cost of the best acting decision less 1: 0.25, 0.1, 0.5 and 0.2 less 1.
    np.testing.assert_allclose(decided.doubt, [-0.75, -0.9, -0.5, -0.8])
    # The doubtful third is decided wrongly (return, where it is keep): it costs 1, as asking does, so it is acted on.
    assert decided.acts.tolist() == [True] * 4
    assert [row["act"] for row in decided.rows()] == ["yes"] * 4
    assert chosen.bayes_threshold == 0.0


def test_thresholds_of_classes_gate_these_classes_alone() -> None:
    posteriors = named(2000)
    chosen = gate(posteriors, precision={"return": 0.65}, replicates=0)
    decided = chosen.decide(posteriors)
    of_class = decided.chosen == CLASSES.index("return")
    assert 0 < decided.acts[of_class].sum() < of_class.sum()
    assert decided.acts[~of_class].all()
    right = posteriors.labels[decided.acts & of_class] == CLASSES.index("return")
    assert right.mean() > 0.65
    assert next(row for row in decided.rows() if row["act"] == "no")["decision"] == "pass on"


def test_an_aim_out_of_reach_passes_everything_on() -> None:
    chosen = gate(make(200), max_error=0.001, replicates=20)
    assert chosen.limit == -math.inf
    assert chosen.as_dict()["threshold"] == "never"
    assert chosen.choice.unreached == 1.0
    assert not chosen.decide(make(200)).acts.any()


@pytest.mark.parametrize(
    "aim", [{"costs": "abstain=0.2"}, {"max_error": 0.2}, {"precision": {"keep": 0.7, "return": 0.9}}]
)
def test_a_file_is_read_back_as_it_was(aim: dict[str, Any], tmp_path: Path) -> None:
    posteriors = named()
    chosen = rango.gate(posteriors, **aim, replicates=20)
    chosen.write(tmp_path / "gate.json")
    read = Gate.load(tmp_path / "gate.json")
    assert read.as_dict() == chosen.as_dict()
    np.testing.assert_array_equal(read.decide(posteriors).acts, chosen.decide(posteriors).acts)
    assert json.loads((tmp_path / "gate.json").read_text())["fitted_on"]["n"] == 400


def test_the_order_of_the_columns_does_not_matter() -> None:
    posteriors = named()
    turned = Posteriors(posteriors.log_posteriors[:, ::-1], 2 - posteriors.labels, choices=[CLASSES[::-1]] * 400)
    chosen = gate(posteriors, precision={"return": 0.8}, replicates=0)
    np.testing.assert_array_equal(chosen.decide(turned).acts, chosen.decide(posteriors).acts)


def test_the_choice_says_how_sure_it_is() -> None:
    few, many = (gate(make(n, sharpness=1.0), costs="abstain=0.3", replicates=100) for n in (100, 5000))
    widths = [chosen.choice.high - chosen.choice.low for chosen in (few, many)]  # type: ignore[operator]
    assert widths[1] < widths[0]
    assert abs(many.threshold - 0.7) < 0.1


@pytest.mark.parametrize(
    ("aim", "message"),
    [
        ({}, "a gate has one aim"),
        ({"max_error": 0.1, "costs": "abstain=0.2"}, "a gate has one aim"),
        ({"max_error": 1.5}, r"max_error is 1.5; expected a fraction between 0 and 1"),
        ({"max_error": 0.1, "level": 1.0}, "level is 1.0"),
        ({"precision": {"kep": 0.9}}, "unknown class in precision 'kep': did you mean 'keep'"),
        ({"precision": {"keep": 1.0}}, "precision of 'keep' is 1"),
        ({"costs": Costs.zero_one(CLASSES)}, "the costs have 0 decisions that name no class"),
        ({"costs": "abstain=0.2", "pass_on": "ask"}, "unknown decision of the costs 'ask'"),
        ({"max_error": 0.1, "pass_on": "ask"}, "pass_on is 'ask' without costs"),
    ],
)
def test_what_is_refused(aim: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gate(named(50), **aim)


def test_instances_without_labels_choose_nothing() -> None:
    with pytest.raises(InputError, match="no labels"):
        gate(Posteriors(named(5).log_posteriors, None), max_error=0.1)


def test_a_gate_refuses_posteriors_of_other_choices() -> None:
    chosen = gate(named(100), max_error=0.4, replicates=0)
    others = Posteriors(named(5).log_posteriors, None, choices=[["a", "b", "c"]] * 5)
    with pytest.raises(InputError, match="was chosen on keep, return, exchange, but the posteriors are of a, b, c"):
        chosen.decide(others)
    with pytest.raises(InputError, match="was chosen on 3 choices, but the posteriors have 2"):
        chosen.decide(make(5, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is no gate"),
        ('{"format": "rango gate", "version": 9}', "has version 9"),
        ('{"format": "rango gate", "version": 1, "costs": null}', "is no whole gate"),
    ],
)
def test_a_file_that_is_no_gate_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Gate.load(tmp_path / "gate.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("aim", 0.0),
        ("aim", ["costs"]),
        ("level", 1.5),
        ("level", True),
        ("max_error", [0.5]),
        ("precision", {"keep": "0.5"}),
        ("n_choices", math.inf),
        ("n_choices", 4),
        ("fitted_on", {"n": 1.5, "fingerprint": "x", "low": None, "high": None, "unreached": 0.0}),
        ("fitted_on", {"n": 9, "fingerprint": "x", "low": [], "high": None, "unreached": 0.0}),
    ],
)
def test_a_value_of_another_kind_is_refused_when_a_gate_is_read(key: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    gate(named(60), max_error=0.3).write(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError, match="is no whole gate"):
        Gate.load(file)
