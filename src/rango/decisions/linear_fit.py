"""Fitting q = softmax(W s + β + ln π) in float64: Newton's method on the cross-entropy, L-BFGS on the rest.

The cross-entropy is convex in θ = (W, β), and its gradient and Hessian cost little more than itself: a few Newton steps
reach the optimum to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from rango.decisions.arrays import Array
from rango.decisions.families import Data, Family

Objective: TypeAlias = Literal["cross_entropy", "brier"]

# Newton has converged where half its squared decrement, the distance of the loss from its minimum in nats, is below
# this. One more step follows, after which that distance is of the order of its square.
TOLERANCE = 1e-10
# L-BFGS has converged where no gradient entry is above this.
_LBFGS_TOLERANCE = 1e-5
_MAX_STEPS = 100
# A Hessian of more parameters costs more than L-BFGS does.
_MAX_NEWTON = 600
_WARM = 6_000


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where a minimisation ended."""

    theta: Array
    converged: bool
    iterations: int
    gradient: float
    """Largest absolute entry over the free parameters, where last evaluated."""
    loss: float
    """The weighted mean loss, without the penalty."""
    hessian: Array | None = None
    """Where last evaluated."""


def fit(family: Family, data: Data, *, objective: Objective) -> Optimum:
    """Minimise the weighted mean loss plus the penalty over the free parameters, from the identity."""
    start = family.identity.copy()
    if objective == "brier" or family.free.sum() > _MAX_NEWTON:
        return _lbfgs(family, data, start, objective)
    observed, hessian = family.observed(data), None
    if len(data.labels) > 4 * _WARM:
        # A sample leads near, single precision nearer; one pass in float64 then finishes and judges.
        rough = data.rough()
        sample = rough.sample(_WARM)
        start = _newton(family, sample, start, family.observed(sample), tolerance=1e-6).theta
        near = _newton(family, rough, start, observed, tolerance=1e-6)
        start, hessian = near.theta, near.hessian
    found = _newton(family, data, start, observed, tolerance=TOLERANCE, hessian=hessian)
    if family.shape == "affine" and found.theta[0] < 0:
        # Convex, so the best scale that keeps the direction is the nearest one allowed: 0.
        free = family.free.copy()
        free[0] = False
        start = np.concatenate([[0.0], found.theta[1:] if free.any() else family.identity[1:]])
        found = _newton(replace(family, free=free), data, start, observed, tolerance=TOLERANCE)
    return found


def _newton(
    family: Family, data: Data, start: Array, observed: Array, *, tolerance: float, hessian: Array | None = None
) -> Optimum:
    """Newton's method with steps halved until the loss falls enough. `hessian`: one from nearby, to begin with."""
    free = np.flatnonzero(family.free)
    rounding = 64 * float(np.finfo(data.scores.dtype).eps)
    theta, nearby = start, hessian is not None
    if hessian is None:
        loss, gradient, hessian = _with_hessian(family, theta, data, observed)
    else:
        loss, gradient = _cross_entropy(family, theta, data, observed)
    for iteration in range(_MAX_STEPS):
        step, slope = _step(family, gradient, hessian)
        if -slope / 2 <= tolerance:
            # The loss is that near its minimum; the last step, too small to be checked, goes the rest of the way.
            return _optimum(family, theta + step, loss, gradient[free], iteration + 1, True, hessian)
        if nearby:
            nearby = False
            loss, gradient, hessian = _with_hessian(family, theta, data, observed)
            continue
        size = 1.0
        while True:
            tried = theta + size * step
            found = _with_hessian(family, tried, data, observed)
            # The last term is rounding: near the optimum the loss cannot show the progress any more.
            if found[0] <= loss + 1e-4 * size * slope + rounding * (1.0 + abs(loss)):
                break
            size /= 2
            if size < 1e-10:
                return _optimum(family, theta, loss, gradient[free], iteration, False)
        theta, (loss, gradient, hessian) = tried, found
    return _optimum(family, theta, loss, gradient[free], _MAX_STEPS, False)


def _step(family: Family, gradient: Array, hessian: Array) -> tuple[Array, float]:
    """Newton's step over the free parameters, and the slope of the loss along it."""
    free = np.flatnonzero(family.free)
    # A constant added to every bias changes nothing; this keeps rounding from walking that way.
    pinned = hessian.copy()
    pinned[-family.n_classes :, -family.n_classes :] += 1.0 / family.n_classes**2
    step = np.zeros_like(gradient)
    step[free] = -np.linalg.solve(pinned[np.ix_(free, free)], gradient[free])
    return step, float(gradient @ step)


