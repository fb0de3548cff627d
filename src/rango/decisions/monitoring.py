"""Decisions in use: what a log shows, by period and group, and alarms that may be looked at every day.

    DecisionLog ── monitor ──> Monitoring    all, periods, groups: a Part of the log each
                                   │         alarms: a test over time of each limit (`sequential`)
                                   └──────── checks: beside the baseline, where the log holds its very instances

Errors and costs are of the decisions that were acted on; what a gate passed on is counted beside them.

Labels may be few, but they must not be chosen by their outcome: a log whose labels are its complaints looks worse than
it is, and one whose labels are its confirmed cases better, and no test can know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, Labels
from rango.decisions.baseline import OF_DECISIONS, WORDS, Baseline, Check, gaps_of, losses_of, mean_estimates
from rango.decisions.calibration import calibration_loss
from rango.decisions.costs import Costs, expected_costs
from rango.decisions.decision_log import DecisionLog
from rango.decisions.long_logs import LogPart, LongLog
from rango.decisions.metrics import Estimate, error_rule
from rango.decisions.posteriors import Posteriors
from rango.decisions.priors import adapted_priors_interval
from rango.decisions.sequential import SequentialTest, betting_test
from rango.decisions.summary import summarise
from rango.errors import InputError
from rango.showing import Grid, Shown, count, short

_FEWEST = 10
"""Labels below which a part of the log has no metrics: a bootstrap of fewer says nothing of its own error."""


@dataclass(frozen=True)
class Part:
    """What a part of a log shows: all of it, a period, or a group."""

    n: int
    """Decisions."""
    labelled: int
    """Decisions whose label is known."""
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    """Of the labelled ones: nce, ece, calibration_gap, calibration_loss; of those of them that were acted on
    error_rate, and with costs promised_cost, expected_cost (what it really was) and cost_gap, the second less the
    first."""
    promised_cost: float | None = None
    """Mean expected cost of all decisions that were acted on, as the posteriors forecast it."""
    priors: Mapping[str, Estimate] = field(default_factory=dict)
    """Class shares of the decisions without labels, by expectation-maximisation; empty without training priors."""
    acted_on: int | None = None
    """Decisions that were acted on; None for a log without a gate."""

    @property
    def passed_on(self) -> float | None:
        """The share of the decisions that was passed on; None for a log without a gate."""
        return None if self.acted_on is None else (self.n - self.acted_on) / self.n

    def as_dict(self) -> dict[str, Any]:
        """The part as JSON values."""
        entry: dict[str, Any] = {"n": self.n, "labelled": self.labelled, "promised_cost": self.promised_cost}
        entry |= {"acted_on": self.acted_on, "passed_on": self.passed_on}
        entry |= {name: estimate.as_dict() for name, estimate in self.estimates.items()}
        return {**entry, "priors": {name: share.as_dict() for name, share in self.priors.items()}}


@dataclass(frozen=True, eq=False)
class Alarm:
    """A claim about the decisions, and the evidence against it after each label."""

    metric: str
    claim: str
    """What is tested, in words."""
    test: SequentialTest
    raised_at: str | None
    """The id of the decision whose label raised the alarm; None where it was not raised."""

    @property
    def raised(self) -> bool:
        """Whether the evidence has ever reached its threshold."""
        return self.test.alarm is not None

    def as_dict(self) -> dict[str, Any]:
        """The alarm as JSON values."""
        entry: dict[str, Any] = {"metric": self.metric, "claim": self.claim, "raised": self.raised}
        entry |= {"labels": len(self.test.log_evidence), "evidence": self.test.evidence, "highest": self.test.highest}
        entry |= {"threshold": self.test.threshold, "alpha": self.test.alpha}
        return {**entry, "raised_after_labels": self.test.alarm, "raised_at": self.raised_at}


@dataclass(frozen=True, eq=False, repr=False)
class Monitoring(Shown):
    """What a log shows. `monitor` makes it."""

    whole: Part
    periods: Mapping[str, Part]
    groups: Mapping[str, Part]
    alarms: tuple[Alarm, ...]
    """Tests over time; together they ever raise a false alarm with probability `alpha` at most."""
    checks: tuple[Check, ...]
    """Beside the baseline, where the log holds the instances that it was measured on; else empty."""
    alpha: float
    training_priors: Mapping[str, float] = field(default_factory=dict)
    """The class shares that the estimates in `Part.priors` are to be compared with."""
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """A sentence for each limit that does not hold any more; of the baseline's instances, for each worse metric."""
        sentences = []
        # On the baseline's own instances the pairs say more than alarms, which would test the same limits twice.
        for check in self.checks:
            if check.broken:
                ends = f", {short(check.difference.low)} to {short(check.difference.high)}"
                sentences.append(
                    f"{WORDS[check.metric]} {short(check.value)}, baseline {short(check.baseline)} on the same "
                    f"{check.difference.n:,} instances (difference {short(check.difference.value)}"
                    f"{ends if check.difference.low is not None else ''}; allowed {short(check.allowed)})"
                )
        for alarm in self.alarms:
            if alarm.raised and not self.checks:
                sentences.append(
                    f"{alarm.claim}: refuted after {alarm.test.alarm:,} labels, at id {alarm.raised_at} (evidence "
                    f"{alarm.test.highest:.3g}, threshold {alarm.test.threshold:g})"
                )
        return tuple(sentences)

    def labels_needed(self, half_width: float, *, level: float = 0.95) -> int:
        """The number of labels at which the calibration gap is known to ± `half_width`, from the spread of those here.

        Raises:
            InputError: a width that is not between 0 and 1; fewer than two labels.
        """
        from scipy.special import ndtri

        if not 0 < half_width < 1:
            raise InputError(f"precision is {half_width:g}; expected a number between 0 and 1, such as 0.02")
        # The interval of the gap shrinks with the root of the labels, so that its width here gives the spread of one.
        gap = self.whole.estimates.get("calibration_gap")
        if gap is None or gap.low is None or gap.high is None:
            raise InputError(f"{self.whole.labelled} labels are too few to say how many are needed")
        spread = (gap.high - gap.low) / 2 / float(ndtri(0.975)) * math.sqrt(gap.n)
        return max(1, math.ceil((float(ndtri((1 + level) / 2)) * spread / half_width) ** 2))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        entry: dict[str, Any] = {"whole": self.whole.as_dict(), "alpha": self.alpha}
        entry |= {"alarms": [alarm.as_dict() for alarm in self.alarms]}
        entry |= {"checks": [check.as_dict() for check in self.checks], "broken": list(self.broken)}
        entry |= {"training_priors": dict(self.training_priors)}
        entry |= {"periods": {name: part.as_dict() for name, part in self.periods.items()}}
        return {**entry, "groups": {name: part.as_dict() for name, part in self.groups.items()}, "notes": self.notes}

    def _facts(self) -> Iterator[str]:
        yield count(self.whole.n, "decision")
        yield f"{self.whole.labelled:,} with labels"
        raised = [alarm.metric for alarm in self.alarms if alarm.raised]
        yield f"alarm: {', '.join(raised)}" if raised else "no alarm"

    def _grid(self) -> Grid:
        names = ("error_rate", "nce", "calibration_gap", "expected_cost")
        parts = {"all": self.whole, **self.periods, **self.groups}
        gated = self.whole.passed_on is not None
        rows = []
        for name, part in parts.items():
            cells = [part.estimates.get(metric) for metric in names]
            passed = [f"{part.passed_on:.3f}"] if part.passed_on is not None else []
            values = ("–" if c is None else str(c) for c in cells)
            rows.append([name, f"{part.n:,}", *passed, f"{part.labelled:,}", *values])
        titles = ["decisions", *(["passed on"] if gated else []), "labels"]
        return Grid(["", *titles, *(WORDS[name] for name in names)], rows)


