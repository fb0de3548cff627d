"""Multinomial logistic regression: fitting q = softmax(W s + β + ln π) in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array, Labels

Shape: TypeAlias = Literal["affine", "vector", "matrix"]

# Pulls every parameter towards the identity so weakly that no optimum moves by more than about 1e-8, yet one exists
# where classes without instances or separable data would send a parameter to infinity.
RIDGE = 1e-9
# Logits up to this size neither overflow nor vanish under exp, in float32 too.
_TAME = 80.0
# Bytes of scores in a piece: with its work arrays it stays in the second-level cache.
_PIECE = 1 << 19


@dataclass(frozen=True, eq=False)
class Data:
    """What is fitted on."""

    scores: Array
    """(K, N) log-posteriors, 0 where impossible; float64, or float32 on the way to the optimum."""
    impossible: NDArray[np.bool_] | None
    """(K, N), or None where every choice is possible."""
    labels: Labels
    """(N,), each at a possible choice."""
    at_label: Array
    """(N,) the score of the right choice."""
    weights: Array | None
    """(N,), summing to one; None where each is 1/N."""
    log_priors: Array
    """(K, 1), 0 without target priors."""
    largest: float
    """Largest absolute score."""

    def pieces(self) -> Iterator[Data]:
        """The data a few columns at a time: the work arrays of a piece stay in cache."""
        step = max(1, _PIECE // (len(self.scores) * self.scores.itemsize))
        for start in range(0, len(self.labels), step):
            yield self.columns(slice(start, start + step))

    def rough(self) -> Data:
        """The same in float32: half the memory to pass over, and a third of the time."""
        weights: Any = None if self.weights is None else self.weights.astype(np.float32)
        scores: Any = self.scores.astype(np.float32)
        return replace(self, scores=scores, weights=weights)

    def sample(self, n: int) -> Data:
        """About `n` instances at even distances."""
        chosen = self.columns(slice(None, None, len(self.labels) // n))
        weights = None if chosen.weights is None else chosen.weights / chosen.weights.sum()
        return replace(chosen, scores=np.ascontiguousarray(chosen.scores), weights=weights)

    def columns(self, chosen: slice) -> Data:
        """Some of the instances."""
        impossible = None if self.impossible is None else self.impossible[:, chosen]
        return replace(
            self,
            scores=self.scores[:, chosen],
            impossible=impossible,
            labels=self.labels[chosen],
            at_label=self.at_label[chosen],
            weights=None if self.weights is None else self.weights[chosen],
        )


@dataclass(frozen=True, eq=False)
class Family:
    """Parameters θ = (W, β): W one number ("affine"), a diagonal ("vector") or a matrix ("matrix").

    Penalty: ½ Σ_j penalty_j (θ_j − identity_j)². Only `free` entries move.
    """

    shape: Shape
    n_classes: int
    identity: Array
    penalty: Array
    free: NDArray[np.bool_]

    def logits(self, theta: Array, data: Data) -> Array:
        """(K, n) logits; -inf where impossible."""
        k = self.n_classes
        own = data.scores.dtype
        weight, bias = theta[:-k].astype(own), (theta[-k:, None] + data.log_priors).astype(own)
        if self.shape == "matrix":
            logits = weight.reshape(k, k) @ data.scores
        else:
            logits = (weight if self.shape == "affine" else weight[:, None]) * data.scores
        logits += bias
        if data.impossible is not None:
            logits[data.impossible] = -np.inf
        return np.asarray(logits)

    def tame(self, theta: Array, data: Data) -> bool:
        """Whether no logit is so large that its exponential overflows or vanishes."""
        weight, bias = np.abs(theta[: -self.n_classes]), theta[-self.n_classes :, None] + data.log_priors
        return float(weight.sum() * data.largest + np.abs(bias).max()) < _TAME

    def gradient(self, by_logits: Array, scores: Array) -> Array:
        """Chain rule: (p,) from the gradient by the logits (K, n)."""
        if self.shape == "matrix":
            by_weight = (by_logits @ scores.T).ravel()
        else:
            by_weight = np.einsum("kn,kn->k", by_logits, scores)
            by_weight = by_weight.sum(keepdims=True) if self.shape == "affine" else by_weight
        return np.concatenate([by_weight, by_logits.sum(axis=1)])

    def observed(self, data: Data) -> Array:
        """The features of the labels, Σ_i w_i Jᵀ y_i (p,): what the expected features equal at the optimum."""
        weights = np.full(len(data.labels), 1.0 / len(data.labels)) if data.weights is None else data.weights
        by_class = np.bincount(data.labels, weights=weights, minlength=self.n_classes)
        own = np.bincount(data.labels, weights=weights * data.at_label, minlength=self.n_classes)
        if self.shape == "affine":
            own = own.sum(keepdims=True)
        if self.shape == "matrix":
            rows = [np.bincount(data.labels, weights=weights * row, minlength=self.n_classes) for row in data.scores]
            own = np.stack(rows, axis=1).ravel()
        return np.concatenate([own, by_class])

    def curvature(self, q: Array, weights: Array | None, scores: Array) -> tuple[Array, Array]:
        """Expected features Σ_i w_i Jᵀ q (p,) and Hessian Σ_i w_i Jᵀ (diag(q) − q qᵀ) J (p, p), w_i = 1 if None."""
        weighted = q if weights is None else q * weights
        if self.shape == "affine":
            return self._affine_curvature(q, weights, weighted, scores)
        if self.shape == "vector":
            return self.gradient(weighted, scores), self._vector_hessian(q, weighted, scores)
        return self.gradient(weighted, scores), self._matrix_hessian(q, weighted, scores)

    def _affine_curvature(self, q: Array, weights: Array | None, weighted: Array, scores: Array) -> tuple[Array, Array]:
        scaled = weighted * scores
        features = np.concatenate([[scaled.sum()], weighted.sum(axis=1)])
        # The derivative of q · z by (α, β) is (the mean score under q, q).
        mean = scaled.sum(axis=0) if weights is None else (q * scores).sum(axis=0)
        hessian = np.empty((self.n_classes + 1, self.n_classes + 1))
        hessian[0, 0] = -float(mean @ (mean if weights is None else mean * weights))
        hessian[0, 1:] = hessian[1:, 0] = scaled.sum(axis=1) - weighted @ mean
        hessian[1:, 1:] = -(weighted @ q.T)
        hessian.flat[:: self.n_classes + 2] += np.concatenate([[np.vdot(scaled, scores)], features[1:]])
        return features, hessian

    def _vector_hessian(self, q: Array, weighted: Array, scores: Array) -> Array:
        spread = np.concatenate([q * scores, q])
        result = -(spread * weighted.sum(axis=0)) @ spread.T
        k = np.arange(self.n_classes)
        result[k, k] += (weighted * scores**2).sum(axis=1)
        result[k + len(k), k + len(k)] += weighted.sum(axis=1)
        result[k, k + len(k)] += (cross := (weighted * scores).sum(axis=1))
        result[k + len(k), k] += cross
        return np.asarray(result)

    def _matrix_hessian(self, q: Array, weighted: Array, scores: Array) -> Array:
        k = self.n_classes
        features = np.concatenate([scores, np.ones((1, scores.shape[1]))])
        spread = (q[:, None] * features).reshape(k * (k + 1), -1)
        result = -(spread * weighted.sum(axis=0)) @ spread.T
        blocks = result.reshape(k, k + 1, k, k + 1)
        for row in range(k):
            blocks[row, :, row, :] += (features * weighted[row]) @ features.T
        # From (class, feature) order to (W row by row, β).
        order = np.arange(k * (k + 1)).reshape(k, k + 1)
        chosen = np.concatenate([order[:, :k].ravel(), order[:, k]])
        return np.asarray(result[np.ix_(chosen, chosen)])


def affine_family(n_classes: int, *, scale: bool, bias: bool) -> Family:
    """One scale (free if `scale`) and a bias (free if `bias`)."""
    identity = np.concatenate([[1.0], np.zeros(n_classes)])
    free = np.concatenate([[scale], np.full(n_classes, bias)])
    return Family("affine", n_classes, identity, np.full(n_classes + 1, RIDGE), free)


def vector_family(n_classes: int) -> Family:
    """A scale and a bias for each class."""
    identity = np.concatenate([np.ones(n_classes), np.zeros(n_classes)])
    return Family("vector", n_classes, identity, np.full(2 * n_classes, RIDGE), np.ones(2 * n_classes, dtype=bool))


def matrix_family(n_classes: int, *, regularisation: float) -> Family:
    """A full matrix whose entries off the diagonal cost `regularisation`/2 times their square, and a bias."""
    identity = np.concatenate([np.eye(n_classes).ravel(), np.zeros(n_classes)])
    penalty = np.full(len(identity), RIDGE)
    penalty[: n_classes**2] += regularisation * (1.0 - np.eye(n_classes)).ravel()
    return Family("matrix", n_classes, identity, penalty, np.ones(len(identity), dtype=bool))


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
