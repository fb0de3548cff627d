"""Every metric with its interval: of one system, and of the difference between two on the same instances.

summarise              metric(system)          drawn on the system's instances
summarise_difference   metric(b) − metric(a)   drawn on the instances that both share
compare                both systems, the difference, McNemar's test, and a sentence about them
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, check_priors
from rango.decisions.bootstrap import (
    Interval,
    LossTable,
    Resample,
    percentile_interval,
    resampling_of,
)
from rango.decisions.costs import Costs
from rango.decisions.metrics import METRICS, Estimate
from rango.decisions.normaliser import normalisers_of
from rango.decisions.pairing import align_by_id
from rango.decisions.posteriors import Posteriors
from rango.decisions.significance import McNemar, mcnemar
from rango.errors import InputError, unknown_name
from rango.frames import Backend, new_frame
from rango.showing import Grid, Shown, count, short


class Summary(Shown, dict[str, Estimate]):
    """Estimates by the name of their metric, as a table: in a terminal, in a notebook, and as a data frame."""

    level: float = 0.95
    """Nominal coverage of the intervals."""

    def to_frame(self, backend: Backend = "pandas") -> Any:
        """A data frame with a row for each metric: metric, value, low, high, n, direction, note.

        Args:
            backend: "pandas", "polars" or "pyarrow".

        Raises:
            InputError: an unknown backend, or one that is not installed.
        """
        rows = [{"metric": name, "note": None, **estimate.as_dict()} for name, estimate in self.items()]
        return new_frame({key: [row[key] for row in rows] for key in (*_FRAME, "note")}, backend)

    def _facts(self) -> Iterator[str]:
        yield from (count(estimate.n, "instance") for estimate in list(self.values())[:1])
        yield from dict.fromkeys(estimate.note for estimate in self.values() if estimate.note)

    def _grid(self) -> Grid:
        rows = []
        for name, estimate in self.items():
            metric = METRICS[name]
            rows.append([f"{metric.title} {metric.arrow}".rstrip(), short(estimate.value), estimate.span])
        return Grid(["", "value", f"{self.level:.0%} interval"], rows)

    def __repr__(self) -> str:
        return f"{self._grid().as_text()}\n{' · '.join(self._facts())}"


def measurable(posteriors: Posteriors) -> tuple[str, ...]:
    """The metrics that have a meaning for instances: those of levels only where the choices are ordered."""
    return tuple(name for name, metric in METRICS.items() if posteriors.is_ordered or not metric.needs_order)


_FRAME = ("metric", "value", "low", "high", "n", "direction")


def summarise(
    posteriors: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    metrics: Iterable[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    resample: Resample | None = None,
) -> Summary:
    """Each metric with a bootstrap interval for the sampling of instances; it does not cover training noise.

    Args:
        posteriors: N instances.
        costs: (K, D) for the two expected costs; None for 0–1 costs.
        priors: (K,) target priors that weigh the instances, not the posteriors; None for the empirical ones.
        metrics: names from METRICS; None for all that have a meaning for these instances.
        replicates: bootstrap replicates; 0 for no intervals.
        seed: replicate b draws from a stream of its own, made from (seed, b).
        level: nominal coverage, a fraction.
        resample: "instances", "groups" (whole ones) or "groups_then_instances"; None for groups where there are any.

    Returns:
        Estimates by name. Undefined values are NaN and infinite ones infinite, each with a note that says why; the
        interval is None where more than 5 % of the replicates are undefined. The interval of a normalised metric is
        for its value under the population's priors and holds the value of the sample, which is larger where there are
        few instances for each class; a note says by how much (see `normaliser`).

    Raises:
        InputError: an unknown metric, bad costs or priors, `level` outside (0, 1), negative `replicates`.

    Source: Efron and Tibshirani (1993), chapters 13 and 14.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1])
    >>> summarise(posteriors, replicates=100)["error_rate"]
    Estimate(value=0.3333333333333333, low=0.0, high=1.0, n=3, direction='lower', note=None)
    """
    return _summarise([posteriors], [(0,)], costs, priors, metrics, replicates, seed, level, resample)[0]


def summarise_difference(
    a: Posteriors,
    b: Posteriors,
    *,
    costs: Costs | None = None,
    priors: ArrayLike | None = None,
    metrics: Iterable[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    resample: Resample | None = None,
) -> Summary:
    """metric(b) − metric(a) with a paired bootstrap: both systems are resampled on shared instances.

    Arguments, returns and direction as in `summarise`: "lower" means that b is better where the difference is negative.

    Raises:
        InputError: as `summarise`; ids or labels that differ (names the first that does).

    Source: Efron and Tibshirani (1993), section 10.3.
    """
    b = align_by_id(a, b)
    return _summarise([a, b], [(0, 1)], costs, priors, metrics, replicates, seed, level, resample)[0]


def summarise_prior_only(
    posteriors: Posteriors,
    *,
    costs: Costs | None = None,
    metrics: Iterable[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Summary:
    """`summarise` of the system that outputs the class frequencies of the instances it is measured on.

    On other instances it is another system, with their frequencies. So its normalised metrics are 1 and its ECE is 0 on
    every resampling, and their intervals have no width: [1, 1] and [0, 0]. With the frequencies of the full set they
    would lie above the value, since no other constant does better on a resampling than its own. The other metrics keep
    those frequencies: they are then linear in the counts, and their intervals contain the value.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), [0, 0, 1])
    >>> nce = summarise_prior_only(posteriors, replicates=100)["nce"]
    >>> round(nce.value, 6), nce.low == nce.high == nce.value
    (1.0, True)
    """
    prior = posteriors.prior_only()
    estimates = summarise(prior, costs=costs, metrics=metrics, replicates=replicates, seed=seed, level=level)
    # A normalised metric and ECE have one value on every resampling; the rest keep their bootstrap intervals.
    for name, estimate in estimates.items():
        fixed = METRICS[name].reference is not None or not METRICS[name].is_mean
        if fixed and replicates and not math.isnan(estimate.value):
            estimates[name] = replace(estimate, low=estimate.value, high=estimate.value, note=None)
    return estimates


def _summarise(
    systems: Sequence[Posteriors],
    contrasts: Sequence[tuple[int, ...]],
    costs: Costs | None,
    priors: ArrayLike | None,
    metrics: Iterable[str] | None,
    replicates: int,
    seed: int,
    level: float,
    resample: Resample | None,
) -> list[Summary]:
    """The estimates of each contrast: of one system, (i,), or of system j minus system i, (i, j).

    All systems have the instances, labels and groups of the first, and are summed over the same resamplings.
    """
    first = systems[0]
    names = measurable(first) if metrics is None else tuple(metrics)
    # Everything is checked before the first metric, since those of large files take a while.
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a fraction between 0 and 1, such as 0.95")
    if replicates < 0:
        raise InputError(f"replicates is {replicates}; expected 0 (no intervals) or more")
    used = Costs.zero_one(first.n_choices) if costs is None else first.match_costs(costs)
    target = None if priors is None else check_priors(priors, n_classes=first.n_choices)

    points = [{name: np.asarray(s.metric(name, costs=used, priors=target)) for name in names} for s in systems]
    resampling = resampling_of(first.strata, groups=first.groups, resample=resample, seed=seed)
    # Target priors are known, and so is what they normalise by. Soft labels may differ in their last digits, and have
    # normalisers of their own.
    normalised = names if target is None else ()
    leads = sorted({contrast[0] for contrast in contrasts})
    made = {
        lead: normalisers_of(
            normalised,
            systems[lead].votes.by_class(resampling.order)[0],
            costs=used,
            units=resampling.unit_of,
            seed=seed,
        )
        for lead in (leads[:1] if first.votes.weights is None else leads)
    }
    normalisers = {lead: made.get(lead, made[leads[0]]) for lead in leads}

    # A draw costs more than a metric of it: each is made once, for all metrics of all contrasts.
    tables = [LossTable(system, metrics=names, costs=used) for system in systems] if replicates else []

    def measure(counts: Array) -> list[dict[str, Array]]:
        sums = [table.sums(counts) for table in tables]
        measured = []
        for contrast in contrasts:
            options: dict[str, Any] = {"costs": used, "priors": target, "normalisers": normalisers[contrast[0]]}
            measured.append(_last_minus_first([sums[index].metrics(names, **options) for index in contrast]))
        return measured

    blocks = resampling.of_blocks(measure, replicates)
    summaries = []
    for place, contrast in enumerate(contrasts):
        corrected, estimates = normalisers[contrast[0]], Summary()
        estimates.level = level
        notes = {name: normaliser.note for name, normaliser in corrected.items() if normaliser.note}
        # Each system explains its own infinite and undefined values; of two notes on one metric the second one stays.
        for row, index in enumerate(contrast):
            who = ("first: ", "second: ")[row] if len(contrast) > 1 else ""
            own = points[index].items()
            notes |= {name: who + note for name, value in own if (note := _note(systems[index], float(value)))}
        for name, value in _last_minus_first([points[index] for index in contrast]).items():
            interval: Interval = None
            if blocks:
                # Only corrected replicates can leave the value outside.
                held = float(value) if name in corrected else math.nan
                drawn = np.concatenate([block[place][name] for block in blocks])
                interval = percentile_interval(drawn, level=level, value=held)
            low, high = interval or (None, None)
            estimates[name] = Estimate(float(value), low, high, len(first), METRICS[name].direction, notes.get(name))
        summaries.append(estimates)
    return summaries


def _last_minus_first(systems: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Each metric of the only system, or of the second minus the first; infinite minus infinite is NaN."""
    if len(systems) == 1:
        return systems[0]
    with np.errstate(invalid="ignore"):
        return {name: value - systems[0][name] for name, value in systems[1].items()}