def monitor(
    log: DecisionLog | LongLog,
    *,
    costs: Costs | None = None,
    baseline: Baseline | None = None,
    period: str | None = None,
    training_priors: ArrayLike | None = None,
    alpha: float = 0.05,
    replicates: int = 1000,
    seed: int = 0,
) -> Monitoring:
    """What a log of decisions shows, in all, by period and by group, and whether its limits still hold.

    The alarms test over time, in the order in which labels became known: that the posterior of the most probable choice
    is on average the share that is right (in either direction, beyond the gap of the baseline), and with a baseline
    that error rate, Brier score and expected cost are on average at most its limits. Each gets an equal part of alpha.
    Where a gate decided, error rate and costs are of what was acted on, calibration and Brier score of all decisions.

    Args:
        log: decisions, a part of which has labels. These must not be chosen by their outcome. A `LongLog` was read with
            the costs, the period and the samples that are wanted here.
        costs: (K, D), under which the decisions are judged; those of the baseline when absent.
        baseline: the limits to test.
        period: "day", "week", "month", or a number of rows as a text.
        training_priors: (K,) class shares behind the posteriors, for the shift of the priors; those of the baseline
            when absent.
        alpha: the probability of ever raising a false alarm.
        replicates: bootstrap replicates of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: no labels; a baseline of other choices, or of decisions with a gate where these have none; costs of
            other classes; as `DecisionLog.periods`.
    """
    # Everything is refused before the first part, since a large log takes a while.
    long = log if isinstance(log, LongLog) else LongLog.of(log, period)
    log = long.log
    posteriors, labelled = log.posteriors, log.labelled
    notes = list(log.notes)
    if baseline is not None:
        baseline.check_kind(log)
        costs = baseline.costs if costs is None else costs
        if training_priors is None:
            training_priors = baseline.priors_for(posteriors)
    matched = None if costs is None else posteriors.match_costs(costs)
    chosen: Labels | None = None
    if matched is not None:
        chosen, note = log.decided(matched)
        notes += [note] if note else []
    if log.acts is not None:
        passed = int((~log.acts).sum()) + long.counted.n - long.counted.acted
        before = None if baseline is None else baseline.values.get("passed_on")
        beside = "" if before is None else f", in the baseline {before.value:.3f}"
        notes.append(
            f"passed on (act): {passed:,} of {len(long):,} decisions ({passed / len(long):.3f}{beside}); errors and "
            "costs are of those that were acted on"
        )
    options: dict[str, Any] = {"replicates": replicates, "seed": seed}
    shift: Array | None = None if training_priors is None else np.asarray(training_priors, dtype=np.float64)
    # Expectation-maximisation weighs by the ratio of new to old shares, which no class without a share has.
    if shift is not None and (shift == 0).any():
        shift = None
        notes.append("a class has no share in the training priors, so their shift is not estimated")

    def part_of(part: LogPart) -> Part:
        return _part(log, part, matched, chosen, shift, options)

    shared = None if baseline is None else baseline.shared_rows(labelled)
    checks: list[Check] = []
    if baseline is not None and shared is not None:
        checks = baseline.check(log, *shared, **options)
        notes.append(f"{len(shared[0]):,} instances are those of the baseline, so that each is compared with itself")
    alarms = _alarms(log, matched, baseline, alpha)
    if log.posteriors.groups is not None:
        notes.append("instances share groups (column group); the alarms take what comes next for independent of them")
    names = _class_names(posteriors)
    return Monitoring(
        part_of(LogPart(np.arange(len(log)), long.counted)),
        {name: part_of(part) for name, part in long.periods.items()},
        {name: part_of(part) for name, part in long.groups.items()},
        tuple(alarms),
        tuple(checks),
        alpha,
        {} if shift is None else dict(zip(names, shift.tolist(), strict=True)),
        tuple(dict.fromkeys(notes)),
    )


