"""Calibration again, from few labels: a fit that is held at the old calibrator as firmly as the labels suggest.

    old calibrator, n labels ── recalibrate ──> a calibrator of the same kind
                                                0 labels: the old one; very many: the ordinary fit

The old calibrator counts as m instances: beside each label stands, with weight m / n, the distribution that the old one
gives for the same instance. That is the maximum a posteriori estimate under the conjugate prior of logistic regression
(Chen and Ibrahim, 2003, Statistica Sinica 13), whose mode is the old calibrator. Near it the prior is a Gaussian of
precision m times the Fisher information, so that it needs no scale for each parameter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rango.decisions import calibrators
from rango.decisions.arrays import Array, Labels
from rango.decisions.calibration import fold_of, linear_calibrator
from rango.decisions.calibrators import Calibrator, FitReport, MethodChoice
from rango.decisions.logistic_fit import Family, FitData, LinearMethod, Optimum, fit, linear_family
from rango.decisions.metrics import logarithmic_rule
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError

_STRENGTHS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
"""How many instances the old calibrator may count as; at most those that it was fitted on."""
_UNKNOWN_N = 1_000
"""The most for a calibrator that does not say what it was fitted on."""
_LEAVE_ONE_OUT, _MANY = 40, 2_000
"""Labels up to which each is left out by itself, and beyond which five folds are enough."""


def recalibrate(posteriors: Posteriors | None, old: Calibrator, *, seed: int = 0) -> Calibrator:
    """The calibrator of the same kind as the old one that fits few labels without forgetting it.

    Maximises Σ_i ln q_θ(i, y_i) + (m / n) Σ_i Σ_k q_old(i, k) ln q_θ(i, k). Strengths m of 1, 3, 10, 30, … to the N of
    the old fit are tried on labels left out: each by itself up to 40 labels, in 20 folds up to 2,000, in 5 beyond.
    Their geometric mean is taken, weighted by the likelihood of what was left out. Since m is at most N, very many
    labels give what `fit_calibrator` gives. What was calibrated again counts as the few labels of that time alone:
    start from the first calibrator with all labels since, because a chain of small steps drifts.

    Args:
        posteriors: the labelled instances, as the old calibrator takes them (not calibrated); None for no labels.
        old: temperature, bias, affine, vector or matrix, fitted without target priors.
        seed: of the folds.

    Returns:
        The calibrator; `report.note` says as how many instances the old one counts.

    Raises:
        InputError: an old calibrator that is a step function or has target priors; other choices than its own; no
            instance that can be fitted on.

    >>> posteriors = Posteriors.from_scores([[3, 0], [3, 0], [3, 0], [0, 3]], [0, 0, 1, 1])
    >>> old = calibrators.Temperature(scale=1.0)
    >>> 0.3662 < recalibrate(posteriors, old).scale < 1.0, recalibrate(None, old) == old
    (True, True)
    """
    if old.method in ("isotonic", "histogram") or getattr(old, "priors", None) is not None:
        kind = "has target priors" if hasattr(old, "priors") else f"is {old.method}"
        raise InputError(
            f"the old calibrator {kind}; expected temperature, bias, affine, vector or matrix without them"
        )
    if posteriors is None:
        return old
    posteriors.labels_for("calibrating again")
    posteriors = _in_order_of(posteriors, old)
    logs, labels, k = posteriors.log_posteriors, posteriors.labels, posteriors.n_choices
    if old.method == "matrix":
        calibrators.check_no_zeros(logs)
    # No calibrator of logarithms changes a posterior of 0, so that such a label says nothing of the parameters.
    usable = np.flatnonzero(np.isfinite(logs[np.arange(len(labels)), labels]))
    if not len(usable):
        raise InputError("every instance has posterior 0 at its label; no calibrator of logarithms can repair that")
    promised = np.exp(old.transform(logs))  # (N, K)
    method: LinearMethod = old.method  # type: ignore[assignment]
    # The ridge of ordinary fits holds at the identity; here it holds at the old parameters.
    family = replace(linear_family(method, k), identity=_parameters(old, k))
    chosen = _strength(family, posteriors.take(usable), promised[usable], old, seed)
    optimum = _fit(family, logs[usable], labels[usable], promised[usable], chosen)
    fitted = linear_calibrator(method, optimum.theta, k)
    report = FitReport(
        n=len(usable),
        converged=optimum.converged,
        iterations=optimum.iterations,
        gradient=optimum.gradient,
        loss_before=posteriors.cross_entropy(),
        loss_after=fitted.apply(posteriors).cross_entropy(),
        note=f"the old calibrator counts as {chosen:,} instances beside {len(usable):,} labels",
    )
    return replace(fitted, report=report, choices=posteriors.column_names or old.choices)


def identity_calibrator(posteriors: Posteriors, method: MethodChoice) -> Calibrator:
    """The calibrator that changes nothing, of a temperature (also for "auto"), a bias or affine: what is already
    calibrated, such as a log of a calibrated run, is calibrated again from there.

    Raises:
        InputError: another method.
    """
    no_bias, names = (0.0,) * posteriors.n_choices, posteriors.column_names
    if method in ("auto", "temperature"):
        return calibrators.Temperature(scale=1.0, choices=names)
    if method == "bias":
        return calibrators.Bias(bias=no_bias, choices=names)
    if method == "affine":
        return calibrators.Affine(scale=1.0, bias=no_bias, choices=names)
    raise InputError(f"--method {method} towards identity; expected temperature, bias or affine")


def _in_order_of(posteriors: Posteriors, old: Calibrator) -> Posteriors:
    """The posteriors with their columns as the calibrator has them, matched by name where both have names."""
    names = posteriors.column_names
    if old.choices is None or names is None or names == old.choices:
        return posteriors
    if {*names} != {*old.choices}:
        raise InputError(
            f"the old calibrator is of {', '.join(old.choices)}, but the labels are of {', '.join(names)}; "
            "fit on the same choices"
        )
    columns = [names.index(name) for name in old.choices]
    places = np.argsort(columns)
    logs, labels = posteriors.log_posteriors[:, columns], places[posteriors.labels]
    return Posteriors(logs, labels, posteriors.ids, posteriors.groups, [old.choices] * len(posteriors))


def _strength(family: Family, posteriors: Posteriors, promised: Array, old: Calibrator, seed: int) -> int:
    """As how many instances the old calibrator counts, by the likelihood of labels that were left out."""
    most = _UNKNOWN_N if old.report is None else max(1, old.report.n)
    strengths = [strength for strength in _STRENGTHS if strength < most] + [most]
    logs, labels, n = posteriors.log_posteriors, posteriors.labels, len(posteriors)
    apart = n if posteriors.groups is None else len(set(posteriors.groups))
    if apart < 2:
        return most
    folds = apart if apart <= _LEAVE_ONE_OUT else 20 if apart <= _MANY else 5
    fold = fold_of(labels, folds=folds, seed=seed, groups=posteriors.groups)
    losses = np.zeros(len(strengths))
    for place, strength in enumerate(strengths):
        for number in range(int(fold.max()) + 1):
            out = fold == number
            theta = _fit(family, logs[~out], labels[~out], promised[~out], strength).theta
            fitted = linear_calibrator(old.method, theta, family.n_classes)  # type: ignore[arg-type]
            losses[place] += logarithmic_rule(fitted.transform(logs[out]), labels[out]).sum()
    # The least loss alone follows chance where labels are few: strengths of nearly equal likelihood all count.
    weights = np.exp(losses.min() - losses)
    return round(float(np.exp(np.log(strengths) @ weights / weights.sum())))


def _fit(family: Family, logs: Array, labels: Labels, promised: Array, strength: int) -> Optimum:
    """The fit in which each label stands beside what the old calibrator promises, as rows that weigh less than one."""
    n, k = promised.shape
    rows: NDArray[np.intp] = np.tile(np.arange(n), k + 1)
    classes = np.concatenate([labels, np.repeat(np.arange(k), n)])
    weights = np.concatenate([np.ones(n), strength / n * promised.T.ravel()]) / (n + strength)
    # What is impossible weighs nothing, and its logit is no number.
    kept = weights > 0
    data = FitData.of(logs[rows[kept]], classes[kept], priors=None)
    return fit(family, replace(data, weights=weights[kept]), objective="cross_entropy")


def _parameters(old: Calibrator, n_classes: int) -> Array:
    """θ = (W, β) of a calibrator, as `Family` has it."""
    weights = np.atleast_1d(getattr(old, "scale", getattr(old, "scales", getattr(old, "weights", 1.0))))
    return np.concatenate([np.ravel(weights), getattr(old, "bias", (0.0,) * n_classes)]).astype(np.float64)
