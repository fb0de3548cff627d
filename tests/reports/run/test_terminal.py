from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rango.decisions import CostBalance, Estimate
from rango.files import write_json
from rango.reports.run.terminal import metrics_table, print_result, result_table
from rango.reports.tables import number


def printed(metrics: dict[str, Any], width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file, force_terminal=False).print(result_table(metrics, width=width))
    return file.getvalue()


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
    assert "model is usable: better than the priors and than always the commonest class." in " ".join(text.split())


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_costs_stand_whole_below_where_three_metrics_are_too_wide(metrics: dict[str, Any], encoding: str) -> None:
    states = {state: dict(row) for state, row in metrics["test"].items() if state != "difference"}
    # The widest interval of a run that was seen: a base model that is sure and wrong.
    states["base"]["nce"] = {**states["base"]["nce"], "value": 15.171, "low": 12.296, "high": 17.876}
    for row in states.values():
        row["expected_cost"] = {**row["error_rate"], "value": 0.492, "low": 0.475, "high": 0.5}
    real, ratio = Estimate(0.492, 0.475, 0.5, 600, "lower"), Estimate(0.983, 0.949, 1.0, 600, "lower")
    balance = CostBalance(0.497, real, ratio, "pass on", 0.5, {}, "unclear")
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    Console(width=60, file=file).print(result_table({"test": states}, width=60, balance=balance))
    file.seek(0)
    text = file.read()
    assert text.count("Adapted model") == 2, "one table above the other"
    for interval in ("12.296 to 17.876", "0.475 to 0.500"):
        assert interval in text
    assert max(len(line) for line in text.splitlines()) <= 60


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


def test_systems_stand_side_by_side_with_signs_for_their_difference() -> None:
    def estimates(value: float, note: str | None = None) -> dict[str, Estimate]:
        return {"nce": Estimate(value, value - 0.1, value + 0.1, 1200, "lower", note)}

    file = io.StringIO()
    systems = {"first": estimates(0.5), "second": estimates(0.75, "one class is absent"), "difference": estimates(0.25)}
    Console(width=80, file=file).print(metrics_table(systems, level=0.9))
    text = file.getvalue()
    assert text.splitlines()[0].split() == ["first", "second", "difference"]
    assert text.splitlines()[2].split() == ["NCE", "↓", "0.500", "0.750", "+0.250"]
    assert "0.400 to 0.600   0.650 to 0.850   +0.150 to +0.350" in text
    assert "1,200 instances · 90% bootstrap intervals" in text
    assert "note: one class is absent" in text


def test_the_path_to_look_at_stands_whole_below_the_table(
    tmp_path: Path, metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "metrics.json", metrics)
    shown = tmp_path / ("[long] " * 20) / "report.html"
    print_result(tmp_path, split="test", shown=shown)
    assert capsys.readouterr().out.endswith(f"\n\n{shown}\n")


def test_no_interval_is_broken_where_the_terminal_is_narrow() -> None:
    systems = {
        name: {"cross_entropy": Estimate(value, value - 0.1, value + 0.1, 1200, "lower")}
        for name, value in (("a_name_as_long_as_a_path", 0.5), ("second", 0.75), ("difference", -0.25))
    }
    file = io.StringIO()
    Console(width=60, file=file).print(metrics_table(systems, width=60))
    text = file.getvalue()
    for interval in ("0.400 to 0.600", "0.650 to 0.850", "−0.350 to −0.150"):
        assert interval in text
    assert max(map(len, text.splitlines())) <= 60
