"""Rows read one after another are those that are read at once; what grows holds what was appended, and no more."""

from __future__ import annotations

import datetime
import errno
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rango.decisions import Posteriors, write_posteriors
from rango.errors import InputError
from rango.row_stream import Encoder, GrowingFile, identity, rows_of
from rango.rows import read_rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '\ufeff{"q": "x\u2028y"}\n\n{"q": "z"}\n {"q": 3}'),
        ("a.csv", 'sep=;\r\nq;gold\r\n"x\r\ny";1\r\n\r\nz;2\r\n'),
        ("a.csv", "q;gold\rx;1\ry;2\r"),
        ("a.csv", '"a,\nb";c;\n1;2;\n3;4'),
        ("a.tsv", "q\tgold, n\nx\t1\ny\t2\n"),
    ],
)
@pytest.mark.parametrize("skip", [0, 1, 5])
def test_rows_are_those_that_are_read_at_once(name: str, text: str, skip: int, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    expected = list(read_rows(path))[skip:]
    assert list(rows_of(path, skip=skip)) == expected
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert list(rows_of(packed, skip=skip)) == expected
    assert identity(packed) == identity(path)
    assert identity(path) == {"size": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("skip", [0, 3, 7, 10, 11])
def test_rows_of_parquet_are_skipped_across_groups(skip: int, tmp_path: Path) -> None:
    table = pa.table({"n": list(range(10)), "text": [f"t{n}" for n in range(10)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    assert list(rows_of(tmp_path / "a.parquet", skip=skip)) == list(read_rows(tmp_path / "a.parquet"))[skip:]


def test_a_damaged_parquet_file_is_noticed_before_a_row_is_given(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_posteriors(file, Posteriors(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 1]))
    assert len(list(rows_of(file))) == 2
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="a.parquet is damaged"):
        next(rows_of(file))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"q,gold\nx,1\ny,2,3\n", r"a\.csv:3: 3 values; expected 2"),
        ("a.csv", b'q,gold\nx,1\n"y,2\n', r"a\.csv:3: 2? ?"),
        ("a.jsonl", b'{"q": "x"}\n{"q": "\xe4"}\n', r"a\.jsonl:2: byte 0xe4 at offset 18 is not UTF-8"),
        ("a.csv", "q,gold\nx,1\n".encode("utf-16"), r"a\.csv is UTF-16; save"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: holds a list"),
        ("a.parquet", b"PAR1 and more", "is not a Parquet file"),
        ("a.txt", b"x", "ending '.txt' is not known"),
    ],
)
def test_what_is_wrong_is_named_as_where_all_is_read(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for read in (read_rows, rows_of):
        with pytest.raises(InputError, match=words):
            list(read(path))


def test_no_small_file_fills_the_disk_or_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blank.csv").write_text(" \n")
    with pytest.raises(InputError, match=r"blank\.csv is empty"):
        identity(tmp_path / "blank.csv")
    monkeypatch.setattr("rango.files._UNPACKED_FREE", 1 << 10)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(InputError, match="unpacks to more than"):
        identity(tmp_path / "bomb.csv.gz")
    whole = gzip.compress(b"q,gold\nx,1\n" * 1000)
    (tmp_path / "torn.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"torn\.csv\.gz cannot be read"):
        identity(tmp_path / "torn.csv.gz")


def test_a_growing_file_is_cut_to_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "part" / "rows"
    path.parent.mkdir()
    file = GrowingFile(path)
    file.append(b"one\n")
    recorded = file.sync()
    file.append(b"two\nthr")
    file.close()
    again = GrowingFile(path, **recorded)
    again.append(b"2\n")
    again.close()
    assert path.read_bytes() == b"one\n2\n"
    path.write_bytes(b"One\n2\n")
    with pytest.raises(InputError, match=r"rows is not what was written; remove .*part to begin again"):
        GrowingFile(path, **recorded)
    path.write_bytes(b"on")
    with pytest.raises(InputError, match="is not what was written"):
        GrowingFile(path, **recorded)


def test_a_growing_file_that_cannot_be_cut_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file where it refuses one that is open."""

    class Full(io.BytesIO):
        def truncate(self, _size: int | None = None) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left on device") as raised:
        GrowingFile(tmp_path / "rows")
    assert raised.value.filename == str(tmp_path / "rows")


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    rows = [{"day": datetime.date(2026, 1, 2), "n": 1}]
    with pytest.raises(InputError, match=r"column day cannot be written as JSON .*; write \.csv or \.parquet"):
        Encoder(tmp_path / "a.jsonl", ("day", "n")).encode(rows)
    assert Encoder(tmp_path / "a.csv", ("day", "n")).encode(rows) == b"2026-01-02,1\r\n"
    mixed = Encoder(tmp_path / "a.parquet", ("n",))
    with pytest.raises(InputError, match=r"column n cannot be written as Parquet"):
        mixed.encode([{"n": 1}, {"n": "x"}])
    # Two parts of different kinds, and two whose kinds have one that holds both.
    for second, fits in (("x", False), (2.5, True), (None, True)):
        (tmp_path / "rows").write_bytes(mixed.encode([{"n": 1}]) + mixed.encode([{"n": second}]))
        if fits:
            mixed.finish(tmp_path / "rows", tmp_path / "a.parquet")
            assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"n": 1}, {"n": second}]
        else:
            with pytest.raises(InputError, match=r"column n cannot be written as Parquet"):
                mixed.finish(tmp_path / "rows", tmp_path / "a.parquet")
            assert not (tmp_path / "a.parquet").exists()


def test_a_damaged_archive_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """The search for the byte at fault reads the archive again, up to where it is damaged."""
    packed = gzip.compress(b'{"a": 1}\n' * 2000 + b"\xff\n", mtime=0)
    for name, data in (("cut", packed[:-9]), ("sum", packed[:-8] + bytes(8)), ("whole", packed)):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(data)
        with pytest.raises(InputError, match="is not UTF-8|cannot be read"):
            list(rows_of(tmp_path / f"{name}.jsonl.gz"))


def test_a_parquet_file_without_rows_is_refused_as_it_is_when_read_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    for reader in (read_rows, rows_of):
        with pytest.raises(InputError, match=r"a\.parquet is empty; expected at least one row"):
            list(reader(tmp_path / "a.parquet"))
