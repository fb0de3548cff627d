"""Whether a difference is more than chance: paired bootstrap, McNemar's test, Holm's correction.

The paired bootstrap tests the difference of any two mean losses, McNemar's test that of two error rates exactly.
Holm's correction keeps several such tests together from finding differences by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import LARGEST_SIZE, Array
from rango.decisions.bootstrap import Resampling, percentile_interval
from rango.decisions.metrics import error_rule
from rango.decisions.pairing import align_by_id
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError


@dataclass(frozen=True)
class PairedDifference:
    """How much more system b loses than system a on the same instances, and whether chance explains it."""

    difference: float
    """mean(losses_b) − mean(losses_a), in the unit of the losses; negative where b is better."""
    low: float
    """Lower end of the percentile interval."""
    high: float
    """Upper end of the percentile interval."""
    p: float
    """Two-sided p-value of no difference; at least 1 / (replicates + 1)."""
    n: int
    """The number of instances."""


def paired_bootstrap(
    losses_a: ArrayLike,
    losses_b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    replicates: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """The difference of two mean losses on shared instances, its bootstrap interval and p-value.

    With d the mean of losses_b − losses_a, and d*_r its value in replicate r, the interval is the percentile one, and

        p = (1 + #{r : |d*_r − d| ≥ |d|}) / (1 + replicates),

    the share of replicates that stray from d as far as d is from zero, counting d itself. It covers the sampling of
    instances only; to compare two configurations rather than two runs, give each one's losses averaged over its seeds.

    Args:
        losses_a: (N,) finite losses of system a, one for each instance.
        losses_b: (N,) those of system b, in the same order.
        groups: (N,) names; instances of one group are drawn together. None to draw instances.
        replicates: how many; the smallest possible p is 1 / (replicates + 1).
        seed: replicate r draws from a stream of its own, made from (seed, r): the same for every pair of systems.
        level: nominal coverage of the interval, a fraction.

    Raises:
        InputError: losses of different lengths, none, not finite (names the first), groups of another length, `level`
            outside (0, 1), fewer than one replicate.

    Source: Efron and Tibshirani (1993), sections 10.3 and 16.4; the +1 as Davison and Hinkley (1997), section 4.2.

    >>> paired_bootstrap([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], replicates=99)
    PairedDifference(difference=-0.5, low=-0.5, high=-0.5, p=0.01, n=3)
    """
    a, b = _losses(losses_a, "losses_a"), _losses(losses_b, "losses_b")
    if len(a) != len(b):
        raise InputError(f"{len(a)} losses beside {len(b)}; a paired comparison needs the same instances")
    if groups is not None and len(groups) != len(a):
        raise InputError(f"groups has {len(groups)} entries but there are {len(a)} instances; give one for each")
    if replicates < 1:
        raise InputError(f"replicates is {replicates}; expected 1 or more")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a fraction between 0 and 1, such as 0.95")
    # Classes do not matter to a mean of losses: all instances are put into one.
    resampling = Resampling(np.zeros(len(a), dtype=np.int64), seed=seed, groups=groups)
    gaps = (b - a)[resampling.order]  # (N,)
    difference = float(gaps.mean())
    drawn = np.concatenate([counts @ gaps / counts.sum(axis=1) for counts in resampling.counts(replicates)])
    interval = percentile_interval(drawn, level=level)
    assert interval is not None  # finite losses have finite means
    # Under no difference the replicates would spread around 0 as they do around d: count those that stray as far.
    as_far = int((np.abs(drawn - difference) >= abs(difference)).sum())
    return PairedDifference(difference, *interval, (1 + as_far) / (1 + replicates), len(a))


def paired_p_values(gaps: Array, *, groups: Sequence[str] | None, replicates: int, seed: int = 0) -> Array:
    """The p-values of `paired_bootstrap` for many pairs of systems on the same instances, whose draws are made once.

    Args:
        gaps: (N, pairs) the finite losses of system b less those of system a.
        groups: (N,) as of `paired_bootstrap`.
        replicates: how many.
        seed: of the replicates.

    Returns:
        (pairs,), not corrected for being several.
    """
    resampling = Resampling(np.zeros(len(gaps), dtype=np.int64), seed=seed, groups=groups)
    ordered = gaps[resampling.order]  # (N, pairs)
    differences = ordered.mean(axis=0)
    as_far = np.zeros(gaps.shape[1])
    for counts in resampling.counts(replicates):  # (R, N)
        drawn = counts @ ordered / counts.sum(axis=1, keepdims=True)  # (R, pairs)
        as_far += (np.abs(drawn - differences) >= np.abs(differences)).sum(axis=0)
    return np.asarray((1.0 + as_far) / (1.0 + replicates))


def holm(p_values: ArrayLike) -> Array:
    """P-values adjusted for being m together, by Holm's step-down rule.

    With p_(1) ≤ … ≤ p_(m), the adjusted p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)). Calling every difference with
    p̃ ≤ α real makes a false call at all with probability at most α, however the tests depend on each other.

    Args:
        p_values: (m,), each from 0 to 1.

    Returns:
        (m,) adjusted p-values, in the order given.

    Raises:
        InputError: not one-dimensional; a value outside [0, 1] or NaN (names the first).

    Source: Holm (1979).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"p_values has shape {values.shape}; expected (tests,)")
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"p_values[{row}] is {values[row]:g}; expected a number from 0 to 1")
    # From the smallest p on: m times it, m − 1 times the next, …, and never less than the one before.
    order = np.argsort(values, kind="stable")
    steps = np.minimum(1.0, np.arange(len(values), 0, -1) * values[order])
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def _losses(values: ArrayLike, name: str) -> Array:
    losses = np.asarray(values, dtype=np.float64)
    if losses.ndim != 1 or not losses.size:
        raise InputError(f"{name} has shape {losses.shape}; expected (instances,), one loss for each")
    # Written so that NaN is bad: it fails every comparison.
    bad = ~(np.abs(losses) <= LARGEST_SIZE)
    if bad.any():
        row = int(bad.argmax())
        kind = f"losses of at most {LARGEST_SIZE:g} in size" if np.isfinite(losses[row]) else "finite losses"
        raise InputError(f"{name}[{row}] is {losses[row]:g}; expected {kind} (a mean over it says nothing)")
    return losses


@dataclass(frozen=True)
class McNemar:
    """Who errs where, and how surprising the imbalance is if both err equally often."""

    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    p: float
    """Two-sided exact p-value of only_a_right against only_b_right."""

    @property
    def n(self) -> int:
        """The number of instances."""
        return self.both_right + self.only_a_right + self.only_b_right + self.both_wrong


def mcnemar(a: Posteriors, b: Posteriors) -> McNemar:
    """McNemar's exact test of equal error rates on the same instances.

    p = min(1, 2 P(X ≤ min(n_a, n_b))) with X ~ Binomial(n_a + n_b, 1/2), where n_a and n_b count the instances that
    only one of the two gets right.

    Raises:
        InputError: ids or labels that differ (names the first that does); soft labels.

    Source: McNemar (1947), in the exact form.
    """
    from scipy.special import bdtr

    b = align_by_id(a, b)
    labels = a.labels_for("McNemar's test")
    a_wrong = error_rule(a.log_posteriors, labels) == 1
    b_wrong = error_rule(b.log_posteriors, labels) == 1
    only_a, only_b = int((~a_wrong & b_wrong).sum()), int((a_wrong & ~b_wrong).sum())
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0
    return McNemar(int((~a_wrong & ~b_wrong).sum()), only_a, only_b, int((a_wrong & b_wrong).sum()), p)
