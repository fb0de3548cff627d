from __future__ import annotations

import copy
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats

from rango.decisions import Posteriors
from rango.decisions.reliability import reliability_bins
from rango.errors import InputError
from rango.reports.run.figures import (
    best_step,
    consistency_bars,
    curve_points,
    learning_curve,
    reliability_diagram,
    state_intervals,
)
from rango.reports.style import svg_text
from rango.reports.tables import result_rows

States = dict[str, Posteriors]
Log = list[dict[str, Any]]


def test_points_of_a_curve_are_the_finite_values() -> None:
    records = [
        {"step": 1, "train_loss": 2.0},
        {"step": 2, "train_loss": float("nan")},
        {"step": 3, "train_loss": 1.0, "validation": {"nce": 0.9}, "best": True},
        {"step": 4, "validation": None},
    ]
    steps, values = curve_points(records, "train_loss")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [2.0, 1.0])
    np.testing.assert_array_equal(curve_points(records, "nce")[0], [3])
    assert len(curve_points(records, "brier")[0]) == 0


def test_best_step_is_the_last_that_was_best() -> None:
    assert best_step([{"step": 1, "best": True}, {"step": 2, "best": True}, {"step": 3, "best": False}]) == 2
    assert best_step([{"step": 1}]) is None


def test_learning_curves_mark_the_best_checkpoint(log: Log) -> None:
    axes = [learning_curve(log, name).axes[0] for name in ("train_loss", "nce", "error_rate")]
    assert [ax.get_title(loc="left") for ax in axes] == ["Train loss", "Validation NCE", "Validation error rate"]
    nce = axes[1]
    expected = next(record for record in log if record["step"] == best_step(log))["validation"]["nce"]
    texts = [text.get_text() for text in nce.texts]
    assert f"chosen: {expected:.3f} at step {best_step(log)}" in texts


def test_a_curve_without_points_is_refused(log: Log) -> None:
    with pytest.raises(InputError, match="the log has no finite value of 'ece'; expected at least one"):
        learning_curve(log, "ece")


def test_train_loss_has_its_unit(log: Log) -> None:
    assert learning_curve(log, "train_loss").axes[0].get_ylabel() == "nats (line: mean of 8)"
    assert learning_curve(log, "train_loss", loss_unit="").axes[0].get_ylabel() == "(line: mean of 8)"


def test_one_record_is_enough() -> None:
    record = {"step": 5, "train_loss": 1.0, "validation": {"nce": 0.9, "error_rate": 0.4}, "best": True}
    for name in ("train_loss", "nce", "error_rate"):
        assert len(learning_curve([record], name).axes) == 1


def test_state_intervals_draw_each_state(metrics: dict[str, Any]) -> None:
    figure = state_intervals(result_rows(metrics), "nce")
    assert figure.axes[0].get_xlabel() == "NCE (lower is better)"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "True posterior"
    assert labels[-1] == "Prior only"


def test_reliability_diagram_draws_the_bins(states: States) -> None:
    figure = reliability_diagram(states["base"], "base")
    assert len(figure.axes) == 2
    bins = reliability_bins(states["base"].log_posteriors, states["base"].labels)
    heights = [patch.get_height() for patch in figure.axes[1].patches]  # type: ignore[attr-defined]
    assert heights == list(bins.counts)
    assert sum(heights) == 600
    points = figure.axes[0].lines[-1].get_xydata()
    filled = bins.counts > 0
    np.testing.assert_allclose(points, np.column_stack([bins.confidence, bins.accuracy])[filled])


def test_consistency_bars_by_counting() -> None:
    # One bin of 40 instances with confidence 0.7: quantiles of the number of right answers, summed by hand.
    posteriors = Posteriors(np.log(np.tile([0.7, 0.3], (40, 1))), np.zeros(40, dtype=int))
    bins = reliability_bins(posteriors.log_posteriors, posteriors.labels)
    low, high = consistency_bars(bins)
    where = int(np.flatnonzero(bins.counts)[0])
    cumulative = np.cumsum([stats.binom.pmf(k, 40, 0.7) for k in range(41)])
    assert low[where] == pytest.approx(np.flatnonzero(cumulative >= 0.025)[0] / 40)
    assert high[where] == pytest.approx(np.flatnonzero(cumulative >= 0.975)[0] / 40)
    assert np.isnan(np.delete(low, where)).all()


def test_saturated_posteriors_can_be_drawn() -> None:
    posteriors = Posteriors.from_probabilities([[1.0, 0.0], [1.0, 0.0]], [0, 0])
    assert len(reliability_diagram(posteriors, "adapted").axes) == 2


def test_same_inputs_same_bytes_whatever_the_settings(states: States, log: Log, metrics: dict[str, Any]) -> None:
    def drawn() -> list[str]:
        figures = [
            learning_curve(log, "train_loss"),
            learning_curve(log, "nce"),
            reliability_diagram(states["base"], "base"),
            state_intervals(result_rows(metrics), "nce"),
        ]
        return [svg_text(figure) for figure in figures]

    first = drawn()
    with mpl.rc_context({"font.size": 20.0, "axes.grid": False, "svg.fonttype": "none", "lines.linewidth": 9.0}):
        assert drawn() == first
    assert all("<dc:date>" not in text for text in first)
    assert all("<text" not in text for text in first), "glyphs are paths, so that no font of the system is used"


def test_a_state_that_is_far_worse_stands_at_the_edge_and_flattens_nothing(metrics: dict[str, Any]) -> None:
    worse = copy.deepcopy(metrics)
    worse["test"]["base"]["nce"] |= {"value": 18.8, "low": 17.0, "high": 20.0}
    ax = state_intervals(result_rows(worse), "nce").axes[0]
    low, high = ax.get_xlim()
    assert high < 2
    assert "18.800 →" in [text.get_text() for text in ax.texts]
    # Every interval of the others lies within the scale.
    for state in ("adapted", "calibrated", "floor", "control"):
        estimate = worse["test"][state]["nce"]
        assert low < estimate["low"] < estimate["high"] < high
