"""What a log shows: periods, groups, costs, shifted priors, and alarms of limits that no longer hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.made_logs import COSTS, PRIORS, gated_log, make_log

from rango.decisions import Baseline, Costs, DecisionLog, Posteriors, monitor, summarise
from rango.errors import InputError


def test_a_part_has_the_metrics_of_its_labelled_rows() -> None:
    log = make_log(300, known=0.4)
    report = monitor(log, costs=COSTS, period="100", replicates=100)
    known = summarise(log.labelled, replicates=100)
    assert (report.whole.n, report.whole.labelled) == (300, len(log.arrival))
    for name in ("nce", "ece"):
        estimate = report.whole.estimates[name]
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
            (known[name].value, known[name].low, known[name].high)
        )
    assert report.whole.estimates["error_rate"].value == known["error_rate"].value
    assert list(report.periods) == ["1-100", "101-200", "201-300"]
    assert sum(part.labelled for part in report.periods.values()) == report.whole.labelled
    first = log.with_labels(log.arrival[log.arrival < 100])
    assert report.periods["1-100"].estimates["nce"].value == first.nce()
    json.dumps(report.as_dict())


def test_costs_are_of_the_decisions_that_were_taken() -> None:
    """Always keep: promised and real cost by hand."""
    log = replace(make_log(80, known=0.5), decisions=("keep",) * 80)
    report = monitor(log, costs=COSTS, replicates=20)
    wrong = np.exp(log.posteriors.log_posteriors[:, 1:]).sum(axis=1)
    estimates = report.whole.estimates
    assert report.whole.promised_cost == pytest.approx(wrong.mean())
    assert estimates["promised_cost"].value == pytest.approx(wrong[log.arrival].mean())
    assert estimates["expected_cost"].value == pytest.approx((log.labelled.labels != 0).mean())
    assert estimates["cost_gap"].value == pytest.approx(
        estimates["expected_cost"].value - estimates["promised_cost"].value
    )


def test_errors_and_costs_are_of_what_was_acted_on_by_hand() -> None:
    """6 of 30 are wrong, where all 40 have 14 errors; a wrong a costs 5."""
    log, costs = gated_log(), Costs([[0, 1], [5, 0]], decisions=("a", "b"), classes=("a", "b"))
    report = monitor(replace(log, groups=("x",) * 20 + ("y",) * 20), costs=costs, period="20", replicates=20)
    values = {name: estimate.value for name, estimate in report.whole.estimates.items()}
    expected = {"error_rate": 6 / 30, "promised_cost": 1.25, "expected_cost": 1.0, "cost_gap": -0.25}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert report.whole.estimates["error_rate"].n == 30
    assert report.whole.promised_cost == pytest.approx(1.25)
    # Calibration is a claim about all posteriors, whatever a gate does with them: 26 of 40 are right.
    assert values["calibration_gap"] == pytest.approx(0.75 - 26 / 40)
    assert report.whole.estimates["calibration_gap"].n == 40
    parts = [*report.periods.values(), *report.groups.values()]
    assert [(part.n, part.acted_on, part.passed_on) for part in parts] == [(20, 18, 0.1), (20, 12, 0.4)] * 2
    assert parts[0].estimates["error_rate"].value == pytest.approx(6 / 18)
    assert parts[1].estimates["error_rate"].value == 0
    assert "passed on (act): 10 of 40 decisions (0.250); errors and costs are of those that" in report.notes[0]
    assert report.whole.as_dict()["passed_on"] == 0.25
    nothing = monitor(replace(log, acts=np.zeros(40, dtype=np.bool_)), costs=costs, replicates=20)
    assert nothing.whole.promised_cost is None
    assert set(nothing.whole.estimates) & {"error_rate", "promised_cost", "expected_cost", "cost_gap"} == set()
    assert nothing.whole.passed_on == 1


def test_alarms_of_errors_bet_on_what_was_acted_on() -> None:
    baseline = Baseline.of(gated_log(name="test"), replicates=20)
    report = monitor(gated_log(), baseline=baseline, replicates=20)
    assert {alarm.metric: len(alarm.test.log_evidence) for alarm in report.alarms} == {
        "error_rate": 30, "brier": 40, "calibration_gap": 40
    }  # fmt: skip
    assert any("(0.250, in the baseline 0.250)" in note for note in report.notes)
    # All that is wrong is passed on in the one log and acted on in the other, under the same labels.
    log = gated_log(acted_wrong=14)
    acts = np.append(np.zeros(20, dtype=np.bool_), np.ones(20, dtype=np.bool_))
    assert log.labels[acts].sum() == 0
    limits = {"error_rate": 0.05}
    calm, raised = (
        monitor(replace(log, acts=one), baseline=replace(baseline, limits=limits), replicates=20).alarms[0]
        for one in (acts, ~acts)
    )
    assert not calm.raised
    assert raised.raised
    assert raised.raised_at == log.posteriors.ids[np.flatnonzero(~acts)[(raised.test.alarm or 0) - 1]]


def test_a_calibrated_log_raises_no_alarm_and_a_shifted_one_all() -> None:
    baseline = Baseline.of(make_log(1000, seed=1), costs=COSTS, replicates=100)
    fine = monitor(make_log(1000, seed=2, known=0.5, name="fine"), baseline=baseline, replicates=20)
    assert [alarm.metric for alarm in fine.alarms] == ["error_rate", "brier", "expected_cost", "calibration_gap"]
    assert fine.broken == ()
    assert sum(alarm.test.alpha for alarm in fine.alarms) == pytest.approx(0.05)
    worse = monitor(make_log(1000, seed=3, known=0.5, noise=1.6, name="worse"), baseline=baseline, replicates=20)
    assert all(alarm.raised for alarm in worse.alarms)
    assert len(worse.broken) == 4
    assert worse.broken[0].startswith("error rate at most 0.")
    # The first alarm is the earliest label at which the evidence was there, and names its instance.
    alarm = worse.alarms[-1]
    assert alarm.test.alarm is not None
    assert (
        alarm.raised_at == make_log(1000, seed=3, known=0.5, noise=1.6, name="worse").labelled.ids[alarm.test.alarm - 1]
    )


def test_without_a_baseline_calibration_alone_is_tested_in_both_directions() -> None:
    modest = make_log(1000, seed=4)
    flattened = Posteriors.from_scores(
        0.3 * modest.posteriors.log_posteriors, None, modest.posteriors.ids, choices=modest.posteriors.choices
    )
    report = monitor(replace(modest, posteriors=flattened), replicates=20)
    assert [(alarm.metric, alarm.raised) for alarm in report.alarms] == [("calibration_gap", True)]
    assert report.whole.estimates["calibration_gap"].value < 0
    assert not monitor(modest, replicates=20).alarms[0].raised


def test_the_instances_of_the_baseline_are_compared_in_pairs() -> None:
    log = make_log(400, seed=5)
    baseline = Baseline.of(log, costs=COSTS, replicates=100)
    same = monitor(log, baseline=baseline, replicates=100)
    assert len(same.checks) == 5
    assert same.broken == ()
    noisy = log.posteriors.log_posteriors + np.random.default_rng(0).normal(size=(400, 3))
    worse = Posteriors.from_scores(noisy, None, log.posteriors.ids, choices=log.posteriors.choices)
    report = monitor(replace(log, posteriors=worse), baseline=baseline, replicates=100)
    assert any("on the same 400 instances" in sentence for sentence in report.broken)


def test_shifted_priors_are_estimated_from_what_has_no_labels() -> None:
    moved = (0.3, 0.3, 0.4)
    report = monitor(make_log(2000, seed=6, priors=moved, known=0.1), training_priors=PRIORS, replicates=60)
    shares = report.whole.priors
    assert shares["keep"].n == report.whole.n - report.whole.labelled
    for name, before, now in zip(shares, PRIORS, moved, strict=True):
        share = shares[name]
        assert share.low is not None
        assert share.high is not None
        assert share.low - 0.02 <= now <= share.high + 0.02
        if before != 0.25:
            assert not share.low <= before <= share.high


def test_labels_needed_are_those_of_the_wanted_interval() -> None:
    report = monitor(make_log(500, seed=7), replicates=300)
    gap = report.whole.estimates["calibration_gap"]
    assert gap.low is not None
    assert gap.high is not None
    assert report.labels_needed((gap.high - gap.low) / 2) == pytest.approx(500, abs=1)
    with pytest.raises(InputError, match="precision is 2; expected a number between 0 and 1"):
        report.labels_needed(2)


def test_a_baseline_of_other_classes_and_a_log_without_labels_are_refused() -> None:
    baseline = Baseline.of(make_log(50), replicates=10)
    two = DecisionLog.of(Posteriors.from_probabilities([[0.7, 0.3]] * 5, [0] * 5))
    with pytest.raises(InputError, match="save a baseline of these"):
        monitor(two, baseline=baseline)
    with pytest.raises(InputError, match="no decision has a label yet"):
        monitor(make_log(50, known=0.0), baseline=baseline)
