"""Baselines: what a system was worth when it was accepted, and the limits that it, or another in its place, must keep.

    DecisionLog with labels ── Baseline.of ──> Baseline ── write, load ──> baseline.json
                                                 └── check ──> what a new system breaks on the same instances

Error rate and expected cost are of what was acted on, where a gate passed the rest on, the others of all.

On the same instances the two are compared in pairs. On others, as in a log, the limits are what `monitor` tests over
time: there an interval that is looked at every day would exceed a limit by chance at last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import LARGEST_SIZE, Array, Labels
from rango.decisions.bootstrap import percentile_interval, resampling_of
from rango.decisions.costs import Costs
from rango.decisions.decision_log import DecisionLog
from rango.decisions.metrics import (
    Direction,
    Estimate,
    brier_rule,
    entropy,
    error_rule,
    logarithmic_rule,
)
from rango.decisions.posteriors import Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.decisions.thresholds import binomial_interval
from rango.errors import InputError
from rango.files import read_versioned, write_json

FORMAT, VERSION = "rango baseline", 1
WORDS = {
    "error_rate": "error rate",
    "nce": "NCE",
    "brier": "Brier score",
    "expected_cost": "expected cost",
    "calibration_gap": "calibration gap",
}
"""What sentences call what is watched."""
OF_DECISIONS = ("error_rate", "promised_cost", "expected_cost", "cost_gap")
"""Metrics of the decisions that were acted on. The others are of the posteriors: passing on does not change them."""


@dataclass(frozen=True)
class Check:
    """One metric of a new system beside the baseline's, on the same instances."""

    metric: str
    value: float
    """Of the new system."""
    baseline: float
    difference: Estimate
    """value − baseline, with the interval of the paired bootstrap."""
    allowed: float
    """The largest difference that is accepted."""

    @property
    def broken(self) -> bool:
        """Whether the difference is significantly larger than what is accepted, or the value is infinite."""
        low = self.difference.low
        return (low is not None and low > self.allowed) or (math.isinf(self.value) and not math.isinf(self.baseline))

    def as_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        entry = {"metric": self.metric, "value": self.value, "baseline": self.baseline, "allowed": self.allowed}
        return {**entry, "difference": self.difference.as_dict(), "broken": self.broken}


