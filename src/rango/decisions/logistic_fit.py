"""Multinomial logistic regression on log-posteriors s: fitting q = softmax(W s + β + ln π).

A `Family` says what W may be, `FitData` holds the instances, and `fit` minimises

    Σ_i w_i loss(q_i, y_i) + ½ Σ_j penalty_j (θ_j − identity_j)²,   θ = (W, β).

Cross-entropy is convex: Newton's method takes 5 to 8 passes over the data. The Hessian of a matrix of many classes is
too large: there the steps of Newton's method are found by conjugate gradients, which need only products with it. The
Brier score is not convex, and takes L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array, Labels, one_blas_thread

Objective: TypeAlias = Literal["cross_entropy", "brier"]
LinearMethod: TypeAlias = Literal["temperature", "bias", "affine", "vector", "matrix"]

# Pulls every parameter towards the identity so weakly that no optimum moves by more than about 1e-8, yet one exists
# where classes without instances or separable data would send a parameter to infinity.
RIDGE = 1e-9
# Newton has converged where half its squared decrement, the distance of the loss from its minimum in nats, is below
# this. One more step follows, after which that distance is of the order of its square.
TOLERANCE = 1e-10
# L-BFGS has converged where no gradient entry is above this.
_LBFGS_TOLERANCE = 1e-5
_MAX_STEPS = 100
# A Hessian of more parameters costs more than steps without it do.
_MAX_NEWTON = 600
# Of the fit of a large matrix: steps of L-BFGS at first, which are cheap as long as the loss is far from a parabola;
# the decrement in nats at which it has converged; the most products with the Hessian, and the accuracy, of one step.
_WARM_UP, _MATRIX_TOLERANCE, _MAX_PRODUCTS, _STEP_ACCURACY = 40, 1e-5, 250, 0.25
# Scores up to this size may be multiplied in float32, where only the direction of a step depends on it.
_SINGLE_PRECISION = 1e4
# A smaller posterior bends the loss by less than the last digit of what bends it elsewhere.
_TRACE = 1e-15
# Multiplications in a product of the parameters with the data, from which on several cores are worth their meetings.
_FOR_SEVERAL_THREADS = 1 << 28
# Instances of the sample from which a large fit starts.
_SAMPLE = 6_000
# Bytes of scores in a piece: with its work arrays it stays in the second-level cache.
_PIECE = 1 << 19


@dataclass(frozen=True, eq=False)
class FitData:
    """The instances of a fit, one column each, so that sums over classes run along contiguous memory."""

    scores: Array
    """(K, N) log-posteriors, 0 where impossible."""
    impossible: NDArray[np.bool_] | None
    """(K, N), or None where every choice is possible."""
    labels: Labels
    """(N,), each at a possible choice."""
    weights: Array
    """(N,), summing to one."""
    log_priors: Array
    """(K, 1), ln π; 0 without target priors."""

    @classmethod
    def of(
        cls, log_posteriors: Array, labels: Labels, *, priors: Array | None, weights: Array | None = None
    ) -> FitData:
        """Lay out instances (N, K); target priors π weigh them by π_y / p_y, p_y being the share of their class.

        `weights` (N,) say how much of an instance each row is; None where each is one.
        """
        # A copy even where the transpose is contiguous, as of one instance: it is written to below.
        scores = np.array(log_posteriors.T, order="C")  # (K, N)
        impossible = np.isneginf(scores)
        own = np.ones(len(labels)) if weights is None else weights
        used = np.full(len(labels), 1.0 / len(labels)) if weights is None else weights / weights.sum()
        log_priors = np.zeros((len(scores), 1))
        if priors is not None:
            counts = np.bincount(labels, weights=own, minlength=len(priors))
            used = np.divide(priors, counts, out=np.zeros_like(priors), where=counts > 0)[labels] * own
            used /= used.sum()
            impossible |= (priors == 0)[:, None]
            log_priors[priors > 0, 0] = np.log(priors[priors > 0])
        scores[impossible] = 0.0
        return cls(scores, impossible if impossible.any() else None, labels, used, log_priors)

    def columns(self, chosen: slice) -> FitData:
        """Some of the instances, as views."""
        impossible = None if self.impossible is None else self.impossible[:, chosen]
        return FitData(self.scores[:, chosen], impossible, self.labels[chosen], self.weights[chosen], self.log_priors)

    def pieces(self, *, least: int = 1) -> Iterator[FitData]:
        """The instances a few at a time, `least` at least: the work arrays of a piece, in float64, stay in cache."""
        step = max(least, _PIECE // (len(self.scores) * 8))
        for start in range(0, len(self.labels), step):
            yield self.columns(slice(start, start + step))

    def sample(self, n: int) -> FitData:
        """About `n` instances at even distances, their weights summing to one again."""
        chosen = self.columns(slice(None, None, len(self.labels) // n))
        scores = np.ascontiguousarray(chosen.scores)
        return replace(chosen, scores=scores, weights=chosen.weights / chosen.weights.sum())


@dataclass(frozen=True, eq=False)
class Family:
    """Parameters θ = (W, β) of p entries: W is one number ("affine"), a diagonal ("vector") or a matrix ("matrix")."""

    shape: Literal["affine", "vector", "matrix"]
    n_classes: int
    identity: Array
    """(p,) the θ that changes nothing."""
    penalty: Array
    """(p,) by how much a parameter is held at the identity."""
    free: NDArray[np.bool_]
    """(p,) which entries the fit may move."""

    @property
    def least(self) -> int:
        """Instances of a piece of data: fewer than K are not worth a sum of K × K derivatives."""
        return self.n_classes if self.shape == "matrix" else 1

    def cost(self, theta: Array) -> tuple[float, Array]:
        """The penalty ½ Σ_j penalty_j (θ_j − identity_j)², and its gradient (p,)."""
        distance = theta - self.identity
        return 0.5 * float(self.penalty @ distance**2), self.penalty * distance

    def logits(self, theta: Array, data: FitData) -> Array:
        """W s + β + ln π, (K, N); -inf where impossible."""
        k = self.n_classes
        weight = theta[:-k].reshape(-1, k if self.shape == "matrix" else 1)  # (1, 1), (K, 1) or (K, K)
        weight = weight.astype(data.scores.dtype, copy=False)
        logits = weight @ data.scores if self.shape == "matrix" else weight * data.scores  # (K, N)
        logits += theta[-k:, None] + data.log_priors
        if data.impossible is not None:
            logits[data.impossible] = -np.inf
        return np.asarray(logits)

    def gradient(self, by_logits: Array, scores: Array) -> Array:
        """Jᵀ ∂loss/∂z, (p,), from the derivatives by the logits (K, N), by the chain rule."""
        if self.shape == "matrix":
            by_weight = (by_logits @ scores.T).ravel()  # (K · K,)
        else:
            by_weight = np.einsum("kn,kn->k", by_logits, scores)  # (K,)
        if self.shape == "affine":
            by_weight = by_weight.sum(keepdims=True)  # (1,)
        return np.concatenate([by_weight, by_logits.sum(axis=1)])

    def hessian(self, q: Array, weighted: Array, scores: Array) -> Array:
        """Σ_i w_i Jᵀ (diag(q) − q qᵀ) J, (p, p), from the posteriors q and w q, both (K, N)."""
        k = self.n_classes
        if self.shape == "affine":
            hessian = np.empty((k + 1, k + 1))
            hessian[1:, 1:] = np.diag(weighted.sum(axis=1)) - weighted @ q.T
            # The derivative of w q by the scale is w q (s − the mean score under q).
            by_scale = weighted * (scores - np.einsum("kn,kn->n", q, scores))  # (K, N)
            hessian[0] = hessian[:, 0] = self.gradient(by_scale, scores)
            return hessian
        if self.shape == "vector":
            expected = np.concatenate([q * scores, q])  # (2 K, N)
            hessian = -(expected * weighted.sum(axis=0)) @ expected.T  # (2 K, 2 K)
            own = weighted * scores  # (K, N)
            scale, bias = np.arange(k), np.arange(k, 2 * k)
            hessian[scale, scale] += np.einsum("kn,kn->k", own, scores)
            hessian[bias, bias] += weighted.sum(axis=1)
            hessian[scale, bias] += own.sum(axis=1)
            hessian[bias, scale] += own.sum(axis=1)
            return np.asarray(hessian)
        features = np.concatenate([scores, np.ones((1, scores.shape[1]))])  # (K + 1, N), the last for the bias
        expected = (q[:, None] * features).reshape(k * (k + 1), -1)  # (K (K + 1), N)
        hessian = -(expected * weighted.sum(axis=0)) @ expected.T  # (K (K + 1), K (K + 1))
        blocks = hessian.reshape(k, k + 1, k, k + 1)
        for row in range(k):
            blocks[row, :, row, :] += (features * weighted[row]) @ features.T  # (K + 1, K + 1)
        # From (class, feature) order to that of θ: W row by row, then β.
        order = np.arange(k * (k + 1)).reshape(k, k + 1)
        order = np.concatenate([order[:, :k].ravel(), order[:, k]])
        return np.asarray(hessian[np.ix_(order, order)])


def linear_family(method: LinearMethod, n_classes: int, *, regularisation: float = 0.0) -> Family:
    """The family of a method. Entries of a matrix off its diagonal cost `regularisation`/2 times their square."""
    shape: Literal["affine", "vector", "matrix"] = method if method in ("vector", "matrix") else "affine"
    weight = {"affine": np.ones(1), "vector": np.ones(n_classes), "matrix": np.eye(n_classes).ravel()}[shape]
    identity = np.concatenate([weight, np.zeros(n_classes)])
    penalty = np.full(len(identity), RIDGE)
    if shape == "matrix":
        penalty[:-n_classes] += regularisation * (1.0 - weight)
    free = np.ones(len(identity), dtype=bool)
    free[0] = method != "bias"
    free[-n_classes:] = method != "temperature"
    return Family(shape, n_classes, identity, penalty, free)


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


def fit(family: Family, data: FitData, *, objective: Objective) -> Optimum:
    """Minimise the weighted mean loss plus the penalty over the free parameters, the scale of "affine" from 0 up."""
    if family.free.sum() > _MAX_NEWTON and family.shape == "matrix" and objective == "cross_entropy":
        import scipy.optimize  # noqa: F401 - it has a BLAS of its own, which is held to one thread only once it is loaded

        is_large = len(data.labels) * family.n_classes**2 >= _FOR_SEVERAL_THREADS
        in_single = is_large and float(np.abs(data.scores).max()) <= _SINGLE_PRECISION
        with nullcontext() if is_large else one_blas_thread():
            return _truncated_newton(family, data, np.float32 if in_single else np.float64)
    if objective == "brier" or family.free.sum() > _MAX_NEWTON:
        return _lbfgs(family, data, objective)
    start = family.identity
    if len(data.labels) > 4 * _SAMPLE:
        # The optimum of a sample is so near that about three passes over all instances remain.
        start = _newton(family, data.sample(_SAMPLE), start).theta
    optimum = _newton(family, data, start)
    if family.shape == "affine" and optimum.theta[0] < 0:
        # Convex, so the best scale that keeps the direction is the nearest one allowed: 0.
        free = family.free.copy()
        free[0] = False
        bias = optimum.theta[1:] if free.any() else family.identity[1:]
        optimum = _newton(replace(family, free=free), data, np.concatenate([[0.0], bias]))
    return optimum


def _newton(family: Family, data: FitData, start: Array) -> Optimum:
    """Minimise the cross-entropy by Newton's method, with steps halved until the loss falls enough."""
    free = np.flatnonzero(family.free)
    observed = _observed(family, data)

    def evaluate(theta: Array) -> tuple[float, Array, Array]:
        hessian = np.diag(family.penalty)
        return *_cross_entropy(family, theta, data, observed, hessian), hessian

    theta, converged = start, False
    loss, gradient, hessian = evaluate(theta)
    for iteration in range(1, _MAX_STEPS + 1):  # noqa: B007 - the report says how many there were
        # A constant added to every bias changes nothing; this keeps rounding from walking that way.
        hessian[-family.n_classes :, -family.n_classes :] += 1.0 / family.n_classes**2
        step = np.zeros_like(theta)
        step[free] = -np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        slope = float(gradient @ step)
        if -slope / 2 <= TOLERANCE:
            # The loss is that near its minimum; the last step, too small to be checked, goes the rest of the way.
            theta, converged = theta + step, True
            break
        for size in 0.5 ** np.arange(34):
            trial = evaluate(theta + size * step)
            # The last term is rounding: near the optimum the loss cannot show the progress any more.
            if trial[0] <= loss + 1e-4 * size * slope + 64 * np.finfo(float).eps * (1.0 + abs(loss)):
                break
        else:
            break
        theta, (loss, gradient, hessian) = theta + size * step, trial
    largest = float(np.abs(gradient[free]).max(initial=0.0))
    return Optimum(theta, converged, iteration, largest, loss - family.cost(theta)[0])


