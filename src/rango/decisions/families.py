"""The families of q = softmax(W s + β + ln π) and what they are fitted on: logits, gradients, Hessians by θ = (W, β).

Arrays are (K, N) here: sums over a few choices then run along memory.
"""

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
