from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import (
    Costs,
    Posteriors,
    bayes_decisions,
    decide,
    expected_costs,
    naive_cost,
    risk_coverage,
    risk_curve,
    summarise,
)
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
        (
            "classes: [true, b]\ncosts: [[0, 1], [1, 0]]",
            "classes[0] is True; expected a name, put it in quot",
        ),
        ("decisions: [a, ~]\ncosts: [[0, 1], [1, 0]]", "{path}: decisions[1] is None; expected a name"),
        ("costs: [[0, true], [1, 0]]", "{path}: costs[0][1] is True; expected a finite number"),
        ("costs: [[0, '0.5'], [1, 0]]", "costs[0][1] is '0.5'; expected a finite number"),
        (f"costs: [[0, 1{'0' * 309}], [1, 0]]", "{path}:1: a number has too many digits; shorten it"),
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


def test_words_that_yaml_takes_for_booleans_stay_names(tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text("classes: [no, yes]\ndecisions: [on, Off, y]\ncosts: [[0, 1, 2], [1, 0, 2]]\n")
    costs = Costs.from_yaml(tmp_path / "costs.yaml")
    assert (costs.classes, costs.decisions) == (("no", "yes"), ("on", "Off", "y"))


def shuffled_case() -> tuple[Posteriors, Costs, Costs]:
    """Posteriors over three named classes, their costs in the same order, and the same costs in another order."""
    names, decisions = ["billing", "technical", "account"], ["billing", "technical", "account", "human"]
    matrix = np.array([[0, 1, 2, 0.4], [5, 0, 1, 0.4], [1, 3, 0, 0.4]])
    logs = log_softmax(np.random.default_rng(3).normal(size=(60, 3)) * 2)
    posteriors = Posteriors(logs, np.arange(60) % 3, choices=[names] * 60)
    order = [2, 0, 1]
    other = Costs(matrix[order], classes=[names[row] for row in order], decisions=decisions)
    return posteriors, Costs(matrix, classes=names, decisions=decisions), other


def test_costs_are_matched_to_the_choices_by_name() -> None:
    posteriors, costs, other = shuffled_case()
    assert (decide(posteriors, costs=costs).chosen == decide(posteriors, costs=other).chosen).all()
    for metric in ("expected_cost", "normalised_expected_cost"):
        expected = posteriors.metric(metric, costs=costs)
        assert posteriors.metric(metric, costs=other) == expected
        assert summarise(posteriors, costs=other, metrics=[metric], replicates=0)[metric].value == expected
    for each in (costs, other):
        assert risk_coverage(posteriors, costs=each).area == risk_coverage(posteriors, costs=costs).area
        assert risk_curve(posteriors, family=[each]).naive == risk_curve(posteriors, family=[costs]).naive


def test_classes_that_are_no_choices_are_refused() -> None:
    posteriors, costs, _ = shuffled_case()
    wrong = Costs(costs.matrix, classes=["billing", "tecnical", "account"], decisions=costs.decisions)
    with pytest.raises(InputError, match="unknown class of the costs 'tecnical': did you mean 'technical'"):
        decide(posteriors, costs=wrong)
    with pytest.raises(InputError, match="unknown class of the costs 'tecnical'"):
        posteriors.expected_cost(wrong)


def test_costs_are_taken_by_place_only_where_one_side_has_no_names() -> None:
    posteriors, costs, other = shuffled_case()
    unnamed = Posteriors(posteriors.log_posteriors, posteriors.labels)
    assert unnamed.match_costs(other) is other
    assert posteriors.match_costs(Costs(other.matrix)).matrix is not None
    # Numbers stand for columns, unless they are choices.
    numbered = Costs(other.matrix, classes=["0", "1", "2"])
    assert posteriors.match_costs(numbered) is numbered
    stars = Posteriors(posteriors.log_posteriors, posteriors.labels, choices=[["2", "1", "0"]] * 60)
    assert (stars.match_costs(numbered).matrix == other.matrix[::-1]).all()
    assert stars.match_costs(Costs(other.matrix)).matrix.tolist() == other.matrix.tolist()
    # Instances with choices of their own have no classes, unless a class moves between columns.
    words = [[f"a{row}", f"b{row}", f"c{row}"] for row in range(60)]
    assert Posteriors(posteriors.log_posteriors, posteriors.labels, choices=words).match_costs(costs) is costs
    moved = Posteriors(
        posteriors.log_posteriors,
        posteriors.labels,
        choices=[list(costs.classes)] * 59 + [["technical", "billing", "account"]],
    )
    with pytest.raises(InputError, match="id '59' has the choice 'technical' in column 0, but it is class 1 of the"):
        moved.match_costs(costs)


def test_names_that_were_not_given_are_not_written() -> None:
    assert "classes" not in Costs.zero_one(2).as_dict()
    assert not Costs.from_mapping(Costs.zero_one(2).with_abstention(0.2).best_is_zero().as_dict()).named
    assert Costs.zero_one(["a", "b"]).with_abstention(0.2).best_is_zero().named
