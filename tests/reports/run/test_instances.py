from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from rango.decisions import Costs, Posteriors
from rango.reports.run import instances
from rango.reports.run.instances import as_script_json, explorer_data, extreme_instances, surest_mistakes
from rango.tasks.kept_texts import KeptText

WORDS = [["a", "b"]] * 3


def made(rows: list[list[float]], words: list[list[str]] | None = WORDS) -> Posteriors:
    return Posteriors.from_probabilities(rows, [0, 0, 0], ["x", "y", "z"], None, words)


def test_extreme_instances_are_the_extremes() -> None:
    base, adapted = made([[0.5, 0.5], [0.9, 0.1], [0.4, 0.6]]), made([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    gains, losses = extreme_instances(base, adapted).values()
    assert list(gains) == ["x"]
    assert list(losses) == ["y"]
    right = gains["x"][0]
    assert (right.text, right.right) == ("a", True)
    assert (right.before, right.after) == pytest.approx((0.5, 0.9))
    assert extreme_instances(base.take([0, 1]), adapted) == {}


def test_mistakes_stand_surest_first_with_what_was_asked() -> None:
    adapted = made([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    surest, other = surest_mistakes(adapted, {"z": KeptText("It  rained.", "Why?")})
    assert (surest.id, surest.text, surest.right, surest.decided) == ("z", "It rained. Why?", "a", "b")
    assert surest.confidence == pytest.approx(0.8)
    assert (other.id, other.text) == ("y", "")


def test_the_script_gets_unrounded_posteriors_and_the_costs_of_the_run() -> None:
    adapted = made([[0.9, 0.1], [1 / 3, 2 / 3], [0.2, 0.8]])
    data = explorer_data({"adapted": adapted}, {}, Costs([[0, 1, 0.3], [5, 0, 0.3]]))
    assert data is not None
    packed = np.frombuffer(base64.b64decode(data["states"][0]["posteriors"]), "<f8").reshape(3, 2)
    np.testing.assert_array_equal(packed, np.exp(adapted.log_posteriors))
    assert data["costs"] == [[0, 1, 0.3], [5, 0, 0.3]]
    assert data["matrix"]
    assert explorer_data({}, {}, None) is None


def test_states_of_other_instances_are_not_mixed_in() -> None:
    adapted = made([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    data = explorer_data({"adapted": adapted, "base": adapted.take([1, 2])}, {}, None)
    assert data is not None
    assert [state["key"] for state in data["states"]] == ["adapted"]


def test_choices_of_their_own_have_no_matrix() -> None:
    data = explorer_data({"base": made([[0.9, 0.1]] * 3, [["a", "b"], ["c", "d"], ["e", "f"]])}, {}, None)
    assert data is not None
    assert (data["names"], data["matrix"], data["instances"][1]["choices"]) == (None, False, ["c", "d"])


def test_a_large_test_set_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MOST_BYTES", 8_000)
    n = 1000
    labels = np.arange(n) % 2
    whole = Posteriors(np.log(np.full((n, 2), 0.5)), labels)
    data = explorer_data({"base": whole}, {}, None)
    assert data is not None
    kept = [int(instance["id"]) for instance in data["instances"]]
    assert (kept[0], kept[-1], data["total"]) == (0, n - 1, n)
    assert len(json.dumps(data)) < 9_500
    assert data["labels"] == labels[kept].tolist()


def test_no_text_can_end_the_script_that_holds_it() -> None:
    value = {"<!--": "</script><script>alert(1)</script>\u2028&amp;"}
    text = str(as_script_json(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
