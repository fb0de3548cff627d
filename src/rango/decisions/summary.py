"""Every metric with its interval: of one system, and of the difference between two on the same instances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions import bootstrap as resampled
from rango.decisions.arrays import Array, check_priors
from rango.decisions.bootstrap import (
    Interval,
    IntervalKind,
    Resample,
    Resampling,
    bca_interval,
    percentile_interval,
    resampling_of,
)
from rango.decisions.costs import Costs
from rango.decisions.metrics import DIRECTIONS, METRICS, Estimate
from rango.decisions.posteriors import Posteriors, check_paired
from rango.decisions.significance import McNemar, mcnemar
from rango.errors import InputError, unknown_name


def summarise(
    posteriors: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    metrics: Sequence[str] = METRICS,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    interval: IntervalKind = "percentile",
    resample: Resample | None = None,
) -> dict[str, Estimate]:
    """Each metric with a bootstrap interval that speaks of the sampling of instances (not of training noise).

    Args:
        posteriors: N instances.
        costs: (K, D) for the two expected costs; None for 0–1 costs.
        priors: (K,) target priors that weigh the instances, not the posteriors; None for the empirical ones.
        metrics: names from METRICS.
        replicates: bootstrap replicates; 0 for no intervals.
        seed: replicate b draws from a stream of its own, made from (seed, b).
        level: nominal coverage, a fraction.
        interval: "percentile", or "bca" (bias-corrected and accelerated; slower).
        resample: "instances", "groups" (whole ones) or "groups_then_instances"; None for groups where there are any.

    Returns:
        Estimates by name. Undefined values are NaN and infinite ones infinite, each with a note that says why; the
        interval is None where more than 5 % of the replicates are undefined.

    Raises:
        InputError: an unknown metric, bad costs or priors, `level` outside (0, 1), negative `replicates`.

    Source: Efron and Tibshirani (1993), chapters 13 and 14.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1])
    >>> summarise(posteriors, replicates=100)["error_rate"]
    Estimate(value=0.3333333333333333, low=0.0, high=1.0, n=3, direction='lower', note=None)
    """
    plan = _Plan(posteriors, costs, priors, metrics, level, replicates)
    values = plan.point(posteriors)
    notes = plan.notes(posteriors, values)
    if not replicates:
        return _estimates(values, {}, notes, len(posteriors))
    resampling = resampling_of(posteriors.labels, groups=posteriors.groups, resample=resample, seed=seed)
    intervals = plan.intervals([posteriors], resampling, replicates, interval, values)
    return _estimates(values, intervals, notes, len(posteriors))


def summarise_difference(
    a: Posteriors,
    b: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    metrics: Sequence[str] = METRICS,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    interval: IntervalKind = "percentile",
    resample: Resample | None = None,
) -> dict[str, Estimate]:
    """metric(b) − metric(a) with a paired bootstrap: both systems are resampled on shared instances.

    Arguments, returns and direction as in `summarise`: "lower" means that a negative difference speaks for b.

    Raises:
        InputError: as `summarise`; ids or labels that differ (names the first that does).

    Source: Efron and Tibshirani (1993), section 10.3.
    """
    check_paired(a, b)
    plan = _Plan(a, costs, priors, metrics, level, replicates)
    of_a, of_b = plan.point(a), plan.point(b)
    with np.errstate(invalid="ignore"):
        values = {name: float(np.float64(of_b[name]) - of_a[name]) for name in metrics}
    notes = {**plan.notes(a, of_a, who="first: "), **plan.notes(b, of_b, who="second: ")}
    if not replicates:
        return _estimates(values, {}, notes, len(a))
    resampling = resampling_of(a.labels, groups=a.groups, resample=resample, seed=seed)
    intervals = plan.intervals([a, b], resampling, replicates, interval, values)
    return _estimates(values, intervals, notes, len(a))


_OF_PRIORS = ("nce", "normalised_brier", "normalised_expected_cost", "ece")
"""Metrics whose value for the system that outputs the class frequencies is fixed by definition: 1, and an ECE of 0."""


def summarise_prior_only(
    posteriors: Posteriors, *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """`summarise` of the system that outputs the class frequencies of the instances it is measured on.

    On other instances it is another system, with their frequencies. So its normalised metrics are 1 and its ECE is 0 on
    every resampling, and their intervals have no width: [1, 1] and [0, 0]. With the frequencies of the full set they
    would lie above the value, since no other constant does better on a resampling than its own. The other metrics keep
    those frequencies: they are then linear in the counts, and their intervals hold the value.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1])
    >>> found = summarise_prior_only(posteriors, replicates=100)["nce"]
    >>> round(found.value, 6), found.low == found.high == found.value
    (1.0, True)
    """
    found = summarise(posteriors.prior_only(), replicates=replicates, seed=seed, level=level)
    for name in _OF_PRIORS:
        value = found[name].value
        if replicates and not math.isnan(value):
            found[name] = replace(found[name], low=value, high=value)
    return found


class _Plan:
    """What is measured, checked once."""

    def __init__(
        self,
        posteriors: Posteriors,
        costs: Costs | None,
        priors: ArrayLike | None,
        metrics: Sequence[str],
        level: float,
        replicates: int,
    ) -> None:
        for name in metrics:
            if name not in DIRECTIONS:
                raise unknown_name("metric", name, METRICS)
        if not 0 < level < 1:
            raise InputError(f"level is {level}; expected a fraction between 0 and 1, such as 0.95")
        if replicates < 0:
            raise InputError(f"replicates is {replicates}; expected 0 (no intervals) or more")
        self.metrics = tuple(metrics)
        self.costs = Costs.zero_one(posteriors.n_choices) if costs is None else costs
        self.costs.check_classes(posteriors.n_choices)
        self.priors = None if priors is None else check_priors(priors, n_classes=posteriors.n_choices)
        self.level = level

    def point(self, posteriors: Posteriors) -> dict[str, float]:
        needs_costs = ("expected_cost", "normalised_expected_cost")
        return {
            name: getattr(posteriors, name)(*([self.costs] if name in needs_costs else []), priors=self.priors)
            for name in self.metrics
        }

    def notes(self, posteriors: Posteriors, values: dict[str, float], who: str = "") -> dict[str, str]:
        notes = {}
        for name, value in values.items():
            if math.isinf(value):
                ids = posteriors.zero_posterior_ids()
                shown = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
                notes[name] = f"{who}infinite: {len(ids)} instances have posterior 0 at their label (ids {shown})"
            elif math.isnan(value):
                notes[name] = f"{who}undefined: the system that outputs the priors loses nothing, so nothing normalises"
        return notes

    def intervals(
        self,
        systems: Sequence[Posteriors],
        resampling: Resampling,
        replicates: int,
        kind: IntervalKind,
        values: dict[str, float],
    ) -> dict[str, Interval]:
        tables = [resampled.LossTable(system, metrics=self.metrics, costs=self.costs) for system in systems]
        blocks = [self._values([table.sums(counts) for table in tables]) for counts in resampling.counts(replicates)]
        drawn = {name: np.concatenate([block[name] for block in blocks]) for name in self.metrics}
        if kind == "percentile":
            return {name: percentile_interval(drawn[name], level=self.level) for name in self.metrics}
        if kind != "bca":
            raise InputError(f"interval is {kind!r}; expected 'percentile' or 'bca'")
        pieces = [
            self._values(list(sums))
            for sums in zip(*(t.leave_one_out(resampling.unit_of) for t in tables), strict=True)
        ]
        left = {name: np.concatenate([piece[name] for piece in pieces]) for name in self.metrics}
        return {
            name: bca_interval(drawn[name], value=values[name], jackknife=left[name], level=self.level)
            for name in self.metrics
        }

    def _values(self, sums: Sequence[resampled.Sums]) -> dict[str, Array]:
        found = [each.metrics(self.metrics, costs=self.costs, priors=self.priors) for each in sums]
        if len(found) == 1:
            return found[0]
        with np.errstate(invalid="ignore"):
            return {name: found[1][name] - found[0][name] for name in self.metrics}


def _estimates(
    values: dict[str, float], intervals: dict[str, Interval], notes: dict[str, str], n: int
) -> dict[str, Estimate]:
    result = {}
    for name, value in values.items():
        low, high = intervals.get(name) or (None, None)
        result[name] = Estimate(value, low, high, n, DIRECTIONS[name], notes.get(name))
    return result


@dataclass(frozen=True)
class Comparison:
    """Two systems, a and b, on the same instances."""

    a: dict[str, Estimate]
    b: dict[str, Estimate]
    difference: dict[str, Estimate]
    """metric(b) − metric(a), with paired bootstrap intervals."""
    mcnemar: McNemar
    level: float
    """Nominal coverage of the intervals."""

    def sentence(self, *, names: tuple[str, str] = ("the first", "the second")) -> str:
        """What the comparison says, in words, of the normalised cross-entropy and the error rate."""
        return f"{self._of_nce(*names)} {self._of_errors(*names)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        parts = {"a": self.a, "b": self.b, "difference": self.difference}
        entries: dict[str, Any] = {
            part: {name: estimate.as_dict() for name, estimate in found.items()} for part, found in parts.items()
        }
        return {**entries, "mcnemar": asdict(self.mcnemar), "level": self.level, "sentence": self.sentence()}

    def _of_nce(self, a: str, b: str) -> str:
        found = self.difference["nce"]
        n = f"On {found.n:,} shared instances"
        if not math.isfinite(found.value) or found.low is None or found.high is None:
            return (
                f"{n} the normalised cross-entropies of {a} and {b} cannot be compared ({found.note or 'no interval'})."
            )
        interval = f"{found.value:+.4f}, {self.level:.0%} interval {found.low:+.4f} to {found.high:+.4f}"
        if found.low <= 0 <= found.high:
            return f"{n} the normalised cross-entropies of {a} and {b} cannot be told apart ({interval})."
        word = "lower (better)" if found.value < 0 else "higher (worse)"
        return f"{n} the normalised cross-entropy of {b} is {word} than that of {a} ({interval})."

    def _of_errors(self, a: str, b: str) -> str:
        test = self.mcnemar
        rates = f"{self.a['error_rate'].value:.4f} and {self.b['error_rate'].value:.4f}"
        only = f"only {a} is right on {test.only_a_right:,}, only {b} on {test.only_b_right:,}"
        p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.4f}"
        word = "differ" if test.p < 1 - self.level else "cannot be told apart"
        return f"Their error rates, {rates}, {word}: {only} (exact McNemar {p})."


def compare(
    a: Posteriors,
    b: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Every metric of two systems and of their difference (b − a), resampled on shared instances, and McNemar's test.

    Arguments as in `summarise`.

    Raises:
        InputError: ids or labels that differ (names the first that does); as `summarise`.

    >>> import numpy as np
    >>> a = Posteriors(np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]), [0, 1, 1])
    >>> compare(a, a, replicates=100).mcnemar.p
    1.0
    """
    return Comparison(
        summarise(a, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        summarise(b, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        summarise_difference(a, b, costs=costs, priors=priors, replicates=replicates, seed=seed, level=level),
        mcnemar(a, b),
        level,
    )
