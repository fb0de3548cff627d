"""An estimate with its interval, and the metrics that are estimated: their names and directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Direction: TypeAlias = Literal["lower", "higher", "none"]

DIRECTIONS: dict[str, Direction] = {
    "nce": "lower",
    "cross_entropy": "lower",
    "error_rate": "lower",
    "accuracy": "higher",
    "brier": "lower",
    "normalised_brier": "lower",
    "expected_cost": "lower",
    "normalised_expected_cost": "lower",
    "ece": "lower",
}
"""Each metric and which of its directions is better."""

METRICS: tuple[str, ...] = tuple(DIRECTIONS)
"""The names of the metrics, in the order of reports."""


@dataclass(frozen=True)
class Estimate:
    """A number measured on N instances, with an interval for the sampling of those instances.

    >>> Estimate(0.25, 0.2, 0.3, 100, "lower").as_dict()
    {'value': 0.25, 'low': 0.2, 'high': 0.3, 'n': 100, 'direction': 'lower'}
    """

    value: float
    """The metric on the full set; NaN where it is undefined, infinite where it is."""
    low: float | None
    """Lower end of the interval; None where it is unknown."""
    high: float | None
    """Upper end of the interval; None where it is unknown."""
    n: int
    """Number of instances."""
    direction: Direction
    """Which direction is better."""
    note: str | None = None
    """What must be known to read the value: why it is undefined, or which instances make it infinite."""

    def as_dict(self) -> dict[str, Any]:
        """The entry of a metrics file; an undefined value is None, a note appears only where there is one."""
        entry: dict[str, Any] = {
            "value": None if math.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "direction": self.direction,
        }
        return entry if self.note is None else {**entry, "note": self.note}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Estimate:
        """The estimate whose `as_dict` this is."""
        return cls(**{**entry, "value": math.nan if entry["value"] is None else entry["value"]})
