"""Rows of tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
