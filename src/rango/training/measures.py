"""From the posteriors of several model states to the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rango.decisions import Estimate, Posteriors, summarise, summarise_difference
from rango.tasks import Instance


def measure(states: Mapping[str, Posteriors], *, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Every metric of every state with its 95 % bootstrap interval, and of the prior-only system.

    `prior` outputs the class frequencies of the same instances whatever the input: its NCE is 1 by definition.
    `difference` is adapted minus base on the same resampled instances.
    """
    any_state = next(iter(states.values()))
    found = {"prior": summarise(any_state.prior_only(), seed=seed)}
    found |= {state: summarise(posteriors, seed=seed) for state, posteriors in states.items()}
    if "base" in states and "adapted" in states:
        found["difference"] = summarise_difference(states["base"], states["adapted"], seed=seed)
    return found


def true_posteriors(instances: Sequence[Instance]) -> Posteriors | None:
    """The posteriors that the instances' labels were drawn from; None where they are not known."""
    rows = [instance.log_posterior for instance in instances]
    if not rows or any(row is None for row in rows):
        return None
    width = max(len(row) for row in rows if row is not None)
    log_posteriors = np.full((len(rows), width), -np.inf)
    for number, row in enumerate(rows):
        assert row is not None
        log_posteriors[number, : len(row)] = row
    return Posteriors.from_scores(
        log_posteriors,
        np.array([instance.label for instance in instances]),
        ids=tuple(instance.id for instance in instances),
        groups=tuple(instance.group for instance in instances),
        choices=tuple(instance.choices for instance in instances),
    )
