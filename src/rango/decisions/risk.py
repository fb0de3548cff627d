"""Acting on posteriors: the Bayes decision of each instance, and the risk of such decisions as something varies.

decide            one decision for each instance
cost_balance      what decisions promise to cost, what they cost, and what the best constant decision costs
risk_curve        expected cost as the costs vary
threshold_curve   expected cost as the threshold on the log-odds of two classes varies
risk_coverage     mean loss as the share of answered instances varies
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions.arrays import Array, Labels, check_priors
from rango.decisions.costs import Costs, bayes_decisions, expected_costs, naive_cost
from rango.decisions.metrics import Estimate, check_present, cost_rule, error_rule, weighted_mean
from rango.decisions.posteriors import Posteriors
from rango.decisions.summary import summarise, summarise_difference
from rango.errors import InputError
from rango.frames import Backend, new_frame
from rango.showing import Grid, Shown, count, short


@dataclass(frozen=True, eq=False, repr=False)
class Decisions(Shown):
    """The Bayes decision of each instance and the next best; costs are expected under the posteriors, in their unit."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    """Of the decisions, the columns of the costs."""
    chosen: Labels
    """(N,) column of the Bayes decision."""
    expected_costs: Array
    """(N,) expected cost of the Bayes decision."""
    runners_up: Labels
    """(N,) column of the second-best decision."""
    runner_up_costs: Array
    """(N,) expected cost of the second-best decision."""

    def to_frame(self, backend: Backend = "pandas") -> Any:
        """A data frame with the columns of `rows`; `backend` is "pandas", "polars" or "pyarrow".

        Raises:
            InputError: an unknown backend, or one that is not installed.
        """
        rows = list(self.rows())
        return new_frame({name: [row[name] for row in rows] for name in rows[0]}, backend)

    def _facts(self) -> Iterator[str]:
        yield count(len(self.ids), "instance")
        yield f"mean expected cost {short(float(self.expected_costs.mean()))}"

    def _grid(self) -> Grid:
        counts = np.bincount(self.chosen, minlength=len(self.names))
        rows = [[name, f"{n:,}", f"{n / len(self.ids):.1%}"] for name, n in zip(self.names, counts, strict=True)]
        return Grid(["decision", "instances", "share"], rows)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping for each instance: id, decision, expected_cost, runner_up, runner_up_cost."""
        for row, name in enumerate(self.ids):
            yield {
                "id": name,
                "decision": self.names[self.chosen[row]],
                "expected_cost": float(self.expected_costs[row]),
                "runner_up": self.names[self.runners_up[row]],
                "runner_up_cost": float(self.runner_up_costs[row]),
            }


def decide(
    posteriors: Posteriors,
    *,
    costs: Costs,
    priors: ArrayLike | None = None,
    training_priors: ArrayLike | None = None,
) -> Decisions:
    """The Bayes decision argmin_d Σ_k C[k, d] q_k of each instance, the first on ties, and the second-best one.

    Args:
        posteriors: N instances; labels are used for the training priors only, and not needed otherwise.
        costs: (K, D), matched to the choices by name. Abstaining is a column like any other.
        priors: (K,) class priors to decide under: re-weights the posteriors by π_k / π⁰_k first. None: as they are.
        training_priors: (K,) the priors π⁰ behind the posteriors; None for the shares of the labels.

    Raises:
        InputError: costs of another number of classes; as `Posteriors.with_priors`.

    Source: reference thesis, eq. 3.1.

    >>> posteriors = Posteriors(np.log([[0.7, 0.3]]), [0])
    >>> next(decide(posteriors, costs=Costs.zero_one(["no", "yes"]).with_abstention(0.2)).rows())["decision"]
    'abstain'
    """
    if priors is not None:
        posteriors = posteriors.with_priors(priors, training_priors=training_priors)
    costs = posteriors.match_costs(costs)
    chosen = bayes_decisions(posteriors.log_posteriors, costs=costs)
    risks = expected_costs(posteriors.log_posteriors, costs=costs)  # (N, D)
    rows = np.arange(len(chosen))
    least = risks[rows, chosen]
    # Without the Bayes decision, the best of the others is the runner-up.
    risks[rows, chosen] = np.inf
    second = risks.argmin(axis=1)
    return Decisions(posteriors.ids, costs.decisions, chosen, least, second, risks[rows, second])