def _class_names(posteriors: Posteriors) -> tuple[str, ...]:
    return posteriors.column_names or tuple(map(str, range(posteriors.n_choices)))


def _part(
    log: DecisionLog,
    of: LogPart,
    costs: Costs | None,
    chosen: Labels | None,
    training_priors: Array | None,
    options: Mapping[str, Any],
) -> Part:
    """The estimates of a part of a log."""
    rows, counted = of.rows, of.counted
    known, acted = rows[log.labels[rows] >= 0], log.acted[rows]
    promised: Array | None = None
    if costs is not None and chosen is not None:
        forecast = expected_costs(log.posteriors.log_posteriors[rows], costs=costs)  # (n, D)
        promised = forecast[np.arange(len(rows)), chosen[rows]]
    estimates: dict[str, Estimate] = {}
    # The promise is of the labelled rows too, so that real and promised cost are of the same decisions.
    if len(known) >= _FEWEST:
        part = log.with_labels(known)
        columns = {"error_rate": error_rule(part.log_posteriors, part.labels), "calibration_gap": gaps_of(part)}
        if promised is not None and costs is not None and chosen is not None:
            columns["promised_cost"] = promised[log.labels[rows] >= 0]
            columns["expected_cost"] = costs.matrix[part.labels, chosen[known]]
            columns["cost_gap"] = columns["expected_cost"] - columns["promised_cost"]
        acts = None if log.acts is None else log.acts[known]
        if acts is not None and acts.sum() < _FEWEST:
            columns = {name: column for name, column in columns.items() if name not in OF_DECISIONS}
        estimates = dict(summarise(part, metrics=("nce", "ece"), **options))
        estimates |= mean_estimates(columns, part, acted=acts, **options)
        try:
            lost = calibration_loss(part, method="temperature", seed=options["seed"])
        except InputError:  # too few to fit on: the gap says what can be said
            pass
        else:
            estimates["calibration_loss"] = Estimate(lost.loss, lost.low, lost.high, len(known), "lower", lost.note)
    priors: dict[str, Estimate] = {}
    if training_priors is not None:
        # Of what has labels the shares are known; where all has, the estimate is of all.
        unknown = rows[log.labels[rows] < 0]
        used = counted.sample()
        if used is None:
            used = log.posteriors.log_posteriors[unknown if len(unknown) else rows]  # (n, K)
        # Each replicate is a fit of its own, and the ends of an interval need no more than some hundreds.
        replicates = min(200, options["replicates"]) or 1
        adapted, ends = adapted_priors_interval(
            used,
            training_priors=training_priors,
            replicates=replicates,
            seed=options["seed"],
        )
        for name, share, low, high in zip(_class_names(log.posteriors), adapted.priors, *ends, strict=True):
            priors[name] = Estimate(float(share), float(low), float(high), len(used), "none")
    n_acted = int(acted.sum()) + counted.acted
    mean = None
    if promised is not None and n_acted:
        mean = (float(promised[acted].sum()) + counted.promise) / n_acted
    n = len(rows) + counted.n
    return Part(n, len(known), estimates, mean, priors, None if log.acts is None else n_acted)


