"""Baselines: limits, what breaks them on the same instances, and files that are read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.made_logs import COSTS, gated_log, make_log

from rango.decisions import Baseline, DecisionLog, Posteriors, summarise
from rango.errors import InputError


def scaled(log: DecisionLog, by: float) -> DecisionLog:
    """The same instances with posteriors that are surer by a factor."""
    scores = by * log.posteriors.log_posteriors
    posteriors = Posteriors.from_scores(scores, None, log.posteriors.ids, choices=log.posteriors.choices)
    return replace(log, posteriors=posteriors)


def test_values_are_those_of_the_metrics_and_a_limit_is_the_upper_end_with_the_margin() -> None:
    log = make_log(300)
    baseline = Baseline.of(log, costs=COSTS, margin=0.1, replicates=200)
    expected = summarise(log.labelled, costs=COSTS, replicates=0)
    for name in ("error_rate", "nce", "brier", "expected_cost"):
        assert baseline.values[name].value == pytest.approx(expected[name].value)
    error = baseline.values["error_rate"]
    assert error.high is not None
    assert baseline.limits["error_rate"] == pytest.approx(error.high + 0.1 * error.value)
    assert set(baseline.limits) == {"error_rate", "brier", "expected_cost", "calibration_gap"}


def test_a_file_gives_the_same_baseline_back(tmp_path: Path) -> None:
    baseline = Baseline.of(make_log(60), costs=COSTS, replicates=50)
    baseline.write(tmp_path / "baseline.json")
    assert Baseline.load(tmp_path / "baseline.json").as_dict() == baseline.as_dict()


def test_the_same_system_breaks_nothing_and_a_worse_one_what_it_is_worse_in() -> None:
    log = make_log(600)
    baseline = Baseline.of(log, costs=COSTS, replicates=200)
    shared = baseline.shared_rows(log.labelled)
    assert shared is not None
    assert not any(check.broken for check in baseline.check(log, *shared, replicates=200))
    # Too sure by a factor of 4: no answer changes, so the error stays, and the proper scores are worse.
    surer = scaled(log, 4.0)
    broken = {check.metric: check.broken for check in baseline.check(surer, *shared, replicates=200)}
    assert broken == {
        "error_rate": False, "nce": True, "brier": True, "expected_cost": True, "calibration_gap": True
    }  # fmt: skip
    lenient = Baseline.of(log, costs=COSTS, margin=1.0, replicates=200)
    kept = {check.metric for check in lenient.check(scaled(log, 1.2), *shared, replicates=200) if check.broken}
    assert not {"nce", "brier", "expected_cost"} & kept


def test_instances_are_paired_by_id_and_classes_by_name() -> None:
    log = make_log(100)
    baseline = Baseline.of(log, replicates=50)
    order = np.arange(100)[::-1]
    turned = log.labelled.take(order)
    names = tuple(reversed(turned.column_names or ()))
    renamed = Posteriors(turned.log_posteriors[:, ::-1], 2 - turned.labels, turned.ids, choices=[names] * 100)
    rows, others = baseline.shared_rows(renamed) or ([], [])
    assert rows == list(range(100))
    assert others == order.tolist()
    assert all(
        check.difference.value == pytest.approx(0) for check in baseline.check(DecisionLog.of(renamed), rows, others)
    )
    assert baseline.shared_rows(make_log(100, name="other").labelled) is None
    # Row numbers are no names: other instances that have them are not taken for the same ones.
    bare = [DecisionLog.of(Posteriors(make_log(100, seed=seed).labelled.log_posteriors, labels))
            for seed, labels in ((0, log.labels), (1, make_log(100, seed=1).labels))]  # fmt: skip
    numbered = Baseline.of(bare[0], replicates=0)
    assert numbered.shared_rows(bare[0].labelled) is not None
    assert numbered.shared_rows(bare[1].labelled) is None


def test_an_infinite_loss_breaks_the_limit() -> None:
    log = make_log(100)
    baseline = Baseline.of(log, replicates=50)
    logs = np.array(log.posteriors.log_posteriors)
    logs[0] = [-np.inf] * 3
    logs[0, (log.labels[0] + 1) % 3] = 0.0
    dead = replace(log, posteriors=log.posteriors.replaced(logs))
    rows = list(range(100))
    broken = [check.metric for check in baseline.check(dead, rows, rows, replicates=50) if check.broken]
    assert "nce" in broken


def test_a_gate_is_judged_by_what_it_acts_on(tmp_path: Path) -> None:
    """6 errors of 30 become 14 of 30: the posteriors are the same, so that only the error of the decisions is worse."""
    log = gated_log()
    baseline = Baseline.of(log, replicates=200)
    assert {name: baseline.values[name].value for name in ("error_rate", "passed_on")} == pytest.approx(
        {"error_rate": 6 / 30, "passed_on": 10 / 40}
    )
    assert set(baseline.limits) == {"error_rate", "brier", "calibration_gap"}
    baseline.write(tmp_path / "baseline.json")
    read = Baseline.load(tmp_path / "baseline.json")
    assert read.as_dict() == baseline.as_dict()
    assert read.acts is not None
    assert read.acts.sum() == 30
    rows = list(range(40))
    assert all(check.difference.value == 0 for check in read.check(log, rows, rows, replicates=50))
    # The new gate acts on every mistake, and on 16 of the 26 that are right.
    acts = log.labels == 1
    acts[np.flatnonzero(~acts)[:16]] = True
    checks = {check.metric: check for check in read.check(replace(log, acts=acts), rows, rows, replicates=2000)}
    error = checks["error_rate"]
    assert (error.value, error.baseline, error.difference.value) == pytest.approx((14 / 30, 6 / 30, 8 / 30))
    assert [name for name, check in checks.items() if check.broken] == ["error_rate"]
    # The interval is that of the difference of the two ratios, resampled by itself.
    drawn = np.random.default_rng(1).integers(0, 40, size=(2000, 40))
    wrong = log.labels == 1
    ratios = [(wrong & one)[drawn].sum(axis=1) / one[drawn].sum(axis=1) for one in (acts, read.acts)]
    ends = np.quantile(ratios[0] - ratios[1], [0.025, 0.975])
    assert (error.difference.low, error.difference.high) == pytest.approx(tuple(ends), abs=0.025)


def test_what_is_refused(tmp_path: Path) -> None:
    log = make_log(60)
    with pytest.raises(InputError, match="10 instances with labels are too few for a baseline; expected 20 or more"):
        Baseline.of(make_log(10))
    with pytest.raises(InputError, match="margin is 5; expected a share"):
        Baseline.of(log, margin=5)
    baseline = Baseline.of(log, replicates=20)
    other = replace(log, labels=(log.labels + 1) % 3)
    with pytest.raises(InputError, match="id 'r0' has another label than in the baseline"):
        baseline.shared_rows(other.labelled)
    two = Posteriors.from_probabilities([[0.5, 0.5]], [0])
    with pytest.raises(
        InputError, match="the baseline is of keep, return, exchange, but the posteriors are of 2 choices"
    ):
        baseline.check_kind(DecisionLog.of(two))
    with pytest.raises(InputError, match="the log says which decisions were acted on .* and the baseline does not"):
        baseline.check_kind(gated_log())
    gated = Baseline.of(gated_log(), replicates=0)
    without = replace(gated_log(), acts=None)
    with pytest.raises(InputError, match="the baseline says which decisions were acted on .* and the log does not"):
        gated.check_kind(without)
    idle = replace(gated_log(), acts=np.arange(40) < 10)
    with pytest.raises(InputError, match="10 instances with labels that were acted on are too few for a baseline"):
        Baseline.of(idle)
    idle = replace(gated_log(), acts=np.zeros(40, dtype=np.bool_))
    with pytest.raises(InputError, match="the new system acted on none of the 40 instances, so it has no error rate"):
        gated.check(idle, list(range(40)), list(range(40)))
    path = tmp_path / "baseline.json"
    entry = baseline.as_dict()
    for change, message in (
        ({"format": "gate"}, "is no baseline; expected a file"),
        ({"version": 9}, "has version 9"),
        ({"limits": {"recall": 1.0}}, "the limit recall is 1.0"),
        ({"values": None}, "is no whole baseline"),
        ({"instances": {**entry["instances"], "ids": ["a"]}}, "columns of different lengths"),
    ):
        path.write_text(json.dumps({**entry, **change}))
        with pytest.raises(InputError, match=message):
            Baseline.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [10**30] * 40}, "is no whole baseline"),
        ({"labels": 3}, "columns of different lengths"),
        ({"acts": [[True]] * 40}, "columns of different lengths"),
        ({"losses": {"nce": [1e308] * 40}}, "a loss of nce is no number below 1e100"),
        ({"losses": {"nce": [float("nan")] * 40}}, "a loss of nce is no number below 1e100"),
    ],
)
def test_instances_that_cannot_be_calculated_with_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    entry = Baseline.of(make_log(40), replicates=5).as_dict()
    limits = {} if "losses" in change else entry["limits"]
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({**entry, "limits": limits, "instances": {**entry["instances"], **change}}))
    with pytest.raises(InputError, match=message):
        Baseline.load(file)


@pytest.mark.parametrize("estimate", [{"value": "1"}, {"low": True}, {"n": 1.5}, {"n": None}])
def test_an_estimate_of_other_kinds_is_refused(estimate: dict[str, object], tmp_path: Path) -> None:
    entry = Baseline.of(make_log(40), replicates=5).as_dict()
    entry["values"]["nce"] |= estimate
    (tmp_path / "baseline.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match="is no whole baseline"):
        Baseline.load(tmp_path / "baseline.json")
