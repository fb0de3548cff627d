"""Rows of tables too long for memory: read one after another, and written to a file that only grows.

file ── identity ──> size and hash ── rows_of ──> (number, row) … ── encode ──> bytes ── GrowingFile ── finish ──> file
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rango.errors import InputError, first_line
from rango.files import atomic_path, check_file, check_unpacked, naming_file, not_utf8, unpacked_limit
from rango.rows import csv_cell, csv_rows, jsonl_rows, kind_of, opened_parquet, plain, to_csv_cell

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 1 << 20  # bytes that are read at once
_PARQUET_ROWS = 1024  # rows that are made Python values at once


def identity(path: Path) -> dict[str, Any]:
    """What a file holds, in two values: its size in bytes, unpacked where it is packed, and the SHA-256 of them.

    Raises:
        InputError: the file is missing, empty, unreadable, or unpacks to too much.
    """
    check_file(path)
    # A Parquet file is read in any order, and its groups of rows are unpacked one at a time.
    limit = unpacked_limit(path) if path.suffix == ".gz" else None
    digest, size, blank = hashlib.sha256(), 0, True
    try:
        with _opened(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size, blank = size + len(block), blank and not block.strip()
                if limit is not None and size > limit:
                    check_unpacked(path, size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); check the file") from None
    if blank:
        raise InputError(f"{path} is empty; expected at least one line")
    return {"size": size, "sha256": digest.hexdigest()}


def rows_of(path: Path, *, skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that `read_rows` gives, with their numbers, but never the whole file in memory.

    Args:
        path: JSONL, CSV, TSV or Parquet; all but the last also `.gz`.
        skip: how many of the first rows are left out.

    Raises:
        InputError: as `read_rows`.
    """
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet_rows(path, skip)
    elif kind == "jsonl":
        numbered = ((number, line) for number, line in enumerate(_lines(path, "\n"), start=1) if line.strip())
        yield from jsonl_rows(islice(numbered, skip, None), path)
    else:
        # A value may hold line breaks, so that where a row begins is known only by reading those before it.
        yield from islice(csv_rows(_lines(path, ""), path), skip, None)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path, newline: str) -> Iterator[str]:
    """The lines of a text file with their ends; `newline` as in `open`."""
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
        try:
            yield from text
        except UnicodeDecodeError:
            raise _undecodable(path) from None
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be read ({error}); check the file") from None


def _undecodable(path: Path) -> InputError:
    """The error that names the first byte that is not UTF-8; the decoder of a stream knows its own block alone."""
    offset, beginning = 0, b""
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                beginning = beginning or line[:2]
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    place = offset + error.start
                    return not_utf8(path, beginning, line=number, offset=place, byte=line[error.start])
                offset += len(line)
    except (OSError, EOFError, zlib.error) as error:  # the archive is damaged behind the byte, or because of it
        return InputError(f"{path} cannot be read ({error}); check the file")
    return InputError(f"{path} has changed while it was read; run again")


def _parquet_rows(path: Path, skip: int) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with opened_parquet(path, at_once=False) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            rows = batch.slice(max(0, skip - number))
            number += batch.num_rows - rows.num_rows
            for row in plain(rows, str(path)):
                number += 1
                yield number, row
    if not number:
        raise InputError(f"{path} is empty; expected at least one row")


