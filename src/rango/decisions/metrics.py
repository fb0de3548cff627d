"""The metrics: their scoring rules, the registry of them all, and an estimate with its interval.

Every metric but one is a mean of losses, perhaps divided by a constant:

    losses (N,) = rule(log_posteriors, labels)
    mean        = Σ_k (π_k / N_k) Σ_{i: y(i) = k} loss_i       π: target priors, or N_k / N
    metric      = mean,   1 − mean,   or   mean / reference(π)

The exception is the expected calibration error, in `reliability`. A point value and a bootstrap replicate differ
only in how often each instance counts; both turn the mean into the metric by `Metric.value`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from rango.decisions.arrays import Array, Labels, log_softmax, row_pieces
from rango.decisions.costs import Costs, bayes_decisions, naive_cost
from rango.decisions.logistic_fit import FitData, fit, linear_family
from rango.decisions.reliability import BINS
from rango.errors import InputError
from rango.showing import short

Direction: TypeAlias = Literal["lower", "higher", "none"]
"""Which values of a number are better."""
Rule: TypeAlias = Callable[[Array, Labels], Array]
"""A scoring rule: (log_posteriors (N, K), labels (N,)) → losses (N,), lower is better."""


def logarithmic_rule(log_posteriors: Array, labels: Labels) -> Array:
    """The logarithmic score −ln q_y, in nats; infinite where the posterior of the right class is 0.

    Source: reference thesis, eq. 3.5.

    >>> logarithmic_rule(np.log([[0.5, 0.5]]), np.array([1])).round(4).tolist()
    [0.6931]
    """
    at_label = np.take_along_axis(log_posteriors, labels[:, None], axis=1)[:, 0]  # (N,)
    # Subtracting from zero gives 0.0, not -0.0, for a posterior of one.
    return np.asarray(0.0 - at_label, dtype=np.float64)


def calibrated_logarithmic_rule(log_posteriors: Array, labels: Labels, *, weights: Array | None = None) -> Array:
    """The logarithmic score after the best temperature: −ln softmax(a s)_y, with the a ≥ 0 of the least mean.

    a is fitted on these same instances, all of one weight unless `weights` (N,) says so. One parameter gains about
    1/(2N) nats on its own sample, the same for every system, so that folds would add more noise than they take away. At
    its optimum the mean does not change with a to first order: the losses may be resampled as they are, without fitting
    again.

    Source: Berta et al. (2025), arXiv:2501.19195; van der Vaart (1998), chapter 5.

    >>> sure = np.log([[0.99, 0.01], [0.99, 0.01], [0.01, 0.99]])
    >>> calibrated_logarithmic_rule(sure, np.array([0, 1, 1])).round(4).tolist()
    [0.4055, 1.0986, 0.4055]
    """
    usable = np.isfinite(log_posteriors[np.arange(len(labels)), labels])
    # A posterior of 0 at the label costs infinity at every temperature.
    if not usable.any():
        return logarithmic_rule(log_posteriors, labels)
    family = linear_family("temperature", log_posteriors.shape[1])
    usable_weights = None if weights is None else weights[usable]
    data = FitData.of(log_posteriors[usable], labels[usable], priors=None, weights=usable_weights)
    scale = fit(family, data, objective="cross_entropy").theta[0]
    losses = np.empty(len(labels), dtype=np.float64)
    for rows in row_pieces(*log_posteriors.shape):
        part = log_posteriors[rows]
        # A scale of 0 leaves what is impossible impossible.
        scaled = np.multiply(scale, part, out=np.full_like(part, -np.inf), where=np.isfinite(part))  # (n, K)
        losses[rows] = logarithmic_rule(log_softmax(scaled), labels[rows])
    return losses


def brier_rule(log_posteriors: Array, labels: Labels) -> Array:
    """The Brier score Σ_k (1[k = y] − q_k)², summed (not averaged) over classes: from 0 to 2.

    Source: Brier (1950), in the original sum over classes.

    >>> brier_rule(np.log([[0.5, 0.5]]), np.array([1])).round(4).tolist()
    [0.5]
    """
    losses = np.empty(len(labels), dtype=np.float64)
    # A piece of the rows at a time, so that the posteriors are never all held a second time.
    for rows in row_pieces(*log_posteriors.shape):
        gap = np.exp(log_posteriors[rows])  # (n, K)
        # 1 − q_y by expm1: exact where q_y is near one.
        at_label = np.take_along_axis(log_posteriors[rows], labels[rows, None], axis=1)
        np.put_along_axis(gap, labels[rows, None], -np.expm1(at_label), axis=1)
        losses[rows] = np.einsum("nk,nk->n", gap, gap)
    return losses


def cost_rule(costs: Costs) -> Rule:
    """The proper scoring rule that any costs construct: C*(k, q) = C[k, d_B(q)].

    Source: reference thesis, eq. 3.2; arXiv:2408.02841.

    >>> rule = cost_rule(Costs([[0, 1], [5, 0]]))
    >>> rule(np.log([[0.7, 0.3], [0.9, 0.1]]), np.array([0, 1])).tolist()
    [1.0, 5.0]
    """

    def rule(log_posteriors: Array, labels: Labels) -> Array:
        decisions = bayes_decisions(log_posteriors, costs=costs)
        return np.asarray(costs.matrix[labels, decisions], dtype=np.float64)

    return rule


def error_rule(log_posteriors: Array, labels: Labels) -> Array:
    """1 where the most probable class (the first on ties) is not the label: `cost_rule` of 0–1 costs."""
    return np.asarray(log_posteriors.argmax(axis=1) != labels, dtype=np.float64)


def ranked_rule(log_posteriors: Array, labels: Labels) -> Array:
    """The ranked probability score Σ_k (F_k − 1[y ≤ k])² of ordered levels, F_k = Σ_{j ≤ k} q_j: from 0 to K − 1.

    It is the sum of the Brier scores of "is it at most level k?", so that a miss costs more the farther away it is. It
    is not divided by K − 1.

    Source: Epstein (1969); Murphy (1971), in this form.

    >>> ranked_rule(np.log([[0.5, 0.25, 0.25]] * 2), np.array([0, 2])).tolist()
    [0.3125, 0.8125]
    """
    losses = np.empty(len(labels), dtype=np.float64)
    for rows in row_pieces(*log_posteriors.shape):
        gap = np.cumsum(np.exp(log_posteriors[rows]), axis=1)  # (n, K)
        gap -= np.arange(gap.shape[1]) >= labels[rows, None]
        # Above the highest level of an instance, and at it, both sums are 1.
        losses[rows] = np.einsum("nk,nk->n", gap[:, :-1], gap[:, :-1])
    return losses


def absolute_rule(log_posteriors: Array, labels: Labels) -> Array:
    """|d − y| of ordered levels, d the Bayes decision under the cost |k − d|: the median of the posterior.

    >>> absolute_rule(np.log([[0.4, 0.15, 0.45]]), np.array([0])).tolist()
    [1.0]
    """
    return cost_rule(Costs.distance(log_posteriors.shape[1]))(log_posteriors, labels)


def entropy(priors: Array) -> Array:
    """Entropy H(π) = −Σ_k π_k ln π_k over the last axis, nats: the cross-entropy of the system that outputs π.

    >>> float(entropy(np.full(3, 1 / 3)).round(4))
    1.0986
    """
    logs = np.log(priors, out=np.zeros_like(priors), where=priors > 0)
    return np.asarray(0.0 - (priors * logs).sum(axis=-1), dtype=np.float64)


def brier_of_priors(priors: Array) -> Array:
    """Brier score of the system that outputs π: 1 − Σ_k π_k² over the last axis."""
    return np.asarray(1.0 - np.square(priors).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, and how tables, figures and sentences present it."""

    name: str
    """Its key in metrics.json, table.csv and on the command line."""
    title: str
    """Its heading in a table."""
    direction: Direction
    """Which direction is better. A metric whose higher values are better is 1 − the mean loss."""
    meaning: str
    """What it measures, in one line."""
    words: str = ""
    """What a sentence calls it."""
    rule: Rule | None = None
    """The loss of each instance; None where costs make the rule, and for the calibration error."""
    rule_of_costs: Callable[[Costs], Rule] | None = None
    """The rule that costs make."""
    reference: Callable[[Array, Costs], Array] | None = None
    """(priors (..., K), costs) → the mean loss (...,) of the best constant system, by which a metric is normalised."""
    usual: bool = True
    """Whether every study measures it and every run shows it."""
    on_validation: bool = True
    """Whether validation measures it, so that it may choose a checkpoint."""
    twin: str | None = None
    """The metric that is 1 minus this one; a table shows only the first of the two."""
    needs_order: bool = False
    """Whether it has a meaning only where the choices are levels, from the lowest to the highest."""

    @property
    def definition(self) -> Rule | Callable[[Costs], Rule] | None:
        """Its rule or what makes it; metrics with one definition share their losses."""
        return self.rule or self.rule_of_costs

    @property
    def needs_costs(self) -> bool:
        """Whether its value depends on costs."""
        return self.rule_of_costs is not None

    @property
    def is_mean(self) -> bool:
        """Whether it is made of a loss for each instance. Only such a metric can select, or be compared in pairs."""
        return self.definition is not None

    @property
    def arrow(self) -> str:
        """An arrow that points to the better end."""
        return {"lower": "↓", "higher": "↑", "none": ""}[self.direction]

    def rule_for(self, costs: Costs, *, weights: Array | None = None) -> Rule:
        """Its scoring rule, under these costs where it depends on them; `weights` are those of a rule that fits."""
        if self.rule is calibrated_logarithmic_rule and weights is not None:
            return partial(calibrated_logarithmic_rule, weights=weights)
        if self.rule_of_costs is not None:
            return self.rule_of_costs(costs)
        assert self.rule is not None, f"{self.name} is no mean over instances"
        return self.rule

    def value(self, mean: Array, *, priors: Array, costs: Costs) -> Array:
        """The metric of a mean loss; NaN where it is normalised but the reference is 0.

        Args:
            mean: (...,) mean losses.
            priors: (..., K), the priors π under which they are means.
            costs: (K, D).
        """
        if self.direction == "higher":
            return np.asarray(1.0 - mean)
        if self.reference is None:
            return mean
        constant = self.reference(priors, costs)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(constant > 0, mean / constant, np.nan))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "error_rate",
            "Error rate",
            "lower",
            "share of instances whose most probable choice is wrong",
            words="error rate",
            rule=error_rule,
            twin="accuracy",
        ),
        Metric(
            "nce",
            "NCE",
            "lower",
            "cross-entropy divided by the entropy of the priors; 1 is no better than the priors",
            words="NCE",
            rule=logarithmic_rule,
            reference=lambda priors, _: entropy(priors),
        ),
        Metric(
            "cross_entropy",
            "Cross-entropy",
            "lower",
            "mean of −ln of the posterior of the right choice, in nats",
            words="cross-entropy",
            rule=logarithmic_rule,
        ),
        Metric(
            "normalised_expected_cost",
            "Norm. cost",
            "lower",
            "mean cost of the Bayes decisions divided by that of the best constant decision",
            words="normalised expected cost",
            rule_of_costs=cost_rule,
            reference=lambda priors, costs: naive_cost(priors, costs=costs),
            usual=False,
            on_validation=False,
        ),
        Metric(
            "brier",
            "Brier",
            "lower",
            "squared distance from the right answer, summed over the choices (0 to 2)",
            words="Brier score",
            rule=brier_rule,
        ),
        Metric(
            "ece",
            "ECE",
            "lower",
            f"mean gap of confidence and accuracy over {BINS} bins; a diagnosis, not a verdict",
            words="ECE",
            on_validation=False,
        ),
        Metric(
            "accuracy",
            "Accuracy",
            "higher",
            "share of instances whose most probable choice is right",
            words="accuracy",
            rule=error_rule,
            twin="error_rate",
        ),
        Metric(
            "calibrated_nce",
            "Cal. NCE",
            "lower",
            "NCE after the temperature that is best on the same instances: what one temperature cannot mend",
            words="NCE after the best temperature",
            rule=calibrated_logarithmic_rule,
            reference=lambda priors, _: entropy(priors),
            usual=False,
        ),
        Metric(
            "normalised_brier",
            "Norm. Brier",
            "lower",
            "Brier score divided by that of the priors",
            words="normalised Brier score",
            rule=brier_rule,
            reference=lambda priors, _: brier_of_priors(priors),
            usual=False,
            on_validation=False,
        ),
        Metric(
            "expected_cost",
            "Exp. cost",
            "lower",
            "mean cost of the Bayes decisions",
            words="expected cost",
            rule_of_costs=cost_rule,
            usual=False,
            on_validation=False,
        ),
        Metric(
            "ranked_probability_score",
            "RPS",
            "lower",
            "squared distance of cumulative posteriors from the right level, summed over the levels",
            words="ranked probability score",
            rule=ranked_rule,
            usual=False,
            needs_order=True,
        ),
        Metric(
            "mean_absolute_error",
            "MAE",
            "lower",
            "mean distance in levels of the posterior's median from the right level",
            words="mean absolute error",
            rule=absolute_rule,
            usual=False,
            needs_order=True,
        ),
    )
}
"""Every metric by its name, in the order of tables. A new one is an entry here and the function of its rule."""


