"""What the terminal shows of a log."""

from __future__ import annotations

import io

from helpers.made_logs import COSTS, PRIORS, gated_log, make_log
from rich.console import Console

from rango.decisions import Costs, Monitoring, monitor
from rango.reports.monitoring import alarm_sentences, cost_sentence, monitoring_table, shift_sentence


def report(**options: object) -> Monitoring:
    return monitor(make_log(300, seed=1, known=0.5, **options), costs=COSTS, period="150", replicates=50)  # type: ignore[arg-type]


def shown(monitoring: Monitoring, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(monitoring_table(monitoring, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_wide_table_has_more_columns_and_a_narrow_one_the_first_two() -> None:
    made = report()
    narrow, wide = shown(made, 66), shown(made, 200)
    assert max(map(len, narrow.splitlines())) <= 66
    for title in ("Decisions", "Labels", "Error rate", "Gap"):
        assert title in narrow
    assert "Real cost" not in narrow
    for title in ("Real cost", "Real − promised", "NCE", "Cal. loss", "ECE"):
        assert title in wide
    assert "151-300" in narrow


def test_what_was_passed_on_stands_below_the_decisions() -> None:
    made = monitor(gated_log(), costs=Costs.zero_one(("a", "b")), period="20", replicates=20)
    lines = shown(made, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "passed on" in lines[1]
    assert [line.split()[0] for line in lines if line.strip()[:2] == "0."] == ["0.250", "0.100", "0.400"]
    assert "Real cost" in lines[0] + lines[1]
    assert "the 30 decisions with labels that were acted on promised a mean cost of 0.250" in cost_sentence(made)
    assert "passed on" not in shown(report(), 80)


def test_sentences_say_what_the_numbers_mean() -> None:
    calm, broken = report(), report(noise=2.0)
    assert next(alarm_sentences(calm)).startswith("no alarm, calibrated: evidence against it ")
    assert next(alarm_sentences(broken)).startswith("ALARM, calibrated: refuted by ")
    assert "promised a mean cost of" in cost_sentence(calm)
    assert cost_sentence(broken).endswith("significantly more")
    assert cost_sentence(monitor(make_log(40), replicates=10)) == ""
    assert shift_sentence(calm) == ""
    moved = monitor(make_log(900, priors=(0.2, 0.2, 0.6), known=0.2), training_priors=PRIORS, replicates=50)
    assert "decisions without labels, by their posteriors: keep 0." in shift_sentence(moved)
    assert "exchange" in shift_sentence(moved).split("moved: ")[1]
