from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rango.decisions import Estimate
from rango.errors import InputError
from rango.reports.run.terminal import result_table
from rango.reports.tables import estimate, estimate_notes, interval, number, result_rows


def printed(metrics: dict[str, Any], width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file, force_terminal=False).print(result_table(metrics, width=width))
    return file.getvalue()


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


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_terminal_table_fits_and_shows_what_matters(metrics: dict[str, Any], width: int) -> None:
    text = printed(metrics, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    adapted = metrics["test"]["adapted"]
    for metric in ("nce", "error_rate"):
        assert number(adapted[metric]["value"]) in text
        assert f"{number(adapted[metric]['low'])} to {number(adapted[metric]['high'])}" in text
    for title in ("Prior only", "Control", "True posterior", "NCE ↓", "600 test instances", "Adaptation helped."):
        assert title in text
    assert "Its posteriors are worth more than the priors." in " ".join(text.split())


def test_wider_terminals_show_more_metrics(metrics: dict[str, Any]) -> None:
    assert "Brier" not in printed(metrics, 80)
    assert "Brier" in printed(metrics, 140)


def test_a_metric_without_any_value_leaves_its_place_to_the_next(metrics: dict[str, Any]) -> None:
    without = {
        state: {name: {**entry, "value": None} if name == "nce" else entry for name, entry in row.items()}
        for state, row in metrics["test"].items()
    }
    text = printed({"test": without}, 80)
    assert "NCE ↓" not in text
    assert "Cross-entropy ↓" in text


def test_a_single_state_has_a_table_and_no_sentence_about_a_difference(metrics: dict[str, Any]) -> None:
    text = printed({"test": {"base": metrics["test"]["base"]}}, 80)
    assert "Base model" in text
    assert "daptation" not in text


def test_rows_of_different_n_get_a_column_of_it(metrics: dict[str, Any]) -> None:
    base = {name: {**entry, "n": 1234} for name, entry in metrics["test"]["base"].items()}
    text = printed({"test": {**metrics["test"], "base": base}}, 100)
    assert "1,234" in text
    assert "95% intervals over test instances" in text


def test_hostile_names_are_text_to_the_terminal_too(metrics: dict[str, Any]) -> None:
    assert "[red]x[/red]" in printed({"test": {"[red]x[/red]": metrics["test"]["base"]}}, 80)
