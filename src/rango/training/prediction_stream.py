"""Answers for a file of rows of any length: a part at a time, in the same memory, and again from where it was stopped.

rows ── check_rows ──> Checked ── parts ── answer ──> OUT.partial/{rows, labelled.jsonl, progress.json} ──> OUT

What is in OUT.partial is appended alone. progress.json says how much of it is whole and what it was made of. A command
that was killed goes on from there when it is repeated, and OUT has its name only when every row is answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rango.console import Bar, Screen, SignalGuard
from rango.decisions import Costs, Gate, Posteriors, StatedCosts
from rango.errors import InputError
from rango.files import check_adapter_folder, read_json, remove_leftovers, write_json
from rango.output_folder import only_writer
from rango.row_stream import Encoder, GrowingFile, common_schema, identity, rows_of
from rango.rows import kind_of
from rango.tasks.registry import load_further
from rango.tasks.sources import Row
from rango.tasks.task import Task
from rango.training.prediction import Offered, Predictions, Predictor, check_order

if TYPE_CHECKING:
    from rango.models.loading import Model

PART = 1024
"""Rows that are scored together: enough to sort them by length into batches, few enough to be lost by a kill."""
MOST_MEASURED = 50_000
"""Rows with labels that are kept to be measured; of more, a random sample."""
_SECONDS = 1.0  # between two records of progress: each waits for the disk
_ROWS, _LABELLED, _PROGRESS = "rows", "labelled.jsonl", "progress.json"
_FORMAT, _VERSION = "rango answers in progress", 2


@dataclass(frozen=True)
class Checked:
    """What a first pass over all rows finds out, so that nothing is refused when half of them are answered."""

    rows: int
    columns: tuple[str, ...]
    """Of all rows, in the order in which they first occur."""
    offered: Offered

    def as_dict(self) -> dict[str, Any]:
        """As `from_dict` reads it."""
        return {"rows": self.rows, "columns": list(self.columns), "offered": asdict(self.offered)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Checked:
        """What `as_dict` gave, after JSON."""
        longest, *others = (words and tuple(words) for words in entry["offered"].values())
        return cls(entry["rows"], tuple(entry["columns"]), Offered(longest, *others))


@dataclass
class Totals:
    """What was decided for the rows so far. Row 1 of both arrays is of rows that are acted on, row 0 of the others."""

    names: tuple[str, ...] = ()
    """Of the decisions."""
    taken: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    """(2, D) how often each decision is the best."""
    expected: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    """(2,) sum of the expected costs."""
    labelled: int = 0
    """Rows with labels."""

    def add(self, predictions: Predictions) -> None:
        """Count the rows of a part."""
        decisions = predictions.decisions
        acts = np.ones(len(decisions.ids), bool) if predictions.acts is None else predictions.acts
        self.names = decisions.names
        if not self.taken.size:
            self.taken = np.zeros((2, len(self.names)), np.int64)
        np.add.at(self.taken, (acts.astype(int), decisions.chosen), 1)
        self.expected += [decisions.expected_costs[acts == side].sum() for side in (False, True)]
        self.labelled += sum(instance.is_labelled for instance in predictions.instances)

    def as_dict(self) -> dict[str, Any]:
        """As `from_dict` reads it, to the last bit."""
        return {
            "names": list(self.names),
            "taken": self.taken.tolist(),
            "expected": self.expected.tolist(),
            "labelled": self.labelled,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Totals:
        """What `as_dict` gave, after JSON."""
        arrays = np.array(entry["taken"], np.int64), np.array(entry["expected"])
        return cls(tuple(entry["names"]), *arrays, entry["labelled"])


@dataclass(frozen=True, eq=False)
class Answered:
    """A file of answers that is complete."""

    totals: Totals
    costs: Costs
    """What the decisions are taken under."""
    offered: Offered
    measured: Posteriors | None
    """Of rows with labels, or of a random sample of them; None where no row has one."""
    notes: tuple[str, ...]


def predict_file(
    predictor: Predictor,
    rows: Path,
    out: Path,
    *,
    load: Callable[[], Model],
    settings: Mapping[str, Any],
    costs: StatedCosts | None = None,
    gate: Gate | None = None,
    screen: Screen | None = None,
) -> Answered:
    """Write the rows of a file with the columns of `Predictions.table` behind their own.

    Args:
        predictor: of the run.
        rows: JSONL, CSV, TSV or Parquet.
        out: .jsonl, .csv or .parquet. A Parquet file is made in the end, because nothing can be appended to one.
        load: gives the run's base model, when everything else is checked.
        settings: what decides the answers beside the rows, as JSON values; another command than that which began must
            not go on with its file.
        costs: as in `Predictor.predict`.
        gate: as in `Predictor.predict`.
        screen: where progress is shown; nowhere by default.

    Raises:
        InputError: as `load_further` and `Predictor.predict`; an unfinished file of other rows or settings; another
            process that writes it; rows that changed meanwhile.
        Interrupted: a signal; what is recorded stays.
    """
    screen = screen or Screen(quiet=True)
    target = Path(os.path.realpath(out))
    folder = target.with_name(f"{target.name}.partial")
    with only_writer(folder):
        changed = rows.stat().st_mtime_ns if rows.exists() else 0
        of = {**settings, "input": identity(rows)}
        record = _read_record(folder, of)
        checked = Checked.from_dict(record["checked"]) if record else check_rows(predictor, rows, out, costs, gate)
        stream = _Stream(folder, of, checked, Encoder(out, _columns(checked, gate)), record or {})
        matrix = predictor.matrix(checked.offered, costs, gate)
        notes: tuple[str, ...] = ()
        if stream.done < checked.rows:
            if stream.done:
                screen.say(f"{stream.done:,} of {checked.rows:,} rows are answered already: going on behind them")
            model = load()
            answering = predictor.answering(model, offered=checked.offered, costs=costs, gate=gate)
            advice = f"repeat the command to go on, or remove {folder} to begin again"
            with stream, answering as answer, SignalGuard(advice) as guard:
                screen.say(f"Scoring {checked.rows - stream.done:,} rows ...")
                with screen.bar("scoring", checked.rows, done=stream.done, unit="rows") as bar:
                    begun, first = screen.clock(), stream.done
                    for task, values in _parts(predictor, rows, stream):
                        part = _PartScreen(bar, len(values))
                        predictions = answer(task, values, part)
                        notes = predictions.notes
                        guard.hold()
                        stream.append(predictions, screen.clock())
                        guard.release()
                        pace = (stream.done - first) / max(1e-9, screen.clock() - begun)
                        bar.advance(len(values) - part.moved, f"{pace:,.0f} rows/s")
                if stream.done != checked.rows or rows.stat().st_mtime_ns != changed:
                    raise InputError(f"{rows} has changed while it was read; remove {folder} and run again")
                stream.commit()
        answered = Answered(stream.totals, matrix, checked.offered, stream.sample.posteriors(checked.offered), notes)
        # Where the file has its name already, a kill came between that and the removal of its folder.
        if (folder / _ROWS).exists():
            stream.encoder.finish(folder / _ROWS, out)
        for name in (_PROGRESS, _ROWS, _LABELLED):
            (folder / name).unlink(missing_ok=True)
        remove_leftovers(folder / _PROGRESS)  # of a command that was killed before it had recorded anything
    with contextlib.suppress(OSError):
        folder.rmdir()
    return answered


def check_rows(
    predictor: Predictor, rows: Path, out: Path, costs: StatedCosts | None = None, gate: Gate | None = None
) -> Checked:
    """Read every row as it will be read to be answered, without a model, and in the same memory however many there are.

    Raises:
        InputError: no rows, a row that the task's loader refuses, a column that would be added, a value that `out`
            cannot hold, costs or a gate that do not fit the choices.
    """
    offered, columns, count = Offered(), dict[str, None](), 0
    names: set[str] = set()
    schema = None
    # What JSON or CSV has read, JSON can write; a Parquet file may hold dates and bytes.
    unsure = kind_of(rows) == "parquet" or kind_of(out) == "parquet"
    for part in numbered_parts(rows):
        values = [row.values for row in part]
        for row in values:
            columns.update(dict.fromkeys(row))
        task = task_of_part(predictor, part, names)
        check_order(predictor.stated(costs, gate), task.test)
        for instance in task.test:
            offered.add(instance.choices)
        count += len(part)
        if unsure:
            encoder = Encoder(out, tuple(columns))
            if kind_of(out) == "parquet":
                schema = common_schema(schema, encoder.table(values).schema)
            else:
                encoder.encode(values)
    if not count:
        raise InputError("there are no rows; give at least one")
    offered.added_columns([columns], gated=gate is not None)
    predictor.check_choices(offered, costs, gate)
    return Checked(count, tuple(columns), offered)


def run_identity(predictor: Predictor) -> str:
    """A hash of what a run answers with: its record, the files of its adapter, and its calibrator."""
    digest = hashlib.sha256(predictor.source.read_bytes())
    digest.update(repr(predictor.calibrator and predictor.calibrator.as_dict()).encode())
    if predictor.adapter is not None:
        place = check_adapter_folder(predictor.adapter)
        for file in sorted(path for path in place.iterdir() if path.is_file()):
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _columns(checked: Checked, gate: Gate | None) -> tuple[str, ...]:
    return (*checked.columns, *checked.offered.added_columns([], gated=gate is not None))


def numbered_parts(path: Path, skip: int = 0) -> Iterator[list[Row]]:
    """The rows of a file behind the first `skip`, in parts that begin at the same rows wherever reading begins."""
    rows = (Row(number, f"{path}:{number}", values) for number, values in rows_of(path, skip=skip))
    while part := list(islice(rows, PART)):
        yield part


def task_of_part(predictor: Predictor, part: list[Row], columns: set[str]) -> Task:
    """A part of the rows as a task; `columns` are those that rows before it had, as in `load_further`."""
    config = predictor.config
    return load_further(
        config.task, part, table=predictor.table, source=predictor.source, prompts=config.prompt, columns=columns
    )


def _parts(predictor: Predictor, path: Path, stream: _Stream) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    for part in numbered_parts(path, stream.done):
        yield task_of_part(predictor, part, stream.columns), [row.values for row in part]


def _read_record(folder: Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an unfinished command recorded; None where there is none.

    Raises:
        InputError: it was another command, or its record cannot be read.
    """
    file = folder / _PROGRESS
    if not file.exists():
        return None
    again = f"remove {folder} to begin again"
    record = read_json(file)
    if not isinstance(record, dict) or (record.get("format"), record.get("version")) != (_FORMAT, _VERSION):
        raise InputError(f"{file} is not the record of an unfinished rango predict; {again}")
    # Everything is read once here, so that what is damaged is met before a model is loaded.
    try:
        begun, files = record["of"], [record["files"][name] for name in (_ROWS, _LABELLED)]
        Checked.from_dict(record["checked"])
        Totals.from_dict(record["totals"])
        counts = [record["rows"], record["checked"]["rows"], *(each["size"] for each in files)]
        texts = [*record["columns"], *(each["sha256"] for each in files)]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        begun, counts, texts = None, [], []
    sound = all(type(each) is int and each >= 0 for each in counts) and all(isinstance(each, str) for each in texts)
    if not isinstance(begun, dict) or not sound:
        raise InputError(f"{file} is not the record of an unfinished rango predict; {again}")
    for name, value in of.items():
        if begun.get(name) != value:
            raise InputError(
                f"{folder} holds {record['rows']:,} answers of a command with another {name}, or of one that has "
                f"changed since; give the same to go on, or {again}"
            )
    return record


