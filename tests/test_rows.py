"""Rows of tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rango.errors import InputError
from rango.rows import read_rows


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.csv", "q;gold\nx, y;1\n", [(2, {"q": "x, y", "gold": "1"})]),
        ("a.csv", "q\tgold\nx\t1\n", [(2, {"q": "x", "gold": "1"})]),
        ("a.tsv", "q\tgold, n\nx\t1\n", [(2, {"q": "x", "gold, n": "1"})]),
        ("a.csv", "q,gold;n\nx,1\n", [(2, {"q": "x", "gold;n": "1"})]),
        ("a.csv", '"a,b";c\n1;2\n', [(2, {"a,b": "1", "c": "2"})]),
        ("a.csv", "sep=;\nq;gold\nx;1\n", [(3, {"q": "x", "gold": "1"})]),
        ("a.csv", "q,gold,,\nx,1,,\n,,,\n", [(2, {"q": "x", "gold": "1"})]),
        ("a.csv", ",q\n0,x\n", [(2, {"": "0", "q": "x"})]),
        ("a.csv", "q\nx\n", [(2, {"q": "x"})]),
    ],
)
def test_csv_as_spreadsheets_write_it_is_read(name: str, text: str, rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert list(read_rows(tmp_path / name)) == rows


def test_a_value_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,gold,\nx,1,\ny,2,3\n")
    with pytest.raises(InputError, match=r"a\.csv:3: 3 values; expected 2 as in the first line"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_date_that_python_has_not_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"day": pa.array([10**7], pa.date32())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: a value cannot be read \(.*\); write the Parquet file again"):
        list(read_rows(tmp_path / "a.parquet"))


# A file of one text, as pyarrow writes it, and places where one flipped bit ended the process (SIGABRT).
SMALL = bytes.fromhex(
    "504152311504150a150a4c1502150012000001000000781500151215122c15021510150615061c00000002000000020101020015"
    "04192c35001806736368656d61150200150c250218016125004c1c0000001602191c191c26001c150c1935000610191801611500"
    "1602165e165e262e2608292c15041500150200150015101502003c1602190619260002000000165e16022608165e002820706172"
    "717565742d6370702d6172726f772076657273696f6e2032362e302e31191c1c0000008c00000050415231"
)


@pytest.mark.parametrize(("place", "bit"), [(69, 2), (70, 0), (71, 3), (133, 4), (134, 5)])
def test_damaged_metadata_of_a_column_is_an_error(place: int, bit: int, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(SMALL)
    assert list(read_rows(tmp_path / "a.parquet")) == [(1, {"a": "x"})]
    damaged = bytearray(SMALL)
    damaged[place] ^= 1 << bit
    (tmp_path / "a.parquet").write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.parquet is not a Parquet file"):
        list(read_rows(tmp_path / "a.parquet"))