def _alarms(log: DecisionLog, costs: Costs | None, baseline: Baseline | None, alpha: float) -> list[Alarm]:
    """A test over time of each limit, in the order in which the labels became known."""
    labelled, outcomes, acted = log.labelled, losses_of(log, costs), log.acted[log.arrival]
    del outcomes["nce"]  # no largest loss, so that no capital could be bet
    ranges = {"error_rate": (0.0, 1.0), "brier": (0.0, 2.0), "calibration_gap": (-1.0, 1.0)}
    if costs is not None:
        ranges["expected_cost"] = (float(costs.matrix.min()), float(costs.matrix.max()))
    limits = {"calibration_gap": 0.0} if baseline is None else dict(baseline.limits)
    # The costs may be others than the baseline's: then its limit is one of another quantity.
    if baseline is not None and (baseline.costs is None or costs is None or not _same(costs, baseline.costs, labelled)):
        limits.pop("expected_cost", None)
    # A limit at the top of the range holds whatever comes.
    limits = {name: limit for name, limit in limits.items() if name in ranges and limit < ranges[name][1]}
    alarms = []
    for name, limit in limits.items():
        # Of a gap both directions are tested: posteriors that are too modest are as wrong as those too sure.
        low, high = ranges[name]
        claim = f"{WORDS[name]} at most {short(limit)}"
        lower = -math.inf
        if name == "calibration_gap":
            lower = -limit
            claim = "calibrated" if limit == 0 else f"{WORDS[name]} from {short(-limit)} to {short(limit)}"
        elif limit < low:
            raise InputError(f"the limit of the {WORDS[name]} is {limit:g}; expected {low:g} or more")
        # Whether a decision is acted on is settled before its label, so that leaving it out bends no bet.
        rows = np.flatnonzero(acted) if name in OF_DECISIONS else np.arange(len(labelled))
        stream = outcomes[name][rows]
        test = betting_test(stream, low=low, high=high, lower=lower, upper=limit, alpha=alpha / len(limits))
        at = None if test.alarm is None else labelled.ids[rows[test.alarm - 1]]
        alarms.append(Alarm(name, claim, test, at))
    return alarms


def _same(costs: Costs, other: Costs, posteriors: Posteriors) -> bool:
    matched = posteriors.match_costs(other)
    return matched.matrix.shape == costs.matrix.shape and bool((matched.matrix == costs.matrix).all())