def _truncated_newton(family: Family, data: FitData, of_products: type[np.floating[Any]]) -> Optimum:
    """Minimise the cross-entropy of a large matrix by Newton's method, each step found by conjugate gradients.

    The products with the Hessian take two matrix products over the data. They are preconditioned by its own diagonal
    and the correlations of the features, H ≈ D^½ (I ⊗ R) D^½ with R (K + 1, K + 1) the same for each class, and by the
    exact inverse where no penalty bends the loss. They may be in float32 (`of_products`), as the first steps may: loss
    and gradient, in float64, judge what follows.

    Source: Nocedal and Wright (2006), section 7.1.
    """
    k, observed = family.n_classes, _observed(family, data)
    factors = replace(data, scores=data.scores.astype(of_products), weights=data.weights.astype(of_products))
    theta, converged = _lbfgs(family, factors, "cross_entropy", steps=_WARM_UP, memory=10).theta, False
    loss, gradient = _cross_entropy(family, theta, data, observed)
    for iteration in range(1, _MAX_STEPS + 1):  # noqa: B007 - the report says how many there were
        hessian = _MatrixHessian.at(theta, family, data, factors)
        target = -_rows(gradient, k).astype(of_products)
        rows = _conjugate_gradients(hessian.times, target, hessian.roughly_solved).astype(np.float64)
        step = np.concatenate([rows[:, :k].ravel(), rows[:, k]])
        slope = float(gradient @ step)
        for size in 0.5 ** np.arange(34):
            trial = _cross_entropy(family, theta + size * step, data, observed)
            if trial[0] <= loss + 1e-4 * size * slope + 64 * np.finfo(float).eps * (1.0 + abs(loss)):
                break
        else:
            break
        theta, (loss, gradient) = theta + size * step, trial
        if -slope / 2 <= _MATRIX_TOLERANCE:
            converged = True
            break
    return Optimum(theta, converged, iteration, float(np.abs(gradient).max()), loss - family.cost(theta)[0])


