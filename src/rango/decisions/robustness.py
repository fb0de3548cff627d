"""How much posteriors change when the same instances are asked in another way: flips, changes of metrics, shares.

    original (N, K), changed (N, K) in the same columns ── flips ──> share of instances that are decided otherwise
                                                        ── changes ──> metric(changed) − metric(original), paired

All intervals are bootstrap intervals over whole groups, in which an instance stays together with all its variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array
from rango.decisions.metrics import Direction, Estimate
from rango.decisions.posteriors import Posteriors
from rango.decisions.significance import paired_bootstrap
from rango.decisions.summary import summarise_difference
from rango.errors import InputError

REPLICATES = 1000


def flipped(original: Posteriors, changed: Posteriors) -> NDArray[np.bool_]:
    """(n,) whether the decision on each instance of `changed` is another one than on the same instance of `original`.

    A decision is the most probable choice. Where choices have words, another choice of the same words is no flip.

    Args:
        original: N instances.
        changed: n of them, with the same columns and perhaps more.

    Raises:
        InputError: an id that the original does not have.

    >>> one, other = (Posteriors(np.log([row]), None, ids=["a"]) for row in ([0.6, 0.4], [0.3, 0.7]))
    >>> flipped(one, other).tolist(), flipped(one, one).tolist()
    ([True], [False])
    """
    before = original.take(_rows(original, changed))
    decisions = [each.log_posteriors.argmax(axis=1) for each in (before, changed)]
    differ: NDArray[np.bool_] = np.asarray(decisions[0] != decisions[1])
    if before.choices is not None and changed.choices is not None:
        for row in np.flatnonzero(differ):
            words = before.choices[row][decisions[0][row]], changed.choices[row][decisions[1][row]]
            differ[row] = words[0].strip() != words[1].strip()
    return differ


def flip_rate(original: Posteriors, variants: Sequence[Posteriors], *, seed: int = 0) -> Estimate:
    """Share of instances and variants whose decision flips, with its interval.

    Raises:
        InputError: as `flipped`; no variants.
    """
    _check_some(variants)
    flags = np.concatenate([flipped(original, changed) for changed in variants]).astype(np.float64)
    return mean_share(flags, _units(variants), seed=seed)


def mean_share(values: Array, units: Sequence[str], *, seed: int = 0, direction: Direction = "lower") -> Estimate:
    """The mean of numbers from 0 to 1, with a bootstrap interval over units.

    Where all numbers are 0, or all are 1, resampling shows nothing of what rarely happens: the other end of the
    interval is then the exact binomial bound for the number of units, 0.025^(1/n) away.

    >>> mean_share(np.zeros(100), [str(n) for n in range(100)]).high.__round__(4)
    0.0362
    """
    drawn = paired_bootstrap(np.zeros(len(values)), values, groups=units, replicates=REPLICATES, seed=seed)
    low, high = drawn.low, drawn.high
    bound = 0.025 ** (1 / len(set(units)))
    if (values == 0).all():
        high = 1 - bound
    elif (values == 1).all():
        low = bound
    return Estimate(drawn.difference, low, high, len(values), direction)


def changes(
    original: Posteriors,
    variants: Sequence[Posteriors],
    *,
    metrics: Iterable[str] = ("nce", "error_rate"),
    seed: int = 0,
) -> dict[str, Estimate]:
    """metric(changed) − metric(original) by metric, the mean over the variants, with paired bootstrap intervals.

    An instance stands in a pooled sample as often as it has variants, beside as many copies of its original, and all
    of them are drawn together. So every variant counts alike, and the intervals know that variants of one instance say
    little more than one of them.

    Args:
        original: N instances with labels.
        variants: each of some of them, with their labels, in the same columns; further columns are choices that the
            original does not have, and which have posterior 0 there.
        metrics: names from METRICS.
        seed: of the bootstrap.

    Raises:
        InputError: as `flipped`; no variants, or labels that differ.
    """
    _check_some(variants)
    before = [original.take(_rows(original, changed)) for changed in variants]
    width = max(each.n_choices for each in (*before, *variants))
    units = _units(variants)
    ids = [f"{name} {number}" for number, changed in enumerate(variants) for name in changed.ids]
    pooled = []
    for systems in (before, list(variants)):
        logs = np.full((len(ids), width), -np.inf)  # (instances · variants, K)
        start = 0
        for system in systems:
            logs[start : start + len(system), : system.n_choices] = system.log_posteriors
            start += len(system)
        labels = np.concatenate([system.labels for system in systems])
        pooled.append(Posteriors(logs, labels, ids=ids, groups=units))
    return dict(summarise_difference(*pooled, metrics=tuple(metrics), replicates=REPLICATES, seed=seed))


def _check_some(variants: Sequence[Posteriors]) -> None:
    if not variants:
        raise InputError("there is no variant to compare with; give at least one")


def _rows(original: Posteriors, changed: Posteriors) -> list[int]:
    """Where the instances of `changed` stand in `original`."""
    row_of = {name: row for row, name in enumerate(original.ids)}
    for name in changed.ids:
        if name not in row_of:
            raise InputError(f"id {name!r} is not among the original instances; give variants of them")
    return [row_of[name] for name in changed.ids]


def _units(variants: Sequence[Posteriors]) -> list[str]:
    """The group of every instance of every variant, or the instance itself where there are no groups."""
    return [unit for changed in variants for unit in (changed.groups or changed.ids)]
