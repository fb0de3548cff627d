"""Numbers at the ends of what a float holds: a stated result, or one line that refuses them, and never a warning.

Warnings are errors in the tests, so that an overflow anywhere fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import (
    CALIBRATORS,
    METRICS,
    Calibrator,
    Costs,
    Posteriors,
    StatedCosts,
    Temperature,
    adapt_priors,
    average_posteriors,
    bayes_decisions,
    calibration_loss,
    compare,
    cost_balance,
    decide,
    expected_costs,
    fit_calibrator,
    gate,
    identity_calibrator,
    judge,
    measurable,
    paired_bootstrap,
    recalibrate,
    reliability_bins,
    resolution,
    reweight_posteriors,
    risk_coverage,
    summarise,
    summarise_prior_only,
)
from rango.decisions.arrays import LARGEST_SIZE, LOWEST_LOG, check_log_posteriors, log_softmax
from rango.errors import InputError

N, K = 60, 3


def made(mask: float = -np.inf, *, of_labels: bool = True) -> Posteriors:
    """Posteriors of which every third has `mask` in the place of one choice: the label's, for some, or never."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(N, K)), rng.integers(0, K, N)
    column = (labels if of_labels else labels + 1) % K
    scores[np.arange(0, N, 3), column[::3]] = mask
    return Posteriors.from_scores(scores, labels)


@pytest.mark.parametrize("mask", [-1e308, float(np.finfo(np.float32).min), LOWEST_LOG * 1.001])
def test_a_mask_is_a_posterior_of_0(mask: float) -> None:
    """-1e308 as a score, or as a log-posterior, is minus infinity; what is just possible stays as it is."""
    logs = made().log_posteriors
    np.testing.assert_array_equal(made(mask).log_posteriors, logs)
    masked = np.where(np.isneginf(logs), mask, logs)
    given = masked.copy()
    np.testing.assert_array_equal(Posteriors(masked, np.zeros(N, dtype=int)).log_posteriors, logs)
    np.testing.assert_array_equal(masked, given)
    assert np.isfinite(check_log_posteriors([[0.0, LOWEST_LOG]])).all()
    assert log_softmax(np.array([[1e308, -1e308], [-1e308, -1e308]])).tolist() == [[0.0, -np.inf], [-np.log(2)] * 2]
    summary = summarise(made(mask), replicates=20)
    assert summary["nce"].value == np.inf
    assert "posterior 0 at their label" in (summary["nce"].note or "")


def everything(p: Posteriors, other: Posteriors, costs: Costs) -> dict[str, Callable[[], Any]]:
    """What can be asked about posteriors and costs."""
    even, lean = np.full(K, 1 / K), np.array([0.5, 0.3, 0.2])
    return {
        **{f"metric {name}": lambda name=name: p.metric(name, costs=costs) for name in measurable(p)},
        "summarise": lambda: summarise(p, costs=costs, replicates=20),
        "with priors": lambda: summarise(p, costs=costs, priors=lean, replicates=20),
        "prior only": lambda: summarise_prior_only(p, costs=costs, replicates=20),
        "compare": lambda: compare(p, other, costs=costs, replicates=20).sentence(),
        "compare back": lambda: compare(other, p, costs=costs, replicates=20).sentence(),
        "average": lambda: average_posteriors([p, other]).nce(),
        "decide": lambda: decide(p, costs=costs),
        "decisions": lambda: bayes_decisions(p.log_posteriors, costs=costs),
        "expected": lambda: expected_costs(p.log_posteriors, costs=costs),
        "balance": lambda: cost_balance(p, costs=costs),
        "gate": lambda: judge(gate(p, max_error=0.5), other, replicates=20),
        "gate by costs": lambda: gate(p, costs=costs.with_abstention(float(costs.matrix.max()) / 3), replicates=20),
        "coverage": lambda: risk_coverage(p, costs=costs),
        "reliability": lambda: reliability_bins(p.log_posteriors, p.labels),
        "adapt": lambda: adapt_priors(p.log_posteriors, training_priors=even),
        "reweight": lambda: reweight_posteriors(p.log_posteriors, training_priors=even, priors=lean),
        "calibration loss": lambda: calibration_loss(p),
        "calibration cost": lambda: calibration_loss(p, score="expected_cost", costs=costs),
        "recalibrate": lambda: recalibrate(p, identity_calibrator(p, "affine")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "size", "of_labels"),
    [(-1e308, LARGEST_SIZE, True), (-1e308, 1.0, False), (-1e29, LARGEST_SIZE, True)],
)
def test_everything_has_a_result_without_a_warning(mask: float, size: float, of_labels: bool) -> None:
    p, other = made(mask, of_labels=of_labels), made(0.0)
    costs = Costs(size * (1.0 - np.eye(K)))
    for name, work in everything(p, Posteriors(other.log_posteriors, p.labels), costs).items():
        assert work() is not None, name


@pytest.mark.parametrize("objective", ["cross_entropy", "brier"])
@pytest.mark.parametrize("method", [*CALIBRATORS, "auto"])
def test_calibrators_take_masks_as_what_is_impossible(method: Any, objective: Any) -> None:
    posteriors = made(-1e308)
    if method in ("isotonic", "histogram"):
        posteriors = Posteriors.from_scores(posteriors.log_posteriors[:, :2].clip(-1e308), posteriors.labels % 2)
    if method == "matrix":
        with pytest.raises(InputError, match="needs every choice to be possible"):
            fit_calibrator(posteriors, method=method, objective=objective)
        posteriors = made(-1e29, of_labels=False)
    fitted = fit_calibrator(posteriors, method=method, objective=objective)
    logs = fitted.apply(posteriors).log_posteriors
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0)


def test_metrics_of_costs_scale_with_the_costs() -> None:
    """The largest costs give 1e100 times what costs of 1 give, and the normalised ones the same."""
    posteriors = made(-1.0)
    for name in METRICS:
        if not METRICS[name].needs_costs:
            continue
        ones, large = (posteriors.metric(name, costs=Costs(size * (1 - np.eye(K)))) for size in (1.0, LARGEST_SIZE))
        assert large == pytest.approx(ones * (1.0 if METRICS[name].reference else LARGEST_SIZE), rel=1e-12)


def test_what_would_overflow_is_refused_in_one_line(tmp_path: Path) -> None:
    said = "costs[0][1] is 1e+308; expected a finite number, at most 1e+100 in size"
    with pytest.raises(InputError, match=re.escape(said)):
        Costs([[0, 1e308], [1, 0]])
    with pytest.raises(InputError, match=re.escape(f"costs: {said}")):
        Costs.from_mapping({"costs": [[0, 1e308], [1, 0]]})
    with pytest.raises(InputError, match=re.escape("costs[0][2] is 1e+308; expected a finite number, at most")):
        Costs.zero_one(2).with_abstention(1e308)
    with pytest.raises(InputError, match=re.escape("costs[0][3] is 1e+308; expected a finite number, at most")):
        gate(made(-1.0), costs=StatedCosts(abstain=1e308))
    with pytest.raises(InputError, match=re.escape("losses_a[0] is 1e+308; expected losses of at most 1e+100 in size")):
        paired_bootstrap([1e308, 1e308], [0.0, 0.0], replicates=10)
    Temperature(scale=1e308).write(tmp_path / "calibrator.json")
    with pytest.raises(InputError, match="values of a temperature calibrator are not numbers that fit each other"):
        Calibrator.read(tmp_path / "calibrator.json")
    with pytest.raises(InputError, match="a label has posterior 0, so NCE is infinite"):
        resolution(made(-1e308))
