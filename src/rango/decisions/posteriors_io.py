"""Posteriors files: Parquet, CSV, JSONL or NPZ, written by Rango or by any other program.

    label                                    the 0-based index of the right choice; deciding needs none
    posteriors, log_posteriors or logits     one list an instance; a shorter list means fewer choices
    id, group, choices                       optional

CSV has no lists: there the columns are `posterior_0`, `posterior_1`, … (`log_posterior_0`, `logit_0`, `choice_0`).
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rango.decisions.arrays import Array
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError
from rango.files import atomic_path, parse_json, plain, read_bytes, read_rows

_Column: TypeAlias = Sequence[Any] | np.ndarray[Any, Any]

_ENDINGS = ".parquet, .csv, .jsonl or .npz"
# The column that a file holds decides how its numbers become posteriors.
_KINDS: dict[str, Callable[..., Posteriors]] = {
    "posteriors": Posteriors.from_probabilities,
    "log_posteriors": Posteriors,
    "logits": Posteriors.from_scores,
}


def read_posteriors(path: Path | str, *, need_labels: bool = True) -> Posteriors:
    """Read a posteriors file.

    Args:
        path: the file.
        need_labels: False to read a file without labels too: without the column, or with no label in any row.

    Raises:
        InputError: the file cannot be read, a column is missing, or as `Posteriors`; the message names the file.
    """
    path = Path(path)
    columns = _read_columns(path)
    kinds = [kind for kind in _KINDS if kind in columns]
    if len(kinds) != 1:
        seen = " and ".join(kinds) if kinds else ", ".join(sorted(columns))
        raise InputError(f"{path} has {seen}; expected one of {', '.join(_KINDS)}")
    if need_labels and "label" not in columns:
        raise InputError(f"{path} has no column label; give the 0-based index of the right choice")
    labelled = need_labels or ("label" in columns and not _is_unlabelled(columns["label"]))
    kind = kinds[0]
    try:
        return _KINDS[kind](
            _score_matrix(columns[kind], kind),
            _label_array(columns["label"]) if labelled else None,
            *([str(value) for value in columns[key]] if key in columns else None for key in ("id", "group")),
            _choice_lists(columns["choices"]) if "choices" in columns else None,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_columns(path: Path) -> Mapping[str, _Column]:
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
    return _join_numbered(columns, path) if ".csv" in path.name.lower() else columns


def _join_numbered(columns: Mapping[str, Sequence[Any]], path: Path) -> Mapping[str, Sequence[Any]]:
    """CSV columns `posterior_0`, `posterior_1`, … as one list column `posteriors`, and so on; `choice_0` likewise."""
    result: dict[str, Sequence[Any]] = {key: columns[key] for key in columns if key in ("id", "group", "label")}
    for kind in (*_KINDS, "choices"):
        stem = kind.removesuffix("s") + "_"
        # ASCII digits only: int() takes superscripts and the digits of other scripts too.
        matches = (re.fullmatch(stem + "([0-9]{1,6})", key) for key in columns)
        numbered = sorted((int(match[1]), match[0]) for match in matches if match)
        if not numbered:
            continue
        if [number for number, _ in numbered] != list(range(len(numbered))):
            names = ", ".join(key for _, key in numbered)
            raise InputError(f"{path} has columns {names}; expected {stem}0 to {stem}{len(numbered) - 1}")
        # An empty cell is a choice that the instance does not have.
        rows = zip(*(columns[key] for _, key in numbered), strict=True)
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


def _read_parquet(path: Path) -> Mapping[str, _Column]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_bytes(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file ({str(error).splitlines()[0]}); check the file") from None
    columns: dict[str, _Column] = {}
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


def _score_matrix(column: _Column, kind: str) -> Array:
    """The numbers of a list column as (N, K); short rows are filled with what an impossible choice has."""
    if isinstance(column, np.ndarray):
        return column
    try:
        rows = [np.asarray(row, dtype=np.float64) for row in column]
    except (TypeError, ValueError, OverflowError):
        rows = [np.zeros(())]
    if any(row.ndim != 1 for row in rows):
        raise InputError(f"{kind} holds something other than lists of numbers")
    width = max((len(row) for row in rows), default=0)
    matrix = np.full((len(rows), width), 0.0 if kind == "posteriors" else -np.inf)
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    return matrix


def _is_unlabelled(column: _Column) -> bool:
    """Whether no row has a label: every cell is empty, null, NaN, or -1, which public test splits have there."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return bool((np.isnan(column) | (column == -1)).all())
    return all(
        value is None or value == -1 or value != value or str(value).strip().lower() in ("", "nan", "-1", "-1.0")
        for value in column
    )


def _label_array(column: _Column) -> np.ndarray[Any, Any]:
    if isinstance(column, np.ndarray):
        return column
    labels = []
    for row, value in enumerate(column):
        try:
            label = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            label = math.nan
        # From 2^53 on a float no longer holds every whole number.
        if not label.is_integer() or abs(label) >= 2**53:
            raise InputError(f"labels[{row}] is {value!r}; expected the 0-based index of the right choice")
        labels.append(int(label))
    return np.asarray(labels, dtype=np.int64)


def _choice_lists(column: _Column) -> list[list[str]]:
    choices = []
    for index, row in enumerate(column):
        words = row
        if isinstance(row, str):
            # NPZ holds plain arrays only, so there a row of choices is its JSON text.
            with contextlib.suppress(InputError):
                words = parse_json(row, f"choices[{index}]")
        if not isinstance(words, (list, np.ndarray)):
            raise InputError(f"choices[{index}] is {row!r}; expected a list of texts")
        choices.append([str(word) for word in words])
    return choices


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
        columns["label"] = posteriors.labels.tolist()
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
    table = pa.table({**_columns(posteriors), "log_posteriors": pa.LargeListArray.from_arrays(offsets, flat)})
    pq.write_table(table, path)


def _write_jsonl(path: Path, posteriors: Posteriors) -> None:
    columns = _columns(posteriors)
    with path.open("w", encoding="utf-8") as file:
        for index, logs in enumerate(posteriors.log_posteriors):
            row = {name: column[index] for name, column in columns.items()}
            file.write(json.dumps({**row, "log_posteriors": logs.tolist()}, ensure_ascii=False) + "\n")


def _write_csv(path: Path, posteriors: Posteriors) -> None:
    columns: dict[str, Iterable[Any]] = dict(_columns(posteriors))
    columns.pop("choices", None)
    for k in range(posteriors.n_choices):
        columns[f"log_posterior_{k}"] = map(float, posteriors.log_posteriors[:, k])
    # Cells stay empty for choices that an instance does not have.
    if posteriors.choices is not None:
        for k in range(posteriors.n_choices):
            columns[f"choice_{k}"] = [words[k] if k < len(words) else "" for words in posteriors.choices]
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
    if posteriors.has_labels:
        arrays["label"] = posteriors.labels
    with path.open("wb") as file:
        np.savez(file, log_posteriors=posteriors.log_posteriors, **arrays)