@dataclass(frozen=True, eq=False)
class _MatrixHessian:
    """The Hessian of a matrix at one θ, in the precision of its products; vectors are rows (K, K + 1), see `_rows`."""

    pieces: Sequence[tuple[Array, FitData]]
    """Posteriors (K, n) and instances."""
    penalty: Array
    """(K, K + 1)"""
    scale: Array
    """(K, K + 1) the root of its diagonal."""
    bends: Array
    """(K, K + 1) the eigenvalues of what the features have in common, for each class."""
    directions: Array
    """(K + 1, K + 1) their eigenvectors."""
    own: Array
    """(2 K, 2 K) its inverse where no penalty holds: for the diagonal of W and β."""

    @classmethod
    def at(cls, theta: Array, family: Family, data: FitData, factors: FitData) -> _MatrixHessian:
        """The Hessian at θ; `factors` are the instances in the precision of the products."""
        pieces = [(_softmax(family.logits(theta, piece))[0], piece) for piece in data.pieces(least=family.least)]
        penalty = _rows(family.penalty, family.n_classes)
        diagonal, correlations = _curvature(pieces)
        values, directions = np.linalg.eigh(correlations)
        # Where a class is nearly certain the penalty is what bends the loss: its share is the same for all directions.
        share = np.median(penalty / (diagonal + np.finfo(float).tiny), axis=1)[:, None]  # (K, 1)
        bends = (np.maximum(values, 0.0) + share) / (1.0 + share)  # (K, K + 1)
        made = (penalty, np.sqrt(diagonal + penalty), bends, directions, _own_inverse(pieces))
        precision = factors.scores.dtype
        # Processors are slow at numbers below 1e-38, which products of such posteriors would be.
        posteriors = [np.where(q > _TRACE, q, 0.0).astype(precision, copy=False) for q, _ in pieces]
        used = list(zip(posteriors, factors.pieces(least=family.least), strict=True))
        return cls(used, *(array.astype(precision, copy=False) for array in made))

    def times(self, rows: Array) -> Array:
        """The product with a vector, which adds z_i to the logits: Σ_i w_i (q_i ∘ (z_i − q_i · z_i)) s_iᵀ."""
        k, product = len(rows), self.penalty * rows
        for q, piece in self.pieces:
            by_logits = rows[:, :k] @ piece.scores + rows[:, k:]  # (K, n)
            by_logits -= np.einsum("kn,kn->n", q, by_logits)
            by_logits *= q
            by_logits *= piece.weights
            product[:, :k] += by_logits @ piece.scores.T
            product[:, k] += by_logits.sum(axis=1)
        return np.asarray(product)

    def roughly_solved(self, rows: Array) -> Array:
        """About the vector whose product is `rows`, by a matrix that is easily inverted and positive definite."""
        k = len(rows)
        rough = ((rows / self.scale) @ self.directions / self.bends) @ self.directions.T / self.scale
        own = self.own @ np.concatenate([np.diag(rows[:, :k]), rows[:, k]])  # (2 K,)
        rough[np.arange(k), np.arange(k)] += own[:k]
        rough[:, k] += own[k:]
        return np.asarray(rough)


