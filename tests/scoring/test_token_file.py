"""Rows of tokens in the cache: what is read is what was written, and what is damaged is written again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rango.errors import InputError
from rango.scoring.token_file import RowTokens, TextTokens, cache_limit, kept_tokens

ROWS = (
    RowTokens([TextTokens([5, 70_000], 0), TextTokens([1], 2)], (3, 9)),
    RowTokens([TextTokens([], 7), TextTokens([2, 2, 2], 1), TextTokens([4], 1)], (4, 8)),
    RowTokens([TextTokens([6], 3)], (1, 7)),
)


def never() -> Iterator[RowTokens]:
    raise AssertionError("the rows are in the cache already")
    yield


def test_rows_come_back_without_being_made_again(tmp_path: Path) -> None:
    written = kept_tokens(tmp_path / "new", "key", ROWS, numbers=2)
    read = kept_tokens(tmp_path / "new", "key", never(), numbers=2)
    for file in (written, read):
        assert len(file) == 3
        assert [file.row(number) for number in (2, 0, 1)] == [list(ROWS[number].texts) for number in (2, 0, 1)]
        assert (file.column(0).tolist(), file.column(1).tolist()) == ([3, 4, 1], [9, 8, 7])
    # A million tokens take 4 MB.
    assert (tmp_path / "new/key/tokens.bin").stat().st_size == 4 * 8


def test_of_too_many_files_the_least_recently_used_go(tmp_path: Path) -> None:
    """A is older than B but was used after it: B goes for C, and a file that is larger than the limit stays alone."""
    for number, key in enumerate(("a", "b", "used")):
        kept_tokens(tmp_path, key, ROWS, numbers=2)
        os.utime(tmp_path / key / "record.json", (number, number))
    (tmp_path / "used").rename(tmp_path / "c")
    size = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    mapped = kept_tokens(tmp_path, "b", never(), numbers=2)
    os.utime(tmp_path / "b" / "record.json", (1, 1))
    kept_tokens(tmp_path, "a", never(), numbers=2, limit=1)  # what is read makes no room
    kept_tokens(tmp_path, "d", ROWS, numbers=2, limit=3 * size)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c", "d"]
    # Who has mapped a file reads it to the end.
    assert mapped.row(1) == list(ROWS[1].texts)
    kept_tokens(tmp_path, "b", ROWS, numbers=2, limit=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["b"]


def test_the_limit_is_a_size_with_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANGO_CACHE_LIMIT", raising=False)
    assert cache_limit() == 10 * 2**30
    monkeypatch.setenv("RANGO_CACHE_LIMIT", " 500MB ")
    assert cache_limit() == 500_000_000
    monkeypatch.setenv("RANGO_CACHE_LIMIT", "10")
    with pytest.raises(InputError, match="RANGO_CACHE_LIMIT is '10'; expected a size with its unit"):
        cache_limit()


@pytest.mark.parametrize("name", ["tokens.bin", "texts.bin", "rows.bin", "record.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_damaged_is_written_again(tmp_path: Path, name: str, damage: str) -> None:
    kept_tokens(tmp_path, "key", ROWS, numbers=2)
    file = tmp_path / "key" / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-8] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    again = kept_tokens(tmp_path, "key", ROWS, numbers=2)
    assert file.read_bytes() == data
    assert again.row(1) == list(ROWS[1].texts)


def test_nothing_is_kept_of_rows_that_fail_and_of_a_killed_writer(tmp_path: Path) -> None:
    def failing() -> Iterator[RowTokens]:
        yield ROWS[0]
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        kept_tokens(tmp_path, "key", failing(), numbers=2)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]
    # A process that was killed leaves its unfinished folder.
    (tmp_path / ".key.tmp").mkdir()
    (tmp_path / ".key.tmp" / "tokens.bin").write_bytes(b"1234")
    assert len(kept_tokens(tmp_path, "key", ROWS, numbers=2)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".key.lock", "key"]


def test_a_cache_that_cannot_be_written_to_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        kept_tokens(tmp_path / "file", "key", ROWS, numbers=2)
