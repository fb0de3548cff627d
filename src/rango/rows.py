"""Rows of tables that people bring or take away: JSONL, CSV as spreadsheets write it, Parquet; texts as CSV cells."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango.checksums import check_seal
from rango.errors import InputError, first_line
from rango.files import atomic_path, check_unpacked, parse_json, read_bytes, read_text, write_json_lines, write_text

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# A spreadsheet takes a cell that begins so for a formula and runs it; a plain number is only a number.
_FORMULA, _ESCAPED = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")
_PLAIN_NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]+)?")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSONL, CSV, TSV or Parquet file (all but the last also `.gz`) with their line or row number from 1.

    Raises:
        InputError: as `read_text`; also an unknown ending, a line that is not a JSON object, a ragged CSV row.
    """
    kind = kind_of(path)
    if kind == "jsonl":
        yield from jsonl_rows(enumerate(read_text(path).split("\n"), start=1), path)
    elif kind == "parquet":
        yield from _read_parquet(path)
    else:
        yield from csv_rows(io.StringIO(read_text(path), newline=""), path)


def kind_of(path: Path) -> str:
    """The format that the ending of a file names: jsonl, csv, tsv or parquet.

    Raises:
        InputError: an ending that is none of theirs.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("jsonl", "ndjson"):
        return "jsonl"
    if kind not in ("csv", "tsv", "parquet"):
        raise InputError(f"{path}: ending {path.suffix!r} is not known; expected .jsonl, .csv, .tsv or .parquet")
    return kind


def jsonl_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of numbered lines of JSON; `path` is for messages. Blank lines are no rows."""
    for number, line in lines:
        if not line.strip():
            continue
        row = parse_json(line, str(path), line=number, keys_once=True)
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: holds a {type(row).__name__}; expected a JSON object on each line")
        yield number, row


def csv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of CSV or TSV, whose lines have their ends; `path` is for its ending and for messages."""
    lines = iter(lines)
    delimiter, skipped = "\t" if kind_of(path) == "tsv" else None, 0
    first = next(lines, "")
    # Spreadsheets may write the delimiter into a line before the first.
    if said := re.match(r"sep=(.)\r?\n", first):
        delimiter, skipped = said[1], 1
    else:
        lines = chain([first], lines)
    begin = 1 + skipped  # a value may hold line breaks
    try:
        if delimiter is None:
            delimiter, lines = _delimiter(lines)
        reader = csv.reader(lines, delimiter=delimiter)
        names = next(reader, [])
        # Spreadsheets leave empty columns at the right, and empty rows, where something was deleted.
        while names and not names[-1].strip():
            names.pop()
        begin = reader.line_num + skipped + 1
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{path}:1: column {twice[0]!r} stands twice; give each column a name of its own")
        for values in reader:
            line = reader.line_num + skipped
            begin = line + 1
            if not any(values):
                continue
            kept, beyond = values[: len(names)], values[len(names) :]
            if len(kept) < len(names) or any(beyond):
                raise InputError(f"{path}:{line}: {len(values)} values; expected {len(names)} as in the first line")
            yield line, dict(zip(names, kept, strict=True))
    except csv.Error as error:  # most often a quotation mark that is never closed, so that the rest is one value
        raise InputError(f"{path}:{begin}: not CSV ({error}); look for a missing quotation mark") from None


def _delimiter(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The delimiter of CSV, and all lines: a comma, unless the first row has none and semicolons or tabs instead."""
    head: list[str] = []

    def again() -> Iterator[str]:
        """The lines from the first on, of which those that were read are kept."""
        yield from tuple(head)
        for line in lines:
            head.append(line)
            yield line

    for delimiter in ",;\t":
        if len(next(csv.reader(again(), delimiter=delimiter), [])) > 1:
            return delimiter, chain(head, lines)
    return ",", chain(head, lines)


