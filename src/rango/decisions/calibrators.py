"""Calibrators: fitted transformations of posteriors, one frozen class each, that can be written, read and applied.

Five are linear, q = softmax(W s + β + ln π), where s are the log-posteriors and ln π stands only in calibrators fitted
with target priors. Two are for two classes and map P(class 1) by a step function.

    method        W                  β      |  method       P(class 1) is
    temperature   one number         0      |  isotonic     a rising step function of the log-odds
    bias          1                  free   |  histogram    constant within each bin
    affine        one number         free
    vector        one for each class free
    matrix        a full matrix      free

A choice of posterior 0 (or one that an instance does not have) keeps posterior 0 under the linear ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from rango.decisions.arrays import LARGEST_SIZE, Array, log_softmax
from rango.decisions.posteriors import Posteriors
from rango.decisions.reliability import bin_index
from rango.errors import InputError, unknown_name
from rango.files import read_json, write_json
from rango.showing import Grid, Shown, count, short

Method: TypeAlias = Literal["temperature", "bias", "affine", "vector", "matrix", "isotonic", "histogram"]
MethodChoice: TypeAlias = Literal["auto"] | Method


@dataclass(frozen=True)
class FitReport:
    """How a fit went."""

    n: int
    """Instances fitted on."""
    converged: bool
    """Whether the fit reached its optimum: its loss to 1e-12 (Newton) or, of a matrix of more than 24 classes, to about
    1e-4; its gradient to 1e-5 (L-BFGS)."""
    iterations: int
    gradient: float
    """Largest absolute gradient entry where last evaluated (a Newton step follows)."""
    loss_before: float
    """The objective's score of the raw posteriors on the fitting set."""
    loss_after: float
    """The objective's score of the calibrated posteriors on the fitting set."""
    note: str | None = None
    """What a reader of the numbers must know, such as classes without instances."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Calibrator(Shown, ABC):
    """A fitted calibrator. `apply` gives calibrated posteriors; `write` and `read` are its file."""

    method: ClassVar[Method]
    report: FitReport | None = None
    """How the fit went; None for a calibrator made by hand."""
    choices: tuple[str, ...] | None = None
    """The class of each column that it was fitted on; None where the instances had no classes in common."""

    @abstractmethod
    def transform(self, log_posteriors: Array) -> Array:
        """Calibrated log-posteriors (N, K), nats, of raw ones.

        Raises:
            InputError: another number of choices than fitted on.
        """

    def apply(self, posteriors: Posteriors) -> Posteriors:
        """The same instances with calibrated posteriors; columns are matched by the names of their classes.

        By place where one side has no names.

        Raises:
            InputError: as `transform`; classes that the calibrator was not fitted on.
        """
        names = posteriors.column_names
        if self.choices is None or names is None or names == self.choices:
            return posteriors.replaced(self.transform(posteriors.log_posteriors))
        for name in names:
            if name not in self.choices:
                raise unknown_name("choice for this calibrator", name, self.choices)
        # Into the order that it was fitted in and back; a class that is not there has posterior 0.
        columns = [self.choices.index(name) for name in names]
        raw = np.full((len(posteriors), len(self.choices)), -np.inf)
        raw[:, columns] = posteriors.log_posteriors
        return posteriors.replaced(self.transform(raw)[:, columns])

    def as_dict(self) -> dict[str, Any]:
        """The calibrator as JSON values, its method among them."""
        values = asdict(self)
        # Without names there is nothing to write: the file is then that of earlier versions.
        if values["choices"] is None:
            del values["choices"]
        return {"method": self.method, **values, "report": values.pop("report")}

    def _facts(self) -> Iterator[str]:
        # One number is shown; of bias, scales, weights and steps only how many there are.
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                yield f"{field.name} {short(value)}"
            elif isinstance(value, tuple):
                yield count(len(value), "choice") if field.name == "choices" else f"{field.name} of {len(value)}"
        if self.report is not None:
            fitted = count(self.report.n, "instance")
            yield f"fitted on {fitted}" if self.report.converged else f"DID NOT CONVERGE on {fitted}"

    def _grid(self) -> Grid | None:
        if self.report is None:
            return None
        losses = (self.report.loss_before, self.report.loss_after)
        return Grid(["loss where fitted, nats", "before", "after"], [[self.method, *map(short, losses)]])

    def write(self, path: Path | str) -> None:
        """Write the calibrator as JSON, atomically."""
        write_json(Path(path), self.as_dict(), sealed=True)

    @staticmethod
    def read(path: Path | str) -> Calibrator:
        """Read a calibrator that `write` wrote.

        Raises:
            InputError: no JSON, or not a calibrator: unknown method, a key missing or unknown, or not numbers.
        """
        values = read_json(Path(path))
        if not isinstance(values, Mapping) or "method" not in values:
            raise InputError(f"{path}: no key method; expected a calibrator written by rango")
        method = values["method"]
        if not isinstance(method, str) or method not in CALIBRATORS:
            raise unknown_name(f"method in {path}", str(method), CALIBRATORS)
        kind = CALIBRATORS[method]
        # Choices stand only where the columns are classes.
        expected = {field.name for field in fields(kind)} - {"choices"}
        if odd := sorted(expected ^ (values.keys() - {"method", "choices"})):
            state = "missing" if odd[0] in expected else "unknown"
            raise InputError(f"{path}: {odd[0]} is {state}; expected the keys method, {', '.join(sorted(expected))}")
        try:
            parameters = _parameters({key: values[key] for key in expected - {"report"}})
            report = None if values["report"] is None else _report(values["report"])
            calibrator: Calibrator = kind(
                report=report, choices=_choices(values.get("choices"), parameters), **parameters
            )
            return calibrator
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{path}: values of a {method} calibrator are not numbers that fit each other; fit it again"
            ) from None


@dataclass(frozen=True, kw_only=True, repr=False)
class Temperature(Calibrator):
    """q = softmax(α s): one scale (its inverse is the temperature). It never changes the most probable choice.

    Source: Guo et al. (arXiv:1706.04599), eq. 9.

    >>> round(float(np.exp(Temperature(scale=2.0).transform(np.log([[0.75, 0.25]])))[0, 0]), 3)
    0.9
    """

    method: ClassVar[Method] = "temperature"
    scale: float

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102 - as the base class
        return _linear(log_posteriors, self.scale)


@dataclass(frozen=True, kw_only=True, repr=False)
class Bias(Calibrator):
    """q = softmax(s + β + ln π): one shift for each class."""

    method: ClassVar[Method] = "bias"
    bias: tuple[float, ...]
    priors: tuple[float, ...] | None = None

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        return _linear(log_posteriors, 1.0, self.bias, self.priors)


@dataclass(frozen=True, kw_only=True, repr=False)
class Affine(Calibrator):
    """q = softmax(α s + β + ln π): one scale, one shift for each class ("direction-preserving").

    Source: arXiv:2408.02841; reference thesis, section 3.3.
    """

    method: ClassVar[Method] = "affine"
    scale: float
    bias: tuple[float, ...]
    priors: tuple[float, ...] | None = None

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        return _linear(log_posteriors, self.scale, self.bias, self.priors)


@dataclass(frozen=True, kw_only=True, repr=False)
class Vector(Calibrator):
    """q = softmax(a ∘ s + β + ln π): a scale and a shift for each class (arXiv:1706.04599)."""

    method: ClassVar[Method] = "vector"
    scales: tuple[float, ...]
    bias: tuple[float, ...]
    priors: tuple[float, ...] | None = None

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        return _linear(log_posteriors, self.scales, self.bias, self.priors)


@dataclass(frozen=True, kw_only=True, repr=False)
class Matrix(Calibrator):
    """q = softmax(W s + β + ln π): a full matrix, W[k, j] the weight of choice j in the logit of choice k.

    Source: arXiv:1706.04599; Kull et al. (arXiv:1910.12656) for the penalty on what is off the diagonal.
    """

    method: ClassVar[Method] = "matrix"
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    priors: tuple[float, ...] | None = None

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        return _linear(log_posteriors, self.weights, self.bias, self.priors)


@dataclass(frozen=True, kw_only=True, repr=False)
class Isotonic(Calibrator):
    """Two classes: P(class 1) is a rising step function of the log-odds s₁ − s₀.

    Steps may be exactly 0 or 1, and then an instance of the other class costs infinity.

    Source: Zadrozny and Elkan (2002), by pool-adjacent-violators.
    """

    method: ClassVar[Method] = "isotonic"
    starts: tuple[float, ...]
    """Log-odds at which each step but the first begins."""
    values: tuple[float, ...]
    """P(class 1) on each step."""

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        _check_width(log_posteriors, 2)
        log_odds = log_posteriors[:, 1] - log_posteriors[:, 0]  # (N,)
        step = np.searchsorted(np.array(self.starts), log_odds, side="right")
        return _two_columns(np.array(self.values)[step])


@dataclass(frozen=True, kw_only=True, repr=False)
class Histogram(Calibrator):
    """Two classes: P(class 1) is constant within each bin of the raw P(class 1). Source: Zadrozny and Elkan (2001)."""

    method: ClassVar[Method] = "histogram"
    edges: tuple[float, ...]
    """From 0 to 1; bin b is (edges[b], edges[b + 1]], the first closed at 0."""
    values: tuple[float, ...]
    """P(class 1) in each bin."""

    def transform(self, log_posteriors: Array) -> Array:  # noqa: D102
        _check_width(log_posteriors, 2)
        index = bin_index(np.exp(log_posteriors[:, 1]), np.array(self.edges))  # (N,)
        return _two_columns(np.array(self.values)[index])


CALIBRATORS: dict[str, type[Any]] = {
    kind.method: kind for kind in (Temperature, Bias, Affine, Vector, Matrix, Isotonic, Histogram)
}
"""The calibrators by the name of their method."""


def check_no_zeros(log_posteriors: Array) -> None:
    """Raise InputError if a posterior is 0: a matrix would mix its infinite logarithm into every choice."""
    zero = np.isneginf(log_posteriors).any(axis=1)
    if zero.any():
        raise InputError(
            f"log_posteriors[{int(zero.argmax())}] has a choice of posterior 0; a matrix calibrator needs every choice "
            "to be possible (use temperature, bias, affine or vector)"
        )


def _linear(
    log_posteriors: Array, weights: Any, bias: tuple[float, ...] | None = None, priors: tuple[float, ...] | None = None
) -> Array:
    """ln softmax(W s + β + ln π), (N, K); `weights` is a number, a diagonal (K,) or a matrix (K, K)."""
    if bias is not None:
        _check_width(log_posteriors, len(bias))
    if is_matrix := np.ndim(weights) == 2:
        check_no_zeros(log_posteriors)
    impossible = np.isneginf(log_posteriors)
    # A scale of 0 times minus infinity would be NaN, so impossible choices are put back last.
    scores = np.where(impossible, 0.0, log_posteriors)
    logits = scores @ np.array(weights).T if is_matrix else scores * np.array(weights)  # (N, K)
    if bias is not None:
        logits += np.array(bias)
    if priors is not None:
        with np.errstate(divide="ignore"):
            logits += np.log(np.array(priors))
    logits[impossible] = -np.inf
    if (none := np.isneginf(logits).all(axis=1)).any():
        raise InputError(
            f"log_posteriors[{int(none.argmax())}] has posterior 0 wherever the calibrator's priors are not 0; fit it "
            "on instances of every class"
        )
    return log_softmax(logits)


def _two_columns(p: Array) -> Array:
    """Log-posteriors (N, 2) of P(class 1), shape (N,)."""
    with np.errstate(divide="ignore"):
        return np.stack([np.log1p(-p), np.log(p)], axis=1)


def _check_width(log_posteriors: Array, n_choices: int) -> None:
    if log_posteriors.shape[1] != n_choices:
        raise InputError(
            f"{log_posteriors.shape[1]} choices for a calibrator of {n_choices}; fit it on the same choices"
        )


# The dimensions of each parameter in a file. Those of the first line have one entry, or row and column, a choice.
_OF_CHOICES = {"bias": 1, "priors": 1, "scales": 1, "weights": 2}
_DIMENSIONS = {**_OF_CHOICES, "scale": 0, "starts": 1, "values": 1, "edges": 1}


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in JSON values. Raises ValueError or TypeError where they are not numbers that fit each other."""
    absent = {"priors": None} if "priors" in given and given["priors"] is None else {}
    arrays = {key: np.asarray(given[key], dtype=np.float64) for key in given.keys() - absent.keys()}
    wrong = [key for key, array in arrays.items() if array.ndim != _DIMENSIONS[key] or not _is_sound(key, array)]
    choices = {size for key in arrays.keys() & _OF_CHOICES for size in arrays[key].shape}
    # Between n values lie n - 1 starts of steps; n bins have n + 1 edges.
    steps = arrays["values"].size if "values" in arrays else 0
    uneven = any(arrays[key].size != steps + off for key, off in (("starts", -1), ("edges", 1)) if key in arrays)
    if wrong or len(choices) > 1 or uneven:
        raise ValueError("shapes")
    return {key: _tuples(array.tolist()) for key, array in arrays.items()} | absent