def _rows(theta: Array, k: int) -> Array:
    """θ of a matrix as (K, K + 1): the weights of each class and its bias."""
    return np.column_stack([theta[:-k].reshape(k, k), theta[-k:]])


def _curvature(pieces: Sequence[tuple[Array, FitData]]) -> tuple[Array, Array]:
    """The diagonal (K, K + 1) of the Hessian without the penalty, and the correlations (K + 1, K + 1) of the features.

    An instance counts for the correlations as much as its posteriors can still move: w_i Σ_k q_ik (1 − q_ik).
    """
    diagonal, products = 0.0, 0.0
    for q, piece in pieces:
        features = np.concatenate([piece.scores, np.ones((1, piece.scores.shape[1]))])  # (K + 1, n)
        movable = q * (1.0 - q) * piece.weights  # (K, n)
        diagonal = diagonal + movable @ (features**2).T
        products = products + (features * movable.sum(axis=0)) @ features.T
    own = 1.0 / np.sqrt(np.diag(products) + np.finfo(float).tiny)
    return np.asarray(diagonal), np.asarray(products * own * own[:, None])


def _own_inverse(pieces: Sequence[tuple[Array, FitData]]) -> Array:
    """The inverse of the Hessian of what no penalty holds, (2 K, 2 K): the diagonal of W and β, as of "vector"."""
    k = len(pieces[0][0])
    family = linear_family("vector", k)
    hessian = np.diag(family.penalty)
    for q, piece in pieces:
        hessian += family.hessian(q, q * piece.weights, piece.scores)
    # A constant added to every bias changes nothing.
    hessian[k:, k:] += 1.0 / k**2
    return np.asarray(np.linalg.inv(hessian), dtype=np.float64)


