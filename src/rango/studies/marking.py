"""Which configuration is best, and which cannot be told from it: paired bootstrap, Holm-corrected over a block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rango.decisions import (
    DIRECTIONS,
    Posteriors,
    Rule,
    brier_rule,
    cost_rule,
    error_rule,
    holm,
    logarithmic_rule,
    paired_bootstrap,
)
from rango.decisions.arrays import Array
from rango.errors import InputError, unknown_name
from rango.studies.measuring import Units
from rango.studies.study_costs import COST_METRICS, StudyCosts

Mark = Literal["best", "tied", "told", ""]
"""The best of its block, not to be told from the best, told from it (worse), or not ranked."""
Side = Literal["better", "worse", "open"]
"""How a configuration stands to the base model; open: not to be told."""

ALPHA = 0.05
"""Probability of telling any two apart in a block where none differ."""
# R replicates give no p below 1 / (R + 1), which the correction multiplies by the number of comparisons: with 50 each,
# the smallest corrected p is 0.02.
_REPLICATES_PER_COMPARISON = 50

_RULES: dict[str, Rule] = {
    "nce": logarithmic_rule,
    "cross_entropy": logarithmic_rule,
    "error_rate": error_rule,
    "accuracy": error_rule,
    "brier": brier_rule,
    "normalised_brier": brier_rule,
}


def check_selection(select: str, *, costs: StudyCosts | None) -> None:
    """Raise InputError unless a metric can choose: it must be a mean over instances, to be compared in pairs."""
    known = (*_RULES, *COST_METRICS)
    if select in COST_METRICS and costs is None:
        raise InputError(f"select is {select!r} but there are no costs; give costs or select by nce")
    if select in DIRECTIONS and select not in known:
        raise InputError(f"select is {select!r}, which is no mean over instances; expected one of {', '.join(known)}")
    if select not in known:
        raise unknown_name("metric to select by", select, known)


def losses(seeds: Mapping[int, Posteriors], *, select: str, units: Units, costs: StudyCosts | None) -> Array:
    """The loss behind a metric for each instance of `units` (U,), mean over the seeds that have the instance."""
    total, count = np.zeros(len(units.ids)), np.zeros(len(units.ids))
    for system in seeds.values():
        if select in COST_METRICS:
            fitting = None if costs is None else costs.fitting(system.n_choices)
            assert fitting is not None, "where they do not fit, nothing is ranked by them"
            rule = cost_rule(fitting)
        else:
            rule = _RULES[select]
        rows = units.rows(system)
        np.add.at(total, rows, rule(system.log_posteriors, system.labels))
        np.add.at(count, rows, 1.0)
    return np.asarray(total / count)


@dataclass(frozen=True)
class Marks:
    """How the configurations of one block compare, in their order."""

    best: int | None
    marks: tuple[Mark, ...]
    p: tuple[float | None, ...]
    """Against the best, Holm-corrected; None for the best itself."""
    against_base: tuple[Side | None, ...]
    """None for the base itself and where the block has no base."""


def unranked(count: int) -> Marks:
    """Marks of configurations that nothing selects."""
    nothing: list[Mark] = [""] * count
    return Marks(None, tuple(nothing), (None,) * count, (None,) * count)


def mark(
    loss: Sequence[Array],
    means: Sequence[float],
    *,
    base: Sequence[int | None],
    units: Units,
    replicates: int,
    seed: int,
) -> Marks:
    """Mark the best by the mean of `select` and all that cannot be told from it.

    Args:
        loss: for each configuration (U,), of the metric that selects.
        means: for each configuration, that metric as it is shown, turned so that lower is better.
        base: for each configuration, the one it is held against as its base model, or None.
        units: the instances.
        replicates: bootstrap replicates of each comparison; more are drawn where the correction needs them.
        seed: of the bootstrap.
    """
    ranked = [row for row, mean in enumerate(means) if math.isfinite(mean)]
    best = min(ranked, key=lambda row: means[row], default=None)
    to_best = [None if row == best or math.isnan(means[row]) else best for row in range(len(loss))]
    p = _adjusted(loss, to_best, units, replicates, seed)
    marks: list[Mark] = ["" if value is None else "told" if value < ALPHA else "tied" for value in p]
    if best is not None:
        marks[best] = "best"
    of_base = _adjusted(loss, base, units, replicates, seed)
    sides = [_side(loss, row, base[row], value) for row, value in enumerate(of_base)]
    return Marks(best, tuple(marks), tuple(p), tuple(sides))


def _side(loss: Sequence[Array], row: int, base: int | None, p: float | None) -> Side | None:
    if base is None or p is None:
        return None
    if p >= ALPHA:
        return "open"
    return "better" if loss[row].mean() < loss[base].mean() else "worse"


def _adjusted(
    loss: Sequence[Array], partners: Sequence[int | None], units: Units, replicates: int, seed: int
) -> list[float | None]:
    """The Holm-corrected p of each configuration against its partner; None where it has none."""
    pairs = [(row, partner) for row, partner in enumerate(partners) if partner is not None]
    drawn = max(replicates, _REPLICATES_PER_COMPARISON * len(pairs))
    found = [_p(loss[row], loss[partner], units, drawn, seed) for row, partner in pairs]
    result: list[float | None] = [None] * len(loss)
    for (row, _), value in zip(pairs, holm(found) if found else (), strict=True):
        result[row] = float(value)
    return result


def _p(a: Array, b: Array, units: Units, replicates: int, seed: int) -> float:
    """Two-sided p of equal mean loss on the same instances."""
    if (a == b).all():
        return 1.0
    ends = [bool(np.isfinite(each).all()) for each in (a, b)]
    if not all(ends):
        # One right answer that was ruled out makes the mean over all questions infinite, whatever else is drawn.
        return 1.0 if ends[0] == ends[1] else 0.0
    return float(paired_bootstrap(a, b, groups=units.groups, replicates=replicates, seed=seed).p)
