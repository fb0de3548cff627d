from __future__ import annotations

from typing import Any

import pytest

from rango.decisions import Estimate
from rango.errors import InputError
from rango.reports.tables import duration, estimate, estimate_notes, interval, number, result_rows, without_twins


def test_rows_stand_in_the_order_of_the_story(metrics: dict[str, Any]) -> None:
    table = result_rows(metrics)
    keys = [row.state.key for row in table.rows]
    assert keys == ["prior", "base", "control", "adapted", "calibrated", "floor"]
    assert [column.name for column in table.columns] == ["error_rate", "nce", "cross_entropy", "brier", "ece"]
    assert table.n == 600
    cell = table.rows[1].cells[1]
    assert cell is not None
    assert cell.as_dict() == metrics["test"]["base"]["nce"]


def test_states_and_metrics_that_are_absent_leave_no_row_and_no_column(metrics: dict[str, Any]) -> None:
    some = {"test": {"base": {"nce": metrics["test"]["base"]["nce"]}, "difference": metrics["test"]["difference"]}}
    table = result_rows(some)
    assert [row.state.key for row in table.rows] == ["base"]
    assert [column.name for column in table.columns] == ["nce"]


def test_a_state_nobody_knows_keeps_its_name_and_comes_last(metrics: dict[str, Any]) -> None:
    some = {"test": {"ensemble": metrics["test"]["adapted"], "base": metrics["test"]["base"]}}
    assert [row.state.title for row in result_rows(some).rows] == ["Base model", "ensemble"]


def test_missing_split_is_named() -> None:
    with pytest.raises(InputError, match=r"metrics have no split 'test' \(they have: validation\)"):
        result_rows({"validation": {}})


def test_undefined_value_is_a_dash_with_its_note() -> None:
    entry = {
        "value": None,
        "low": None,
        "high": None,
        "n": 9,
        "direction": "lower",
        "note": "the priors have no entropy",
    }
    metrics = {"test": {"base": {"nce": entry, "error_rate": {**entry, "value": 0.5, "note": None}}}}
    assert estimate(metrics["test"], "base", "nce") is None
    assert estimate_notes(metrics["test"]) == ("Base model, NCE: the priors have no entropy",)
    assert [column.name for column in result_rows(metrics).columns] == ["error_rate"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4291, "0.429"),
        (-0.25, "−0.250"),
        (0.0, "0.000"),
        (9e-15, "0.000"),
        (0.00031, "0.0003"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_interval_without_width_is_not_shown() -> None:
    assert interval(Estimate(1.0, 1.0, 1.0, 5, "lower")) == ""
    assert interval(Estimate(1.0, None, 1.2, 5, "lower")) == ""
    assert interval(None) == ""
    assert interval(Estimate(-0.1, -0.2, 0.1, 5, "lower"), sign=True) == "−0.200 to +0.100"


def test_of_two_metrics_that_say_the_same_the_first_is_kept() -> None:
    assert without_twins(["nce", "accuracy", "error_rate", "brier"]) == ["nce", "accuracy", "brier"]
    assert without_twins(["error_rate", "unknown", "accuracy"]) == ["error_rate", "unknown"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0.0 s"), (59.97, "60.0 s"), (119.6, "2 min 0 s"), (7300.0, "2 h 1 min")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
