"""What a gate does: coverage, error and cost with intervals, on other instances than it was chosen on.

judge              on held-out instances, such as test, and within each group where there are few
judge_out_of_bag   where there are no others: chosen on bootstrap samples, judged on what each of them leaves out
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rango.decisions.bootstrap import percentile_interval, resampling_of
from rango.decisions.gates import Gate, GateSample, choose_limits, fingerprint_of
from rango.decisions.metrics import Direction, Estimate
from rango.decisions.posteriors import Posteriors
from rango.decisions.thresholds import binomial_interval
from rango.errors import InputError
from rango.showing import Grid, Shown, count

_MOST_GROUPS = 20
"""Groups that are judged one by one: more are contexts that instances share, not parts of the population."""


@dataclass(frozen=True, repr=False)
class Judgement(Shown):
    """What a gate does on instances with labels."""

    coverage: Estimate
    """Share that is acted on."""
    error: Estimate
    """Share of those that is decided wrongly; NaN where none is acted on."""
    costs: dict[str, Estimate] = field(default_factory=dict)
    """Mean cost of "gate", and beside it of "Bayes rule", "act on all" and "pass on all"; empty without costs."""
    precision: dict[str, Estimate] = field(default_factory=dict)
    """Share that is right of the instances acted on as a class, for each class with a threshold of its own."""
    groups: dict[str, Judgement] = field(default_factory=dict)
    """The same within each group, where there are few."""
    held_out: bool = True
    """Whether the instances are others than those chosen on; False for a judgement out of bag."""

    def _facts(self) -> Iterator[str]:
        yield f"acts on {self.coverage}"
        yield f"error {self.error}"
        yield count(self.coverage.n, "instance") + (" held out" if self.held_out else " out of bag")

    def _grid(self) -> Grid | None:
        parts = {f"cost of {name}": cost for name, cost in self.costs.items()}
        parts |= {f"precision of {name}": share for name, share in self.precision.items()}
        return Grid(["", "mean"], [[name, str(part)] for name, part in parts.items()]) if parts else None

    def as_dict(self) -> dict[str, Any]:
        """The judgement as JSON values."""
        entry: dict[str, Any] = {"held_out": self.held_out}
        entry |= {"coverage": self.coverage.as_dict(), "error": self.error.as_dict()}
        for name in ("costs", "precision", "groups"):
            if parts := getattr(self, name):
                entry[name] = {key: part.as_dict() for key, part in parts.items()}
        return entry


def judge(gate: Gate, posteriors: Posteriors, *, replicates: int = 1000, seed: int = 0) -> Judgement:
    """What a gate does on instances with labels, which should be others than those it was chosen on.

    Intervals of coverage, error and precision are exact binomial ones. Where instances share groups they reach as far
    as those of the bootstrap over groups, if that is further. Costs have the bootstrap alone.

    Args:
        gate: of these choices.
        posteriors: N instances with labels.
        replicates: bootstrap replicates; 0 for no intervals of costs.
        seed: of the bootstrap.

    Raises:
        InputError: posteriors of other choices than the gate's; no labels; the instances that the gate was chosen on.

    Source: Clopper and Pearson (1934); Efron and Tibshirani (1993), chapter 13.
    """
    if fingerprint_of(posteriors) == gate.choice.fingerprint:
        raise InputError("the gate was chosen on these very instances, which would flatter it; judge it on others")
    sample = GateSample.of(gate, posteriors)
    judged = _judged(gate, sample, posteriors, replicates, seed)
    names = sorted(set(posteriors.groups or ()))
    if not 1 < len(names) <= min(_MOST_GROUPS, len(posteriors) // 5):
        return judged
    groups, parts = np.array(posteriors.groups), {}
    for name in names:
        rows = np.flatnonzero(groups == name)
        # Within a group its instances are drawn: the group itself is given.
        part = Posteriors(posteriors.log_posteriors[rows], posteriors.labels[rows])
        parts[name] = _judged(gate, sample.take(rows), part, replicates, seed)
    return replace(judged, groups=parts)


def _judged(gate: Gate, sample: GateSample, posteriors: Posteriors, replicates: int, seed: int) -> Judgement:
    acts, n = sample.acts(gate), len(posteriors)
    # Pairs of (counted, among): every share is a ratio of two sums, also on a resampling.
    shares = {"coverage": (acts, np.ones(n, dtype=bool)), "error": (acts & sample.wrong, acts)}
    for name in gate.class_limits:
        of_class = acts & (sample.chosen == sample.names.index(name))
        shares[name] = (of_class & ~sample.wrong, of_class)
    costs = sample.costs_of(acts, gate)
    columns = [column for pair in shares.values() for column in pair]
    resampling = resampling_of(posteriors.labels, groups=posteriors.groups, resample=None, seed=seed)
    values = np.column_stack([*columns, *costs.values(), np.ones(n)]).astype(np.float64)[resampling.order]
    # Nobody needs the sums of a share whose interval is exact.
    drawn = [counts @ values for counts in resampling.counts(replicates)] if costs or posteriors.groups else []
    sums = np.concatenate(drawn) if drawn else np.empty((0, values.shape[1]))  # (R, columns)
    estimates = []
    for place, (name, (counted, among)) in enumerate(shares.items()):
        hits, total = int(counted.sum()), int(among.sum())
        low, high = binomial_interval(hits, total, level=gate.level)
        if posteriors.groups is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = percentile_interval(sums[:, 2 * place] / sums[:, 2 * place + 1], level=gate.level)
            low, high = (min(low, ends[0]), max(high, ends[1])) if ends else (low, high)
        note = None if total else "undefined: no instance is acted on"
        direction: Direction = "lower" if name == "error" and place == 1 else "higher"
        estimates.append(Estimate(hits / total if total else math.nan, low, high, total, direction, note))
    means = {}
    for place, (name, column) in enumerate(costs.items(), start=len(columns)):
        ends = percentile_interval(sums[:, place] / sums[:, -1], level=gate.level)
        low_cost, high_cost = ends or (None, None)
        means[name] = Estimate(float(column.mean()), low_cost, high_cost, n, "lower")
    return Judgement(estimates[0], estimates[1], means, dict(zip(gate.class_limits, estimates[2:], strict=True)))


def judge_out_of_bag(gate: Gate, posteriors: Posteriors, *, replicates: int = 200, seed: int = 0) -> Judgement:
    """What choosing a gate in this way is worth, from the instances that it was chosen on and no others.

    A gate is chosen on each bootstrap sample and judged on the instances (or groups) outside of it. The value is the
    mean over samples, and the interval holds `gate.level` of them. It covers the choice as well as the instances judged
    on, which are about 37 % of all: so it is wider than on a test split of as many instances.

    Raises:
        InputError: every sample holds all instances, because there are too few.

    Source: Efron and Tibshirani (1993), section 17.7.
    """
    sample = GateSample.of(gate, posteriors)
    resampling = resampling_of(posteriors.labels, groups=posteriors.groups, resample=None, seed=seed)
    judged = []
    for replicate in range(replicates):
        drawn = resampling.indices(replicate)
        rows = np.setdiff1d(np.arange(len(posteriors)), drawn)
        if not len(rows):
            continue
        limit, class_limits = choose_limits(gate, sample.take(drawn))
        chosen = replace(gate, limit=limit, class_limits=class_limits)
        outside = Posteriors(posteriors.log_posteriors[rows], posteriors.labels[rows])
        judged.append(_judged(chosen, sample.take(rows), outside, 0, seed))
    if not judged:
        raise InputError(
            f"{len(posteriors)} instances are too few to leave any out of a sample; give others to judge on"
        )

    def over(estimates: list[Estimate]) -> Estimate:
        """The mean over samples and their interval; a sample in which nothing is acted on has no error."""
        known = np.array([one.value for one in estimates if not math.isnan(one.value)])
        low, high = percentile_interval(known, level=gate.level) or (None, None)
        value = float(known.mean()) if len(known) else math.nan
        return Estimate(value, low, high, len(posteriors), estimates[0].direction)

    costs = {name: over([one.costs[name] for one in judged]) for name in judged[0].costs}
    precision = {name: over([one.precision[name] for one in judged]) for name in judged[0].precision}
    coverage, error = over([one.coverage for one in judged]), over([one.error for one in judged])
    return Judgement(coverage, error, costs, precision, held_out=False)
