"""Several systems on the same instances: aligned by the ids of their instances, and averaged to an ensemble."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rango.decisions.arrays import SUM_TOLERANCE, log_softmax
from rango.decisions.posteriors import Posteriors
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
    for number, unordered in enumerate(members[1:], start=1):
        try:
            member = align_by_id(first, unordered, purpose="an average")
            _check_same_choices(member.ids, choices, member.choices, purpose="an average")
        except InputError as error:
            raise InputError(f"member 0 beside member {number}: {error}") from None
        total = np.logaddexp(total, member.log_posteriors)
        groups, choices = groups or member.groups, choices or member.choices
    if len(members) == 1:
        return first
    # The softmax divides by the sum once more, so that a posterior near one keeps its distance from it.
    log_mean = log_softmax(total - math.log(len(members)))
    return Posteriors(log_mean, first.truth, first.ids, groups, choices, first.types)


def average_passes(passes: Sequence[tuple[list[int], Posteriors]]) -> Posteriors:
    """The mean of posteriors of which some have fewer instances: ln q(i, k) = ln Σ_m exp(ln q_m(i, k)) − ln M(i).

    Args:
        passes: the numbers of the instances in a pass, increasing, and their posteriors in the same columns. The first
            pass holds all instances, and instance i is in M(i) of them.

    Returns:
        The instances of the first pass with their labels, choices and groups.

    >>> one, other = (Posteriors.from_probabilities(rows, None) for rows in ([[1, 0], [0.5, 0.5]], [[0.5, 0.5]]))
    >>> np.exp(average_passes([([0, 1], one), ([0], other)]).log_posteriors).round(3).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    first = passes[0][1]
    if len(passes) == 1:
        return first
    total, counts = first.log_posteriors.copy(), np.ones(len(first))  # (N, K), (N,)
    for rows, posteriors in passes[1:]:
        total[rows] = np.logaddexp(total[rows], posteriors.log_posteriors)
        counts[rows] += 1
    # The softmax divides by the sum once more, so that a posterior near one keeps its distance from it.
    return first.replaced(log_softmax(total - np.log(counts)[:, None]))


def align_by_id(a: Posteriors, b: Posteriors, *, purpose: str = "a paired comparison") -> Posteriors:
    """`b` in the order of `a`, rows by ids and columns by names, for whatever needs both on the same instances.

    Raises:
        InputError: another number of instances or choices; ids, labels or choices that differ (names the first); ids in
            another order of which one occurs twice.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} instances beside {len(b)}; {purpose} needs the same instances")
    if a.n_choices != b.n_choices:
        raise InputError(f"{a.n_choices} choices beside {b.n_choices}; {purpose} needs the same choices")
    if a.ids != b.ids:
        row_of = {name: row for row, name in enumerate(b.ids)}
        for row, (one, other) in enumerate(zip(a.ids, b.ids, strict=True)):
            if one not in row_of:
                raise InputError(f"row {row} is id {one!r} beside id {other!r}; give both files the same ids")
        if len(row_of) < len(b) or len(set(a.ids)) < len(a):
            twice = next(name for ids in (a.ids, b.ids) for name, count in Counter(ids).items() if count > 1)
            raise InputError(f"id {twice!r} occurs twice and the orders differ; give each instance an id of its own")
        b = b.take([row_of[name] for name in a.ids])
    names, others = a.column_names, b.column_names
    if names and others and names != others and {*names} == {*others} and all(row == others for row in b.choices or ()):
        columns = [others.index(name) for name in names]
        truth = b.truth
        if truth is not None:
            truth = np.argsort(columns)[b.labels] if b.targets is None else b.targets[:, columns]
        b = Posteriors(b.log_posteriors[:, columns], truth, b.ids, b.groups, [names] * len(b), b.types)
    _check_same_choices(a.ids, a.choices, b.choices, purpose=purpose)
    if a.has_labels != b.has_labels:
        raise InputError(
            f"only the {'first' if a.has_labels else 'second'} has labels; {purpose} needs the same labels"
        )
    if not a.has_labels:
        return b
    if (a.targets is None) != (b.targets is None):
        raise InputError(
            f"only the {'second' if a.targets is None else 'first'} has soft labels; {purpose} needs the same labels"
        )
    ours, theirs = a.truth, b.truth
    assert ours is not None
    assert theirs is not None
    # Soft labels of two files may be rounded to different digits.
    differ = ours != theirs if ours.ndim == 1 else (np.abs(ours - theirs) > SUM_TOLERANCE).any(axis=1)
    if differ.any():
        row = int(differ.argmax())
        raise InputError(
            f"id {a.ids[row]!r} has label {ours[row]} beside {theirs[row]}; {purpose} needs the same labels"
        )
    return b


def check_held_out(fitting: Posteriors, apply: Posteriors, *, applied: str = "--apply") -> None:
    """Raise InputError where instances are both fitted on and applied to: the fit would look too good on them."""
    advice = "fit on instances that are held out, such as the validation split"
    # A calibrator may give every instance the priors: equal rows of two splits then say nothing about the instances.
    constant = (apply.log_posteriors == apply.log_posteriors[:1]).all()
    if not constant and np.array_equal(fitting.log_posteriors, apply.log_posteriors):
        raise InputError(f"--fit and {applied} hold the same posteriors; {advice}")
    # Row numbers are no names: every file without ids has them.
    numbered = all(name == str(row) for row, name in enumerate(apply.ids))
    fitted_on = set(fitting.ids)
    shared = [] if numbered else [name for name in apply.ids if name in fitted_on]
    if shared:
        raise InputError(
            f"{len(shared):,} of the {len(apply):,} ids in {applied} are in --fit too, the first {shared[0]!r}; "
            f"{advice}"
        )


def _check_same_choices(
    ids: tuple[str, ...],
    one: tuple[tuple[str, ...], ...] | None,
    other: tuple[tuple[str, ...], ...] | None,
    *,
    purpose: str,
) -> None:
    """Raise InputError where both have choices and some instance's differ: column k would not be the same answer."""
    for name, words, others in zip(ids, one or (), other or (), strict=False):
        if words != others:
            raise InputError(f"id {name!r} has choices {list(words)} beside {list(others)}; {purpose} needs the same")
