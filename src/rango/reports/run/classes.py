"""Which classes are taken for which: the confusion matrix, the error of each class, and a bias for places.

Classes are columns that mean the same in every instance. Where each instance has choices of its own, a column is only a
place among them; the same numbers then show whether the model prefers a place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rango.decisions import Posteriors
from rango.decisions.risk import risk_coverage

MOST_CLASSES = 12
"""With more classes a matrix cannot be read: the page lists the most frequent confusions instead."""

_CONFUSIONS = 15
_RISKS = (0.01, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class ClassRow:
    """One class, or one place of choices: how often it is right, how often it is chosen, how often that is wrong."""

    name: str
    n: int
    """Instances whose right choice it is."""
    share: float
    """Of all instances."""
    chosen: float
    """Share of the instances for which it is the most probable choice."""
    posterior: float
    """Its mean posterior: equal to `share` for a calibrated model."""
    error: float
    """Share of its instances for which another choice is the most probable; NaN without instances."""
    low: float
    """Wilson's 95 % interval of the error, as if instances were independent."""
    high: float
    biased: bool
    """Whether share and mean posterior differ by more than chance: by two standard errors of the share."""


def class_rows(posteriors: Posteriors) -> list[ClassRow]:
    """One row for each column of the posteriors; places are called 1, 2, … where the columns are no classes."""
    names = posteriors.column_names or tuple(str(place + 1) for place in range(posteriors.n_choices))
    counts = confusion(posteriors)
    n, n_of, chosen = len(posteriors), counts.sum(axis=1), counts.sum(axis=0)
    means = np.exp(posteriors.log_posteriors).mean(axis=0)
    rows = []
    for k, name in enumerate(names):
        share, wrong = n_of[k] / n, int(n_of[k] - counts[k, k])
        error, low, high = np.nan, np.nan, np.nan
        if n_of[k]:
            bounds = stats.binomtest(wrong, int(n_of[k])).proportion_ci(method="wilson")
            error, low, high = wrong / n_of[k], bounds.low, bounds.high
        # A class that never occurs, or always, has no standard error to compare with.
        biased = bool(abs(means[k] - share) > 2 * np.sqrt(share * (1 - share) / n) > 0)
        mean = float(means[k])
        rows.append(ClassRow(name, int(n_of[k]), float(share), chosen[k] / n, mean, error, low, high, biased))
    return rows


def confusion(posteriors: Posteriors) -> NDArray[np.int64]:
    """Counts (K, K) of instances by right choice (row) and most probable choice (column)."""
    counts = np.zeros((posteriors.n_choices, posteriors.n_choices), dtype=np.int64)
    np.add.at(counts, (posteriors.labels, posteriors.log_posteriors.argmax(axis=1)), 1)
    return counts


def frequent_confusions(posteriors: Posteriors) -> list[tuple[str, str, int]]:
    """The most frequent pairs of a right class and another that was chosen instead, with counts; none for places."""
    names = posteriors.column_names
    if names is None:
        return []
    wrong = confusion(posteriors) * (1 - np.eye(posteriors.n_choices, dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [tuple(map(int, np.unravel_index(place, wrong.shape))) for place in order]
    return [(names[k], names[d], int(wrong[k, d])) for k, d in pairs if wrong[k, d]]


def coverages(posteriors: Posteriors) -> list[tuple[float, float]]:
    """Error rate → the largest share of instances, surest first, that is answered with at most that error rate.

    Ends with the first error rate at which everything is answered. What a page would show as 0%, or as the same
    percentage at a larger error rate, is left out.
    """
    curve = risk_coverage(posteriors)
    percentages: dict[int, tuple[float, float]] = {}
    for risk in _RISKS:
        coverage = curve.coverage_at(risk)
        percentages.setdefault(round(100 * coverage), (risk, coverage))
    pairs = [pair for percentage, pair in percentages.items() if percentage]
    whole = next((place for place, (_, coverage) in enumerate(pairs) if coverage == 1), len(pairs))
    return pairs[: whole + 1]
