"""Tokens of many texts as flat arrays on the disk, mapped into memory and kept in the cache under a hash of the texts.

    CACHE/tokens/KEY/   tokens.bin   (T,)    uint32  the ids of all texts, one text after the other
                        texts.bin    (S, 2)  int64   where a text's tokens end; a number that goes with the text
                        rows.bin     (N, 1 + M) int64  where a row's texts end; M numbers that go with the row
                        record.json          the hash of the three, without which nothing is taken from them; its
                                             time of change is that of the last use

A million questions are a million rows and about 300 MB here, as Python's objects some 3 GB. What the operating system
has read of a mapped file it may drop again, so a process holds of it what the machine can spare.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rango.errors import InputError
from rango.files import UNFINISHED
from rango.options import parse_size

_FILES = ("tokens.bin", "texts.bin", "rows.bin")
_RECORD = "record.json"
_LIMIT = "10GiB"  # some thirty million questions


class TextTokens(NamedTuple):
    """One text."""

    ids: Sequence[int]
    number: int
    """Anything else that is to be known of the text."""


class RowTokens(NamedTuple):
    """The texts of one row, at least one, and numbers that are to be read without its tokens, as many in every row."""

    texts: Sequence[TextTokens]
    numbers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Rows of texts that were written by `kept_tokens`."""

    tokens: NDArray[np.uint32]
    texts: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, number: int) -> list[TextTokens]:
        """The texts of row `number`, from 0."""
        first = int(self.rows[number - 1, 0]) if number else 0
        texts = self.texts[first : self.rows[number, 0]].tolist()
        begin = start = int(self.texts[first - 1, 0]) if first else 0
        ids = self.tokens[start : texts[-1][0]].tolist()
        row = []
        for end, text_number in texts:
            row.append(TextTokens(ids[start - begin : end - begin], text_number))
            start = end
        return row

    def column(self, number: int) -> NDArray[np.int64]:
        """Number `number` of every row, (N,)."""
        return self.rows[:, 1 + number]


def cache_limit() -> int:
    """Bytes that the files of all keys may take: RANGO_CACHE_LIMIT, a size with its unit such as 10GiB.

    Raises:
        InputError: it is no size.
    """
    text = os.environ.get("RANGO_CACHE_LIMIT", "").strip() or _LIMIT
    limit = parse_size(text)
    if limit is None:
        raise InputError(f"RANGO_CACHE_LIMIT is {text!r}; expected a size with its unit, such as 10GiB or 500MB")
    return limit


def kept_tokens(
    cache: Path, key: str, rows: Iterable[RowTokens], *, numbers: int, limit: int | None = None
) -> TokenFile:
    """The file of these rows: as it was kept under `key` or, where it was not or is damaged, written now.

    Args:
        cache: the folder that holds the files of all keys.
        key: a hash of everything that the rows depend on; equal keys must mean equal rows.
        rows: at least one; they are iterated only if they have to be written, and nothing is kept if that raises.
        numbers: M, how many numbers go with each row.
        limit: bytes that the files of all keys may take; where this one makes them more, the least recently used go.

    Raises:
        OSError: the cache cannot be written to, or the disk is full.
    """
    from filelock import FileLock

    folder = cache / key
    kept = _opened(folder, numbers)
    if kept is not None:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes that want the same tokens, such as those of one run, one makes them.
    with FileLock(cache / f".{key}.lock"):
        kept = _opened(folder, numbers)
        if kept is not None:
            return kept
        # What a killed process left, and what is damaged; who holds the lock is the only writer.
        temporary = cache / f".{key}{UNFINISHED}"
        for leftover in (temporary, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        try:
            _write(temporary, rows)
            # The folder gets its name when everything is in it.
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        written = _opened(folder, numbers)
        assert written is not None
    if limit is not None:
        _remove_oldest(cache, limit, keep=folder)
    return written


def _remove_oldest(cache: Path, limit: int, *, keep: Path) -> None:
    """Remove files of keys, the least recently used first, until all take at most `limit` bytes; `keep` stays."""
    kept: list[tuple[float, int, Path]] = []
    # Another process may remove the same ones at this moment.
    for record in cache.glob(f"[!.]*/{_RECORD}"):
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_size for file in record.parent.iterdir())
            kept.append((record.stat().st_mtime, size, record.parent))
    total = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if total <= limit:
            return
        # Who has mapped these files keeps them: their space is free when the last of these processes ends.
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _write(folder: Path, rows: Iterable[RowTokens]) -> None:
    tokens_end = texts_end = 0
    with contextlib.ExitStack() as files:
        tokens_file, texts_file, rows_file = (files.enter_context((folder / name).open("wb")) for name in _FILES)
        for row in rows:
            for text in row.texts:
                tokens_end += len(text.ids)
                array("I", text.ids).tofile(tokens_file)
                array("q", (tokens_end, text.number)).tofile(texts_file)
            texts_end += len(row.texts)
            array("q", (texts_end, *row.numbers)).tofile(rows_file)
    (folder / _RECORD).write_text(json.dumps({"sha256": _digest(folder)}))


def _opened(folder: Path, numbers: int) -> TokenFile | None:
    """The file in a folder; None where there is none, or its hash is another than the record's."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        if record != {"sha256": _digest(folder)}:
            return None
        # The cache may be another user's, whose times are his.
        with contextlib.suppress(PermissionError):
            os.utime(folder / _RECORD)
        tokens, texts, rows = (folder / name for name in _FILES)
        return TokenFile(
            np.memmap(tokens, np.uint32, "r"),
            np.memmap(texts, np.int64, "r").reshape(-1, 2),
            np.memmap(rows, np.int64, "r").reshape(-1, 1 + numbers),
        )
    except (OSError, ValueError):
        return None


def _digest(folder: Path) -> str:
    """A hash of the three files and of where each ends; they are read, not mapped, so that none stays in memory."""
    digest = hashlib.sha256()
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
