"""Logs of decisions: posteriors as they were acted on, when, in which group, and the labels that are known by now.

    LOG      what `rango predict` writes, or any posteriors file: one row for each decision
    act      a column of LOG where a gate decided: yes, or no where the decision was passed on to somebody else
    labels   a column of LOG that is empty where nothing is known yet, or a second file with id and label

Rows are kept in the order of their times where they have any. The labels of a second file count in its own order, in
which they became known where the file is only ever added to.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Labels, is_missing
from rango.decisions.costs import Costs, bayes_decisions
from rango.decisions.instances import repeat_notes
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_columns import LABEL_NAMES, Column, Table, is_unlabelled, shown, texts_of
from rango.decisions.posteriors_io import read_table
from rango.errors import InputError, unknown_name
from rango.frames import frame_columns

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

MOST_GROUPS = 50
"""Groups that are reported one by one: a column with more holds names of instances, not parts of the population."""
PERIODS = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
"""How periods are called. The week is that of ISO 8601 with its own year: the first of January may be in week 53 of the
year before."""
_LATEST_SECOND = 1e11
"""Seconds since 1970 beyond which a number is taken for milliseconds, and refused."""

_PURPOSE = "a log of decisions"


class LogColumns(TypedDict, total=False):
    """What the columns of a log and of its labels are called."""

    time: str | None
    """The column of the log with times: ISO 8601, or seconds since 1970."""
    by: str | None
    """The column of the log with groups."""
    label: str | None
    """The column with labels, of the file of labels where there is one; "label" when absent."""
    name: str | None
    """The column with ids, in both tables; "id" when absent."""


@dataclass(frozen=True, eq=False)
class DecisionLog:
    """N decisions, a part of which has labels."""

    posteriors: Posteriors
    """(N, K) without labels, in the order of time."""
    labels: Labels
    """(N,), −1 where the label is not known."""
    arrival: NDArray[np.intp]
    """The rows with labels, in the order in which these became known."""
    times: tuple[dt.datetime, ...] | None = None
    """When each decision was taken, in UTC."""
    groups: tuple[str, ...] | None = None
    """The part of the population that each instance is of."""
    decisions: tuple[str, ...] | None = None
    """What was decided, by name."""
    acts: NDArray[np.bool_] | None = None
    """(N,) whether the decision was acted on; None for a log without a gate, whose decisions all were."""
    notes: tuple[str, ...] = ()
    """How the log was understood, in words."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, posteriors: Posteriors) -> DecisionLog:
        """The log of posteriors whose labels are all known, or none of which is."""
        n = len(posteriors)
        if not posteriors.has_labels:
            return cls(posteriors, np.full(n, -1), np.empty(0, dtype=np.intp))
        labels, of = posteriors.labels_for(_PURPOSE), posteriors
        bare = Posteriors(of.log_posteriors, None, of.ids, of.groups, of.choices, of.types)
        return cls(bare, labels, np.arange(n), notes=posteriors.notes)

    @classmethod
    def from_table(cls, table: Table, labels: Table | None = None, **columns: Unpack[LogColumns]) -> DecisionLog:
        """The log in a table.

        Args:
            table: posteriors as in a posteriors file; `decision` is read as what was decided, `act` as whether that was
                acted on (yes or no; a row without it was).
            labels: id and label of the decisions whose outcome is known.
            columns: what they are called, as in `LogColumns`.

        Raises:
            InputError: a column that is not there; an id that is not there or stands twice, where labels are joined by
                it; no label that belongs to the log; a time that is none; more than 50 groups; an act other than yes
                and no; as `read_posteriors`.
        """
        notes: list[str] = []
        time, by, label, name = columns.get("time"), columns.get("by"), columns.get("label"), columns.get("name")
        table = renamed(table, "id", name)
        if labels is None:
            table = renamed(table, "label", label)
        else:
            labels = renamed(renamed(labels, "id", name if name in labels.columns else None), "label", label)
        # Times and groups are read before the labels, since a misspelt option is sooner mended than a wrong row.
        times = None if time is None else [time_of(table, time, row) for row in range(len(table.lines))]
        groups = None if by is None else tuple(map(group_name, column_of(table, by)))
        if groups is not None:
            check_groups(table.path, str(by), len(set(groups)))
        decided = table.columns.get("decision")
        acts = None if "act" not in table.columns else np.array([act_of(table, row) for row in range(len(table.lines))])
        own = table.name_of("label", LABEL_NAMES)
        cells: dict[int, Any] = {}
        if labels is not None:
            cells = _joined(table, labels, notes)
            if own is not None:
                notes.append(f"{table.path}: the column {own} is not used, because the labels are those of a file")
        elif own is not None:
            cells = {row: cell for row, cell in enumerate(table.columns[own]) if not is_unlabelled([cell])}
        # The posteriors are read without labels, as their reader takes labels for all rows or for none.
        rest = {key: column for key, column in table.columns.items() if key != own}
        arrival, n = np.fromiter(cells, dtype=np.intp, count=len(cells)), len(table.lines)
        if len(cells) == n:
            # Labels help to understand columns that are called as the classes.
            everything = {**rest, "label": [cells[row] for row in range(n)]}
            whole = Posteriors.from_table(replace(table, columns=everything))
            posteriors, known = DecisionLog.of(whole).posteriors, whole.labels
            notes += whole.notes
        else:
            posteriors, known = Posteriors.from_table(replace(table, columns=rest), need_labels=False), np.full(n, -1)
            notes += posteriors.notes
            if cells:
                part = {key: _rows(column, arrival) for key, column in rest.items()}
                part["label"] = list(cells.values())
                lines = [table.lines[row] for row in cells]
                known[arrival] = Posteriors.from_table(Table(table.path, part, lines)).labels_for(_PURPOSE)
        log = cls(posteriors, known, arrival, None, groups, None if decided is None else tuple(map(str, decided)), acts)
        log = log if times is None else log._in_order_of(times, by_label_file=labels is not None)
        # Only rows with labels are measured, and of a long log only these are kept.
        notes += repeat_notes([log.posteriors.ids[row] for row in log.arrival.tolist()])
        # A log does not say when its column was filled in: a gap may be a label that nobody looks up, or a late one.
        if labels is None and len(log.arrival) and log.arrival[-1] >= len(log.arrival):
            notes.append(gap_note(str(own)))
        return replace(log, notes=tuple(notes))

    @classmethod
    def read(
        cls,
        log: Path | str | IntoDataFrame,
        labels: Path | str | IntoDataFrame | None = None,
        **columns: Unpack[LogColumns],
    ) -> DecisionLog:
        """The log in a file or a data frame; arguments and errors as in `from_table`, and as in `read_posteriors`."""
        tables = [None if one is None else _table(one) for one in (log, labels)]
        assert tables[0] is not None
        return cls.from_table(tables[0], tables[1], **columns)

    def _in_order_of(self, times: Sequence[dt.datetime], *, by_label_file: bool) -> DecisionLog:
        """The same log in the order of times; labels of a second file keep the order in which they came."""
        # Rows of the same time keep their order: the sort is stable.
        order = np.array(sorted(range(len(times)), key=times.__getitem__), dtype=np.intp)
        place = np.argsort(order)
        arrival = place[self.arrival]
        return replace(
            self,
            posteriors=self.posteriors.take(order),
            labels=self.labels[order],
            arrival=arrival if by_label_file else np.sort(arrival),
            times=tuple(times[row] for row in order),
            groups=None if self.groups is None else tuple(self.groups[row] for row in order),
            decisions=None if self.decisions is None else tuple(self.decisions[row] for row in order),
            acts=None if self.acts is None else self.acts[order],
        )

    @property
    def acted(self) -> NDArray[np.bool_]:
        """(N,) whether each decision was acted on."""
        return np.ones(len(self), dtype=np.bool_) if self.acts is None else self.acts

    @cached_property
    def labelled(self) -> Posteriors:
        """The posteriors whose labels are known, in the order in which these came.

        Raises:
            InputError: no label is known.
        """
        if not len(self.arrival):
            raise InputError("no decision has a label yet; give those that are known, in a column or with --labels")
        return self.with_labels(self.arrival)

    def with_labels(self, rows: NDArray[np.intp]) -> Posteriors:
        """The posteriors of rows whose labels are known."""
        part = self.posteriors.take(rows)
        return Posteriors(part.log_posteriors, self.labels[rows], part.ids, part.groups, part.choices, part.types)

    def decided(self, costs: Costs) -> tuple[Labels, str]:
        """(N,) the columns of the costs that were decided for, and what must be known of them, "" where nothing.

        They are those that the log says, or where it says none of the costs' decisions, those of the posteriors. What
        was passed on may be called as it likes, since no cost of it is counted.
        """
        best = bayes_decisions(self.posteriors.log_posteriors, costs=costs)
        if self.decisions is None:
            return best, ""
        place = {name: column for column, name in enumerate(costs.decisions)}
        acted = np.flatnonzero(self.acted).tolist()
        unknown = next((self.decisions[row] for row in acted if self.decisions[row] not in place), None)
        # Half of the decisions by the log and half by the posteriors would be the cost of nobody's decisions.
        if unknown is not None:
            note = f"the costs have no decision {unknown!r}, which the log has; costs are of the Bayes decisions"
            return best, note
        return np.array([place.get(name, best[row]) for row, name in enumerate(self.decisions)], dtype=np.int64), ""

    def periods(self, period: str) -> dict[str, NDArray[np.intp]]:
        """The rows of each day, week or month, or of each N rows; periods without rows are not there.

        Raises:
            InputError: neither day, week, month nor a number of rows; days without times.
        """
        if period.isascii() and period.isdigit() and int(period) > 0:
            step, n = int(period), len(self)
            # Row numbers from 1, as a person counts.
            names = [f"{start + 1}-{min(start + step, n)}" for start in range(0, n, step)]
            return {name: np.arange(k * step, min((k + 1) * step, n)) for k, name in enumerate(names)}
        check_period(period, has_times=self.times is not None)
        assert self.times is not None
        rows: dict[str, list[int]] = {}
        for row, time in enumerate(self.times):
            rows.setdefault(time.strftime(PERIODS[period]), []).append(row)
        return {name: np.array(members) for name, members in rows.items()}

    def parts(self) -> dict[str, NDArray[np.intp]]:
        """The rows of each group, by name."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.groups or ()):
            rows.setdefault(name, []).append(row)
        return {name: np.array(rows[name]) for name in sorted(rows)}


def check_period(period: str, *, has_times: bool) -> None:
    """Raise InputError for a period that is neither known nor a number of rows, and for days without times."""
    if period.isascii() and period.isdigit() and int(period) > 0:
        return
    if period not in PERIODS:
        raise unknown_name("period", period, (*PERIODS, "a number of rows"))
    if not has_times:
        raise InputError(f"a {period} needs times; say with --time which column of the log has them")


def check_groups(path: Path, by: str, number: int) -> None:
    """Raise InputError for more groups than can be reported one by one."""
    if number > MOST_GROUPS:
        raise InputError(f"{path}: column {by} has {number:,} different values; expected at most {MOST_GROUPS} groups")


def gap_note(own: str) -> str:
    """That labels which are filled in later may come before others: `own` is the column that has them."""
    return (
        f"rows without a label stand before rows with one (column {own}): the bound of the alarms holds if none is "
        "filled in later; give labels that come late with --labels, the newest last"
    )


def _table(source: Path | str | IntoDataFrame) -> Table:
    if isinstance(source, Path | str):
        return read_table(Path(source))
    columns = frame_columns(source)
    return Table(Path("frame"), columns, range(1, len(next(iter(columns.values()))) + 1))


def renamed(table: Table, key: str, name: str | None) -> Table:
    """The table with the column `name` called `key`, as the readers of posteriors expect it."""
    if name is None:
        return table
    column_of(table, name)
    # A column that has the name already would be read in its place, so that it goes.
    kept: Mapping[str, Column] = {
        (key if own == name else own): column for own, column in table.columns.items() if own != key
    }
    return replace(table, columns=kept)


def column_of(table: Table, name: str) -> Column:
    """The column of that name; InputError with the nearest name where there is none."""
    if name not in table.columns:
        raise unknown_name(f"column of {table.path}", name, table.columns)
    return table.columns[name]


def _rows(column: Column, rows: NDArray[np.intp]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


def group_name(cell: Any) -> str:
    """What the group of a cell is called."""
    return "(none)" if is_missing(cell) or not str(cell).strip() else str(cell)


def act_of(table: Table, row: int) -> bool:
    """Whether a row says that its decision was acted on."""
    cell = table.columns["act"][row]
    # A server with several runs logs them together, and one without a gate acts on all that it decides.
    if is_missing(cell) or not (text := str(cell).strip().lower()):
        return True
    if text not in ("yes", "true", "1", "no", "false", "0"):
        table.refuse(row, f"act is {shown(cell)}; expected yes or no, which say whether the decision was acted on")
    return text in ("yes", "true", "1")


def labels_by_id(labels: Table) -> dict[str, Any]:
    """The labels of a file by the ids that they belong to, in its order; ids without a label are left out.

    Raises:
        InputError: no column of ids or of labels, or an id that stands twice.
    """
    ids = ids_of(labels)
    column = labels.name_of("label", LABEL_NAMES)
    if column is None:
        raise InputError(
            f"{labels.path} has no column label; say with --label which of {', '.join(labels.columns)} has them"
        )
    cells = zip(ids, labels.columns[column], strict=True)
    return {text: cell for text, cell in cells if not is_unlabelled([cell])}


def ids_of(table: Table, *, once: bool = True) -> list[str]:
    """The ids by which labels are joined; InputError where there are none, and with `once` where one stands twice."""
    ids = texts_of(table, "id")
    if ids is None:
        raise InputError(f"{table.path} has no column id, by which labels are joined; say with --id which it is")
    twice = [text for text, number in Counter(ids).items() if number > 1] if once else []
    if twice:
        raise InputError(f"{table.path}: id {twice[0]!r} stands {ids.count(twice[0])} times; give each row its own")
    return [str(text) for text in ids]


def _joined(table: Table, labels: Table, notes: list[str]) -> dict[int, Any]:
    """The label of each row that has one, by id, in the order of the table of labels."""
    row_of = {text: row for row, text in enumerate(ids_of(table))}
    known = labels_by_id(labels)
    cells = {row_of[text]: cell for text, cell in known.items() if text in row_of}
    if known and not cells:
        raise no_id_fits(labels.path, table.path, next(iter(known)))
    # A file of labels may be of more than this log; that no id fits is a mistake, that a few do not is none.
    if len(cells) < len(known):
        notes.append(
            f"{len(known) - len(cells):,} of the {len(known):,} labels in {labels.path} are of no row of the log"
        )
    return cells


def no_id_fits(labels: Path, log: Path, first: str) -> InputError:
    """The error for a file of labels none of which belongs to the log."""
    return InputError(f"no id of {labels} is in {log}, the first is {first!r}; give labels of these rows")


def time_of(table: Table, name: str, row: int) -> dt.datetime:
    """The time in a cell, in UTC; a time without a zone is taken as UTC."""
    cell = column_of(table, name)[row]
    value: Any = cell.item() if isinstance(cell, np.generic) else cell
    try:
        # Python reads 1_000 as a number, which no log means.
        if isinstance(value, str):
            try:
                value = dt.datetime.fromisoformat(value.strip())
            except ValueError:
                value = float(value) if "_" not in value else None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST_SECOND:
            value = dt.datetime.fromtimestamp(value, dt.UTC)
    except (ValueError, OverflowError):
        value = None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    # Near the first and the last year another zone has no such time.
    if not isinstance(value, dt.datetime) or not dt.MINYEAR < value.year < dt.MAXYEAR:
        table.refuse(row, f"{name} is {shown(cell)}; expected a time such as 2026-11-28T14:30, or seconds since 1970")
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
