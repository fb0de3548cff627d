"""What is known of instances beside their posteriors: what is right, their choices, what type they are, their groups.

What is right is one choice of each instance, or a distribution over its choices (soft labels):

    labels  (N,)     index of the right choice
    targets (N, K)   shares t_k of the choices, such as of annotators; each row sums to one

The expected score of a rule under a target is Σ_k t_k rule(k, q). `Votes` spells it out: one vote for each instance and
choice with t_k > 0, of weight t_k. A label is a single vote of weight 1, so that both kinds take the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.decisions.arrays import (
    ROUNDED_TOLERANCE,
    SUM_TOLERANCE,
    Array,
    Labels,
    check_labels,
    check_matrix,
    is_missing,
)
from rango.errors import InputError, unknown_name
from rango.showing import count

QuestionType: TypeAlias = Literal["choice", "yes_no", "score"]
"""What the choices of an instance are: names without an order, yes and no, or levels from the lowest to the highest."""
TYPES: tuple[QuestionType, ...] = get_args(QuestionType)


@dataclass(frozen=True, eq=False)
class Votes:
    """Labels or targets as M weighted votes, in the order of their instances."""

    rows: NDArray[np.intp] | slice
    """(M,) the instance of each vote; a slice of all where each instance has one."""
    labels: Labels
    """(M,) the choice that it is for."""
    weights: Array | None
    """(M,) its share of the instance, above 0; None where each is 1."""

    @classmethod
    def of(cls, truth: Labels | Array) -> Votes:
        """The votes of labels (N,) or targets (N, K)."""
        if truth.ndim == 1:
            return cls(slice(None), np.asarray(truth, dtype=np.int64), None)
        rows, labels = np.nonzero(truth)
        return cls(rows, labels.astype(np.int64), np.asarray(truth[rows, labels], dtype=np.float64))

    def by_class(self, order: NDArray[np.intp]) -> tuple[Votes, NDArray[np.intp]]:
        """The votes sorted by class, and which vote each of them was; `rows` are then places in `order`.

        Args:
            order: (N,) the instances in the order in which they are drawn; sorted by class where each has one.
        """
        if isinstance(self.rows, slice):
            return Votes(self.rows, self.labels[order], None), order
        place = np.empty(len(order), dtype=np.intp)
        place[order] = np.arange(len(order))
        chosen = np.argsort(self.labels, kind="stable")
        assert self.weights is not None
        return Votes(place[self.rows[chosen]], self.labels[chosen], self.weights[chosen]), chosen

    def counts(self, n_classes: int) -> Array:
        """(K,) how many instances each class has: the sum of its votes."""
        return np.asarray(np.bincount(self.labels, weights=self.weights, minlength=n_classes), dtype=np.float64)

    def of_instances(self, losses: Array, n: int) -> Array:
        """The expected loss of each of `n` instances, (n,), from the loss of each vote, (M,)."""
        if isinstance(self.rows, slice):
            return losses
        assert self.weights is not None
        return np.asarray(np.bincount(self.rows, weights=self.weights * losses, minlength=n), dtype=np.float64)


def check_truth(values: ArrayLike, *, n: int, n_choices: int, notes: list[str]) -> Labels | Array:
    """Labels (N,), or targets (N, K) where the values have two dimensions; labels where every target is one choice.

    `notes` gets a sentence where targets were rounded.

    Raises:
        InputError: as `check_labels`; targets of another shape, negative, or that do not sum to one (row and sum).
    """
    first = values[0] if isinstance(values, Sequence) and len(values) else 0
    if getattr(values, "ndim", None) != 2 and not isinstance(first, (Sequence, np.ndarray)):
        return check_labels(values, n=n, n_choices=n_choices)
    targets = check_matrix(values, name="labels")
    if targets.shape != (n, n_choices):
        raise InputError(
            f"labels have shape {targets.shape}; expected ({n},), one for each row, or ({n}, {n_choices}), "
            "a distribution over the choices for each row"
        )
    bad = ~(targets >= 0).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"labels[{row}] is {targets[row].tolist()}; expected shares from 0 to 1 that sum to 1")
    sums = targets.sum(axis=1)
    row = int(np.abs(sums - 1.0).argmax())
    if abs(sums[row] - 1.0) > ROUNDED_TOLERANCE:
        raise InputError(
            f"labels[{row}] sums to {sums[row]:.6g}; expected 1, a distribution over the choices (divide counts of "
            "annotators by their sum)"
        )
    if abs(sums[row] - 1.0) > SUM_TOLERANCE:
        notes.append(f"the soft labels are rounded: each was divided by its sum, which is {sums[row]:.6g} in row {row}")
    targets = np.asarray(targets / sums[:, None], dtype=np.float64)
    if (targets.max(axis=1) == 1.0).all():
        return np.asarray(targets.argmax(axis=1), dtype=np.int64)
    return targets


def label_cells(
    truth: Labels | Array, choices: Sequence[Sequence[str]] | None, classes: Sequence[str] | None = None
) -> list[Any]:
    """Labels for the cells of a column: indices, or the names of `classes`; of targets each row's shares."""
    if truth.ndim == 2:
        widths = [truth.shape[1]] * len(truth) if choices is None else list(map(len, choices))
        return [shares[:width] for shares, width in zip(truth.tolist(), widths, strict=True)]
    return [k if classes is None else classes[k] for k in truth.tolist()]


