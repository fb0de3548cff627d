"""Calibration: fitting calibrators on held-out posteriors, and how much of a score is lost for want of it.

`fit_calibrator` returns one of `calibrators`; `Calibration` is what one did to others. `calibration_loss` fits one
by cross-validation to split a score:

    raw score = discrimination (what remains after calibration) + calibration loss
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions import calibrators, metrics
from rango.decisions.arrays import Array, Labels, check_priors
from rango.decisions.calibrators import CALIBRATORS, Calibrator, FitReport, Histogram, Isotonic, Method, MethodChoice
from rango.decisions.costs import Costs
from rango.decisions.logistic_fit import Family, FitData, LinearMethod, Objective, Optimum, fit, linear_family
from rango.decisions.posteriors import Posteriors
from rango.decisions.reliability import BINS, Spacing, bin_edges, bin_index
from rango.errors import InputError, unknown_name
from rango.showing import Grid, Shown, count, short

Score: TypeAlias = Literal["cross_entropy", "brier", "expected_cost"]

# With fewer instances for each parameter, what a fit gains by fitting its own sample is not known well enough.
_FEWEST_PER_PARAMETER = 10
# Validation instances below which `auto` fits a temperature, whatever the number of classes.
_FEWEST_FOR_AFFINE = 50


def fit_calibrator(
    posteriors: Posteriors,
    *,
    method: MethodChoice,
    objective: Objective = "cross_entropy",
    priors: ArrayLike | None = None,
    regularisation: float = 1e-3,
    bins: int = BINS,
    spacing: Spacing = "mass",
) -> Calibrator:
    """Fit a calibrator by minimising the mean score of these posteriors, which should be held out from training.

    (1/N) Σ_i w_i loss(softmax(W s_i + β + ln π), y_i), with W and β as the method says (see `calibrators`). Take
    temperature where the order of the choices means nothing, affine where column k is always class k. `auto` takes
    affine where all of this holds, and temperature elsewhere:

    - every instance has the same K choices in the same order;
    - there are at least 50 instances, and 10 K;
    - affine gains more than (K − 1) / 2 · ln N nats in all over temperature (the Bayesian information criterion),
      or temperature leaves a score that is no better than that of the class frequencies.

    Args:
        posteriors: the fitting set.
        method: "auto", "temperature", "bias", "affine", "vector", "matrix"; for two classes "isotonic" or "histogram".
        objective: "cross_entropy" or "brier"; isotonic and histogram minimise both at once.
        priors: (K,) target priors π: the scores are read as scaled likelihoods and instances weigh w_i = π_y / p_y.
            None: no ln π, no weights. Not for temperature, isotonic or histogram.
        regularisation: of the matrix method, which pays half of this times each squared entry off the diagonal.
        bins: number of bins of the histogram.
        spacing: "mass" or "width", of the histogram's bins.

    Returns:
        The calibrator. Its `report` has the losses before and after, and whether the fit converged.

    Raises:
        InputError: an unknown method or objective, more than two classes for a two-class method, zero posteriors for
            the matrix, priors for a method without them or for a class without instances, nothing left to fit on.

    Source: reference thesis, section 3.3; arXiv:2408.02841; arXiv:1706.04599.

    >>> posteriors = Posteriors.from_scores([[3, 0], [3, 0], [3, 0], [0, 3]], [0, 0, 1, 1])
    >>> round(fit_calibrator(posteriors, method="temperature").scale, 4)
    0.3662
    """
    if method == "auto":
        return _fit_automatic(posteriors)
    if method not in CALIBRATORS:
        raise unknown_name("calibration method", method, ("auto", *CALIBRATORS))
    if objective not in ("cross_entropy", "brier"):
        raise unknown_name("objective", objective, ("cross_entropy", "brier"))
    if regularisation < 0:
        raise InputError(f"regularisation is {regularisation}; expected 0 or more")
    target = None if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
    if target is not None:
        if method in ("temperature", "isotonic", "histogram"):
            raise InputError(f"priors do not apply to {method} calibration; use bias, affine, vector or matrix")
        metrics.check_present(posteriors.votes.counts(posteriors.n_choices), target)
    if method == "isotonic" or method == "histogram":
        if posteriors.n_choices != 2:
            raise InputError(f"{method} calibration is for 2 classes but there are {posteriors.n_choices}; use affine")
        fitted = _fit_isotonic(posteriors) if method == "isotonic" else _fit_histogram(posteriors, bins, spacing)
        before, after = posteriors.metric(objective), fitted.apply(posteriors).metric(objective)
        report = FitReport(len(posteriors), True, 0, 0.0, before, after)
        return replace(fitted, report=report, choices=posteriors.column_names)
    return _fit_linear(posteriors, method, objective, target, regularisation)


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """Posteriors that were calibrated, and by what. `rango.calibrate` makes it."""

    raw: Posteriors
    """As they were given."""
    posteriors: Posteriors
    """The same instances, calibrated."""
    calibrator: Calibrator
    """It applies to further posteriors; `write` keeps it."""
    notes: tuple[str, ...] = ()
    """Which posteriors were taken and how files were understood, in words."""
    fitted_on: Posteriors | None = None
    """What was fitted on; None where a fitted calibrator was applied, or no label was known."""

    def _facts(self) -> Iterator[str]:
        # The calibrator's own facts count what its file says, also where it was fitted long ago.
        yield repr(self.calibrator)
        yield f"applied to {count(len(self.raw), 'instance')}"
        if self.raw.has_labels:
            yield f"NCE {short(self.raw.nce())} to {short(self.posteriors.nce())}"

    def _grid(self) -> Grid | None:
        if not self.raw.has_labels:
            return None
        rows = []
        for name in ("nce", "error_rate", "brier", "ece"):
            values = (self.raw.metric(name), self.posteriors.metric(name))
            metric = metrics.METRICS[name]
            rows.append([f"{metric.title} {metric.arrow}".rstrip(), *map(short, values)])
        return Grid(["", "raw", "calibrated"], rows)


def _fit_automatic(posteriors: Posteriors) -> Calibrator:
    """Temperature, or affine where the columns are classes and there is evidence for it (see `fit_calibrator`)."""
    temperature = fit_calibrator(posteriors, method="temperature")
    n, k = len(posteriors), posteriors.n_choices
    fixed = posteriors.choices is not None and len(set(posteriors.choices)) == 1 and posteriors.column_names is not None
    if not fixed or n < max(_FEWEST_FOR_AFFINE, _FEWEST_PER_PARAMETER * k):
        return temperature
    affine = fit_calibrator(posteriors, method="affine")
    assert temperature.report is not None
    assert affine.report is not None
    loss, gain = temperature.report.loss_after, temperature.report.loss_after - affine.report.loss_after
    # Where nearly all instances are answered rightly a bias fits single mistakes, and costs much on others: the
    # evidence asks for more than a gain. A temperature alone can flatten blind posteriors to 1 / K, not to the priors.
    blind = loss >= metrics.entropy(posteriors.priors())
    return affine if blind or n * gain > (k - 1) / 2 * math.log(n) else temperature


def _fit_linear(
    posteriors: Posteriors, method: LinearMethod, objective: Objective, priors: Array | None, regularisation: float
) -> Calibrator:
    # Cross-entropy against a soft label is that of its votes, which are then rows of the fit.
    votes, k = posteriors.votes, posteriors.n_choices
    logs, labels = posteriors.log_posteriors[votes.rows], votes.labels  # (M, K), (M,)
    if method == "matrix":
        calibrators.check_no_zeros(logs)
    # An instance whose label has posterior 0 costs infinity whatever the parameters: the fit leaves it out.
    usable = np.isfinite(logs[np.arange(len(labels)), labels])
    if priors is not None:
        usable &= priors[labels] > 0
    if not usable.any():
        raise InputError("every instance has posterior 0 at its label; no calibrator of logarithms can repair that")
    # Indexing by a slice copies nothing, by a mask everything.
    rows = slice(None) if usable.all() else usable
    family = linear_family(method, k, regularisation=regularisation)
    weights = None if votes.weights is None else votes.weights[rows]
    data = FitData.of(logs[rows], labels[rows], priors=priors, weights=weights)
    optimum = fit(family, data, objective=objective)
    fitted = linear_calibrator(method, optimum.theta, k, priors)
    # The report scores all instances, those left out of the fit too.
    after = optimum.loss if usable.all() else fitted.apply(posteriors).metric(objective, priors=priors)
    report = FitReport(
        n=len(data.labels) if isinstance(votes.rows, slice) else len(np.unique(votes.rows[rows])),
        converged=optimum.converged,
        iterations=optimum.iterations,
        gradient=optimum.gradient,
        loss_before=posteriors.metric(objective, priors=priors),
        loss_after=after,
        note="; ".join(_notes(family, data, optimum, posteriors)) or None,
    )
    return replace(fitted, report=report, choices=posteriors.column_names)


def linear_calibrator(method: LinearMethod, theta: Array, n_classes: int, priors: Array | None = None) -> Calibrator:
    """The calibrator of the parameters θ = (W, β) of a `Family`."""
    k, target = n_classes, None if priors is None else tuple(priors.tolist())
    # A constant added to every bias changes no posterior. Their mean is set to 0, which makes the biases unique.
    weight, bias = theta[:-k], tuple((theta[-k:] - theta[-k:].mean()).tolist())
    if method == "temperature":
        return calibrators.Temperature(scale=float(weight[0]))
    if method == "bias":
        return calibrators.Bias(bias=bias, priors=target)
    if method == "affine":
        return calibrators.Affine(scale=float(weight[0]), bias=bias, priors=target)
    if method == "vector":
        return calibrators.Vector(scales=tuple(weight.tolist()), bias=bias, priors=target)
    matrix = tuple(tuple(row) for row in weight.reshape(k, k).tolist())
    return calibrators.Matrix(weights=matrix, bias=bias, priors=target)


def _notes(family: Family, data: FitData, optimum: Optimum, posteriors: Posteriors) -> list[str]:
    """What must be known about a fit: instances left out, classes absent, a scale at one of its ends."""
    notes = []
    if zeros := posteriors.zero_posterior_ids():
        notes.append(
            f"{len(zeros)} instances with posterior 0 at their label were left out (ids {', '.join(zeros[:10])})"
        )
    absent = np.flatnonzero(np.bincount(data.labels, minlength=family.n_classes) == 0)
    if absent.size and family.free[-1]:
        shown = ", ".join(str(k) for k in absent[:10])
        notes.append(f"classes without an instance (their shift falls until the ridge holds it): {shown}")
    if family.shape == "affine" and family.free[0] and optimum.theta[0] <= 0:
        notes.append("the best scale is 0: these posteriors tell nothing about the classes")
    # At the optimum of separable data the loss is near 0; a larger one spares the look at every instance.
    if family.free[0] and optimum.loss < math.log(2):
        logits, columns = family.logits(optimum.theta, data), np.arange(len(data.labels))  # (K, N)
        at_label = logits[data.labels, columns].copy()
        logits[data.labels, columns] = -np.inf
        # The labels' logits are out of the way now: the maximum is that of the other choices.
        if (at_label > logits.max(axis=0)).all():
            notes.append("every instance is told apart: only the ridge keeps the scale finite")
    return notes


def _fit_isotonic(posteriors: Posteriors) -> Isotonic:
    from scipy.optimize import isotonic_regression

    # Equal log-odds become one point: their share of class 1, with the weight of so many instances.
    odds = posteriors.log_posteriors[:, 1] - posteriors.log_posteriors[:, 0]  # (N,)
    points, index, counts = np.unique(odds, return_inverse=True, return_counts=True)
    shares = np.bincount(index, weights=_share_of_class_1(posteriors)) / counts
    steps = isotonic_regression(shares, weights=counts.astype(np.float64))
    first = np.asarray(steps.blocks[:-1], dtype=np.intp)
    values = np.clip(steps.x[first], 0.0, 1.0)
    return Isotonic(starts=tuple(points[first[1:]].tolist()), values=tuple(values.tolist()))


def _fit_histogram(posteriors: Posteriors, bins: int, spacing: Spacing) -> Histogram:
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    p = np.exp(posteriors.log_posteriors[:, 1])
    edges = bin_edges(p, bins=bins, spacing=spacing)
    index = bin_index(p, edges)
    counts = np.bincount(index, minlength=bins)
    hits = np.bincount(index, weights=_share_of_class_1(posteriors), minlength=bins)
    # An empty bin knows nothing better than its middle.
    values = (edges[:-1] + edges[1:]) / 2
    np.divide(hits, counts, out=values, where=counts > 0)
    return Histogram(edges=tuple(edges.tolist()), values=tuple(values.tolist()))


def _share_of_class_1(posteriors: Posteriors) -> Array:
    """(N,) the labels of two classes as numbers, or the target of the second class."""
    return posteriors.labels.astype(np.float64) if posteriors.targets is None else posteriors.targets[:, 1]


@dataclass(frozen=True)
class CalibrationLoss:
    """A score in two parts, raw = calibrated + loss: what remains after calibration, and what calibration removed."""

    score: Score
    method: Method
    raw: float
    """The score of the posteriors as they are."""
    calibrated: float
    """The score after cross-validated calibration: the discrimination part."""
    loss: float
    """raw − calibrated, slightly negative where there was nothing to calibrate; NaN if raw is infinite."""
    relative: float
    """loss / raw, a fraction; NaN where that is undefined."""
    folds: int
    converged: bool
    """Whether the fit of every fold converged."""
    low: float | None = None
    """Lower end of the interval of the population's loss; it holds `loss`. None where there is no interval."""
    high: float | None = None
    """Upper end of it."""
    note: str | None = None
    """Why there is no interval."""


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
    level: float = 0.95,
) -> CalibrationLoss:
    """How much of a score is lost for want of calibration: EPSR(raw) − EPSR(calibrated).

    Each fold is calibrated by what was fitted, by cross-entropy, on the other folds. The loss is a diagnosis; systems
    are compared by their raw scores.

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
        level: nominal coverage of the interval, a fraction.

    Raises:
        InputError: fewer than two folds, instances or groups; `level` outside (0, 1); as `fit_calibrator`.

    Source: arXiv:2408.02841; arXiv:2209.05355.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a fraction between 0 and 1, such as 0.95")
    if score not in ("cross_entropy", "brier", "expected_cost"):
        raise unknown_name("score", score, ("cross_entropy", "brier", "expected_cost"))
    kept_together = posteriors.groups if groups is None else groups
    fold = fold_of(posteriors.strata, folds=folds, seed=seed, groups=kept_together)
    calibrated = np.empty_like(posteriors.log_posteriors)  # (N, K)
    converged = True
    for index in range(int(fold.max()) + 1):
        out = fold == index
        fitted = fit_calibrator(posteriors.take(~out), method=method)
        converged &= bool(fitted.report and fitted.report.converged)
        calibrated[out] = fitted.transform(posteriors.log_posteriors[out])

    raw = posteriors.metric(score, costs=costs, priors=priors)
    after = posteriors.replaced(calibrated).metric(score, costs=costs, priors=priors)
    loss = raw - after if math.isfinite(raw) else math.nan
    relative = loss / raw if raw > 0 else math.nan
    ends = _interval(posteriors, method, score, priors, kept_together, level) if math.isfinite(loss) else ""
    low, high, note = (
        (None, None, ends or None) if isinstance(ends, str) else (min(ends[0], loss), max(ends[1], loss), None)
    )
    return CalibrationLoss(score, method, raw, after, loss, relative, int(fold.max()) + 1, converged, low, high, note)


def _interval(
    posteriors: Posteriors,
    method: Method,
    score: Score,
    priors: ArrayLike | None,
    groups: Sequence[str] | None,
    level: float,
) -> tuple[float, float] | str:
    """The interval of the population's calibration loss, or why there is none.

    A calibrator of p parameters that is fitted on the instances themselves gains d on them. As a likelihood ratio,

        2 N d / c ~ χ²_p with noncentrality 2 N (calibration loss) / c

    and the noncentralities at which d is neither too large nor too small make the interval. c = N var(d) / 2d corrects
    the spread for posteriors that are no true model of the labels, and for groups.

    Source: Wilks (1938); van der Vaart (1998), section 16.4, for local alternatives.
    """
    from scipy.special import chdtr, chdtri, chndtrinc

    k, n = posteriors.n_choices, len(posteriors)
    parameters = {"temperature": 1, "bias": k - 1, "affine": k, "vector": 2 * k - 1}.get(method)
    if score != "cross_entropy" or priors is not None or parameters is None:
        return "no interval: it is known for the cross-entropy without target priors, of linear calibrators but matrix"
    if posteriors.targets is not None:
        return "no interval: it is known for labels that are one choice, not for soft ones"
    units = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    n_units = int(units.max()) + 1
    if n_units < _FEWEST_PER_PARAMETER * parameters:
        return (
            f"no interval: {n_units:,} instances or groups are too few for the {parameters:,} parameters of {method} "
            f"calibration (at least {_FEWEST_PER_PARAMETER * parameters:,})"
        )
    fitted = fit_calibrator(posteriors, method=method)
    losses = [metrics.logarithmic_rule(p.log_posteriors, p.labels) for p in (posteriors, fitted.apply(posteriors))]
    gains = losses[0] - losses[1]  # (N,)
    gain = float(gains.mean())
    # The variance of the mean, from the sums over units.
    variance = float(np.square(np.bincount(units, weights=gains - gain)).sum()) / n**2
    # Fitting its own sample makes the gains too equal, so that a ratio below 1 is not believed.
    scale = max(1.0, n * variance / (2 * gain)) if gain > 0 else 1.0
    ratio, tail = 2 * n * gain / scale, (1 - level) / 2
    # The upper end does not fall further where a gain is smaller than in 95 % of samples of calibrated posteriors.
    ratios = {1 - tail: ratio, tail: max(ratio, float(chdtri(parameters, 0.95)))}
    low, high = (
        float(chndtrinc(x, parameters, share)) * scale / (2 * n) if chdtr(parameters, x) > share else 0.0
        for share, x in ratios.items()
    )
    return low, high


def fold_of(labels: Labels, *, folds: int, seed: int, groups: Sequence[str] | None = None) -> NDArray[np.int64]:
    """The fold of each instance (N,): stratified by class, or whole groups balanced by size where there are groups.

    Raises:
        InputError: fewer than two folds, instances or groups.
    """
    n_apart = len(labels) if groups is None else len(set(groups))
    if folds < 2 or n_apart < 2:
        raise InputError(f"{folds} folds of {n_apart} instances or groups; expected at least 2 of each")
    folds = min(folds, n_apart)
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
    _, group_of, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    fold_sizes = np.zeros(folds)
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    shuffled = rng.permutation(len(sizes))
    # The largest groups first, each into the fold that is smallest so far.
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of_group[group] = fold_sizes.argmin()
        fold_sizes[fold_of_group[group]] += sizes[group]
    return np.asarray(fold_of_group[group_of], dtype=np.int64)
