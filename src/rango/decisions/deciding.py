"""Acting on posteriors: the Bayes decision of each instance, what it is expected to cost, and the runner-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import Array, Labels
from rango.decisions.costs import Costs, bayes_decisions, expected_costs
from rango.decisions.posteriors import Posteriors


@dataclass(frozen=True, eq=False)
class Decisions:
    """One decision for each instance. Costs are expected under the posteriors used, in the unit of the costs."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    """Of the decisions, the columns of the costs."""
    chosen: Labels
    """(N,) column of the Bayes decision."""
    expected_costs: Array
    """(N,) expected cost of the Bayes decision."""
    runners_up: Labels
    """(N,) column of the second-best decision."""
    runner_up_costs: Array
    """(N,) expected cost of the second-best decision."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping for each instance: id, decision, expected_cost, runner_up, runner_up_cost."""
        columns = (self.chosen, self.expected_costs, self.runners_up, self.runner_up_costs)
        for name, chosen, cost, second, second_cost in zip(self.ids, *(c.tolist() for c in columns), strict=True):
            yield {
                "id": name,
                "decision": self.names[chosen],
                "expected_cost": cost,
                "runner_up": self.names[second],
                "runner_up_cost": second_cost,
            }


def decide(
    posteriors: Posteriors,
    *,
    costs: Costs,
    priors: ArrayLike | None = None,
    training_priors: ArrayLike | None = None,
) -> Decisions:
    """The Bayes decision argmin_d Σ_k C[k, d] q_k of each instance, the first on ties, and the second-best one.

    Args:
        posteriors: N instances; the labels are used for the training priors only.
        costs: (K, D). Abstaining is a column like any other.
        priors: (K,) class priors to decide under: re-weights the posteriors by π_k / π⁰_k first. None: as they are.
        training_priors: (K,) the priors π⁰ behind the posteriors; None for the shares of the labels.

    Raises:
        InputError: costs of another number of classes; as `Posteriors.with_priors`.

    Source: reference thesis, eq. 3.1.

    >>> posteriors = Posteriors(np.log([[0.7, 0.3]]), [0])
    >>> next(decide(posteriors, costs=Costs.zero_one(["no", "yes"]).with_abstention(0.2)).rows())["decision"]
    'abstain'
    """
    if priors is not None:
        posteriors = posteriors.with_priors(priors, training_priors=training_priors)
    chosen = bayes_decisions(posteriors.log_posteriors, costs=costs)
    risks = expected_costs(posteriors.log_posteriors, costs=costs)
    rows = np.arange(len(chosen))
    best = risks[rows, chosen]
    risks[rows, chosen] = np.inf
    second = risks.argmin(axis=1)
    return Decisions(posteriors.ids, costs.decisions, chosen, best, second, risks[rows, second])
