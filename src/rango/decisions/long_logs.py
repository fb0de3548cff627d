"""Logs too long for memory: the decisions with labels are kept, of the others sums by period and group.

    file ── rows, a few thousand at a time ──┬── with a label ──> DecisionLog, in their order
                                             └── without ──> Counted, for all of them, each period and each group

Of a decision without a label only three things count: that it was taken, what its posterior promised, and for the shift
of the priors its posteriors, of which a random sample is enough. So memory depends on the labels, and on the numbers of
periods and groups, but not on the number of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array
from rango.decisions.costs import Costs, bayes_decisions, expected_costs
from rango.decisions.decision_log import (
    PERIODS,
    DecisionLog,
    LogColumns,
    act_of,
    check_groups,
    check_period,
    column_of,
    gap_note,
    group_name,
    ids_of,
    labels_by_id,
    no_id_fits,
    renamed,
    time_of,
)
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_columns import LABEL_NAMES, Scores, Table, find_scores, is_unlabelled
from rango.decisions.posteriors_io import read_table, table_of_rows
from rango.errors import InputError
from rango.row_stream import rows_of
from rango.rows import kind_of

MOST_SAMPLED = 20_000
"""Posteriors without labels that are kept of each part for the shift of the priors: it is known to 0.4 points then."""
_PART = 4096  # rows that are understood at once

CostsFor = Callable[[Posteriors], Costs | None]
"""The costs of posteriors, in the order of their columns; None where nothing is stated."""


@dataclass
class Counted:
    """Decisions without labels of a part of a log."""

    n: int = 0
    acted: int = 0
    promised: Array = field(default_factory=lambda: np.zeros(2))
    """Sum of the expected costs of those that were acted on: of the decisions that the log says, and of the best."""
    by_log: bool = True
    """Which of the two is meant."""
    _samples: list[tuple[Any, ...]] = field(default_factory=list, repr=False)

    @property
    def promise(self) -> float:
        """The sum of what the decisions that were acted on are expected to cost."""
        return float(self.promised[0 if self.by_log else 1])

    def add(self, acts: NDArray[np.bool_], promised: Array | None, sample: tuple[Any, ...] | None) -> None:
        """Count decisions: whether each was acted on, (2, n) its two expected costs, and its keys and posteriors."""
        self.n += len(acts)
        self.acted += int(acts.sum())
        if promised is not None:
            self.promised = self.promised + promised[:, acts].sum(axis=1)
        if sample is not None:
            self._samples.append(sample)
            # Twice as many may wait, so that they are seldom sorted.
            if sum(len(each[0]) for each in self._samples) > 2 * MOST_SAMPLED:
                self._samples = [self._drawn()]

    def _drawn(self) -> tuple[Any, ...]:
        """Keys, order and posteriors of those that are kept: the smallest keys are a random sample of all."""
        columns = tuple(np.concatenate(column) for column in zip(*self._samples, strict=True))
        kept = np.argsort(columns[0], kind="stable")[:MOST_SAMPLED]
        return tuple(column[kept] for column in columns)

    def sample(self) -> Array | None:
        """(M, K) log-posteriors, of all decisions where they are no more than `MOST_SAMPLED`; in the order of time."""
        if not self._samples:
            return None
        _, times, numbers, logs = self._drawn()
        return np.asarray(logs[np.lexsort((numbers, times))], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class LogPart:
    """A part of a log: the rows with labels and others that are kept, and what is counted of those that are not."""

    rows: NDArray[np.intp]
    counted: Counted


@dataclass(frozen=True, eq=False)
class LongLog:
    """A log of which only the decisions with labels are kept."""

    log: DecisionLog
    """The decisions with labels, in their order; all decisions where the log was read as a whole."""
    counted: Counted
    """The others."""
    periods: Mapping[str, LogPart]
    groups: Mapping[str, LogPart]

    def __len__(self) -> int:
        return len(self.log) + self.counted.n

    @classmethod
    def of(cls, log: DecisionLog, period: str | None = None) -> LongLog:
        """A log all of whose decisions are kept, in its periods and groups.

        Raises:
            InputError: as `DecisionLog.periods`.
        """
        pieces = {} if period is None else log.periods(period)
        parts = [{name: LogPart(rows, Counted()) for name, rows in each.items()} for each in (pieces, log.parts())]
        return cls(log, Counted(), parts[0], parts[1])

    @classmethod
    def read(
        cls,
        path: Path,
        labels: Path | None = None,
        *,
        period: str | None = None,
        costs_for: CostsFor = lambda _: None,
        sample: bool = False,
        **columns: Unpack[LogColumns],
    ) -> LongLog:
        """The log in a file, which is read once.

        A file whose rows cannot be understood by themselves is read as a whole: NPZ, columns that only the labels of
        other rows explain, and periods of N rows of a file that is not in the order of its times.

        Args:
            path: the log.
            labels: id and label of the decisions whose outcome is known.
            period: as in `DecisionLog.periods`.
            costs_for: what the promises are computed with.
            sample: whether posteriors without labels are kept, for the shift of the priors.
            columns: what they are called.

        Raises:
            InputError: no label is known; as `DecisionLog.from_table` and `DecisionLog.periods`. Ids of which one
                stands twice are only refused where it has a label.
        """
        if period is not None:
            check_period(period, has_times=columns.get("time") is not None)
        if path.suffix.lower() != ".npz" and kind_or_none(path) is not None:
            reader = _Reader(path, labels, columns, period, costs_for, sample)
            try:
                return reader.read()
            except _UnlikeError:
                pass  # as a whole, which says what is wrong, or understands the rows by one another
        return cls.of(DecisionLog.read(path, labels, **columns), period)


class _UnlikeError(Exception):
    """Parts of a file that mean different things by themselves."""


def kind_or_none(path: Path) -> str | None:
    """The kind of a file of rows; None for another, or for one that is not there, which its reader refuses."""
    try:
        return kind_of(path) if path.is_file() else None
    except InputError:
        return None


class _Reader:
    """What is known of a log while it is read."""

    def __init__(
        self,
        path: Path,
        labels: Path | None,
        columns: LogColumns,
        period: str | None,
        costs_for: CostsFor,
        sample: bool,
    ) -> None:
        self.path, self.columns, self.period, self.costs_for, self.sampling = path, columns, period, costs_for, sample
        self.time, self.by = columns.get("time"), columns.get("by")
        self.label, self.name = columns.get("label"), columns.get("name")
        self.labels = None if labels is None else read_table(labels)
        self.by_id: dict[str, Any] = {}
        if self.labels is not None:
            ids = self.name if self.name in self.labels.columns else None
            self.by_id = labels_by_id(renamed(renamed(self.labels, "id", ids), "label", self.label))
        # The cells of rows with labels as they stand in the file, and where they stand.
        self.kept: dict[str, list[Any]] = {}
        self.lines: list[int] = []
        self.numbers: list[int] = []
        """Of the rows with labels in the file, from 0."""
        self.counted = Counted()
        self.periods: dict[str, Counted] = {}
        self.groups: dict[str, Counted] = {}
        self.keys: Any = None
        self.own: str | None = None
        # How the first part was understood, and under which costs: every other one has to be so too.
        self.understood: tuple[Any, ...] | None = None
        self.said: tuple[str, ...] | None = None
        self.costs: Costs | None = None
        self.notes: tuple[str, ...] = ()
        self.step = int(period) if period is not None and period.isdigit() else None
        self.latest = -np.inf
        # Time and number of the first row without a label, and of the last one with a label.
        self.first_bare: tuple[float, int] | None = None
        self.last_known = (-np.inf, -1)

    def read(self) -> LongLog:
        """The whole file, part by part."""
        number = 0
        for part in self._parts():
            self._add(part, number)
            number += len(part.lines)
        if not number:
            raise _UnlikeError
        if not self.lines:
            if self.by_id and self.labels is not None:
                raise no_id_fits(self.labels.path, self.path, next(iter(self.by_id)))
            raise InputError("no decision has a label yet; give those that are known, in a column or with --labels")
        # Labels are understood together: one alone does not say whether they count from 0 or from 1.
        log = DecisionLog.from_table(Table(self.path, self.kept, self.lines), self.labels, **self.columns)
        columns = {key: column for key, column in self.kept.items() if key not in (self.own, self.label)}
        self._check_like(log.posteriors, Table(self.path, columns, self.lines) if self.understood else None)
        notes = list(log.notes)
        if self.labels is None and self.first_bare is not None and self.first_bare < self.last_known:
            notes.append(gap_note(str(self.own)))
        if self.counted.n > MOST_SAMPLED and self.sampling:
            notes.append(f"class shares are estimated from {MOST_SAMPLED:,} decisions without labels, drawn at random")
        if self.costs is not None:
            note = log.decided(self.costs)[1] or next(iter(self.notes), "")
            if note:
                # What the costs do not know is known to none of them: the Bayes decisions count for all.
                log, notes = replace(log, decisions=None), [*notes, note]
                for counted in (self.counted, *self.periods.values(), *self.groups.values()):
                    counted.by_log = False
        log = replace(log, notes=tuple(dict.fromkeys(notes)))
        return LongLog(log, self.counted, self._sliced_periods(log, number), self._sliced(log.parts(), self.groups))

    def _parts(self) -> Iterator[Table]:
        rows = rows_of(self.path)
        while part := list(islice(rows, _PART)):
            table, self.keys = table_of_rows(self.path, part, keys=self.keys)
            yield table

    def _add(self, table: Table, before: int) -> None:
        """Keep the rows of a part that have a label, and count the others."""
        plain = table
        table = renamed(table, "id", self.name)
        if self.labels is None:
            table = renamed(table, "label", self.label)
        n = len(table.lines)
        times = None if self.time is None else [time_of(table, self.time, row) for row in range(n)]
        groups = None if self.by is None else [group_name(cell) for cell in column_of(table, self.by)]
        acts = np.array([act_of(table, row) for row in range(n)]) if "act" in table.columns else np.ones(n, np.bool_)
        self.own = table.name_of("label", LABEL_NAMES)
        if self.labels is not None:
            known = np.array([text in self.by_id for text in ids_of(table, once=False)])
        elif self.own is not None:
            known = np.array([not is_unlabelled([cell]) for cell in table.columns[self.own]])
        else:
            known = np.zeros(n, np.bool_)
        seconds = np.zeros(n) if times is None else np.array([one.timestamp() for one in times])
        # Periods of so many rows count them in the order of time.
        if self.step is not None and times is not None:
            if (np.diff(seconds, prepend=self.latest) < 0).any():
                raise _UnlikeError
            self.latest = float(seconds[-1])
        kept = np.flatnonzero(known).tolist()
        self.last_known = max([self.last_known, *((float(seconds[row]), before + row) for row in kept)])
        for name, column in plain.columns.items():
            self.kept.setdefault(name, []).extend(column[row] for row in kept)
        self.lines += [table.lines[row] for row in kept]
        self.numbers += [before + row for row in kept]
        for name in dict.fromkeys(groups or ()):
            self.groups.setdefault(name, Counted())
        check_groups(self.path, str(self.by), len(self.groups))
        bare = np.flatnonzero(~known)
        if len(bare):
            first = min(zip(seconds[bare].tolist(), (before + bare).tolist(), strict=True))
            self.first_bare = first if self.first_bare is None else min(first, self.first_bare)
            # A row counts in its period and in its group, where there are any.
            names: list[list[str] | None] = [None, groups]
            if times is not None and self.period in PERIODS:
                names[0] = [one.strftime(PERIODS[self.period]) for one in times]
            elif self.step is not None:
                names[0] = [str((before + row) // self.step) for row in range(n)]
            self._count(table, bare, before, seconds, acts, names)

    def _count(
        self,
        table: Table,
        bare: NDArray[np.intp],
        before: int,
        seconds: Array,
        acts: NDArray[np.bool_],
        names: list[list[str] | None],
    ) -> None:
        """Add the rows `bare` of a part, which have no labels, to the sums of all, of their periods and groups."""
        columns = {
            key: [column[row] for row in bare.tolist()] for key, column in table.columns.items() if key != self.own
        }
        part = Table(self.path, columns, [table.lines[row] for row in bare.tolist()])
        posteriors = Posteriors.from_table(part, need_labels=False)
        self._check_like(posteriors, part)
        # What is said of the columns, such as decimal commas, has to hold for the whole file.
        self.said = posteriors.notes if self.said is None else self.said
        if posteriors.notes != self.said:
            raise _UnlikeError
        logs = posteriors.log_posteriors
        promised = None
        if self.costs is not None:
            forecast = expected_costs(logs, costs=self.costs)  # (n, D)
            decided = columns.get("decision")
            log = DecisionLog(
                posteriors, np.full(len(bare), -1), np.empty(0, dtype=np.intp), acts=acts[bare],
                decisions=None if decided is None else tuple(map(str, decided)),
            )  # fmt: skip
            chosen, note = log.decided(self.costs)
            self.notes = self.notes or ((note,) if note else ())
            best = bayes_decisions(logs, costs=self.costs)
            rows = np.arange(len(bare))
            promised = np.stack([forecast[rows, chosen], forecast[rows, best]])  # (2, n)
        numbers = before + bare
        sample = (_keys(numbers), seconds[bare], numbers, logs) if self.sampling else None
        self.counted.add(acts[bare], promised, sample)
        for own, counts in zip(names, (self.periods, self.groups), strict=True):
            if own is None:
                continue
            of = np.array([own[row] for row in bare.tolist()])
            for name in dict.fromkeys(of.tolist()):
                rows = np.flatnonzero(of == name)
                drawn = None if sample is None else tuple(column[rows] for column in sample)
                costs = None if promised is None else promised[:, rows]
                counts.setdefault(name, Counted()).add(acts[bare][rows], costs, drawn)

    def _check_like(self, posteriors: Posteriors, table: Table | None) -> None:
        """Raise _UnlikeError where a part was not understood as those before it; without a table it is the only one."""
        costs = self.costs_for(posteriors)
        matched = None if costs is None else posteriors.match_costs(costs)
        if table is None:
            self.costs = matched
            return
        scores: Scores = find_scores(table, None, [])
        columns = (scores.kind, tuple(scores.columns), scores.first, scores.names)
        understood = (columns, posteriors.n_choices, posteriors.column_names)
        if self.understood is None:
            self.understood, self.costs = understood, matched
        same = matched is None or self.costs is None or bool(np.array_equal(matched.matrix, self.costs.matrix))
        if understood != self.understood or not same:
            raise _UnlikeError

    def _sliced_periods(self, log: DecisionLog, n: int) -> dict[str, LogPart]:
        if self.period is None:
            return {}
        if self.step is None:
            return self._sliced(log.periods(self.period), self.periods)
        step = self.step
        rows: dict[int, list[int]] = {}
        for row, number in enumerate(self.numbers):
            rows.setdefault(number // step, []).append(row)
        parts = {}
        for place in range(-(-n // step)):
            name = f"{place * step + 1}-{min((place + 1) * step, n)}"
            kept = np.array(rows.get(place, ()), dtype=np.intp)
            parts[name] = LogPart(kept, self.periods.get(str(place), Counted()))
        return parts

    @staticmethod
    def _sliced(rows: Mapping[str, NDArray[np.intp]], counts: Mapping[str, Counted]) -> dict[str, LogPart]:
        """The parts by name; names of periods sort as their times do."""
        empty = np.empty(0, dtype=np.intp)
        return {name: LogPart(rows.get(name, empty), counts.get(name, Counted())) for name in sorted({*rows, *counts})}


def _keys(numbers: NDArray[np.intp]) -> NDArray[np.uint64]:
    """A number for each row that looks random and depends on its place alone (splitmix64): a file has one sample."""
    with np.errstate(over="ignore"):
        keys = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
