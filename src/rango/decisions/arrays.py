"""The arrays of this room: their types, the log-softmax, and the checks at the boundary.

Posteriors are (N, K) float64 logarithms, one row an instance, -inf where a choice is impossible; labels are (N,) int64.
A `check_` function returns the array in that form, or raises InputError with the row, its value and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rango.errors import InputError

Array: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]

# Rows whose sum is at most this far from one are rounded (float32, six digits in a text file): nobody needs to know.
SUM_TOLERANCE = 1e-4
# Rows further away are rounded more (float16, two or three digits), and are divided by their sum with a note. Beyond
# this they are taken for something else than posteriors.
ROUNDED_TOLERANCE = 0.01
# A finite log-posterior below this is taken for a mask, a posterior of 0: the lowest float32 is -3.4e38, and no text is
# so improbable. Above it squares and sums of logarithms stay finite.
LOWEST_LOG = -1e30
# A cost or a loss of a larger size is refused: sums of such numbers would overflow.
LARGEST_SIZE = 1e100
# Pieces of about 1 MB stay in a core's cache, and keep memory flat whatever the number of rows.
_PIECE = 1 << 17


def row_pieces(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices that cover `n_rows` rows in order, each of about a megabyte of float64."""
    step = max(1, _PIECE // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Matrix products of NumPy on one core: where several are under way at once, or each is small.

    The threads of BLAS meet after each product, and wait by spinning: on a busy machine a small product takes a hundred
    times as long with two of them.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def log_softmax(scores: Array) -> Array:
    """Log-posteriors of scores: s_k − ln Σ_j exp(s_j), over the last axis.

    The largest entry is −ln(1 + the rest), so a posterior of 1 − 1e-200 keeps its distance from one.

    Args:
        scores: (N, K), nats; -inf for a choice that an instance does not have. What is more than 1e30 below the largest
            score of its row has the log-posterior -inf.

    Returns:
        (N, K), nats; a new array.

    >>> log_softmax(np.array([[0.0, -1000.0]]))[0].tolist()
    [0.0, -1000.0]
    """
    result = np.empty(scores.shape, dtype=np.float64)
    for rows in row_pieces(*scores.shape):
        part = scores[rows]
        top = part.argmax(axis=1)[:, None]  # (n, 1)
        with np.errstate(over="ignore"):  # from 1e308 to -1e308 is too far for a float: minus infinity, as it should be
            shifted = part - np.take_along_axis(part, top, axis=1)  # (n, K), 0 at the largest
        shifted[shifted < LOWEST_LOG] = -np.inf
        # log1p of the others alone keeps what adding them to 1 would round away.
        others = np.exp(shifted)
        np.put_along_axis(others, top, 0.0, axis=1)
        result[rows] = shifted - np.log1p(others.sum(axis=1))[:, None]
    return result


def check_matrix(values: ArrayLike, *, name: str) -> Array:
    """A float64 (N, K) array without NaN or +inf.

    Raises:
        InputError: not numbers, not two-dimensional, no rows, fewer than two columns, NaN or +inf (names the row).
    """
    array = _numbers(values, name)
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}; expected (instances, choices)")
    if array.shape[0] == 0:
        raise InputError(f"{name} has no rows; expected at least one instance")
    if array.shape[1] < 2:
        raise InputError(f"{name} has {array.shape[1]} column; expected at least two choices")
    for rows in row_pieces(*array.shape):
        # One pass: NaN and +inf both fail this comparison, -inf does not.
        bad = ~(array[rows] < np.inf).all(axis=1)
        if bad.any():
            row = rows.start + int(bad.argmax())
            raise InputError(f"{name}[{row}] is {_row(array[row])}; expected numbers below infinity, none of them NaN")
    return array


