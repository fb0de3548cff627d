"""Costs C[k, d] of decisions, the Bayes decisions they lead to, and the best constant decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions.arrays import LARGEST_SIZE, Array, Labels, frozen, row_pieces
from rango.errors import InputError, unknown_name
from rango.files import read_yaml
from rango.showing import Grid, Shown, count

_KEYS = ("classes", "decisions", "costs")
# Two decisions whose expected costs agree to this relative amount tie: logarithms and sums round in the 16th digit.
_TIE = 1e-14
_FINITE = f"expected a finite number, at most {LARGEST_SIZE:g} in size"


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Costs(Shown):
    """The cost of each decision for each true class.

    `matrix[k, d]` is the cost of decision d when class k is true: row = true class, column = decision. There may be
    more decisions than classes (abstaining is a column like any other), or fewer.

    >>> Costs([[0, 1, 0.3], [5, 0, 0.3]], classes=["ham", "spam"], decisions=["keep", "drop", "ask"]).decisions
    ('keep', 'drop', 'ask')
    """

    matrix: Array
    classes: tuple[str, ...]
    decisions: tuple[str, ...]
    named: bool
    """Whether the classes were given names; otherwise they are numbers and mean the columns of posteriors."""

    def __init__(
        self, matrix: ArrayLike, *, classes: Iterable[str] | None = None, decisions: Iterable[str] | None = None
    ) -> None:
        """Check the costs (K, D), any unit. Names default to "0", "1", …

        Raises:
            InputError: wrong shape, not finite, above 1e100 in size, or names whose number is not that of the rows or
                columns.
        """
        values = _costs_array(matrix)
        object.__setattr__(self, "matrix", frozen(values))
        object.__setattr__(self, "classes", _names(classes, values.shape[0], "classes", "rows"))
        object.__setattr__(self, "named", classes is not None)
        object.__setattr__(self, "decisions", _names(decisions, values.shape[1], "decisions", "columns"))

    @classmethod
    def zero_one(cls, classes: int | Sequence[str]) -> Costs:
        """Costs of 1 for every error: C[k, d] = 1[k ≠ d]. `classes`: their number or their names."""
        names = None if isinstance(classes, int) else tuple(classes)
        n_classes = classes if isinstance(classes, int) else len(classes)
        return cls(1.0 - np.eye(n_classes), classes=names, decisions=names)

    @classmethod
    def class_weighted(cls, weights: Sequence[float], *, classes: Sequence[str] | None = None) -> Costs:
        """Errors cost what the true class weighs: C[k, d] = weights[k] · 1[k ≠ d]."""
        n = len(weights)
        if classes is not None and n != len(classes):
            raise InputError(f"{n} weights for {len(classes)} classes; give one for each")
        return cls(np.asarray(weights, dtype=float)[:, None] * (1.0 - np.eye(n)), classes=classes, decisions=classes)

    @classmethod
    def distance(cls, classes: int | Sequence[str], *, squared: bool = False) -> Costs:
        """Costs of ordered levels that grow with the distance: C[k, d] = |k − d|, or (k − d)².

        >>> Costs.distance(3, squared=True).matrix.tolist()
        [[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]
        """
        names = None if isinstance(classes, int) else tuple(classes)
        levels = np.arange(classes if isinstance(classes, int) else len(classes))
        gaps = np.abs(levels[:, None] - levels)  # (K, K)
        return cls(gaps**2 if squared else gaps, classes=names, decisions=names)

    @classmethod
    def from_yaml(cls, path: Path) -> Costs:
        """Read `classes`, `decisions` and `costs` (row = true class).

        Raises:
            InputError: the file cannot be read, a key is missing or unknown, or as the constructor.
        """
        return cls.from_mapping(read_yaml(path), where=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "costs") -> Costs:
        """The costs in a mapping with the keys of a costs file; `decisions` defaults to `classes` where square."""
        # Keys are checked before values, so that a misspelt key is named instead of the one it leaves missing.
        for key in values:
            if key not in _KEYS:
                raise unknown_name(f"key in {where}", str(key), _KEYS)
        if "costs" not in values:
            raise InputError(f"{where}: costs is missing; give one row for each true class")
        try:
            classes, decisions = (_stated_names(values, key) for key in ("classes", "decisions"))
            _check_numbers(values["costs"])
            matrix = _costs_array(values["costs"])
            # A square matrix decides for a class: its decisions have the names of the classes.
            if decisions is None and classes is not None and matrix.shape[1] == len(classes):
                decisions = classes
            return cls(matrix, classes=classes, decisions=decisions)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The mapping that `from_mapping` and a costs file take."""
        names = {"classes": list(self.classes)} if self.named else {}
        return {**names, "decisions": list(self.decisions), "costs": self.matrix.tolist()}

    def with_abstention(self, cost: float, *, name: str = "abstain") -> Costs:
        """One more decision, of the same cost whatever the class."""
        column = np.full((len(self.classes), 1), float(cost))
        matrix = np.hstack([self.matrix, column])
        return Costs(matrix, classes=self.classes if self.named else None, decisions=(*self.decisions, name))

    def best_is_zero(self) -> Costs:
        """The same costs less each row's minimum: the same Bayes decisions, and a perfect system costs 0."""
        matrix = self.matrix - self.matrix.min(axis=1, keepdims=True)
        return Costs(matrix, classes=self.classes if self.named else None, decisions=self.decisions)

    @property
    def is_zero_one(self) -> bool:
        """Whether these are the costs whose Bayes decision is the most probable class."""
        rows, columns = self.matrix.shape
        return rows == columns and bool((self.matrix == 1.0 - np.eye(rows)).all())

    def check_columns(self, ids: Sequence[str], choices: Sequence[Sequence[str]]) -> None:
        """Raise InputError where a choice of an instance is a class of another column.

        For instances whose choices differ: a choice that is the same class in each of them needs one column, or no row
        of the costs is its own.
        """
        if not self.named:
            return
        row_of = {name: row for row, name in enumerate(self.classes)}
        for instance, words in zip(ids, choices, strict=True):
            for column, word in enumerate(words):
                if row_of.get(word, column) != column:
                    raise InputError(
                        f"id {instance!r} has the choice {word!r} in column {column}, but it is class {row_of[word]} "
                        "of the costs; give each class one column"
                    )

    def for_choices(self, choices: Sequence[str] | None) -> Costs:
        """The same costs with a row for each column of posteriors, in their order: rows are matched by name.

        By place only where one side has no names: `choices` is None, or the classes are numbers that no choice has.

        Args:
            choices: (K,) the name of each column of the posteriors, as `Posteriors.column_names`.

        Raises:
            InputError: a class that is no choice (with the nearest), or a choice without a row.

        >>> costs = Costs([[0, 1], [5, 0]], classes=["ham", "spam"])
        >>> costs.for_choices(["spam", "ham"]).matrix.tolist()
        [[5.0, 0.0], [0.0, 1.0]]
        """
        if choices is None or tuple(choices) == self.classes:
            return self
        numbers = self.classes == tuple(map(str, range(len(self.classes))))
        if not self.named or (numbers and not any(name in choices for name in self.classes)):
            return self
        for name in self.classes:
            if name not in choices:
                raise unknown_name("class of the costs", name, choices)
        if missing := [name for name in choices if name not in self.classes]:
            raise InputError(f"the costs have no row for {missing[0]!r}; give one for each of {', '.join(choices)}")
        order = [self.classes.index(name) for name in choices]
        return Costs(self.matrix[order], classes=choices, decisions=self.decisions)

    def _facts(self) -> Iterator[str]:
        yield count(len(self.classes), "class", "classes")
        yield count(len(self.decisions), "decision")
        low, high = self.matrix.min(), self.matrix.max()
        yield "errors cost 1" if self.is_zero_one else f"from {low:g} to {high:g}"

    def _grid(self) -> Grid:
        rows = zip(self.classes, self.matrix.tolist(), strict=True)
        return Grid(["true ╲ decision", *self.decisions], [[name, *(f"{c:g}" for c in row)] for name, row in rows])

    def check_classes(self, n_classes: int) -> None:
        """Raise InputError unless there is one row for each of `n_classes` classes."""
        if self.matrix.shape[0] != n_classes:
            raise InputError(
                f"costs have {self.matrix.shape[0]} rows but there are {n_classes} classes; give one row for each"
            )


def bayes_decisions(log_posteriors: Array, *, costs: Costs) -> Labels:
    """Decisions of least expected cost.

    d_B(q) = argmin_d Σ_k C[k, d] q_k, the first index on ties. With 0–1 costs this is argmax_k q_k.

    Args:
        log_posteriors: (N, K), nats.
        costs: (K, D).

    Returns:
        (N,) column indices of the costs.

    Raises:
        InputError: the costs have another number of classes.

    Source: reference thesis, eq. 3.1; arXiv:2209.05355.

    >>> costs = Costs.zero_one(2).with_abstention(0.2)
    >>> bayes_decisions(np.log([[0.9, 0.1], [0.3, 0.7]]), costs=costs).tolist()
    [0, 2]
    """
    costs.check_classes(log_posteriors.shape[1])
    if costs.is_zero_one:
        # In the log domain, so that no two posteriors fall together by rounding.
        return np.asarray(log_posteriors.argmax(axis=1), dtype=np.int64)
    decisions = np.empty(len(log_posteriors), dtype=np.int64)
    # Without row minima the risks are sums of non-negative terms: their relative rounding is bounded.
    matrix = costs.best_is_zero().matrix
    for rows in row_pieces(len(log_posteriors), sum(matrix.shape)):
        risks = np.exp(log_posteriors[rows]) @ matrix  # (n, D)
        decisions[rows] = (risks <= risks.min(axis=1, keepdims=True) * (1.0 + _TIE)).argmax(axis=1)
    return decisions


def expected_costs(log_posteriors: Array, *, costs: Costs) -> Array:
    """Expected cost of every decision for every instance: Σ_k C[k, d] q_k, shape (N, D), unit of the costs."""
    costs.check_classes(log_posteriors.shape[1])
    return np.asarray(np.exp(log_posteriors) @ costs.matrix, dtype=np.float64)


def naive_cost(priors: Array, *, costs: Costs) -> Array:
    """Expected cost of the best constant decision: min_d Σ_k π_k C[k, d].

    Args:
        priors: (..., K), class probabilities.
        costs: (K, D).

    Returns:
        (...,), unit of the costs. With 0–1 costs: 1 − max_k π_k.

    Source: arXiv:2209.05355.

    >>> float(naive_cost(np.array([0.25, 0.75]), costs=Costs.zero_one(2)))
    0.25
    """
    if costs.is_zero_one:
        return np.asarray(1.0 - priors.max(axis=-1), dtype=np.float64)
    return np.asarray((priors @ costs.matrix).min(axis=-1), dtype=np.float64)


def _costs_array(matrix: ArrayLike) -> Array:
    try:
        values = np.array(matrix, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InputError("costs are not a table of numbers; give rows of one length, one for each true class") from None
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 2:
        raise InputError(f"costs have shape {values.shape}; expected at least (2 classes, 2 decisions)")
    # Written so that NaN is bad: it fails every comparison.
    bad = ~(np.abs(values) <= LARGEST_SIZE)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(f"costs[{row}][{column}] is {values[row, column]}; {_FINITE}")
    return values


def _stated_names(values: Mapping[str, Any], key: str) -> list[str] | None:
    """The names under `classes` or `decisions` of a costs file; None where it has none."""
    if key not in values:
        return None
    if not isinstance(values[key], list | tuple):
        raise InputError(f"{key} is {values[key]!r}; expected a list of names")
    for place, name in enumerate(values[key]):
        # What YAML made of true, null or 1.10 is not what was written.
        if type(name) not in (str, int):
            raise InputError(f"{key}[{place}] is {name!r}; expected a name, put it in quotation marks")
    return [str(name) for name in values[key]]


def _check_numbers(rows: Any) -> None:
    """Raise InputError for an entry that is no number, which NumPy would make one of: true, or a text of digits."""
    for row, entries in enumerate(rows if isinstance(rows, list | tuple) else ()):
        for column, value in enumerate(entries if isinstance(entries, list | tuple) else ()):
            if type(value) not in (int, float) or abs(value) > LARGEST_SIZE:
                shown = repr(value)
                shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
                raise InputError(f"costs[{row}][{column}] is {shown}; {_FINITE}")


def _names(names: Iterable[str] | None, count: int, kind: str, axis: str) -> tuple[str, ...]:
    chosen = tuple(str(index) for index in range(count)) if names is None else tuple(names)
    if len(chosen) != count:
        raise InputError(f"{len(chosen)} {kind} are named but the costs have {count} {axis}; name each once")
    if len(set(chosen)) != count:
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise InputError(f"{kind} name {twice!r} twice; name each once")
    return chosen