def to_csv_cell(text: str) -> str:
    """A text as a CSV cell that no spreadsheet runs: an apostrophe before = + - @, and before an apostrophe before one.

    >>> [to_csv_cell(text) for text in ("=1+1", "-3", "'=x", "a=b")]
    ["'=1+1", '-3', "''=x", 'a=b']
    """
    return f"'{text}" if _FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text) else text


def from_csv_cell(cell: str) -> str:
    """The text that `to_csv_cell` made a cell of."""
    return cell[1:] if _ESCAPED.match(cell) else cell


WRITTEN = (".csv", ".jsonl", ".parquet")
"""The endings that `write_rows` knows."""


def check_written(path: Path) -> None:
    """Raise InputError for an ending that `write_rows` does not know."""
    if path.suffix not in WRITTEN:
        raise InputError(f"--out {path}: ending {path.suffix!r} is not known; expected {', '.join(WRITTEN)}")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a CSV, JSONL or Parquet file, whole or not at all.

    In a CSV, texts are cells that no spreadsheet runs (`to_csv_cell`), None is an empty cell, and a list or an object
    is its JSON. A row that lacks a column of others has None there.

    Raises:
        InputError: as `check_written`; a column with values of several kinds, which Parquet cannot hold.
    """
    check_written(path)
    if path.suffix == ".jsonl":
        write_json_lines(path, rows)
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([to_csv_cell(name) for name in columns])
        writer.writerows([csv_cell(row.get(name)) for name in columns] for row in rows)
        write_text(path, text.getvalue())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name in columns:
        try:
            arrays[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"column {name} cannot be written as Parquet ({first_line(error)}); write .jsonl or .csv"
            ) from None
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)


def csv_cell(value: Any) -> Any:
    """A value as a CSV cell: a text that no spreadsheet runs, a list or an object as its JSON."""
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    return to_csv_cell(value) if isinstance(value, str) else value


@contextmanager
def opened_parquet(path: Path, *, at_once: bool) -> Iterator[pq.ParquetFile]:
    """A Parquet file, looked at before it is unpacked; what goes wrong inside the block is told as here.

    Args:
        path: the file.
        at_once: whether all of it will be in memory together, or one group of rows at a time.

    Raises:
        InputError: as `check_seal`; no Parquet file, one that unpacks to too much, a column that stands twice or whose
            name is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_seal(path)
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = []
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                check_unpacked(path, group.total_byte_size)
                # Damaged metadata of a column ends the process (pyarrow 26) where they are looked at, unless reading,
                # here of a first row, has raised its error before.
                next(file.iter_batches(batch_size=1, row_groups=[number], use_threads=False), None)
                chunks = [group.column(column) for column in range(group.num_columns)]
                # Equal values take no room in the file, but 8 bytes each in memory.
                sizes.append(sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks))
            check_unpacked(path, sum(sizes) if at_once else max(sizes, default=0))
            twice = [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]
            if twice:
                raise InputError(f"{path}: column {twice[0]!r} stands twice; give each column a name of its own")
            yield file
    except UnicodeDecodeError:
        raise InputError(f"{path}: the name of a column is not UTF-8; write the Parquet file again") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file ({first_line(error)}); check the file") from None


def read_parquet(path: Path) -> pa.Table:
    """The table of a Parquet file; errors as in `read_bytes` and `opened_parquet`."""
    read_bytes(path)
    with opened_parquet(path, at_once=True) as file:
        return file.read()


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in read_parquet(path).to_batches():
        for row in plain(batch, str(path)):
            number += 1
            yield number, row
    if not number:
        raise InputError(f"{path} is empty; expected at least one row")


def plain(values: Any, where: str) -> list[Any]:
    """The Python values of an Arrow batch or column.

    Raises:
        InputError: text that is not UTF-8, a date that Python has not: Arrow reads them without a look.
    """
    try:
        return list(values.to_pylist())
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: a value cannot be read ({error}); write the Parquet file again") from None