class _Stream:
    """The unfinished file: what is appended to it, and the record of how much of that is whole."""

    def __init__(
        self, folder: Path, of: Mapping[str, Any], checked: Checked, encoder: Encoder, record: Mapping[str, Any]
    ) -> None:
        self.folder, self.of, self.checked, self.encoder = folder, of, checked, encoder
        self.done: int = record.get("rows", 0)
        self.columns: set[str] = set(record.get("columns", ()))
        """What a row of the table may lack, because one before it had it."""
        self.totals = Totals.from_dict(record["totals"]) if record else Totals()
        self.sample = Sample()
        self._files: Mapping[str, Mapping[str, Any]] = record.get("files", {})
        self._last: float | None = None
        self._committed = bool(record)
        if record:
            # What stands beyond the recorded size was written after the record.
            whole = (folder / _LABELLED).read_bytes()[: self._files[_LABELLED]["size"]]
            if hashlib.sha256(whole).hexdigest() != self._files[_LABELLED]["sha256"]:
                raise InputError(f"{folder / _LABELLED} is not what was written; remove {folder} to begin again")
            for line in whole.splitlines():
                self.sample.add(json.loads(line))

    def __enter__(self) -> None:
        opened = {name: GrowingFile(self.folder / name, **self._files.get(name, {})) for name in (_ROWS, _LABELLED)}
        self._rows, self._labelled = opened[_ROWS], opened[_LABELLED]
        if not self._rows.size:
            self._rows.append(self.encoder.header())

    def __exit__(self, *exception: object) -> None:
        self._rows.close()
        self._labelled.close()
        # Nothing was recorded: there is nothing to go on from.
        if not self._committed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, predictions: Predictions, now: float) -> None:
        """Write the answers of a part, and record them where the last record is a second old."""
        self._rows.append(self.encoder.encode(list(predictions.table())))
        self.totals.add(predictions)
        for entry in labelled_entries(predictions, self.done, self.checked.offered):
            if self.sample.add(entry):
                self._labelled.append((json.dumps(entry, ensure_ascii=False) + "\n").encode())
        self.done += len(predictions.rows)
        if self._last is None or now - self._last >= _SECONDS:
            self._last = now
            self.commit()

    def commit(self) -> None:
        """Have the disk hold all that was appended, and then say so."""
        files = {_ROWS: self._rows.sync(), _LABELLED: self._labelled.sync()}
        record = {"format": _FORMAT, "version": _VERSION, "of": self.of, "checked": self.checked.as_dict()}
        record |= {"rows": self.done, "columns": sorted(self.columns), "files": files, "totals": self.totals.as_dict()}
        write_json(self.folder / _PROGRESS, record, sealed=True)
        self._committed = True