def _conjugate_gradients(
    by_matrix: Callable[[Array], Array], target: Array, solve_roughly: Callable[[Array], Array]
) -> Array:
    """About the x with A x = target, for a positive definite A; more exactly the nearer the target is to 0."""
    x, residual = np.zeros_like(target), target.copy()
    rough = solve_roughly(residual)
    direction, square = rough, float(np.vdot(residual, rough))
    goal = min(_STEP_ACCURACY**2, math.sqrt(abs(square))) * square
    for _ in range(_MAX_PRODUCTS):
        if square <= goal or square <= 0:
            break
        product = by_matrix(direction)
        length = square / float(np.vdot(direction, product))
        x += length * direction
        residual -= length * product
        rough = solve_roughly(residual)
        before, square = square, float(np.vdot(residual, rough))
        direction = rough + square / before * direction
    return x


def _lbfgs(family: Family, data: FitData, objective: Objective, *, steps: int = 5000, memory: int = 30) -> Optimum:
    from scipy.optimize import Bounds, minimize

    observed = _observed(family, data)

    def value(theta: Array) -> tuple[float, Array]:
        if objective == "brier":
            loss, gradient = _brier(family, theta, data)
        else:
            loss, gradient = _cross_entropy(family, theta, data, observed)
        # Without a slope, what is not free never moves.
        return loss, gradient * family.free

    lowest = np.full(len(family.identity), -np.inf)
    lowest[0] = 0.0 if family.shape == "affine" else -np.inf
    options = {"maxiter": steps, "maxfun": 20_000, "maxcor": memory, "ftol": 1e-15, "gtol": 1e-7}
    bounds = Bounds(lowest, np.inf) if family.shape == "affine" else None
    result = minimize(value, family.identity, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    # On its bound a scale of 0 rests although the gradient points outwards.
    largest = float(np.abs(np.where(result.x == lowest, 0.0, result.jac)).max())
    loss = float(result.fun) - family.cost(result.x)[0]
    return Optimum(result.x, largest <= _LBFGS_TOLERANCE, int(result.nit), largest, loss)


def _observed(family: Family, data: FitData) -> Array:
    """Σ_i w_i Jᵀ y_i, (p,), y_i being the label as a vector: what the model's expectation equals at the optimum."""
    observed = np.zeros_like(family.identity)
    for piece in data.pieces(least=family.least):
        at_label = np.zeros_like(piece.scores)  # (K, n)
        at_label[piece.labels, np.arange(len(piece.labels))] = piece.weights
        observed += family.gradient(at_label, piece.scores)
    return observed


def _cross_entropy(
    family: Family, theta: Array, data: FitData, observed: Array, hessian: Array | None = None
) -> tuple[float, Array]:
    """Objective and gradient of Σ_i w_i (ln Σ_k exp z_ik − z_iy); the Hessian is added to `hessian` if given.

    The logits are linear in θ, so Σ w z_y is θ · observed, computed once: no pass ever looks at the labels.
    """
    loss, gradient = family.cost(theta)
    loss -= float(theta @ observed) + float(observed[-family.n_classes :] @ data.log_priors[:, 0])
    gradient -= observed
    for piece in data.pieces(least=family.least):
        q, log_total = _softmax(family.logits(theta, piece))
        weighted = q * piece.weights  # (K, n)
        loss += float(piece.weights @ log_total)
        gradient += family.gradient(weighted, piece.scores)
        if hessian is not None:
            hessian += family.hessian(q, weighted, piece.scores)
    return loss, gradient


def _brier(family: Family, theta: Array, data: FitData) -> tuple[float, Array]:
    """Objective and gradient of Σ_i w_i Σ_k (q_ik − y_ik)²."""
    loss, gradient = family.cost(theta)
    for piece in data.pieces(least=family.least):
        columns = np.arange(len(piece.labels))
        q, _ = _softmax(family.logits(theta, piece))
        at_label = q[piece.labels, columns]  # (n,)
        square = np.einsum("kn,kn->n", q, q)  # (n,)
        loss += float(piece.weights @ (square - 2 * at_label + 1.0))
        # ∂/∂z_k = 2 q_k ((q_k − y_k) − Σ_j q_j (q_j − y_j)).
        by_logits = q * (q - (square - at_label))  # (K, n)
        by_logits[piece.labels, columns] -= at_label
        by_logits *= 2 * piece.weights
        gradient += family.gradient(by_logits, piece.scores)
    return loss, gradient


def _softmax(logits: Array) -> tuple[Array, Array]:
    """Softmax over the first axis (K, n), in place, and ln Σ_k exp of the logits (n,)."""
    top = logits.max(axis=0)
    logits -= top
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    logits *= 1.0 / total
    return logits, np.log(total) + top