def _is_sound(key: str, array: Array) -> bool:
    """Whether the numbers of a parameter can be calculated with, and give posteriors."""
    # Only log-odds may be infinite. Comparisons are written so that NaN fails them.
    if key in ("starts", "edges"):  # searched as sorted
        return bool((np.abs(array) <= np.inf).all() and (array[1:] >= array[:-1]).all())
    if key in ("values", "priors"):
        return bool(((array >= 0) & (array <= 1)).all()) and (key == "values" or array.sum() > 0)
    return bool((np.abs(array) <= LARGEST_SIZE).all())


def _choices(given: Any, parameters: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The choices in JSON values. Raises ValueError where they are not different names, one for each parameter."""
    if given is None:
        return None
    sizes = {len(parameters[key]) for key in _OF_CHOICES if parameters.get(key) is not None} or {len(given)}
    if not all(isinstance(name, str) for name in given) or {len(given), len(set(given))} != sizes:
        raise ValueError("choices")
    return tuple(given)


def _tuples(value: Any) -> Any:
    # JSON knows lists only; the classes hold tuples, so that equal calibrators are equal.
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _report(values: Mapping[str, Any]) -> FitReport:
    """The report in JSON values. Raises TypeError where they are not of its types."""
    report = FitReport(**values)
    numbers = (report.n, report.iterations, report.gradient, report.loss_before, report.loss_after)
    # By type, because True and False are integers too.
    if not all(type(value) in (int, float) for value in numbers):
        raise TypeError("report")
    if not isinstance(report.converged, bool) or not isinstance(report.note, str | None):
        raise TypeError("report")
    return report