@dataclass(frozen=True)
class Estimate:
    """A number measured on N instances, with an interval for the sampling of those instances.

    >>> Estimate(0.25, 0.2, 0.3, 100, "lower").as_dict()
    {'value': 0.25, 'low': 0.2, 'high': 0.3, 'n': 100, 'direction': 'lower'}
    """

    value: float
    """The metric on the full set; NaN where it is undefined, infinite where it is."""
    low: float | None
    """Lower end of the interval; None where it is unknown."""
    high: float | None
    """Upper end of the interval; None where it is unknown."""
    n: int
    """Number of instances."""
    direction: Direction
    """Which direction is better."""
    note: str | None = None
    """What must be known to read the value: why it is undefined, or which instances make it infinite."""

    def __str__(self) -> str:
        return f"{short(self.value)} {self.span}".rstrip()

    @property
    def span(self) -> str:
        """The interval in brackets, "" where there is none."""
        return "" if self.low is None or self.high is None else f"[{short(self.low)}, {short(self.high)}]"

    def as_dict(self) -> dict[str, Any]:
        """The entry of a metrics file; an undefined value is None, a note appears only where there is one."""
        entry: dict[str, Any] = {
            "value": None if math.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "direction": self.direction,
        }
        return entry if self.note is None else {**entry, "note": self.note}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Estimate:
        """The estimate whose `as_dict` this is; TypeError or LookupError where the entry is none."""
        numbers = [entry[key] for key in ("value", "low", "high") if entry[key] is not None]
        # By type, because True and False are integers too.
        if not all(type(number) in (int, float) for number in numbers) or type(entry["n"]) is not int:
            raise TypeError(f"{entry!r} is no estimate"[:80])
        return cls(**{**entry, "value": math.nan if entry["value"] is None else entry["value"]})