class GrowingFile:
    """A file to which bytes are appended alone, with the length and the hash of all that was appended."""

    def __init__(self, path: Path, *, size: int = 0, sha256: str | None = None) -> None:
        """Open the file behind its first `size` bytes, whose hash is given; what stands beyond them is cut off.

        Raises:
            InputError: the file is shorter than that, or holds other bytes.
        """
        self._path, self.size, self._digest = path, 0, hashlib.sha256()
        path.touch()
        self._file = path.open("r+b")
        while self.size < size and (block := self._file.read(min(_BLOCK, size - self.size))):
            self._digest.update(block)
            self.size += len(block)
        if self.size < size or (sha256 is not None and self._digest.hexdigest() != sha256):
            self._file.close()
            raise InputError(f"{path} is not what was written; remove {path.parent} to begin again")
        # A killed process may have written a part of a line, or lines that nothing says are whole.
        with naming_file(path):
            self._file.truncate(size)

    def append(self, data: bytes) -> None:
        """Write behind what was written."""
        with naming_file(self._path):
            self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def sync(self) -> dict[str, Any]:
        """Have the disk hold everything, and say what that is: `size` and `sha256`, as the constructor takes them."""
        with naming_file(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"size": self.size, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        # What a full disk does not take is beyond what was recorded, and the error that says so was raised before.
        with contextlib.suppress(OSError):
            self._file.close()


class Encoder:
    """Rows as bytes of a file that grows, and that file as a CSV, JSONL or Parquet file, as `write_rows` writes it.

    Nothing can be appended to a Parquet file. Its rows are kept as parts in Arrow's format for streams, one behind
    another, and become the file in the end, a group of rows at a time.
    """

    def __init__(self, out: Path, columns: Sequence[str]) -> None:
        """Encode for `out`, whose ending says how; `columns` are those of all rows, in their order."""
        self._kind, self._columns = kind_of(out), tuple(columns)

    def header(self) -> bytes:
        """What stands before the first row."""
        return self._csv([[to_csv_cell(name) for name in self._columns]]) if self._kind == "csv" else b""

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Rows as bytes.

        Raises:
            InputError: a value that the format cannot hold.
        """
        if self._kind == "csv":
            return self._csv([csv_cell(row.get(name)) for name in self._columns] for row in rows)
        if self._kind == "jsonl":
            return "".join(_json_line(row) for row in rows).encode()
        import pyarrow as pa

        table, stream = self.table(rows), io.BytesIO()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return stream.getvalue()

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows as an Arrow table.

        Raises:
            InputError: a column with values of several kinds.
        """
        import pyarrow as pa

        arrays = {}
        for name in self._columns:
            try:
                arrays[name] = pa.array([row.get(name) for row in rows])
            except (pa.ArrowException, OverflowError) as error:
                raise _unwritable(name, error) from None
        return pa.table(arrays)

    def finish(self, written: Path, out: Path) -> None:
        """Give what was written the name `out`, as the file that it is: whole or not at all."""
        target = Path(os.path.realpath(out))
        if self._kind != "parquet":
            with naming_file(out):
                written.replace(target)
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        # A part without a value in a column does not know its type: the schema is that of all parts.
        schema = None
        for part in _parts(written):
            schema = common_schema(schema, part.schema)
        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema or pa.schema([])) as writer:
            for part in _parts(written):
                writer.write_table(part.cast(schema))
        written.unlink()

    def _csv(self, cells: Iterable[Sequence[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(cells)
        return text.getvalue().encode()


def common_schema(schema: pa.Schema | None, other: pa.Schema) -> pa.Schema:
    """The schema that holds the columns of both parts of a table; that of `other` where there was no part before.

    Raises:
        InputError: a column with values of several kinds.
    """
    import pyarrow as pa

    if schema is None:
        return other
    for name in set(schema.names) & set(other.names):
        fields = [pa.schema([each.field(name)]) for each in (schema, other)]
        try:
            pa.unify_schemas(fields, promote_options="permissive")
        except pa.ArrowException as error:
            raise _unwritable(name, error) from None
    return pa.unify_schemas([schema, other], promote_options="permissive")


def _parts(path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa

    with path.open("rb") as file:
        while file.peek(1):
            yield pa.ipc.open_stream(file).read_all()


_JSON = json.JSONEncoder(ensure_ascii=False)  # made once: rows are written by the million


def _json_line(row: Mapping[str, Any]) -> str:
    try:
        return _JSON.encode(row) + "\n"
    except TypeError:
        for name, value in row.items():
            try:
                json.dumps(value)
            except TypeError as error:
                raise InputError(f"column {name} cannot be written as JSON ({error}); write .csv or .parquet") from None
        raise


def _unwritable(name: str, error: BaseException) -> InputError:
    return InputError(f"column {name} cannot be written as Parquet ({first_line(error)}); write .jsonl or .csv")
