"""Fitting calibrators on held-out posteriors, and how much of a score is lost for want of calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions import calibrators
from rango.decisions import logistic_fit as families
from rango.decisions import metrics as rules
from rango.decisions.arrays import Array, Labels, check_priors
from rango.decisions.calibrators import (
    CALIBRATORS,
    Calibrator,
    FitReport,
    Histogram,
    Isotonic,
    Method,
    check_no_zeros,
    log_odds,
)
from rango.decisions.costs import Costs
from rango.decisions.logistic_fit import Objective, Optimum, fit
from rango.decisions.metrics import BINS, Spacing, bin_edges, bin_index
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError, unknown_name


def fit_calibrator(
    posteriors: Posteriors,
    *,
    method: Method,
    objective: Objective = "cross_entropy",
    priors: ArrayLike | None = None,
    regularisation: float = 1e-3,
    bins: int = BINS,
    spacing: Spacing = "mass",
) -> Calibrator:
    """Fit a calibrator by minimising the mean score of these posteriors, which should be held out from training.

    (1/N) Σ_i w_i loss(softmax(W s_i + β + ln π), y_i) with W and β as the method says (see `calibrators`). Temperature
    is the honest choice where the order of the choices means nothing; affine where column k is always class k.

    Args:
        posteriors: the fitting set.
        method: "temperature", "bias", "affine", "vector", "matrix"; for two classes "isotonic" or "histogram".
        objective: "cross_entropy" or "brier" (the last two methods minimise both at once).
        priors: (K,) target priors π: the scores are read as scaled likelihoods and instances weigh w_i = π_y / p_y.
            None: no ln π, no weights. Not for temperature, isotonic or histogram.
        regularisation: of the matrix method: costs half of this times each squared entry off the diagonal.
        bins: number of bins of the histogram.
        spacing: "mass" or "width", of the histogram's bins.

    Returns:
        The calibrator, its `report` with losses before and after, and whether the fit converged.

    Raises:
        InputError: an unknown method or objective, more than two classes for a two-class method, zero posteriors for
            the matrix, priors for a method without them or for a class without instances, nothing left to fit on.

    Source: reference thesis, section 3.3; arXiv:2408.02841; arXiv:1706.04599.

    >>> posteriors = Posteriors.from_scores([[3, 0], [3, 0], [3, 0], [0, 3]], [0, 0, 1, 1])
    >>> round(fit_calibrator(posteriors, method="temperature").scale, 4)
    0.3662
    """
    if method not in CALIBRATORS:
        raise unknown_name("calibration method", method, CALIBRATORS)
    if objective not in ("cross_entropy", "brier"):
        raise unknown_name("objective", objective, ("cross_entropy", "brier"))
    if regularisation < 0:
        raise InputError(f"regularisation is {regularisation}; expected 0 or more")
    target = None if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
    if target is not None:
        if method in ("temperature", "isotonic", "histogram"):
            raise InputError(f"priors do not apply to {method} calibration; use bias, affine, vector or matrix")
        rules.check_present(np.bincount(posteriors.labels, minlength=posteriors.n_choices), target)
    if method in ("isotonic", "histogram"):
        fitted = fit_two_classes(posteriors, method=method, bins=bins, spacing=spacing)
        before, after = (float(getattr(each, objective)()) for each in (posteriors, fitted.apply(posteriors)))
        return replace(fitted, report=FitReport(len(posteriors), True, 0, 0.0, before, after))
    return _fit_linear(posteriors, method, objective, target, regularisation)


def _fit_linear(
    posteriors: Posteriors,
    method: Method,
    objective: Objective,
    priors: Array | None,
    regularisation: float,
) -> Calibrator:
    logs, k = posteriors.log_posteriors, posteriors.n_choices
    if method == "matrix":
        check_no_zeros(logs)
    losses = rules.logarithmic_rule(logs, posteriors.labels)
    usable = np.isfinite(losses)
    if priors is not None:
        usable &= priors[posteriors.labels] > 0
    if not usable.any():
        raise InputError("every instance has posterior 0 at its label; no calibrator of logarithms can repair that")
    family, data = _family(method, k, regularisation), _data(posteriors, usable, losses, priors)
    found = fit(family, data, objective=objective)
    fitted = _calibrator(method, found.theta, k, priors)
    if objective == "brier":
        losses = rules.brier_rule(logs, posteriors.labels)
    after = found.loss if usable.all() else float(getattr(fitted.apply(posteriors), objective)(priors=priors))
    report = FitReport(
        n=len(data.labels),
        converged=found.converged,
        iterations=found.iterations,
        gradient=found.gradient,
        loss_before=rules.weighted_mean(losses, posteriors.labels, n_classes=k, priors=priors),
        loss_after=after,
        note="; ".join(_note(family, data, found, posteriors, usable)) or None,
    )
    return replace(fitted, report=report)


def _family(method: Method, k: int, regularisation: float) -> families.Family:
    if method == "vector":
        return families.vector_family(k)
    if method == "matrix":
        return families.matrix_family(k, regularisation=regularisation)
    return families.affine_family(k, scale=method != "bias", bias=method != "temperature")


def _calibrator(method: Method, theta: Array, k: int, priors: Array | None) -> Calibrator:
    weight, bias = theta[:-k], tuple((theta[-k:] - theta[-k:].mean()).tolist())
    target = None if priors is None else tuple(priors.tolist())
    if method == "temperature":
        return calibrators.Temperature(scale=float(weight[0]))
    if method == "bias":
        return calibrators.Bias(bias=bias, priors=target)
    if method == "affine":
        return calibrators.Affine(scale=float(weight[0]), bias=bias, priors=target)
    if method == "vector":
        return calibrators.Vector(scales=tuple(weight.tolist()), bias=bias, priors=target)
    rows = tuple(tuple(row) for row in weight.reshape(k, k).tolist())
    return calibrators.Matrix(weights=rows, bias=bias, priors=target)


def _data(posteriors: Posteriors, usable: NDArray[np.bool_], losses: Array, priors: Array | None) -> families.Data:
    logs, labels = posteriors.log_posteriors, posteriors.labels
    if not usable.all():
        logs, labels, losses = logs[usable], labels[usable], losses[usable]
    # A copy even where the transpose is contiguous, as of one instance: it is written to below.
    scores = np.array(logs.T, order="C")
    impossible = np.isneginf(scores)
    weights = None
    log_priors = np.zeros((posteriors.n_choices, 1))
    if priors is not None:
        weights = (priors / np.maximum(np.bincount(labels, minlength=len(priors)), 1))[labels]
        weights /= weights.sum()
        impossible |= (priors == 0)[:, None]
        log_priors[priors > 0, 0] = np.log(priors[priors > 0])
    some = bool(impossible.any())
    if some:
        scores[impossible] = 0.0
    # No logarithm of a posterior is positive.
    largest = -float(scores.min())
    return families.Data(scores, impossible if some else None, labels, -losses, weights, log_priors, largest)


def _note(
    family: families.Family,
    data: families.Data,
    found: Optimum,
    posteriors: Posteriors,
    usable: NDArray[np.bool_],
) -> list[str]:
    notes = []
    if not usable.all():
        at_label = posteriors.log_posteriors[np.arange(len(usable)), posteriors.labels]
        if (zeros := np.flatnonzero(np.isneginf(at_label))).size:
            shown = ", ".join(posteriors.ids[row] for row in zeros[:10])
            notes.append(f"{zeros.size} instances with posterior 0 at their label were left out (ids {shown})")
    absent = np.flatnonzero(np.bincount(data.labels, minlength=family.n_classes) == 0)
    if absent.size and family.free[-1]:
        shown = ", ".join(str(k) for k in absent[:10])
        notes.append(f"classes without an instance (their shift falls until the ridge holds it): {shown}")
    if family.shape == "affine" and family.free[0] and found.theta[0] <= 0:
        notes.append("the best scale is 0: these posteriors tell nothing about the classes")
    # Told apart, an instance costs less than ln 2: only a small loss calls for a look at each.
    if family.free[0] and found.loss < math.log(2) and _separated(family.logits(found.theta, data), data.labels):
        notes.append("every instance is told apart: only the ridge keeps the scale finite")
    return notes


def _separated(logits: Array, labels: Labels) -> bool:
    columns = np.arange(len(labels))
    own = logits[labels, columns].copy()
    logits[labels, columns] = -np.inf
    return bool((own > logits.max(axis=0)).all())


def fit_two_classes(posteriors: Posteriors, *, method: Method, bins: int, spacing: Spacing) -> Isotonic | Histogram:
    """An isotonic or a histogram calibrator; both minimise cross-entropy and Brier score within their family.

    Raises:
        InputError: more than two classes; fewer than one bin.

    Source: Zadrozny and Elkan (2001 and 2002).
    """
    if posteriors.n_choices != 2:
        raise InputError(f"{method} calibration is for 2 classes but there are {posteriors.n_choices}; use affine")
    if method == "isotonic":
        return _fit_isotonic(log_odds(posteriors.log_posteriors), posteriors.labels)
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    p = np.exp(posteriors.log_posteriors[:, 1])
    edges = bin_edges(p, bins=bins, spacing=spacing)
    index = bin_index(p, edges)
    counts = np.bincount(index, minlength=bins)
    # An empty bin knows nothing better than its middle.
    values = (edges[:-1] + edges[1:]) / 2
    hits = np.bincount(index, weights=posteriors.labels, minlength=bins)
    np.divide(hits, counts, out=values, where=counts > 0)
    return Histogram(edges=tuple(edges.tolist()), values=tuple(values.tolist()))


def _fit_isotonic(odds: Array, labels: Labels) -> Isotonic:
    from scipy.optimize import isotonic_regression

    # Equal log-odds are one point: the pooled share of class 1, weighing as many instances.
    points, index, counts = np.unique(odds, return_inverse=True, return_counts=True)
    shares = np.bincount(index, weights=labels) / counts
    found = isotonic_regression(shares, weights=counts.astype(np.float64))
    blocks = np.asarray(found.blocks[:-1], dtype=np.intp)
    values = np.clip(found.x[blocks], 0.0, 1.0)
    return Isotonic(starts=tuple(points[blocks[1:]].tolist()), values=tuple(values.tolist()))


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
