"""Posteriors files: Parquet, CSV, JSONL or NPZ, written by Rango or by any other program.

    label                                    the 0-based index of the right choice, or its text; deciding needs none;
                                             or a list with the share of each choice (soft labels)
    posteriors, log_posteriors or logits     one list an instance; a shorter list means fewer choices
    id, group, choices                       optional
    type                                     optional: choice, yes_no, or score where the choices are ordered levels

Instead of lists there may be a column for each choice: `posterior_0`, `posterior_1`, … (`log_posterior_0`, `logit_0`,
`choice_0`), in CSV always. Here are the formats; what the columns mean, also under other names, is in
`posteriors_columns`.
"""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rango.checksums import FORMAT, FORMAT_KEY, KEY, UNSEALED, seal
from rango.decisions.instances import repeat_notes
from rango.decisions.posteriors import Posteriors
from rango.decisions.posteriors_columns import Column, Table, shown
from rango.errors import InputError, first_line
from rango.files import atomic_path, check_unpacked, read_bytes
from rango.rows import plain, read_parquet, read_rows, to_csv_cell

_ENDINGS = ".parquet, .csv, .jsonl or .npz"


def read_posteriors(path: Path | str, *, need_labels: bool = True) -> Posteriors:
    """Read a posteriors file.

    Columns of other programs are read where their names can be understood in one way only; `notes` of the result say
    in which.

    Args:
        path: the file.
        need_labels: False to read a file without labels too: without the column, or with no label in any row.

    Raises:
        InputError: the file cannot be read, a column is missing, a cell inside a row is empty or no number, or as
            `Posteriors`; the message names the file, and the line and column where there is one.
    """
    posteriors = Posteriors.from_table(read_table(Path(path)), need_labels=need_labels)
    return posteriors.with_notes(repeat_notes(posteriors.ids))


def read_table(path: Path) -> Table:
    """The columns of a posteriors file, not yet understood; errors as in `read_posteriors` where it cannot be read."""
    ending = path.suffix.lower()
    lines: Sequence[int] = ()
    columns: Mapping[str, Column]
    if ending == ".npz":
        columns = _read_npz(path)
    elif ending == ".parquet":
        columns = _read_parquet(path)
    elif path.name.removesuffix(".gz").rpartition(".")[2].lower() not in ("csv", "tsv", "jsonl", "ndjson"):
        if not path.suffix and not path.exists():  # meant as a folder
            raise InputError(f"{path} does not exist; give a posteriors file, or the folder of a run")
        raise InputError(f"{path}: ending {path.suffix!r} is not known; expected {_ENDINGS}")
    else:
        rows = list(read_rows(path))
        if rows:
            table, _ = table_of_rows(path, rows)
            columns, lines = table.columns, table.lines
        else:
            columns = {}
    longest = max(map(len, columns.values()), default=0)
    if not longest:
        raise InputError(f"{path} has no rows; expected at least one instance")
    for name, column in columns.items():
        if len(column) != longest:
            raise InputError(f"{path}: {name} has {len(column)} entries beside {longest}; give one for each row")
    return Table(path, columns, lines or range(1, longest + 1))


def table_of_rows(
    path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], *, keys: Sequence[str] | None = None
) -> tuple[Table, Sequence[str]]:
    """The columns of numbered rows, and their names, which are those of `keys` where rows stood before these.

    Raises:
        InputError: a row with other keys.
    """
    keys = tuple(rows[0][1]) if keys is None else keys
    names = set(keys)
    for line, row in rows:
        if row.keys() != names:
            odd = sorted(row.keys() ^ names)[0]
            raise InputError(f"{path}:{line}: {odd!r} is not in every row; give every row the same keys")
    return Table(path, {key: [row[key] for _, row in rows] for key in keys}, [line for line, _ in rows]), keys


