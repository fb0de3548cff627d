"""How much of a score is lost for want of calibration: its decomposition by cross-validated calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions.arrays import Labels
from rango.decisions.calibration import fit_calibrator
from rango.decisions.calibrators import Method
from rango.decisions.costs import Costs
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError, unknown_name

Score: TypeAlias = Literal["cross_entropy", "brier", "expected_cost"]


@dataclass(frozen=True)
class CalibrationLoss:
    """raw = calibrated + loss: what remains after calibration is discrimination, the rest was want of calibration."""

    score: Score
    method: Method
    raw: float
    """The score of the posteriors as they are."""
    calibrated: float
    """The score after cross-validated calibration: the discrimination part."""
    loss: float
    """raw − calibrated, the calibration part; slightly negative where there was nothing to calibrate. NaN if raw is
    infinite."""
    relative: float
    """loss / raw, a fraction; NaN where that is undefined."""
    folds: int
    converged: bool
    """Whether the fit of every fold converged."""


def calibration_loss(
    posteriors: Posteriors,
    *,
    method: Method = "affine",
    score: Score = "cross_entropy",
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> CalibrationLoss:
    """How much of a score is want of calibration: EPSR(raw) − EPSR(calibrated), calibrated by cross-validation.

    It decomposes the score into discrimination (`calibrated`) and calibration (`loss`). A diagnosis: what counts is the
    raw score. The calibrator is fitted by cross-entropy on the other folds.

    Args:
        posteriors: the test set.
        method: of `fit_calibrator`.
        score: "cross_entropy", "brier" or "expected_cost" (of `costs`, 0–1 if None).
        costs: (K, D).
        priors: (K,) target priors, for the weights of the score only.
        folds: their number; fewer where there are fewer instances or groups.
        seed: of the folds.
        groups: kept together in a fold; None for the posteriors' own groups, if any. Inside a bootstrap give the
            original instance of each copy, or duplicates leak between folds.

    Raises:
        InputError: fewer than two folds, instances or groups; as `fit_calibrator`.

    Source: arXiv:2408.02841; arXiv:2209.05355.
    """
    if score not in ("cross_entropy", "brier", "expected_cost"):
        raise unknown_name("score", score, ("cross_entropy", "brier", "expected_cost"))
    fold = fold_of(posteriors.labels, folds=folds, seed=seed, groups=posteriors.groups if groups is None else groups)
    calibrated = np.empty_like(posteriors.log_posteriors)
    converged = True
    for index in range(int(fold.max()) + 1):
        out = fold == index
        fitted = fit_calibrator(posteriors.take(~out), method=method)
        converged &= bool(fitted.report and fitted.report.converged)
        calibrated[out] = fitted.transform(posteriors.log_posteriors[out])

    def measure(of: Posteriors) -> float:
        if score == "expected_cost":
            return of.expected_cost(costs or Costs.zero_one(of.n_choices), priors=priors)
        return float(getattr(of, score)(priors=priors))

    raw, after = measure(posteriors), measure(posteriors.replaced(calibrated))
    loss = raw - after if math.isfinite(raw) else math.nan
    relative = loss / raw if raw > 0 else math.nan
    return CalibrationLoss(score, method, raw, after, loss, relative, int(fold.max()) + 1, converged)


def fold_of(labels: Labels, *, folds: int, seed: int, groups: Sequence[str] | None = None) -> NDArray[np.int64]:
    """The fold of each instance (N,): stratified by class, or whole groups balanced by size where there are groups.

    Raises:
        InputError: fewer than two folds, instances or groups.
    """
    n_units = len(labels) if groups is None else len(set(groups))
    if folds < 2 or n_units < 2:
        raise InputError(f"{folds} folds of {n_units} instances or groups; expected at least 2 of each")
    folds = min(folds, n_units)
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), dtype=np.int64)
    if groups is None:
        # Dealing the shuffled instances out class by class spreads every class evenly.
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        fold[order] = np.arange(len(labels)) % folds
        return fold
    if len(groups) != len(labels):
        raise InputError(f"groups has {len(groups)} entries but there are {len(labels)} instances; give one for each")
    _, unit, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    load = np.zeros(folds)
    chosen = np.empty(len(sizes), dtype=np.int64)
    shuffled = rng.permutation(len(sizes))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        chosen[group] = load.argmin()
        load[chosen[group]] += sizes[group]
    return np.asarray(chosen[unit], dtype=np.int64)