def check_choices(choices: tuple[tuple[str, ...], ...], truth: Labels | Array | None, logs: Array) -> None:
    """Raise InputError where choices, labels and posteriors (N, K) are not of the same choices for some instance."""
    n, n_choices = logs.shape
    if len(choices) != n:
        raise InputError(f"choices has {len(choices)} entries but there are {n} instances; give one for each")
    # Without labels every instance is checked as if its first choice were the right one; of a target, the last counts.
    last = np.zeros(n, dtype=np.int64) if truth is None else truth
    if last.ndim == 2:
        last = n_choices - 1 - (last[:, ::-1] > 0).argmax(axis=1)
    for row, (words, label) in enumerate(zip(choices, last.tolist(), strict=True)):
        if len(words) > n_choices:
            raise InputError(f"choices[{row}] has {len(words)} entries; expected at most {n_choices}, the columns")
        if label >= len(words):
            raise InputError(f"labels[{row}] is {label} but that instance has {len(words)} choices")
        if len(words) < n_choices and logs[row, len(words) :].max() > -np.inf:
            raise InputError(f"choices[{row}] has {len(words)} entries but posteriors for more; give each its words")


def check_types(types: Sequence[str] | None, *, n: int) -> tuple[QuestionType, ...] | None:
    """The type of each instance; None where all are plain choices.

    Raises:
        InputError: another number of types than instances; an unknown type.
    """
    if types is None:
        return None
    if len(types) != n:
        raise InputError(f"types has {len(types)} entries but there are {n} instances; give one for each")
    for name in types:
        if name not in TYPES:
            raise unknown_name("type", name, TYPES)
    return None if set(types) <= {"choice"} else tuple(types)  # type: ignore[arg-type]


def check_texts(values: Iterable[object], n: int, name: str) -> tuple[str, ...]:
    """One text for each of `n` instances.

    Raises:
        InputError: another number of them.
    """
    column = tuple(map(str, values))
    if len(column) != n:
        raise InputError(f"{name} has {len(column)} entries but there are {n} instances; give one for each")
    return column


def repeat_notes(ids: Sequence[str]) -> list[str]:
    """That rows have the id of another: of two files joined, or a log written twice, intervals are too narrow."""
    repeated = len(ids) - len(set(ids))
    again = count(repeated, "row")
    return [f"{again} with the id of a row before: each counts as an instance of its own"] if repeated else []


def group_names(
    groups: Iterable[str | None], *, n: int, id_of: Callable[[int], str], notes: list[str]
) -> tuple[str, ...] | None:
    """The groups, with a name for each blank one that no other has; None where all are blank.

    One group of all instances that were never assigned to any would be drawn as a whole, or not at all.
    """
    names = check_texts(("" if is_missing(group) else group for group in groups), n, "groups")
    blank = [row for row, name in enumerate(names) if not name.strip()]
    if not blank:
        return names
    if len(blank) == len(names):
        return None
    notes.append(f"{len(blank):,} of {len(names):,} instances have no group: each is a group of its own")
    named, taken = list(names), set(names)
    for row in blank:
        name = f"(no group) {id_of(row)}"
        while name in taken:
            name += "'"
        taken.add(name)
        named[row] = name
    return tuple(named)