def labelled_entries(predictions: Predictions, first: int, offered: Offered) -> Iterator[list[Any]]:
    """What `Sample.add` takes, of each row of a part that has a label; the part begins at row number `first`."""
    for place, instance in enumerate(predictions.instances):
        if instance.is_labelled:
            logs = predictions.posteriors.log_posteriors[place].tolist()
            # The names of classes are the same in every row, and are known.
            choices = list(instance.choices) if offered.names is None else None
            truth = instance.label if instance.target is None else instance.target
            yield [first + place, truth, instance.group, choices, instance.type, logs]


class Sample:
    """Rows with labels, of which at most `MOST_MEASURED` are kept: those whose numbers a hash draws."""

    def __init__(self) -> None:
        self._entries: list[list[Any]] = []
        self._level = 0  # a row is drawn with probability 2 to the minus level

    def add(self, entry: list[Any]) -> bool:
        """Keep a row (number, label or target, group, choices or None, type, log-posteriors) where it is drawn."""
        if not self._drawn(entry):
            return False
        self._entries.append(entry)
        while len(self._entries) > MOST_MEASURED:
            self._level += 1
            self._entries = [kept for kept in self._entries if self._drawn(kept)]
        return True

    def _drawn(self, entry: list[Any]) -> bool:
        # A hash and no generator: a command that goes on draws the same rows as one that was never stopped.
        drawn = hashlib.blake2b(int(entry[0]).to_bytes(8), digest_size=8).digest()
        return not int.from_bytes(drawn) & (1 << self._level) - 1

    def posteriors(self, offered: Offered) -> Posteriors | None:
        """The posteriors of the rows that are kept."""
        if not self._entries:
            return None
        numbers, truths, groups, choices, types, logs = zip(*self._entries, strict=True)
        same = offered.names
        words = [row or () for row in choices] if same is None else [same] * len(numbers)
        names = tuple(f"row {number + 1}" for number in numbers)
        scores = np.array(logs, np.float64)
        truth = np.array(truths) if all(isinstance(one, int) for one in truths) else np.zeros(scores.shape)
        # Where some labels are soft, all are: one right choice has the whole share.
        for row, one in enumerate(truths if truth.ndim == 2 else ()):
            if isinstance(one, int):
                truth[row, one] = 1.0
            else:
                truth[row, : len(one)] = one
        return Posteriors(scores, truth, ids=names, groups=groups, choices=words, types=types)


class _PartScreen(Screen):
    """Where the scoring of a part shows how far it is: as rows of the bar of the whole file."""

    def __init__(self, whole: Bar, rows: int) -> None:
        super().__init__(quiet=True)
        self._whole, self._rows = whole, rows
        self.moved = 0.0

    @contextlib.contextmanager
    def bar(self, label: str, total: float, **_: Any) -> Iterator[Bar]:  # noqa: ARG002
        """A bar whose end is the last row of the part."""
        part = self

        class PartBar(Bar):
            def advance(self, amount: float = 1, words: str | None = None, *, log: bool = False) -> None:  # noqa: ARG002
                rows = amount * part._rows / total
                part.moved += rows
                part._whole.advance(rows)

        yield PartBar()
