from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Costs, Posteriors, bayes_decisions, expected_costs, naive_cost
from rango.decisions.arrays import log_softmax
from rango.errors import InputError

seeds = st.integers(0, 100_000)


def random_case(seed: int, n: int = 40) -> tuple[np.random.Generator, np.ndarray, Costs]:
    rng = np.random.default_rng(seed)
    k, d = rng.integers(2, 6), rng.integers(2, 7)
    return rng, log_softmax(rng.normal(size=(n, k)) * 3), Costs(rng.uniform(-2, 5, size=(k, d)))


def decide_by_loops(logs: np.ndarray, matrix: np.ndarray) -> list[int]:
    chosen = []
    for row in np.exp(logs):
        risks = [sum(row[k] * matrix[k, d] for k in range(len(row))) for d in range(matrix.shape[1])]
        chosen.append(risks.index(min(risks)))
    return chosen


def test_by_hand() -> None:
    costs = Costs([[0, 1, 0.3], [5, 0, 0.3]])
    logs = np.log([[0.99, 0.01], [0.9, 0.1], [0.2, 0.8]])
    assert bayes_decisions(logs, costs=costs).tolist() == [0, 2, 1]
    np.testing.assert_allclose(expected_costs(logs, costs=costs)[1], [0.5, 0.9, 0.3])
    posteriors = Posteriors(logs, [0, 1, 0])
    assert posteriors.expected_cost(costs) == pytest.approx((0 + 0.3 + 1) / 3)
    # Always abstaining costs 0.3; always 0 costs 5/3, always 1 costs 2/3.
    assert posteriors.normalised_expected_cost(costs) == pytest.approx((1.3 / 3) / 0.3)


@given(seeds)
@settings(deadline=None, max_examples=60)
def test_decisions_are_those_of_loops(seed: int) -> None:
    _, logs, costs = random_case(seed)
    assert bayes_decisions(logs, costs=costs).tolist() == decide_by_loops(logs, costs.matrix)


@given(seeds)
@settings(deadline=None, max_examples=60)
def test_a_shift_of_each_row_changes_no_decision(seed: int) -> None:
    rng, logs, costs = random_case(seed)
    shifted = Costs(costs.matrix + rng.normal(size=(len(costs.classes), 1)) * 10)
    assert (bayes_decisions(logs, costs=costs) == bayes_decisions(logs, costs=shifted)).all()
    assert (bayes_decisions(logs, costs=costs) == bayes_decisions(logs, costs=costs.best_is_zero())).all()
    assert costs.best_is_zero().matrix.min(axis=1).tolist() == [0.0] * len(costs.classes)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_zero_one_costs_give_error_rate_and_argmax(seed: int) -> None:
    rng, logs, _ = random_case(seed)
    k = logs.shape[1]
    posteriors = Posteriors(logs, rng.integers(0, k, len(logs)))
    costs = Costs.zero_one(k)
    assert (bayes_decisions(logs, costs=costs) == logs.argmax(axis=1)).all()
    assert posteriors.expected_cost(costs) == posteriors.error_rate()
    expected = posteriors.error_rate() / (1 - posteriors.priors().max())
    assert posteriors.normalised_expected_cost(costs) == pytest.approx(expected)


def test_the_first_of_ties_wins_although_logarithms_round() -> None:
    # The risks are 0.3 by class 0 and 0.3 by abstaining; 0.2 + 0.1 and exp(ln q) round in the last digit.
    costs = Costs.zero_one(3).with_abstention(0.3)
    assert bayes_decisions(np.log([[0.7, 0.2, 0.1]]), costs=costs).tolist() == [0]
    assert bayes_decisions(np.log([[0.5, 0.5]]), costs=Costs.zero_one(2)).tolist() == [0]
    assert bayes_decisions(np.log([[0.25] * 4]), costs=Costs(2 * (1 - np.eye(4)))).tolist() == [0]


def test_tiny_posteriors_still_decide() -> None:
    costs = Costs([[0, 0], [2, 1]])
    with np.errstate(divide="ignore"):
        assert bayes_decisions(np.log([[1 - 1e-17, 1e-20]]), costs=costs).tolist() == [1]


def test_naive_cost_by_hand() -> None:
    costs = Costs([[0, 1], [5, 0]])
    assert float(naive_cost(np.array([0.9, 0.1]), costs=costs)) == pytest.approx(0.5)
    assert naive_cost(np.array([[0.9, 0.1], [0.5, 0.5]]), costs=costs).tolist() == pytest.approx([0.5, 0.5])


def test_class_weighted_and_equal_to_zero_one() -> None:
    assert Costs.class_weighted([1, 1, 1]).is_zero_one
    weighted = Costs.class_weighted([1, 4], classes=["a", "b"])
    assert weighted.matrix.tolist() == [[0, 1], [4, 0]]
    assert weighted.decisions == ("a", "b")


def test_costs_survive_yaml(tmp_path: Path) -> None:
    import yaml

    costs = Costs([[0, 1, 0.3], [5, 0, 0.3]], classes=["ham", "spam"], decisions=["keep", "drop", "ask"])
    path = tmp_path / "costs.yaml"
    path.write_text(yaml.safe_dump(costs.as_dict()))
    again = Costs.from_yaml(path)
    assert again.as_dict() == costs.as_dict()
    assert not again.matrix.flags.writeable


def test_decisions_default_to_classes_where_square() -> None:
    assert Costs.from_mapping({"classes": ["a", "b"], "costs": [[0, 1], [1, 0]]}).decisions == ("a", "b")
    assert Costs.from_mapping({"classes": ["a", "b"], "costs": [[0, 1, 2], [1, 0, 2]]}).decisions == ("0", "1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a, b]", "costs is missing; give one row for each true class"),
        ("cost: [[0, 1], [1, 0]]", "unknown key in {path} 'cost': did you mean 'costs'?"),
        ("costs: [[0, 1], [1]]", "{path}: costs are not a table of numbers"),
        ("costs: [[0, .inf], [1, 0]]", "{path}: costs[0][1] is inf; expected a finite number"),
        ("costs: [[0, .nan], [1, 0]]", "costs[0][1] is nan"),
        ("costs: [[0], [1]]", "costs have shape (2, 1); expected at least (2 classes, 2 decisions)"),
        ("costs: [0, 1]", "costs have shape (2,)"),
        ("classes: [a]\ncosts: [[0, 1], [1, 0]]", "1 classes are named but the costs have 2 rows"),
        ("decisions: [a, b, c]\ncosts: [[0, 1], [1, 0]]", "3 decisions are named but the costs have 2 columns"),
        ("classes: [a, a]\ncosts: [[0, 1], [1, 0]]", "classes name 'a' twice"),
        ("classes: ab\ncosts: [[0, 1], [1, 0]]", "classes is 'ab'; expected a list of names"),
    ],
)
def test_bad_costs_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message.format(path=path))):
        Costs.from_yaml(path)


def test_costs_of_another_task_are_refused() -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5]]), [0])
    with pytest.raises(InputError, match="costs have 3 rows but there are 2 classes"):
        posteriors.expected_cost(Costs.zero_one(3))
    with pytest.raises(InputError, match="costs have 3 rows but there are 2 classes"):
        expected_costs(posteriors.log_posteriors, costs=Costs.zero_one(3))
    with pytest.raises(InputError, match="2 weights for 3 classes"):
        Costs.class_weighted([1, 2], classes=["a", "b", "c"])
