"""Where a task's rows come from: files in a folder, or the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rango.errors import InputError
from rango.rows import read_rows


class Row(NamedTuple):
    """A row and where it stands."""

    number: int
    """From 1: the line of the file, the row of the Hub's table."""
    where: str
    """For messages: file and line."""
    values: dict[str, Any]


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names`, plain or with `.gz`, that exists in `folder`."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, CSV or Parquet file; errors as in `read_rows`."""
    return (Row(number, f"{path}:{number}", values) for number, values in read_rows(path))


def check_folder(path: Path) -> None:
    """Raise InputError if `path` does not exist."""
    if not path.exists():
        raise InputError(f"data folder {path} does not exist; give the folder that holds the task's files")


class Repository(NamedTuple):
    """A data set on the Hub."""

    name: str
    revision: str | None = None


def hub_rows(repositories: Sequence[Repository], splits: Sequence[str], *, task: str, files: str) -> list[list[Row]]:
    """The rows of the given splits, from the first repository that can be read.

    Args:
        repositories: tried in order.
        splits: their names on the Hub.
        task: for the message.
        files: what a folder has to hold instead, for the message.

    Raises:
        InputError: no repository could be read (no network, the Hub is down, offline mode).
    """
    import datasets

    reason = ""
    # Of several failures the first is reported: it is that of the repository that should have been read.
    for repository in repositories:
        try:
            loaded = datasets.load_dataset(repository.name, revision=repository.revision)
            tables = [loaded[split].to_list() for split in splits]
        # Whatever goes wrong in there (connection, proxy, cache, a moved file) ends in the same advice.
        except Exception as error:
            reason = reason or f"{repository.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        return [
            [Row(number, f"{repository.name} {split} row {number}", values) for number, values in enumerate(table, 1)]
            for split, table in zip(splits, tables, strict=True)
        ]
    raise InputError(f"{task} cannot be loaded from the Hub ({reason}); pass --data DIR with {files}")


def text_of(row: Row, column: str) -> str:
    """The stripped text of a column.

    Raises:
        InputError: the column is missing, blank or not text.
    """
    value = row.values.get(column)
    if not isinstance(value, str) or not value.strip():
        seen = "missing" if value is None else f"{value!r}"
        raise InputError(f"{row.where}: {column} is {seen}; expected text")
    return value.strip()


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Put file and line in front of an InputError of the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
