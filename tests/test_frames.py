"""Frames of three libraries: what goes in is what a file would give, and what comes out is of the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from rango.errors import InputError
from rango.frames import add_columns, frame_columns, frame_rows, is_frame, new_frame

COLUMNS = {"text": ["a", None, "c"], "score": [0.5, None, 2.0], "words": [["x", "y"], ["z"], []]}
BACKENDS = ("pandas", "polars", "pyarrow")


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_come_back_as_they_went_in(backend: Any) -> None:
    frame = new_frame(COLUMNS, backend)
    assert type(frame).__module__.split(".")[0] == backend
    assert is_frame(frame)
    assert frame_columns(frame) == COLUMNS
    assert frame_rows(frame)[1] == {"text": None, "score": None, "words": ["z"]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_added_columns_stand_behind_the_own_ones(backend: Any) -> None:
    frame = add_columns(new_frame(COLUMNS, backend), {"decision": ["b", "b", "c"]})
    assert type(frame).__module__.split(".")[0] == backend
    assert frame_columns(frame) == {**COLUMNS, "decision": ["b", "b", "c"]}
    with pytest.raises(InputError, match=r"the frame has a column text already; rename it"):
        add_columns(frame, {"text": [1, 2, 3]})


def test_pandas_keeps_its_index_and_loses_its_own_words_for_nothing() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int64"),
            "when": pd.to_datetime(["2020-01-01", None]),
            "array": [np.array([1.0]), np.array([2])],
        },
        index=[7, 7],
    )
    assert add_columns(frame, {"more": [1, 2]}).index.tolist() == [7, 7]
    columns = frame_columns(frame)
    assert columns["n"] == [1, None]
    assert columns["when"][1] is None
    assert columns["array"] == [[1.0], [2]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.LazyFrame({"a": [1]}), r"the frame is lazy, .*frame\.collect\(\)"),
        (pd.DataFrame({"a": []}), "the frame has no rows; give at least one"),
        (pd.DataFrame([[1, 2]]), "column 0 of the frame has no text as its name"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "column 'a' of the frame stands twice"),
        (pa.table([[1], [2]], names=["a", "a"]), "column 'a' of the frame stands twice"),
    ],
    ids=["lazy", "empty", "numbers", "twice", "twice in Arrow"],
)
def test_a_frame_that_cannot_be_read_as_rows_is_refused(frame: Any, message: str) -> None:
    assert is_frame(frame)
    with pytest.raises(InputError, match=message):
        frame_rows(frame)


def test_a_backend_that_is_not_known_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown backend 'panda': did you mean 'pandas'"):
        new_frame(COLUMNS, "panda")  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="polars is not installed; pip install polars"):
        new_frame(COLUMNS, "polars")


def test_what_is_no_frame_is_not_taken_for_one() -> None:
    assert not any(map(is_frame, ("a.csv", [{"a": 1}], {"a": [1]}, np.zeros((2, 2)), iter([]), None)))
