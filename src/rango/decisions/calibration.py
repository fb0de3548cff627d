"""Fitting calibrators on held-out posteriors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions import calibrators, families
from rango.decisions import scoring_rules as rules
from rango.decisions.arrays import Array, Labels, check_priors
from rango.decisions.calibration_error import BINS, Spacing
from rango.decisions.calibrators import CALIBRATORS, Calibrator, FitReport, Method, check_no_zeros
from rango.decisions.linear_fit import Objective, Optimum, fit
from rango.decisions.posteriors import Posteriors
from rango.decisions.two_class_calibration import fit_two_classes
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
