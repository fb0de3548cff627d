"""Posteriors files: Parquet, CSV, JSONL or NPZ, from anywhere.

`label` (0-based), optionally `id`, `group` and `choices`, and one of `posteriors`, `log_posteriors`, `logits`: a list
column (shorter lists: fewer choices), or in CSV columns `posterior_0 …`, `log_posterior_0 …`, `logit_0 …`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rango.decisions.arrays import Array
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError
from rango.files import atomic_path, parse_json, plain, read_bytes, read_rows

_ENDINGS = ".parquet, .csv, .jsonl or .npz"
# column -> how it becomes posteriors
_KINDS: dict[str, Callable[..., Posteriors]] = {
    "posteriors": Posteriors.from_probabilities,
    "log_posteriors": Posteriors,
    "logits": Posteriors.from_scores,
}


def read_posteriors(path: Path | str) -> Posteriors:
    """Read a posteriors file.

    Raises:
        InputError: the file cannot be read, a column is missing, or as `Posteriors`; the message names the file.
    """
    path = Path(path)
    columns = _columns_of(path)
    kinds = [kind for kind in _KINDS if kind in columns]
    if len(kinds) != 1:
        seen = " and ".join(kinds) if kinds else ", ".join(sorted(columns))
        raise InputError(f"{path} has {seen}; expected one of {', '.join(_KINDS)}")
    if "label" not in columns:
        raise InputError(f"{path} has no column label; give the 0-based index of the right choice")
    # A missing choice has no probability at all.
    missing = 0.0 if kinds[0] == "posteriors" else -np.inf
    try:
        return _KINDS[kinds[0]](
            _matrix(columns[kinds[0]], missing, kinds[0]),
            _label_array(columns["label"]),
            _texts(columns, "id"),
            _texts(columns, "group"),
            _choices(columns),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


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


def _columns_of(path: Path) -> Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]:
    ending = path.suffix.lower()
    if ending == ".npz":
        return _read_npz(path)
    if ending == ".parquet":
        return _read_parquet(path)
    if path.name.removesuffix(".gz").rpartition(".")[2].lower() not in ("csv", "jsonl", "ndjson"):
        raise InputError(f"{path}: ending {path.suffix!r} is not known; expected {_ENDINGS}")
    rows = list(read_rows(path))
    if not rows:
        raise InputError(f"{path} has no rows; expected at least one instance")
    for line, row in rows:
        if row.keys() != rows[0][1].keys():
            odd = sorted(row.keys() ^ rows[0][1].keys())[0]
            raise InputError(f"{path}:{line}: {odd!r} is not in every row; give every row the same keys")
    columns: dict[str, Sequence[Any]] = {key: [row[key] for _, row in rows] for key in rows[0][1]}
    return _gathered(columns, path) if ".csv" in path.name.lower() else columns


def _gathered(columns: dict[str, Sequence[Any]], path: Path) -> Mapping[str, Sequence[Any]]:
    """CSV columns `posterior_0`, `posterior_1`, … as one list column `posteriors`, and so on; `choice_0` likewise."""
    result: dict[str, Sequence[Any]] = {key: columns[key] for key in columns if key in ("id", "group", "label")}
    for kind in (*_KINDS, "choices"):
        stem = kind.removesuffix("s") + "_"
        found = sorted(
            (key for key in columns if key.startswith(stem) and re.fullmatch("[0-9]{1,6}", key.removeprefix(stem))),
            key=lambda key: int(key.removeprefix(stem)),
        )
        if not found:
            continue
        if [int(key.removeprefix(stem)) for key in found] != list(range(len(found))):
            raise InputError(f"{path} has columns {', '.join(found)}; expected {stem}0 to {stem}{len(found) - 1}")
        rows = zip(*(columns[key] for key in found), strict=True)
        if kind == "choices":
            result[kind] = [[text for text in row if text] for row in rows]
        else:
            result[kind] = [[_number(text, path, kind) for text in row if text.strip()] for row in rows]
    return result


def _number(text: str, path: Path, kind: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {text!r} among the {kind}; expected a number") from None


def _read_npz(path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    read_bytes(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:
        # zipfile, zlib and NumPy each have errors of their own for a damaged archive.
        raise InputError(f"{path} is not an NPZ file of plain arrays ({str(error).splitlines()[0]})") from None


def _read_parquet(path: Path) -> Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_bytes(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file ({str(error).splitlines()[0]}); check the file") from None
    columns: dict[str, Sequence[Any] | np.ndarray[Any, Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        flat = column.flatten() if is_list and not column.null_count else None
        if flat is not None and pa.types.is_floating(flat.type) and not flat.null_count:
            lengths = np.diff(column.offsets.to_numpy(zero_copy_only=False))
            values = flat.to_numpy(zero_copy_only=False)
            # One length: a matrix without a Python object for every number.
            even = len(lengths) > 0 and (lengths == lengths[0]).all()
            columns[name] = values.reshape(len(lengths), -1) if even else np.split(values, np.cumsum(lengths)[:-1])
        else:
            columns[name] = plain(column, str(path))
    return columns


def _matrix(values: Sequence[Any] | np.ndarray[Any, Any], missing: float, kind: str) -> Array:
    if isinstance(values, np.ndarray):
        return values
    try:
        rows = [np.asarray(row, dtype=np.float64) for row in values]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{kind} holds something other than lists of numbers") from None
    if any(row.ndim != 1 for row in rows):
        raise InputError(f"{kind} holds something other than lists of numbers")
    result = np.full((len(rows), max((len(row) for row in rows), default=0)), missing)
    for index, row in enumerate(rows):
        result[index, : len(row)] = row
    return result


def _label_array(values: Sequence[Any] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if isinstance(values, np.ndarray):
        return values
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not _is_whole(value):
            raise InputError(f"labels[{row}] is {value!r}; expected the 0-based index of the right choice")
    return np.asarray([int(float(value)) for value in values], dtype=np.int64)


def _is_whole(value: float | str) -> bool:
    try:
        return float(value).is_integer() and abs(float(value)) < 2**53
    except (ValueError, OverflowError):
        return False


def _texts(columns: Mapping[str, Any], name: str) -> list[str] | None:
    return [str(value) for value in columns[name]] if name in columns else None


def _choices(columns: Mapping[str, Any]) -> list[list[str]] | None:
    if "choices" not in columns:
        return None
    result = []
    for index, row in enumerate(columns["choices"]):
        words = row
        if isinstance(row, str):
            # NPZ holds plain arrays only, so there a row of choices is its JSON text.
            with contextlib.suppress(InputError):
                words = parse_json(row, f"choices[{index}]")
        if not isinstance(words, (list, np.ndarray)):
            raise InputError(f"choices[{index}] is {row!r}; expected a list of texts")
        result.append([str(word) for word in words])
    return result


def _rows(posteriors: Posteriors) -> dict[str, Sequence[Any]]:
    columns: dict[str, Sequence[Any]] = {"id": posteriors.ids, "label": posteriors.labels.tolist()}
    if posteriors.groups is not None:
        columns["group"] = posteriors.groups
    if posteriors.choices is not None:
        columns["choices"] = [list(row) for row in posteriors.choices]
    return columns


def _write_parquet(path: Path, posteriors: Posteriors) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, n_choices = posteriors.log_posteriors.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int64) * n_choices)
    flat = pa.array(np.ascontiguousarray(posteriors.log_posteriors).reshape(-1))
    table = pa.table({**_rows(posteriors), "log_posteriors": pa.LargeListArray.from_arrays(offsets, flat)})
    pq.write_table(table, path)


def _write_jsonl(path: Path, posteriors: Posteriors) -> None:
    columns = _rows(posteriors)
    with path.open("w", encoding="utf-8") as file:
        for index, logs in enumerate(posteriors.log_posteriors):
            row = {name: column[index] for name, column in columns.items()}
            file.write(json.dumps({**row, "log_posteriors": logs.tolist()}, ensure_ascii=False) + "\n")


def _write_csv(path: Path, posteriors: Posteriors) -> None:
    columns = _rows(posteriors)
    words = columns.pop("choices", None)
    n_choices = posteriors.n_choices
    header = [*columns, *(f"log_posterior_{k}" for k in range(n_choices))]
    header += [f"choice_{k}" for k in range(n_choices)] if words is not None else []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for index, logs in enumerate(posteriors.log_posteriors):
            row = [column[index] for column in columns.values()] + logs.tolist()
            own = [] if words is None else [*words[index], *[""] * (n_choices - len(words[index]))]
            writer.writerow(row + own)


def _write_npz(path: Path, posteriors: Posteriors) -> None:
    arrays: dict[str, Any] = {"label": posteriors.labels, "log_posteriors": posteriors.log_posteriors}
    columns = _rows(posteriors)
    arrays["id"] = np.asarray(columns["id"], dtype=np.str_)
    if "group" in columns:
        arrays["group"] = np.asarray(columns["group"], dtype=np.str_)
    if "choices" in columns:
        arrays["choices"] = np.asarray([json.dumps(row, ensure_ascii=False) for row in columns["choices"]])
    with path.open("wb") as file:
        np.savez(file, **arrays)