@dataclass(frozen=True, eq=False)
class Baseline:
    """Metrics of accepted posteriors with their limits, and the losses of each instance for comparisons in pairs."""

    values: Mapping[str, Estimate]
    """error_rate, nce, brier, calibration_gap; with costs expected_cost, with a gate passed_on."""
    limits: Mapping[str, float]
    """Metric → the largest value that is accepted on other instances; of the calibration gap, in either direction."""
    margin: float
    """The share of a value by which it may be worse."""
    priors: tuple[float, ...]
    """(K,), the class shares of the labels."""
    choices: tuple[str, ...] | None
    costs: Costs | None
    ids: tuple[str, ...]
    labels: Labels
    """(N,)"""
    losses: Mapping[str, Array]
    """Metric → (N,); of nce the logarithmic losses, in nats."""
    acts: NDArray[np.bool_] | None = None
    """(N,) which decisions were acted on; None without a gate."""

    @classmethod
    def of(
        cls,
        log: DecisionLog,
        *,
        costs: Costs | None = None,
        margin: float = 0.0,
        replicates: int = 1000,
        seed: int = 0,
    ) -> Baseline:
        """The baseline of a system: a limit is the upper end of the 95 % interval, and the margin on top of it.

        So the system itself keeps its limits on other instances of the same kind, and what was measured too low by
        chance does not raise alarms.

        Args:
            log: decisions, of which those with labels count.
            costs: (K, D), for the expected cost.
            margin: the share of a value by which it may be worse: 0.05 accepts what is 5 % larger.
            replicates: bootstrap replicates.
            seed: of the bootstrap.

        Raises:
            InputError: no labels; fewer than 20 instances that were acted on; a margin outside [0, 1]; costs of other
                classes.
        """
        if not 0 <= margin <= 1:
            raise InputError(f"margin is {margin:g}; expected a share from 0 to 1, such as 0.05")
        posteriors = log.labelled
        acts = None if log.acts is None else log.acts[log.arrival]
        n, acted = (len(posteriors), "") if acts is None else (int(acts.sum()), " that were acted on")
        if n < 20:
            raise InputError(f"{n} instances with labels{acted} are too few for a baseline; expected 20 or more")
        # The file keeps each instance's loss beside the means: only so can another model be compared in pairs.
        matched = None if costs is None else posteriors.match_costs(costs)
        losses = losses_of(log, matched)
        columns = losses if acts is None else {**losses, "passed_on": (~acts).astype(np.float64)}
        values = mean_estimates(columns, posteriors, acted=acts, replicates=replicates, seed=seed)
        normaliser = float(entropy(posteriors.priors()))
        values["nce"] = _divided(values["nce"], normaliser or math.nan)
        limits = {}
        # A logarithmic loss has no largest value, so that no limit of its mean can be tested over time. The
        # share passed on is shown beside the others: what it costs is known to the owner of the gate only.
        for name, estimate in values.items():
            if name in ("nce", "passed_on"):
                continue
            # An infinite loss leaves no interval; then the value itself is all that can be kept.
            ends = [estimate.value, *(end for end in (estimate.low, estimate.high) if end is not None)]
            gap = name == "calibration_gap"
            highest = max(map(abs, ends)) if gap else max(ends)
            limits[name] = highest if gap else highest + margin * abs(estimate.value)
        names, ids = posteriors.column_names, posteriors.ids
        priors = tuple(posteriors.priors().tolist())
        return cls(values, limits, margin, priors, names, matched, ids, posteriors.labels, losses, acts)

    def check_kind(self, log: DecisionLog) -> None:
        """Raise InputError for a log of other choices than the baseline's, or of a gate where the baseline has none."""
        # The errors of what a gate acts on are fewer than those of all: a limit of the one says nothing of the other.
        if (log.acts is None) != (self.acts is None):
            gated, other = ("log", "baseline") if self.acts is None else ("baseline", "log")
            raise InputError(
                f"the {gated} says which decisions were acted on (act) and the {other} does not; expected both to say "
                "it, or none"
            )
        posteriors = log.posteriors
        names = posteriors.column_names
        if posteriors.n_choices != len(self.priors) or (names and self.choices and {*names} != {*self.choices}):
            own, others = (", ".join(one) if one else None for one in (self.choices, names))
            raise InputError(
                f"the baseline is of {own or f'{len(self.priors)} choices'}, but the posteriors are of "
                f"{others or f'{posteriors.n_choices} choices'}; save a baseline of these"
            )

    def priors_for(self, posteriors: Posteriors) -> Array:
        """(K,) the class shares in the order of the columns of these posteriors."""
        names = posteriors.column_names
        order = [self.choices.index(name) for name in names] if names and self.choices else range(len(self.priors))
        return np.array([self.priors[k] for k in order])

    def shared_rows(self, posteriors: Posteriors) -> tuple[list[int], list[int]] | None:
        """The rows that the posteriors share with the baseline, in each of both; None where it is of other instances.

        Instances are the same by their ids. Row numbers are no ids: there all labels have to agree.

        Raises:
            InputError: instances that have another label than in the baseline; an id that stands twice.
        """
        # Another model may have its columns in another order, and label 0 is then another class.
        labels = posteriors.labels
        if posteriors.column_names and self.choices and posteriors.column_names != self.choices:
            labels = np.array([self.choices.index(posteriors.column_names[k]) for k in labels.tolist()])
        if posteriors.ids == tuple(map(str, range(len(posteriors)))):
            same = posteriors.ids == self.ids and bool((labels == self.labels).all())
            return (list(range(len(labels))), list(range(len(labels)))) if same else None
        row_of = {name: row for row, name in enumerate(self.ids)}
        pairs = [(row, row_of[name]) for row, name in enumerate(posteriors.ids) if name in row_of]
        # A few common ids are a chance of naming; what was drawn again from the same file shares nearly all.
        if 2 * len(pairs) < min(len(posteriors), len(self.ids)):
            return None
        for row, other in pairs:
            if labels[row] != self.labels[other]:
                raise InputError(
                    f"id {posteriors.ids[row]!r} has another label than in the baseline; "
                    "save the baseline again with the labels of now"
                )
        if len({other for _, other in pairs}) < len(pairs):
            raise InputError("an id stands twice; give each instance an id of its own")
        return [row for row, _ in pairs], [other for _, other in pairs]

    def check(
        self, log: DecisionLog, rows: list[int], others: list[int], *, replicates: int = 1000, seed: int = 0
    ) -> list[Check]:
        """A new system beside the baseline on shared instances: every metric with its paired difference.

        Broken is what is significantly worse by more than the margin, at the level of 95 %; the calibration gap, where
        it has become significantly larger in size. Error and cost of a gate are means over what each of the two acted
        on, which need not be the same instances.

        Args:
            log: of the new system.
            rows: the shared rows of its labelled posteriors, as `shared_rows` gives them.
            others: the same instances in the baseline.
            replicates: bootstrap replicates.
            seed: of the bootstrap.

        Raises:
            InputError: none of the instances was acted on.
        """
        part = log.labelled.take(rows)
        new = losses_of(log, None if self.costs is None else part.match_costs(self.costs))
        new = {name: column[rows] for name, column in new.items()}
        old = {name: column[others] for name, column in self.losses.items()}
        # Both are divided by the entropy of the shared labels: with another divisor each, the same losses would differ.
        normaliser = float(entropy(part.priors())) or math.nan
        if log.acts is not None and self.acts is not None:
            acts = log.acts[log.arrival][rows]
            for losses, acted in ((new, acts), (old, self.acts[others])):
                if not acted.any():
                    which = "new system" if losses is new else "baseline"
                    raise InputError(
                        f"the {which} acted on none of the {len(rows):,} instances, so it has no error rate"
                    )
                for name in OF_DECISIONS:
                    if name in losses:
                        losses[name] = _around_mean(losses[name], acted)
        # A gap is compared by its size, which is no mean: each sign is that of the whole sample.
        for one in (new, old):
            one["calibration_gap"] = one["calibration_gap"] * np.sign(one["calibration_gap"].mean() or 1.0)
        # Where both lose infinitely the difference is no number, and so it has no interval.
        with np.errstate(invalid="ignore"):
            differences = {name: new[name] - old[name] for name in new}
        estimates = mean_estimates(differences, part, replicates=replicates, seed=seed, exact_error=False)
        checks = []
        for name, difference in estimates.items():
            unit = normaliser if name == "nce" else 1.0
            before = float(old[name].mean()) / unit
            allowed = 0.0 if name == "calibration_gap" else self.margin * abs(before)
            checks.append(Check(name, float(new[name].mean()) / unit, before, _divided(difference, unit), allowed))
        return checks

    def as_dict(self) -> dict[str, Any]:
        """The baseline as JSON values, as `load` reads them; limits may be edited."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "limits": dict(self.limits),
            "margin": self.margin,
            "values": {name: estimate.as_dict() for name, estimate in self.values.items()},
            "priors": list(self.priors),
            "choices": self.choices and list(self.choices),
            "costs": None if self.costs is None else self.costs.as_dict(),
            "instances": {
                "ids": list(self.ids),
                "labels": self.labels.tolist(),
                "acts": None if self.acts is None else self.acts.tolist(),
                "losses": {name: losses.tolist() for name, losses in self.losses.items()},
            },
        }

    def write(self, path: Path | str) -> None:
        """Write the baseline as JSON, atomically."""
        write_json(Path(path), self.as_dict())

    @classmethod
    def load(cls, path: Path | str) -> Baseline:
        """Read a baseline that `write` wrote.

        Raises:
            InputError: no JSON, no baseline, one of a later version, or a value that is missing or no such value.
        """
        command = "rango monitor --save-baseline"
        entry = read_versioned(
            Path(path), kind="baseline", form=FORMAT, version=VERSION, command=command, again="save it again"
        )
        try:
            instances = entry["instances"]
            losses = {name: np.array(column, dtype=np.float64) for name, column in instances["losses"].items()}
            acts = instances.get("acts")
            read = cls(
                values={name: Estimate.from_dict(one) for name, one in entry["values"].items()},
                limits={str(name): float(limit) for name, limit in entry["limits"].items()},
                margin=float(entry["margin"]),
                priors=tuple(map(float, entry["priors"])),
                choices=None if entry["choices"] is None else tuple(map(str, entry["choices"])),
                costs=None if entry["costs"] is None else StatedCosts.build(entry["costs"], where=str(path)).matrix,
                ids=tuple(map(str, instances["ids"])),
                labels=np.array(instances["labels"], dtype=np.int64),
                losses=losses,
                acts=None if acts is None else np.array(acts, dtype=np.bool_),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path} is no whole baseline ({error}); save it again with rango monitor") from None
        # Limits may be edited by hand: one of an unknown metric would be kept by everything.
        for name, limit in read.limits.items():
            if name not in losses or math.isnan(limit):
                raise InputError(
                    f"{path}: the limit {name} is {limit}; expected a number for one of {', '.join(losses)}"
                )
        columns = [read.labels, *losses.values(), *([] if read.acts is None else [read.acts])]
        if {(len(read.ids),)} != {column.shape for column in columns} or not {*WORDS} >= {*losses}:
            raise InputError(f"{path}: instances have columns of different lengths; save it again with rango monitor")
        # A loss is infinite where a posterior is 0; sums of other losses beyond this would be infinite too.
        for name, column in losses.items():
            if (np.isfinite(column) & (np.abs(column) > LARGEST_SIZE)).any() or np.isnan(column).any():
                raise InputError(f"{path}: a loss of {name} is no number below 1e100; save it again with rango monitor")
        return read


def _divided(estimate: Estimate, unit: float) -> Estimate:
    """The estimate in another unit."""
    low, high = (None if end is None else end / unit for end in (estimate.low, estimate.high))
    return replace(estimate, value=estimate.value / unit, low=low, high=high)


def _around_mean(losses: Array, acted: NDArray[np.bool_]) -> Array:
    """(N,) values whose mean is that of the losses of what was acted on, and whose resampling varies as that mean does.

    A mean over a part of the instances is a ratio, and these are its linearisation (the mean and each instance's
    influence on it), so that two such means over the same instances can be compared in pairs.
    """
    mean = losses[acted].mean()
    return np.asarray(mean + acted * (losses - mean) / acted.mean(), dtype=np.float64)


def losses_of(log: DecisionLog, costs: Costs | None) -> dict[str, Array]:
    """What each labelled decision adds to the metrics of a baseline, (N,) each, in the order in which labels came."""
    posteriors = log.labelled
    logs, labels = posteriors.log_posteriors, posteriors.labels
    losses = {"error_rate": error_rule(logs, labels), "nce": logarithmic_rule(logs, labels)}
    losses["brier"] = brier_rule(logs, labels)
    if costs is not None:
        losses["expected_cost"] = costs.matrix[labels, log.decided(costs)[0][log.arrival]]
    losses["calibration_gap"] = gaps_of(posteriors)
    return losses


def gaps_of(posteriors: Posteriors) -> Array:
    """(N,) the posterior of the most probable choice less whether it was right: 0 on average where it is calibrated."""
    logs = posteriors.log_posteriors
    return np.asarray(np.exp(logs.max(axis=1)) - (logs.argmax(axis=1) == posteriors.labels), dtype=np.float64)


def mean_estimates(
    columns: Mapping[str, Array],
    posteriors: Posteriors,
    *,
    replicates: int,
    seed: int,
    level: float = 0.95,
    exact_error: bool = True,
    acted: NDArray[np.bool_] | None = None,
) -> dict[str, Estimate]:
    """The mean of each column (N,) with its bootstrap interval; the error rate's is also the exact binomial one.

    Args:
        columns: by name; the calibration gap is better neither high nor low.
        posteriors: the instances, with labels, whose groups are drawn as a whole.
        acted: (N,) over which the means in `OF_DECISIONS` are taken; over all when absent.
        replicates: bootstrap replicates; 0 for none.
        seed: of the bootstrap.
        level: nominal coverage.
        exact_error: whether the column error_rate holds zeros and ones.
    """
    if acted is not None:
        # Drawn among themselves, so that no resampling is without any of them.
        options: dict[str, Any] = {"replicates": replicates, "seed": seed, "level": level, "exact_error": exact_error}
        of_acted = {name: column[acted] for name, column in columns.items() if name in OF_DECISIONS}
        of_all = {name: column for name, column in columns.items() if name not in OF_DECISIONS}
        estimates = mean_estimates(of_all, posteriors, **options)
        if acted.any():
            estimates |= mean_estimates(of_acted, posteriors.take(np.flatnonzero(acted)), **options)
        return {name: estimates[name] for name in columns if name in estimates}
    n = len(posteriors)
    resampling = resampling_of(posteriors.labels, groups=posteriors.groups, resample=None, seed=seed)
    values = np.column_stack([*columns.values(), np.ones(n)])[resampling.order]
    finite = np.where(np.isfinite(values), values, 0.0)
    drawn = [counts @ finite for counts in resampling.counts(replicates)]
    sums = np.concatenate(drawn) if drawn else np.empty((0, values.shape[1]))  # (R, columns + 1)
    estimates = {}
    for place, (name, column) in enumerate(columns.items()):
        # A mean over an infinite loss is infinite in nearly every resampling: it has no interval.
        known = bool(np.isfinite(column).all())
        ends = percentile_interval(sums[:, place] / sums[:, -1], level=level) if known else None
        low, high = ends or (None, None)
        if name == "error_rate" and exact_error:
            exact = binomial_interval(int(column.sum()), n, level=level)
            low, high = (
                (exact[0], exact[1]) if low is None or high is None else (min(low, exact[0]), max(high, exact[1]))
            )
        direction: Direction = "none" if name in ("calibration_gap", "passed_on") else "lower"
        note = None if known else "infinite: an instance has posterior 0 at its label"
        estimates[name] = Estimate(float(column.mean()), low, high, n, direction, note)
    return estimates