def weighted_mean(
    losses: Array, labels: Labels, *, n_classes: int, priors: Array | None = None, weights: Array | None = None
) -> float:
    """Mean loss under target priors: Σ_k (π_k / N_k) Σ_{i: y(i) = k} loss_i = (1/N) Σ_i w_i loss_i, w_i = π_y / p_y.

    Without priors the plain mean. A class of prior 0 counts 0, infinite losses included.

    Args:
        losses: (N,).
        labels: (N,).
        n_classes: K.
        priors: (K,), or None for the empirical ones.
        weights: (N,) how much of an instance each loss is, above 0; None where each is one.

    Raises:
        InputError: a class of positive prior has no instance, so its mean is unknown.

    Source: reference thesis, eqs. 3.6 and 3.7.

    >>> weighted_mean(np.array([1.0, 1.0, 4.0]), np.array([0, 0, 1]), n_classes=2, priors=np.array([0.5, 0.5]))
    2.5
    """
    if priors is None:
        return float(losses.mean() if weights is None else (weights * losses).sum() / weights.sum())
    # By class, so that a class of prior 0 is left out before 0 · ∞ could become NaN.
    counts = np.bincount(labels, weights=weights, minlength=n_classes)
    check_present(counts, priors)
    used = priors > 0
    sums = np.bincount(labels, weights=losses if weights is None else weights * losses, minlength=n_classes)
    return float((priors[used] / counts[used] * sums[used]).sum())


def class_weights(counts: Array, priors: Array) -> Array:
    """(K,) the weight π_k / p_k of an instance of each class, for counts N_k; InputError as `check_present`."""
    check_present(counts, priors)
    weights = np.divide(priors * counts.sum(), counts, out=np.zeros_like(priors), where=counts > 0)
    return np.asarray(weights, dtype=np.float64)


def check_present(counts: Labels | Array, priors: Array) -> None:
    """Raise InputError if a class of positive prior has no instance."""
    missing = (counts == 0) & (priors > 0)
    if missing.any():
        k = int(missing.argmax())
        raise InputError(
            f"priors[{k}] is {priors[k]:g} but no instance has label {k}; set it to 0 or add instances of that class"
        )
