"""The registry of metrics: a new metric is one entry, and every table, page and file shows it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers.made_posteriors import make
from helpers.reports_run import RECORD, make_metrics, make_states, write_run
from helpers.studies_made import placement_study
from rich.console import Console

from rango.decisions import METRICS, Costs, Metric, error_rule, paired_bootstrap, summarise
from rango.decisions.arrays import Array, Labels
from rango.options import Selection
from rango.reports.run.page import write_report
from rango.reports.study.page import render_study_page
from rango.reports.study.terminal import study_result_table
from rango.reports.tables import column_named, number, result_rows
from rango.results.outcomes import StudyResult
from rango.results.table import study_table, table_csv


def top_two_rule(log_posteriors: Array, labels: Labels) -> Array:
    """1 where the label is not among the two most probable classes."""
    first_two = np.argsort(-log_posteriors, axis=1)[:, :2]
    return np.asarray((first_two != labels[:, None]).all(axis=1), dtype=np.float64)


@pytest.fixture
def top_two(monkeypatch: pytest.MonkeyPatch) -> Metric:
    metric = Metric(
        "top_two_error",
        "Top-two error",
        "lower",
        "share of instances whose right choice is not among the two most probable",
        words="top-two error",
        rule=top_two_rule,
        reference=lambda priors, _: 1 - np.sort(priors, axis=-1)[..., -2:].sum(axis=-1),
        usual=True,
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


def test_a_made_up_metric_is_summarised_with_an_interval(top_two: Metric) -> None:
    posteriors = make(n=300)
    estimate = summarise(posteriors, replicates=200)[top_two.name]
    wrong = top_two_rule(posteriors.log_posteriors, posteriors.labels).mean()
    assert estimate.value == pytest.approx(wrong / posteriors.priors().min())
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high
    # The interval is that of the metric recomputed on rows drawn again.
    rng = np.random.default_rng(1)
    draws = [posteriors.take(rng.integers(0, 300, 300)) for _ in range(500)]
    again = [drawn.metric(top_two.name) for drawn in draws]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.04)


def test_a_made_up_metric_is_a_column_of_a_run(top_two: Metric, tmp_path: Path) -> None:
    states = make_states(200)
    metrics = make_metrics(states)
    table = result_rows(metrics)
    assert table.columns[-1] == top_two
    adapted = next(row for row in table.rows if row.state.key == "adapted")
    assert adapted.cells[-1] is not None
    assert adapted.cells[-1].value == states["adapted"].metric(top_two.name)

    page = write_report(write_run(tmp_path, RECORD, states)).read_text()
    assert "Top-two error <abbr" in page
    assert top_two.meaning in page
    assert number(adapted.cells[-1].value) in page


def test_a_made_up_metric_is_a_column_of_a_study(top_two: Metric) -> None:
    outcomes = placement_study(60)
    table = study_table(outcomes, select="nce", replicates=50)
    (line, *_) = csv.DictReader(io.StringIO(table_csv(table)))
    seeds = [system.metric(top_two.name) for system in outcomes[0].posteriors.values()]
    assert float(line[top_two.name]) == pytest.approx(np.mean(seeds))
    assert float(line[f"{top_two.name}_low"]) <= float(line[top_two.name]) <= float(line[f"{top_two.name}_high"])

    console = Console(width=400, record=True, file=io.StringIO())
    console.print(study_result_table(table, width=400))
    assert "Top-two error ↓" in console.export_text()
    study = StudyResult("placement", "", "nce", tuple(outcomes), ())
    assert "Top-two error <abbr" in render_study_page(study, table)


def test_a_made_up_metric_chooses_the_best_of_a_study(top_two: Metric) -> None:
    table = study_table(placement_study(60), select=top_two.name, replicates=50)
    means = [row.cells[top_two.name].mean for row in table.rows]
    assert all(block.best == min(block.rows, key=means.__getitem__) for block in table.blocks)


def test_what_validation_can_choose_by_is_what_the_options_offer() -> None:
    assert {metric.name for metric in METRICS.values() if metric.on_validation} == set(get_args(Selection))


def test_entries_are_complete_and_named_once() -> None:
    assert list(METRICS) == [metric.name for metric in METRICS.values()]
    for text in ("title", "meaning", "words"):
        texts = [getattr(metric, text) for metric in METRICS.values()]
        assert all(texts)
        assert len(set(texts)) == len(texts)
    for metric in METRICS.values():
        assert metric.direction != "none"
        assert metric.rule is None or metric.rule_of_costs is None
        if metric.twin is not None:
            assert METRICS[metric.twin].twin == metric.name
            assert METRICS[metric.twin].direction != metric.direction


def test_the_calibration_error_alone_is_no_mean() -> None:
    assert [metric.name for metric in METRICS.values() if not metric.is_mean] == ["ece"]
    with pytest.raises(AssertionError, match="ece is no mean over instances"):
        METRICS["ece"].rule_for(Costs.zero_one(2))


def test_the_value_of_a_mean_by_hand() -> None:
    priors, costs = np.array([0.25, 0.75]), Costs.zero_one(2)
    mean = np.array(0.1)
    assert METRICS["error_rate"].value(mean, priors=priors, costs=costs) == 0.1
    assert METRICS["accuracy"].value(mean, priors=priors, costs=costs) == 0.9
    assert METRICS["normalised_expected_cost"].value(mean, priors=priors, costs=costs) == pytest.approx(0.1 / 0.25)
    assert METRICS["normalised_brier"].value(mean, priors=priors, costs=costs) == pytest.approx(0.1 / 0.375)
    # A class that is always right leaves nothing to normalise by.
    assert np.isnan(METRICS["nce"].value(mean, priors=np.array([1.0, 0.0]), costs=costs))


def test_a_metric_that_is_not_known_keeps_its_name() -> None:
    stranger = column_named("reading_time")
    assert (stranger.title, stranger.words, stranger.arrow) == ("reading_time", "reading time", "")


def test_rules_give_a_loss_for_each_instance() -> None:
    posteriors = make(n=20)
    for metric in METRICS.values():
        if metric.is_mean:
            losses = metric.rule_for(Costs.zero_one(3))(posteriors.log_posteriors, posteriors.labels)
            assert losses.shape == (20,)
    errors = error_rule(posteriors.log_posteriors, posteriors.labels)
    assert paired_bootstrap(errors, errors, replicates=9).difference == 0