def check_log_posteriors(values: ArrayLike, *, name: str = "log_posteriors", notes: list[str] | None = None) -> Array:
    """A float64 (N, K) array whose rows are logarithms of posteriors; renormalised where rounding shows.

    A finite logarithm below -1e30 becomes -inf, a posterior of 0. `notes` gets a sentence where a row is further than
    1e-4 from one.

    Raises:
        InputError: as `check_matrix`; a row whose posteriors do not sum to one (the worst row and its sum).
    """
    array = check_matrix(values, name=name)
    # The worst row says most about what went wrong, so all are read before one is named.
    worst, row, total, masked = 0.0, 0, 1.0, False
    for rows in row_pieces(*array.shape):
        with np.errstate(over="ignore"):
            sums = np.exp(array[rows]).sum(axis=1)
        masked = masked or bool(((array[rows] < LOWEST_LOG) & (array[rows] > -np.inf)).any())
        off = np.abs(sums - 1.0)
        if off.max() > worst:
            worst, row = float(off.max()), rows.start + int(off.argmax())
            total = float(sums[off.argmax()])
    if worst > ROUNDED_TOLERANCE:
        raise InputError(
            f"{name}[{row}] sums to {total:.6g} after exp; expected 1 (unnormalised scores: logits in a file, "
            "Posteriors.from_scores in Python)"
        )
    if worst > SUM_TOLERANCE and notes is not None:
        notes.append(
            f"the posteriors are rounded: each row was divided by its sum, which is {total:.6g} in row {row}, the worst"
        )
    # Exact rows stay the caller's own array, which may be large.
    if worst > 1e-9:
        return log_softmax(array)
    return np.where(array < LOWEST_LOG, -np.inf, array) if masked else array


def check_posteriors(values: ArrayLike, *, name: str = "posteriors", notes: list[str] | None = None) -> Array:
    """Logarithms (N, K) of a matrix of posteriors; a posterior of 0 becomes -inf. `notes` as in `check_log_posteriors`.

    Raises:
        InputError: as `check_matrix`; a negative posterior; a row that does not sum to one (the worst row and its sum).
    """
    array = check_matrix(values, name=name)
    if array.min() < 0:
        row = int((array < 0).any(axis=1).argmax())
        raise InputError(f"{name}[{row}] is {_row(array[row])}; expected numbers from 0 to 1")
    sums = array.sum(axis=1)
    row = int(np.abs(sums - 1.0).argmax())
    if abs(sums[row] - 1.0) > ROUNDED_TOLERANCE:
        raise InputError(
            f"{name}[{row}] sums to {sums[row]:.6g}; expected 1, give or take {ROUNDED_TOLERANCE} for rounding (divide "
            "each row by its sum, or give scores as logits)"
        )
    with np.errstate(divide="ignore"):
        return check_log_posteriors(np.log(array), name=name, notes=notes)


def check_labels(values: ArrayLike, *, n: int, n_choices: int) -> Labels:
    """Int64 labels (N,).

    Raises:
        InputError: not whole numbers, another length than `n`, or out of range (row, value, valid range).
    """
    raw = _numbers(values, "labels")
    if raw.shape != (n,):
        raise InputError(f"labels have shape {raw.shape}; expected ({n},), one label for each row of posteriors")
    # Written so that NaN is bad: it fails every comparison.
    bad = ~((raw >= 0) & (raw < n_choices) & (raw == np.floor(raw)))
    if bad.any():
        row = int(bad.argmax())
        # A K-th class and no class 0: whoever wrote the labels counted from 1.
        from_one = raw.min() >= 1 and raw.max() == n_choices and (raw == np.floor(raw)).all()
        fix = "; no label is 0 and the largest is the number of choices: subtract 1 from each" if from_one else ""
        raise InputError(
            f"labels[{row}] is {raw[row]:g} but there are {n_choices} choices (valid: 0..{n_choices - 1}){fix}"
        )
    given = np.asarray(values)
    return given if given.dtype == np.int64 else raw.astype(np.int64)


def check_priors(values: ArrayLike, *, n_classes: int, name: str = "priors") -> Array:
    """Class probabilities (K,), scaled to sum to one exactly.

    Raises:
        InputError: another length than `n_classes`, a negative or NaN entry, a sum other than one.
    """
    priors = _numbers(values, name)
    if priors.shape != (n_classes,):
        raise InputError(f"{name} have shape {priors.shape}; expected ({n_classes},), one for each class")
    if not (priors >= 0).all():
        raise InputError(f"{name} are {_row(priors)}; expected numbers from 0 to 1")
    total = float(priors.sum())
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise InputError(f"{name} sum to {total:.6g}; expected 1")
    return priors / total


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view of an array; the array itself stays writeable for whoever owns it."""
    view = array.view()
    view.flags.writeable = False
    return view


def _numbers(values: ArrayLike, name: str) -> Array:
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} is ragged; expected rows of one length (pad missing choices with -inf)") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {array.dtype} values; expected numbers")
    return array.astype(np.float64, copy=False)


def _row(values: Array) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{shown}{', …' if len(values) > 6 else ''}]"


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN or pandas' own word for nothing."""
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")
