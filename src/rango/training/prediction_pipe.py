"""Answers for rows that come through a pipe: each as soon as it is answered, and nothing of them is kept on the disk.

    stdin ── rows, as they come ──> a part ── answer ──> stdout, a line of JSON for each row
    file  ── check_rows, then the same

Nothing is known here of rows that have not come yet. So how the columns are called, and how many choices a row may
have, is settled by the run's table or by the first rows, and a later row that does not fit is refused where it stands;
what was answered before it has been written. A command that is stopped cannot be gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rango.console import Screen
from rango.decisions import Gate, StatedCosts
from rango.errors import InputError
from rango.row_stream import Encoder
from rango.rows import jsonl_rows
from rango.tasks.sources import Row
from rango.tasks.table_config import columns_of
from rango.training.prediction import Offered, Predictor, check_order
from rango.training.prediction_stream import (
    PART,
    Answered,
    Sample,
    Totals,
    check_rows,
    labelled_entries,
    numbered_parts,
    task_of_part,
)

if TYPE_CHECKING:
    from rango.models.loading import Model

PIPE = "-"
"""What stands for stdin in the place of a file of rows, and for stdout in that of a file to write."""
_STDIN = Path("stdin")
_BLOCK = 1 << 20  # bytes that are read at once, where so many are there


def predict_pipe(
    predictor: Predictor,
    rows: Path | BinaryIO,
    out: BinaryIO,
    *,
    load: Callable[[], Model],
    costs: StatedCosts | None = None,
    gate: Gate | None = None,
    screen: Screen | None = None,
) -> Answered:
    """Write rows as JSONL with the columns of `Predictions.table` behind their own, and each part of them at once.

    Args:
        predictor: of the run.
        rows: a file, which is read once before to be checked, or a stream of JSONL, of which what has come is answered.
        out: gets the lines.
        load: gives the run's base model, when the first rows are checked.
        costs: as in `Predictor.predict`.
        gate: as in `Predictor.predict`.
        screen: where notes are shown; nowhere by default.

    Raises:
        InputError: as `load_further` and `Predictor.predict`; a later row with other choices than the first ones.
    """
    screen, names = screen or Screen(quiet=True), set[str]()
    if isinstance(rows, Path):
        offered = check_rows(predictor, rows, Path("stdout.jsonl"), costs, gate).offered
        parts: Iterator[list[Row]] = numbered_parts(rows)
    else:
        parts = stream_parts(rows)
        first = next(parts, None)
        if first is None:
            raise InputError("there are no rows on stdin; give at least one, a JSON object on each line")
        instances = task_of_part(predictor, first, set()).test
        check_order(predictor.stated(costs, gate), instances)
        offered = Offered.of(instances)
        if not _has_classes(predictor):
            # Of rows that have not come it is not known that they have the same choices.
            offered.other = offered.longest
        offered.added_columns((row.values for row in first), gated=gate is not None)
        predictor.check_choices(offered, costs, gate)
        parts = chain([first], parts)
    matrix, encoder = predictor.matrix(offered, costs, gate), Encoder(Path("stdout.jsonl"), ())
    totals, sample, done, notes = Totals(), Sample(), 0, tuple[str, ...]()
    with predictor.answering(load(), offered=offered, costs=costs, gate=gate) as answer:
        for part in parts:
            task = task_of_part(predictor, part, names)
            check_order(predictor.stated(costs, gate), task.test)
            for row, instance in zip(part, task.test, strict=True):
                _check_fits(offered, instance.choices, row.where)
            predictions = answer(task, [row.values for row in part], None)
            out.write(encoder.encode(list(predictions.table())))
            out.flush()
            notes = predictions.notes
            totals.add(predictions)
            for entry in labelled_entries(predictions, done, offered):
                sample.add(entry)
            done += len(part)
    screen.say(f"{done:,} rows are answered")
    return Answered(totals, matrix, offered, sample.posteriors(offered), notes)


def _has_classes(predictor: Predictor) -> bool:
    """Whether every row that may come has the same choices, by the run's table."""
    choices = None if predictor.table is None else predictor.table.get("choices")
    return isinstance(choices, list | tuple) and not any(columns_of(str(choice)) for choice in choices)


def _check_fits(offered: Offered, choices: tuple[str, ...], where: str) -> None:
    """Raise InputError for a row whose choices the columns of the rows before it do not have."""
    if offered.names is not None and offered.names[: len(choices)] != choices:
        raise InputError(
            f"{where}: the choices are {', '.join(choices)}, those of the first rows {', '.join(offered.names)}; give "
            "a file, all of whose rows are looked at before the first is answered"
        )
    if len(choices) > len(offered.longest):
        raise InputError(
            f"{where}: {len(choices)} choices, of the first rows at most {len(offered.longest)}; give a file, all of "
            "whose rows are looked at before the first is answered"
        )


def stream_parts(stream: BinaryIO) -> Iterator[list[Row]]:
    """The rows of a stream of JSONL in parts: those that have come are a part, so that nobody waits for the next.

    Raises:
        InputError: as `jsonl_rows`; a line that is not UTF-8.
    """
    number, pieces = 0, list[bytes]()
    # What a buffered pipe has at this moment, instead of as many bytes as are asked for.
    read = getattr(stream, "read1", None) or stream.read
    while True:
        block = read(_BLOCK)
        pieces.append(block)
        # A long line comes in many pieces, which are put together once.
        if block and b"\n" not in block:
            continue
        *lines, rest = b"".join(pieces).split(b"\n") if block else [b"".join(pieces), b""]
        pieces = [rest]
        rows = [Row(n, f"{_STDIN}:{n}", values) for n, values in jsonl_rows(_decoded(lines, number), _STDIN)]
        number += len(lines)
        for start in range(0, len(rows), PART):
            yield rows[start : start + PART]
        if not block:
            return


def _decoded(lines: Iterable[bytes], before: int) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=before + 1):
        try:
            # The first line may begin with a mark that says it is UTF-8.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{_STDIN}:{number}: byte {line[error.start]:#04x} at {error.start} is not UTF-8; give UTF-8"
            ) from None
        # The first line of a table is the usual mistake, and its parser would speak of a missing quotation mark.
        if number == 1 and text.strip() and not text.lstrip().startswith(("{", "[")):
            raise InputError(f"{_STDIN}:1: is no JSON; give an object on each line, or a table as a file")
        yield number, text