def _note(system: Posteriors, value: float) -> str:
    """Why a value is not finite, "" where it is."""
    if math.isinf(value):
        ids = system.zero_posterior_ids()
        shown = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
        return f"infinite: {len(ids)} instances have posterior 0 at their label (ids {shown})"
    if math.isnan(value):
        return "undefined: the system that outputs the priors loses nothing, so nothing normalises"
    return ""


def _excludes_zero(difference: Estimate) -> bool:
    """Whether the whole interval lies on one side of 0."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and not low <= 0 <= high


def _signed(value: float) -> str:
    """A difference as tables write it: three decimals, four where it would read as 0, with a true minus."""
    return f"{value:+.{4 if 5e-5 <= abs(value) < 5e-4 else 3}f}".replace("-", "−")


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Two systems, a and b, on the same instances."""

    a: Summary
    b: Summary
    difference: Summary
    """metric(b) − metric(a), with paired bootstrap intervals."""
    mcnemar: McNemar | None
    """None where labels are soft: the test counts instances that one of the two gets right."""
    level: float
    """Nominal coverage of the intervals."""
    with_costs: bool = False
    """Whether costs were given."""
    weighted: bool = False
    """Whether target priors were given."""

    def _facts(self) -> Iterator[str]:
        yield count(self.difference["nce"].n, "shared instance")
        yield f"NCE {self.difference['nce']}"
        yield f"error rate {self.difference['error_rate']}"

    def _grid(self) -> Grid:
        rows = [
            [METRICS[name].title, short(self.a[name].value), short(self.b[name].value), str(difference)]
            for name, difference in self.difference.items()
        ]
        return Grid(["", "a", "b", "b − a"], rows)

    def sentence(self, *, names: tuple[str, str] = ("the first", "the second")) -> str:
        """In words: in which metrics the two differ significantly, and which of them is worse than the priors.

        What it says of a metric is what its interval says, but for the error rates, which have an exact test.
        """
        a, b = names
        nce, test = self.difference["nce"], self.mcnemar
        start = f"On {nce.n:,} shared instances the normalised"
        if not math.isfinite(nce.value) or nce.low is None or nce.high is None:
            of_nce = f"{start} cross-entropies of {a} and {b} cannot be compared ({nce.note or 'no interval'})."
        else:
            word = "lower (better)" if nce.value < 0 else "higher (worse)"
            interval = f"{_signed(nce.value)}, {self.level:.0%} interval {_signed(nce.low)} to {_signed(nce.high)}"
            of_nce = f"{start} cross-entropy of {b} is {word} than that of {a} ({interval})."
            if not _excludes_zero(nce):
                of_nce = f"{start} cross-entropies of {a} and {b} do not differ significantly ({interval})."
        by_interval = _excludes_zero(self.difference["error_rate"])
        # McNemar's test counts instances, so it knows nothing of target priors.
        differ = by_interval if self.weighted or test is None else test.p < 1 - self.level
        rates = f"{self.a['error_rate'].value:.3f} and {self.b['error_rate'].value:.3f}"
        word = "differ" if differ else "do not differ significantly"
        of_rates = f"Their error rates, {rates}, {word}"
        if test is None:
            of_rates += " (expected under the soft labels, paired interval)"
        elif not (test.only_a_right or test.only_b_right or self.difference["error_rate"].value):
            # The test has nothing to count. Where both are wrong they may still choose differently.
            of_rates = f"Both are right on the same instances: each has the error rate {self.b['error_rate'].value:.3f}"
        else:
            p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.4f}"
            of_rates += (
                f": only {a} is right on {test.only_a_right:,}, only {b} on {test.only_b_right:,} (exact McNemar {p}"
                + (", without the target priors)" if self.weighted else ")")
            )
        if differ != by_interval:
            of_rates += f", though the bootstrap interval {'excludes' if by_interval else 'holds'} 0"
        sentences = [of_nce, f"{of_rates}."]
        if others := self._other_differences():
            sentences.append(f"Compared with {a}, {b} also differs in {', '.join(others)}.")
        # The better of two systems may still be worse than ignoring the question.
        worse = [name for name, system in ((a, self.a), (b, self.b)) if (system["nce"].low or 0.0) > 1.0]
        if worse:
            sentences.append(f"Worse than the priors (NCE above 1): {' and '.join(worse)}.")
        return " ".join(sentences)

    def _other_differences(self) -> list[str]:
        """The metrics of other losses than NCE and error rate whose interval excludes 0, each with its numbers."""
        spoken = {METRICS["nce"].definition, METRICS["error_rate"].definition}
        parts = []
        for name, difference in self.difference.items():
            metric = METRICS[name]
            # Without costs the expected cost is the error rate.
            if metric.definition in spoken or (metric.needs_costs and not self.with_costs):
                continue
            spoken.add(metric.definition)
            if _excludes_zero(difference):
                ends = f"{_signed(difference.low or 0.0)} to {_signed(difference.high or 0.0)}"
                parts.append(f"{metric.words} ({_signed(difference.value)}, {ends}; {metric.direction} is better)")
        return parts

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        parts = {"a": self.a, "b": self.b, "difference": self.difference}
        entries: dict[str, Any] = {
            part: {name: estimate.as_dict() for name, estimate in estimates.items()}
            for part, estimates in parts.items()
        }
        test = None if self.mcnemar is None else asdict(self.mcnemar)
        return {**entries, "mcnemar": test, "level": self.level, "sentence": self.sentence()}


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
    b = align_by_id(a, b)
    options = (costs, priors, None, replicates, seed, level, None)
    if a.groups == b.groups and a.is_ordered == b.is_ordered:
        of_a, of_b, difference = _summarise([a, b], [(0,), (1,), (0, 1)], *options)
    else:
        # Where only one has groups, or levels, the second one has other draws, or metrics, when it stands alone.
        of_a, difference = _summarise([a, b], [(0,), (0, 1)], *options)
        (of_b,) = _summarise([b], [(0,)], *options)
    test = None if a.targets is not None else mcnemar(a, b)
    return Comparison(of_a, of_b, difference, test, level, costs is not None, priors is not None)
