"""The block `search` of a study file: a space from which each run is chosen by what the earlier ones gave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from rango.config import Config, Seed
from rango.errors import unknown_name


class Range(Config):
    """Numbers between two ends, both included. Two whole ends make whole numbers."""

    low: int | float
    """The smallest value."""
    high: int | float
    """The largest value."""
    log: bool = False
    """Whether equal ratios, instead of equal differences, are equally likely at first."""

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> int | float:
        """A value as a person would write it: whole, or with four digits, and still within the range."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.4g}"), float(self.low)), float(self.high))


def _kind(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "choice"


Axis = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Tag("choice")],
    Discriminator(_kind),
]


class Search(Config):
    """How the configurations of a study are chosen, one after the other."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Configurations to try, each once; fewer where the space holds no more."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe (ten random ones, then where good ones are dense and bad ones are rare) or random."""
    seed: Seed = 0
    """Seed of the choices."""
    prune: bool = True
    """End a run whose best validation so far is worse than the median of the earlier ones' at the same step, once five
    have come to their end."""
    space: Mapping[str, Axis] = {}
    """Dotted key -> `{low, high, log}`, or a list to choose from."""

    def corners(self) -> Iterator[dict[str, Any]]:
        """Every end and every choice of each axis once, the other axes at their first."""
        ends = {name: (axis.low, axis.high) if isinstance(axis, Range) else axis for name, axis in self.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        for name, values in ends.items():
            for value in values:
                yield {**first, name: value}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every configuration of the space, the last axis fastest; none where an axis has no countable values."""
        axes = {
            name: range(int(axis.low), int(axis.high) + 1) if isinstance(axis, Range) else axis
            for name, axis in self.space.items()
            if not isinstance(axis, Range) or axis.whole
        }
        if len(axes) < len(self.space):
            return
        # By number: itertools.product would hold all values of a wide range at once.
        for number in range(math.prod(map(len, axes.values()))):
            found, rest = {}, number
            for name, values in reversed(axes.items()):
                rest, place = divmod(rest, len(values))
                found[name] = values[place]
            yield {name: found[name] for name in axes}

    def problems(self, known: Sequence[str]) -> Iterator[str]:
        """What is wrong with the space, before any value is tried."""
        if not self.space:
            yield "search: space is empty; give at least one axis"
        for name, axis in self.space.items():
            if name == "seed":
                yield "search: seed is set by `seeds`; take it out of the space"
            elif name not in known:
                yield str(unknown_name("key in search.space", name, known))
            if not isinstance(axis, Range):
                if not axis:
                    yield f"search: {name} has no values; give at least one, or take the axis out"
            elif axis.low > axis.high:
                yield f"search: {name} has low {axis.low} above high {axis.high}; exchange them"
            elif axis.log and axis.low <= 0:
                yield f"search: {name} is on a logarithmic scale from {axis.low}; give a low above 0, or take log out"