@dataclass(frozen=True)
class CostBalance:
    """What Bayes decisions cost beside one and the same decision for every instance; in the unit of the costs."""

    promised: float
    """Mean expected cost, as the posteriors forecast it."""
    real: Estimate
    """Mean cost by the labels."""
    ratio: Estimate
    """real / constant_cost; NaN where that is not positive."""
    constant: str
    """The decision that costs least where it is taken for every instance."""
    constant_cost: float
    """Mean cost of that."""
    abstained: dict[str, float]
    """Share of the instances for each decision that names no class, such as passing on, where others do."""
    side: Literal["less", "more", "unclear"]
    """Whether acting on the posteriors costs significantly less or more than the constant decision."""


def cost_balance(
    posteriors: Posteriors,
    *,
    costs: Costs,
    priors: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> CostBalance:
    """The promised cost of the Bayes decisions, their real cost, and that of the best constant decision.

    Args:
        posteriors: N instances with labels.
        costs: (K, D), matched to the choices by name.
        priors: (K,) target priors that weigh the instances.
        replicates: bootstrap replicates; 0 for no intervals, and then no side is significant.
        seed: of the bootstrap.

    Raises:
        InputError: costs of another number of classes; bad priors.

    Source: arXiv:2209.05355.

    >>> posteriors = Posteriors(np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), [0, 0, 1])
    >>> balance = cost_balance(posteriors, costs=Costs.zero_one(["no", "yes"]).with_abstention(0.3))
    >>> round(balance.promised, 3), round(balance.real.value, 3), balance.constant, balance.abstained
    (0.2, 0.1, 'abstain', {'abstain': 0.3333333333333333})
    """
    costs = posteriors.match_costs(costs)
    shares = posteriors.priors() if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
    names: dict[str, Any] = {"costs": costs, "priors": priors, "replicates": replicates, "seed": seed}
    estimates = summarise(posteriors, metrics=("expected_cost", "normalised_expected_cost"), **names)
    real, ratio = estimates["expected_cost"], estimates["normalised_expected_cost"]
    taken = decide(posteriors, costs=costs)
    target = None if priors is None else shares
    k = posteriors.n_choices
    votes = posteriors.votes
    of_votes = taken.expected_costs[votes.rows]  # (M,)
    promised = weighted_mean(of_votes, votes.labels, n_classes=k, priors=target, weights=votes.weights)
    constant_costs = shares @ costs.matrix  # (D,)
    best = int(constant_costs.argmin())
    reference, compared = 1.0, ratio
    # A ratio to what costs nothing, or earns, says nothing: the difference from it is compared with 0 instead.
    if math.isnan(ratio.value):
        with np.errstate(divide="ignore"):
            always = posteriors.prior_only().replaced(np.broadcast_to(np.log(shares), (len(posteriors), k)))
        reference = 0.0
        compared = summarise_difference(always, posteriors, metrics=("expected_cost",), **names)["expected_cost"]
    low, high = compared.low, compared.high
    side: Literal["less", "more", "unclear"] = "unclear"
    # Where every decision is the constant one, sums of equal costs differ by rounding alone.
    rounding = 1e-9 * (reference or float(np.abs(costs.matrix).max()))
    if low is not None and high is not None and (high < reference - rounding or low > reference + rounding):
        side = "less" if high < reference else "more"
    classes = set(costs.classes)
    counts = np.bincount(taken.chosen, minlength=len(costs.decisions)) / len(posteriors)
    outside = [d for d, name in enumerate(costs.decisions) if name not in classes]
    abstained = {costs.decisions[d]: float(counts[d]) for d in outside} if len(outside) < len(costs.decisions) else {}
    return CostBalance(promised, real, ratio, costs.decisions[best], float(constant_costs[best]), abstained, side)


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """Expected cost under each member of a family of costs, in the unit of the costs."""

    expected: Array
    """(F,) expected cost of the Bayes decisions."""
    naive: Array
    """(F,) expected cost of the best constant decision."""
    normalised: Array
    """(F,) expected / naive; NaN where the naive cost is 0."""


def risk_curve(posteriors: Posteriors, *, family: Iterable[Costs], priors: ArrayLike | None = None) -> RiskCurve:
    """The expected cost of the Bayes decisions under each of many costs.

    Args:
        posteriors: N instances.
        family: F costs (K, D_f), such as `[costs.with_abstention(c) for c in (0.1, 0.2)]`.
        priors: (K,) target priors that weigh the instances.

    Raises:
        InputError: an empty family; costs of another number of classes.

    Source: Drummond and Holte (2006), cost curves; arXiv:2209.05355.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6]]), [0, 1])
    >>> risk_curve(posteriors, family=[Costs.class_weighted([1, w]) for w in (1, 5)]).expected.tolist()
    [0.0, 0.5]
    """
    members = [posteriors.match_costs(costs) for costs in family]
    if not members:
        raise InputError("the family of costs is empty; give at least one")
    shares = posteriors.priors() if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
    expected = np.array([posteriors.expected_cost(costs, priors=priors) for costs in members])
    naive = np.array([float(naive_cost(shares, costs=costs)) for costs in members])
    normalised = np.divide(expected, naive, out=np.full(len(members), np.nan), where=naive > 0)
    return RiskCurve(expected, naive, normalised)


def bayes_threshold(costs: Costs, *, priors: ArrayLike) -> float:
    """The log-likelihood ratio ln p(x|1)/p(x|0) above which class 1 is decided: ln(π₀ a / (π₁ b)).

    a = C[0, 1] − C[0, 0] and b = C[1, 0] − C[1, 1] are what the two errors cost more than being right. With equal
    priors it is also the threshold on the posterior log-odds.

    Args:
        costs: (2, 2).
        priors: (2,), π.

    Raises:
        InputError: costs that are not 2 by 2, or an error that costs no more than being right; bad priors.

    Source: arXiv:2209.05355.

    >>> round(bayes_threshold(Costs([[0, 1], [5, 0]]), priors=[0.5, 0.5]), 4)
    -1.6094
    """
    matrix = _two_by_two(costs)
    a, b = matrix[0, 1] - matrix[0, 0], matrix[1, 0] - matrix[1, 1]
    if not (a > 0 and b > 0):
        raise InputError(f"errors cost {a:g} and {b:g} more than being right; expected both positive for a threshold")
    share = check_priors(priors, n_classes=2)
    with np.errstate(divide="ignore"):
        return float(np.log(share[0] * a) - np.log(share[1] * b))


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Expected cost when class 1 is decided where the log-odds ln q₁/q₀ are at or above a threshold."""

    thresholds: Array
    """(T,) rising, from -inf (always class 1) to +inf (always class 0)."""
    expected: Array
    """(T,) expected cost at each."""

    @property
    def best(self) -> float:
        """The threshold of least expected cost (the first on ties)."""
        return float(self.thresholds[self.expected.argmin()])

    @property
    def least(self) -> float:
        """The least expected cost: what is reached with the best threshold for these very instances."""
        return float(self.expected.min())


def threshold_curve(posteriors: Posteriors, *, costs: Costs, priors: ArrayLike | None = None) -> ThresholdCurve:
    """Expected cost of two classes at every threshold on the log-odds that separates some instances.

    The least cost is optimistic for the instances on which its threshold was chosen: choose it on validation data.

    Args:
        posteriors: N instances of two classes.
        costs: (2, 2).
        priors: (2,) target priors that weigh the instances.

    Raises:
        InputError: not two classes, costs that are not 2 by 2, bad priors.

    Source: arXiv:2209.05355.
    """
    if posteriors.n_choices != 2:
        raise InputError(f"thresholds are for 2 classes but there are {posteriors.n_choices}; use risk_curve")
    matrix = _two_by_two(posteriors.match_costs(costs))
    shares = posteriors.priors() if priors is None else check_priors(priors, n_classes=2)
    votes = posteriors.votes
    counts = votes.counts(2)
    check_present(counts, shares)
    odds = posteriors.log_posteriors[:, 1] - posteriors.log_posteriors[:, 0]
    points, index = np.unique(odds, return_inverse=True)
    # The share of each class strictly below every threshold is decided as class 0.
    below = np.zeros((2, len(points) + 1))
    for k in range(2):
        own = (votes.labels == k) * (1.0 if votes.weights is None else votes.weights)  # (M,)
        below[k, 1:] = np.cumsum(np.bincount(index[votes.rows], weights=own)) / (counts[k] or 1.0)
    expected = shares @ (matrix[:, [0]] * below + matrix[:, [1]] * (1.0 - below))  # (2,) @ (2, T) → (T,)
    thresholds = np.concatenate([[-np.inf], points[1:], [np.inf]])
    return ThresholdCurve(thresholds, expected)


def _two_by_two(costs: Costs) -> Array:
    if costs.matrix.shape != (2, 2):
        raise InputError(f"costs have shape {costs.matrix.shape}; thresholds need 2 classes and 2 decisions")
    return costs.matrix


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Mean loss of the most confident share of the instances, for every such share."""

    coverage: Array
    """(N,) shares 1/N, 2/N, …, 1."""
    risk: Array
    """(N,) mean loss of the covered instances; within a tie of confidence, its mean over all orders."""
    possible: NDArray[np.bool_]
    """(N,) False inside a tie, where no threshold on confidence stops."""

    @property
    def area(self) -> float:
        """Area under the curve: the mean of the risk over the coverages 1/N … 1. Lower is better."""
        return float(self.risk.mean())

    def coverage_at(self, risk: float) -> float:
        """The largest coverage that a threshold on confidence reaches at this risk or less; 0 if none does."""
        # Rounding of a mean must not cost an instance.
        reached = np.flatnonzero((self.risk <= risk + 1e-12) & self.possible)
        return float(self.coverage[reached[-1]]) if reached.size else 0.0


def risk_coverage(posteriors: Posteriors, *, costs: Costs | None = None) -> RiskCoverage:
    """The risk–coverage curve of the Bayes decisions, most confident instances first.

    risk(m/N) = (1/m) Σ loss over the m instances of least expected cost min_d Σ_k C[k, d] q_k. Without costs: the
    errors of the most probable choice, by its posterior, compared as a logarithm so that 1 − 1e-20 is less sure than
    1 − 1e-30.

    Args:
        posteriors: N instances.
        costs: (K, D); None for 0–1 costs.

    Raises:
        InputError: costs of another number of classes.

    Source: El-Yaniv and Wiener (2010); Geifman and El-Yaniv (arXiv:1705.08500).

    >>> curve = risk_coverage(Posteriors(np.log([[0.9, 0.1], [0.6, 0.4]]), [0, 1]))
    >>> curve.risk.tolist(), curve.area, curve.coverage_at(0.1)
    ([0.0, 0.5], 0.25, 0.5)
    """
    logs = posteriors.log_posteriors
    if costs is None or costs.is_zero_one:
        doubt = -logs.max(axis=1)
        losses = posteriors.losses(error_rule)
    else:
        costs = posteriors.match_costs(costs)
        doubt = expected_costs(logs, costs=costs).min(axis=1)
        losses = posteriors.losses(cost_rule(costs))
    # Surest first.
    order = np.argsort(doubt, kind="stable")
    counts = np.arange(1, len(order) + 1)
    is_last_of_tie = np.append(doubt[order][1:] != doubt[order][:-1], True)
    ends = counts[is_last_of_tie]
    # The order inside a tie is arbitrary. Averaged over all orders, the sum of losses grows evenly through the tie.
    totals = np.interp(counts, np.append(0, ends), np.append(0.0, np.cumsum(losses[order])[ends - 1]))
    return RiskCoverage(counts / len(order), totals / counts, is_last_of_tie)
