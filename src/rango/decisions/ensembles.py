"""Several systems as one: the mean of their posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rango.decisions.arrays import log_softmax
from rango.decisions.posteriors import Posteriors
from rango.decisions.summary import check_paired
from rango.errors import InputError


def average_posteriors(members: Sequence[Posteriors]) -> Posteriors:
    """The arithmetic mean of the members' posteriors: ln q(i, k) = ln Σ_m exp(ln q_m(i, k)) − ln M.

    Its logarithmic and Brier scores are at most the mean of the members' (Jensen), and a posterior is 0 only where
    every member's is. Ids, groups and choices are those of the first member that has them.

    Args:
        members: M ≥ 1 posteriors of the same instances, such as the seeds of one configuration.

    Raises:
        InputError: no members; ids, labels or choices that differ (names the member and the first difference).

    Source: Lakshminarayanan et al. (2017), section 2.4.

    >>> pair = [Posteriors.from_probabilities([row], [0]) for row in ([1.0, 0.0], [0.5, 0.5])]
    >>> np.exp(average_posteriors(pair).log_posteriors).round(3).tolist()
    [[0.75, 0.25]]
    """
    if not members:
        raise InputError("no posteriors to average; give at least one")
    first = members[0]
    total = first.log_posteriors
    groups, choices = first.groups, first.choices
    for number, member in enumerate(members[1:], start=1):
        try:
            check_paired(first, member, purpose="an average")
            _check_choices(choices, member)
        except InputError as error:
            raise InputError(f"member 0 beside member {number}: {error}") from None
        total = np.logaddexp(total, member.log_posteriors)
        groups, choices = groups or member.groups, choices or member.choices
    if len(members) == 1:
        return first
    # The softmax divides by the sum once more, so that a posterior near one keeps its distance from it.
    return Posteriors(log_softmax(total - math.log(len(members))), first.labels, first.ids, groups, choices)


def _check_choices(choices: tuple[tuple[str, ...], ...] | None, member: Posteriors) -> None:
    if choices is None or member.choices is None:
        return
    for name, one, other in zip(member.ids, choices, member.choices, strict=True):
        if one != other:
            raise InputError(f"id {name!r} has choices {list(one)} beside {list(other)}; an average needs the same")
