"""Data frames of pandas, Polars and Arrow, in and out by narwhals: none of them is needed, and each stays what it is.

frame ── frame_rows, frame_columns ──> plain Python values, which are checked as those of a file are
columns ── new_frame ──> a frame of the kind that is named
frame and columns ── add_columns ──> the same kind of frame, with its index
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from rango.errors import InputError, first_line, unknown_name

if TYPE_CHECKING:
    import narwhals as nw
    from narwhals.typing import IntoDataFrame

Backend: TypeAlias = Literal["pandas", "polars", "pyarrow"]
"""The kinds of frame that are made."""


def is_frame(value: object) -> bool:
    """Whether a value is a data frame of any library that narwhals knows; it loads none of them."""
    # Paths and lists, which are no frames, are asked about most often, and narwhals takes a while to load.
    if isinstance(value, str | bytes | PurePath | Mapping | Sequence):
        return False
    import narwhals as nw

    return bool(nw.dependencies.is_into_dataframe(value)) or _is_lazy(value)


def _is_lazy(value: object) -> bool:
    return type(value).__name__ == "LazyFrame"


def _narwhals(frame: Any) -> nw.DataFrame[Any]:
    """The frame as narwhals has it.

    Raises:
        InputError: a frame without its values (lazy), without rows, with a name that is no text or stands twice.
    """
    import narwhals as nw

    if _is_lazy(frame):
        raise InputError("the frame is lazy, so that it has no values yet; give frame.collect()")
    names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"column {name!r} of the frame has no text as its name; name each column with a text")
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} of the frame stands twice; give each column a name of its own")
    eager: nw.DataFrame[Any] = nw.from_native(frame, eager_only=True)
    if not len(eager):
        raise InputError("the frame has no rows; give at least one")
    return eager


def frame_columns(frame: IntoDataFrame) -> dict[str, list[Any]]:
    """The columns of a frame as plain Python values: None for everything that is missing, lists for arrays in cells.

    Raises:
        InputError: a frame that is lazy or empty, or whose columns have no names of their own.
    """
    eager = _narwhals(frame)
    columns = {}
    for name in eager.columns:
        try:
            columns[name] = [_plain(value) for value in eager[name].to_list()]
        # Each library has its own errors for a value that Python has not, such as a date before the year 1.
        except Exception as error:
            raise InputError(f"column {name} of the frame cannot be read ({first_line(error)})") from None
    return columns


def frame_rows(frame: IntoDataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, as those of a file are read; values and errors as in `frame_columns`."""
    columns = frame_columns(frame)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    # NumPy's numbers and arrays become Python's; pandas has words of its own for what is missing.
    value = value.tolist() if hasattr(value, "tolist") else value
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def new_frame(columns: Mapping[str, Sequence[Any]], backend: Backend) -> Any:
    """A frame of named columns.

    Raises:
        InputError: an unknown backend, or one that is not installed.
    """
    if backend not in get_args(Backend):
        raise unknown_name("backend", str(backend), get_args(Backend))
    if importlib.util.find_spec(backend) is None:
        raise InputError(f"{backend} is not installed; pip install {backend}, or give another backend")
    import narwhals as nw

    return nw.from_dict({name: list(values) for name, values in columns.items()}, backend=backend).to_native()


def add_columns(frame: Any, columns: Mapping[str, Sequence[Any]]) -> Any:
    """The frame with more columns behind its own; one of pandas keeps its index.

    Raises:
        InputError: as `frame_columns`; a column that the frame has already.
    """
    import narwhals as nw

    eager = _narwhals(frame)
    for name in columns:
        if name in eager.columns:
            raise InputError(f"the frame has a column {name} already; rename it, or leave it out")
    series = [nw.new_series(name, list(values), backend=eager.implementation) for name, values in columns.items()]
    return eager.with_columns(*series).to_native()