def _lbfgs(family: Family, data: Data, start: Array, objective: Objective) -> Optimum:
    from scipy.optimize import minimize

    free = np.flatnonzero(family.free)
    observed = family.observed(data)

    def value(part: Array) -> tuple[float, Array]:
        theta = start.copy()
        theta[free] = part
        if objective == "brier":
            loss, gradient = _brier(family, theta, data)
        else:
            loss, gradient = _cross_entropy(family, theta, data, observed)
        return loss, gradient[free]

    bounds = [(0.0, None) if family.shape == "affine" and index == 0 else (None, None) for index in free]
    options = {"maxiter": 5000, "maxfun": 20_000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-7}
    found = minimize(value, start[free], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    theta = start.copy()
    theta[free] = found.x
    # On its bound a scale of 0 rests although the gradient points outwards.
    resting = (found.x == 0) & np.array([low == 0.0 for low, _ in bounds])
    gradient = np.where(resting, 0.0, found.jac)
    converged = _largest(gradient) <= _LBFGS_TOLERANCE
    return _optimum(family, theta, float(found.fun), gradient, int(found.nit), converged)


def _optimum(
    family: Family,
    theta: Array,
    objective: float,
    gradient: Array,
    iterations: int,
    converged: bool,
    hessian: Array | None = None,
) -> Optimum:
    penalty = 0.5 * float(family.penalty @ (theta - family.identity) ** 2)
    return Optimum(theta, converged, iterations, _largest(gradient), objective - penalty, hessian)


def _with_hessian(family: Family, theta: Array, data: Data, observed: Array) -> tuple[float, Array, Array]:
    hessian = np.diag(family.penalty)
    loss, gradient = _cross_entropy(family, theta, data, observed, hessian)
    return loss, gradient, hessian


def _cross_entropy(
    family: Family, theta: Array, data: Data, observed: Array, hessian: Array | None = None
) -> tuple[float, Array]:
    """Objective and gradient of Σ_i w_i (ln Σ_k exp z_ik − z_iy); the Hessian is added to `hessian` if given.

    The logits are linear in θ, so Σ w z_y is θ · observed, computed once: no pass ever looks at the labels.
    """
    # Weights that are all equal are left to the end: one pass less over the posteriors.
    share = 1.0 / len(data.labels) if data.weights is None else 1.0
    distance = theta - family.identity
    loss, gradient = 0.0, np.zeros_like(theta)
    tame = family.tame(theta, data)
    for piece in data.pieces():
        q, log_total = _softmax(family.logits(theta, piece), tame=tame)
        loss += share * float(log_total.sum() if piece.weights is None else piece.weights @ log_total)
        if hessian is None:
            gradient += share * family.gradient(q if piece.weights is None else q * piece.weights, piece.scores)
        else:
            features, curvature = family.curvature(q, piece.weights, piece.scores)
            gradient += share * features
            hessian += share * curvature
    loss += 0.5 * float(family.penalty @ distance**2)
    loss -= float(theta @ observed) + float(observed[-family.n_classes :] @ data.log_priors[:, 0])
    return loss, gradient + family.penalty * distance - observed


def _brier(family: Family, theta: Array, data: Data) -> tuple[float, Array]:
    distance = theta - family.identity
    loss = 0.5 * float(family.penalty @ distance**2)
    gradient = family.penalty * distance
    n = len(data.labels)
    for piece in data.pieces():
        weights = np.full(len(piece.labels), 1.0 / n) if piece.weights is None else piece.weights
        columns = np.arange(len(piece.labels))
        q, _ = _softmax(family.logits(theta, piece), tame=False)
        at_label = q[piece.labels, columns]
        square = np.einsum("kn,kn->n", q, q)
        loss += float(weights @ (square - 2 * at_label + 1.0))
        # ∂/∂z_k = 2 q_k ((q_k − y_k) − Σ_j q_j (q_j − y_j)).
        by_logits = q * (q - (square - at_label))
        by_logits[piece.labels, columns] -= at_label
        by_logits *= 2 * weights
        gradient += family.gradient(by_logits, piece.scores)
    return loss, gradient


def _softmax(logits: Array, *, tame: bool) -> tuple[Array, Array]:
    """Softmax over the first axis, in place, and ln Σ_k exp of the logits; `tame` ones need no shift."""
    top = 0.0 if tame else logits.max(axis=0)
    if not tame:
        logits -= top
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    logits *= 1.0 / total
    return logits, np.log(total) + top


def _largest(gradient: Array) -> float:
    return float(np.abs(gradient).max()) if gradient.size else 0.0