def _read_npz(path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    read_bytes(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy says that an array of Python 2 takes longer to read
            with np.load(file, allow_pickle=False) as archive:
                check_unpacked(path, sum(entry.file_size for entry in archive.zip.infolist()))
                columns = {key: archive[key] for key in archive.files}
    except InputError:
        raise
    except Exception as error:
        # zipfile, zlib and NumPy each have errors of their own for a damaged archive.
        raise InputError(f"{path} is not an NPZ file of plain arrays ({first_line(error)})") from None
    for name, array in columns.items():
        # A member that is no array comes as bytes; a complex number would lose a half of itself in silence.
        kind = array.dtype.kind if isinstance(array, np.ndarray) else "O"
        if kind not in "biufUSMm":
            stored = "no array" if kind == "O" else f"of type {array.dtype}"
            raise InputError(f"{path}: {name} is {stored}; expected numbers or texts")
        if array.ndim == 0:
            raise InputError(f"{path}: {name} is a single value ({shown(array[()])}); expected one for each instance")
        if kind == "U" and array.itemsize:
            codes = np.ascontiguousarray(array).view(array.dtype.byteorder + "u4")
            if (codes > sys.maxunicode).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
                raise InputError(f"{path}: a text of {name} is no Unicode; write the file again")
    return columns


def _read_parquet(path: Path) -> Mapping[str, Column]:
    import pyarrow as pa

    table = read_parquet(path)
    columns: dict[str, Column] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        flat = column.flatten() if is_list and not column.null_count else None
        if flat is None or not pa.types.is_floating(flat.type) or flat.null_count:
            columns[name] = plain(column, str(path))
            continue
        # Lists of one length become a matrix without a Python object for every number.
        lengths = np.diff(column.offsets.to_numpy(zero_copy_only=False))
        values = flat.to_numpy(zero_copy_only=False)
        even = len(lengths) > 0 and (lengths == lengths[0]).all()
        columns[name] = values.reshape(len(lengths), -1) if even else np.split(values, np.cumsum(lengths)[:-1])
    return columns


def write_posteriors(path: Path | str, posteriors: Posteriors) -> None:
    """Write a posteriors file with `log_posteriors`, atomically; reading it gives the same posteriors.

    Raises:
        InputError: an ending other than .parquet, .csv, .jsonl or .npz.
    """
    path = Path(path)
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl, ".npz": _write_npz}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: ending {path.suffix!r} is not known; expected {_ENDINGS}")
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](temporary, posteriors)


def _columns(posteriors: Posteriors) -> dict[str, Sequence[Any]]:
    columns: dict[str, Sequence[Any]] = {"id": posteriors.ids}
    if posteriors.has_labels:
        columns["label"] = posteriors.label_cells()
    if posteriors.groups is not None:
        columns["group"] = posteriors.groups
    if posteriors.choices is not None:
        columns["choices"] = [list(row) for row in posteriors.choices]
    if posteriors.types is not None:
        columns["type"] = posteriors.types
    return columns


def _write_parquet(path: Path, posteriors: Posteriors) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, n_choices = posteriors.log_posteriors.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int64) * n_choices)
    flat = pa.array(np.ascontiguousarray(posteriors.log_posteriors).reshape(-1))
    table = pa.table({**_columns(posteriors), "log_posteriors": pa.LargeListArray.from_arrays(offsets, flat)})
    pq.write_table(table.replace_schema_metadata({KEY: UNSEALED, FORMAT_KEY: str(FORMAT)}), path)
    seal(path, ".parquet")


def _write_jsonl(path: Path, posteriors: Posteriors) -> None:
    columns = _columns(posteriors)
    with path.open("w", encoding="utf-8") as file:
        for index, logs in enumerate(posteriors.log_posteriors):
            row = {name: column[index] for name, column in columns.items()}
            file.write(json.dumps({**row, "log_posteriors": logs.tolist()}, ensure_ascii=False) + "\n")


def _write_csv(path: Path, posteriors: Posteriors) -> None:
    columns: dict[str, Iterable[Any]] = dict(_columns(posteriors))
    columns.pop("choices", None)
    if posteriors.targets is not None:
        columns["label"] = map(json.dumps, columns["label"])
    for key in columns.keys() & {"id", "group"}:
        columns[key] = map(to_csv_cell, columns[key])
    for k in range(posteriors.n_choices):
        columns[f"log_posterior_{k}"] = map(float, posteriors.log_posteriors[:, k])
    # Cells stay empty for choices that an instance does not have.
    if posteriors.choices is not None:
        if any(not word.strip() for words in posteriors.choices for word in words):
            raise InputError("a choice has no text, and an empty cell of a CSV is no choice; write .jsonl or .parquet")
        for k in range(posteriors.n_choices):
            cells = [to_csv_cell(words[k]) if k < len(words) else "" for words in posteriors.choices]
            columns[f"choice_{k}"] = cells
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_npz(path: Path, posteriors: Posteriors) -> None:
    columns = _columns(posteriors)
    # A list of unequal rows would need a pickle, which nobody should open: choices are JSON texts.
    if "choices" in columns:
        columns["choices"] = [json.dumps(row, ensure_ascii=False) for row in columns["choices"]]
    arrays: dict[str, Any] = {key: np.asarray(columns[key], dtype=np.str_) for key in columns if key != "label"}
    if posteriors.truth is not None:
        arrays["label"] = posteriors.truth
    with path.open("wb") as file:
        np.savez(file, log_posteriors=posteriors.log_posteriors, **arrays)
