"""What a person states about costs means the same wherever it is stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import Costs, Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError

CHOICES = ("no", "yes")


def test_a_rule_and_a_file_are_read_and_kept_as_content(tmp_path: Path) -> None:
    matrix = tmp_path / "costs.yaml"
    matrix.write_text("{classes: [yes, no], decisions: [yes, no, ask], costs: [[0, 5, 1], [2, 0, 1]]}")
    (tmp_path / "rule.yaml").write_text("abstain: 0.25\n")
    assert StatedCosts.read("abstain=0.25") == StatedCosts.read(str(tmp_path / "rule.yaml"))
    stated = StatedCosts.read(str(matrix))
    matrix.unlink()
    assert StatedCosts.build(stated.as_dict()) == stated
    assert stated.as_dict() == {
        "classes": ["yes", "no"],
        "decisions": ["yes", "no", "ask"],
        "costs": [[0.0, 5.0, 1.0], [2.0, 0.0, 1.0]],
    }
    # The rows follow the choices, whichever order they were written in.
    assert stated.for_choices([CHOICES]).matrix.tolist() == [[2, 0, 1], [0, 5, 1]]
    assert StatedCosts.of(Costs.from_mapping(stated.as_dict())) == stated
    assert StatedCosts.of(stated) is stated


def test_a_rule_of_another_name_is_refused_with_the_one_that_there_is() -> None:
    with pytest.raises(InputError, match="costs 'pass=0.3' are no file; expected the path of one, or a rule"):
        StatedCosts.read("pass=0.3")


def test_the_rule_fits_any_choices() -> None:
    rule = StatedCosts(abstain=0.3)
    assert rule.for_choices([CHOICES]).decisions == ("no", "yes", "abstain")
    # Choices of each instance's own have no names: the columns are numbers, and the longest instance counts.
    own = rule.for_choices([("a", "b"), ("c", "d", "e")])
    assert (own.matrix.shape, own.named, own.decisions[-1]) == ((3, 4), False, "abstain")
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.6, 0.4]]), [0, 1], choices=[CHOICES, CHOICES])
    costs = rule.for_posteriors(posteriors)
    assert (costs.classes, costs.matrix.tolist()) == (CHOICES, [[0, 1, 0.3], [1, 0, 0.3]])


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("abstain=1.5", "costs: abstain is 1.5; expected a cost between 0 and 1"),
        ("abstain=1_0e-1", "expected a cost between 0 and 1"),
        ("abstain=nan", "abstain is 'nan'; expected a cost between 0 and 1"),
        ("abstain=", "expected a cost between 0 and 1"),
        ("no/such.yaml", "no/such.yaml"),
        ({"abstain": True}, "abstain is True; expected a cost between 0 and 1"),
        ({"abstain": 0.3, "costs": [[0, 1], [1, 0]]}, "abstain and costs are both given"),
        ({"abstain": 0.3, "decision": []}, "unknown key in costs 'decision'"),
        ({"cost": [[0, 1], [1, 0]]}, "unknown key in costs 'cost': did you mean 'costs'"),
        (3, "costs is 3; expected keys and values"),
    ],
)
def test_mistakes_are_one_line(stated: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        StatedCosts.of(stated)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_costs_of_other_choices_are_refused() -> None:
    stated = StatedCosts.of(Costs([[0, 1], [2, 0]], classes=["ham", "spam"]))
    with pytest.raises(InputError, match="unknown class of the costs 'ham'"):
        stated.for_choices([CHOICES])
    with pytest.raises(InputError, match="costs have 2 rows but there are 3 classes"):
        stated.for_choices([("a", "b", "c")])


def test_costs_that_grow_with_the_distance_of_levels(tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text("distance: squared\n")
    stated = StatedCosts.read(str(tmp_path / "costs.yaml"))
    assert stated == StatedCosts.read("distance=squared") == StatedCosts.build(stated.as_dict())
    assert stated.fitting(3) is not None
    levels = Posteriors(np.log([[0.45, 0.1, 0.45]]), [0], None, None, [("low", "middle", "high")], ["score"])
    costs = stated.for_posteriors(levels)
    assert costs.classes == costs.decisions == ("low", "middle", "high")
    assert costs.matrix.tolist() == [[0, 1, 4], [1, 0, 1], [4, 1, 0]]
    # The middle is decided although it is the least probable: 0.9 beside 1.9 at either end.
    assert levels.expected_cost(costs) == 1.0
    assert StatedCosts.read("distance=absolute").for_posteriors(levels).matrix[0].tolist() == [0, 1, 2]


def test_distances_of_choices_without_an_order_are_refused() -> None:
    with pytest.raises(InputError, match="costs are distance=absolute, but the choices have no order"):
        StatedCosts.read("distance=absolute").for_posteriors(Posteriors(np.log([[0.5, 0.5]]), [0]))
    with pytest.raises(InputError, match="distance in costs"):
        StatedCosts.read("distance=1")
    with pytest.raises(InputError, match="distance and abstain are both given"):
        StatedCosts.build({"distance": "absolute", "abstain": 0.3})
