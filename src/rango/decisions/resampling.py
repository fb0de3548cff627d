"""Drawing instances again: how often each is drawn in each bootstrap replicate, a few replicates at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array
from rango.errors import InputError

Resample: TypeAlias = Literal["instances", "groups", "groups_then_instances"]

# Entries of a block of counts: 8 MB, whatever the number of replicates.
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Resampling:
    """Bootstrap resampling of N instances. Replicate b has a random stream of its own, made from (seed, b).

    `groups` holds whole groups together: G groups are drawn with replacement, each with all its instances. With
    `within`, each drawn group's instances are drawn with replacement in turn.
    """

    n: int
    seed: int = 0
    groups: Sequence[str] | None = None
    within: bool = False

    def __post_init__(self) -> None:
        """Sort the instances by group, once."""
        if self.groups is not None:
            _, index, sizes = np.unique(np.asarray(self.groups), return_inverse=True, return_counts=True)
            object.__setattr__(self, "_index", index)
            object.__setattr__(self, "_sizes", sizes)
            object.__setattr__(self, "_starts", np.concatenate([[0], np.cumsum(sizes)[:-1]]))
            object.__setattr__(self, "_members", np.argsort(index, kind="stable"))

    _index: NDArray[np.intp] | None = None
    _sizes: NDArray[np.intp] | None = None
    _starts: NDArray[np.intp] | None = None
    _members: NDArray[np.intp] | None = None

    def indices(self, replicate: int) -> NDArray[np.intp]:
        """The instances of one replicate, with repetitions."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(replicate,))))
        if self._sizes is None or self._starts is None or self._members is None:
            kind = np.int32 if self.n < 2**31 else np.int64
            return rng.integers(0, self.n, size=self.n, dtype=kind).astype(np.intp, copy=False)
        drawn = rng.integers(0, len(self._sizes), size=len(self._sizes))
        sizes = self._sizes[drawn]
        starts = np.repeat(self._starts[drawn], sizes)
        if self.within:
            offsets = (rng.random(int(sizes.sum())) * np.repeat(sizes, sizes)).astype(np.intp)
        else:
            offsets = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.asarray(self._members[starts + offsets], dtype=np.intp)

    def counts(self, replicates: int) -> Iterator[Array]:
        """How often each instance occurs: blocks (R, N) of a few replicates, together `replicates` rows."""
        step = max(1, min(replicates, _BLOCK // self.n))
        for start in range(0, replicates, step):
            stop = min(start + step, replicates)
            block = np.empty((stop - start, self.n))
            for row in range(stop - start):
                block[row] = np.bincount(self.indices(start + row), minlength=self.n)
            yield block

    def unit_of(self) -> NDArray[np.intp]:
        """The index of the unit that is drawn (the instance, or its group) for every instance."""
        return np.arange(self.n) if self._index is None else self._index


def resampling_of(n: int, *, groups: Sequence[str] | None, resample: Resample | None, seed: int) -> Resampling:
    """The resampling for instances that may have groups: whole groups where there are any, unless asked otherwise.

    Raises:
        InputError: groups asked for where there are none; an unknown kind.
    """
    kind = resample or ("instances" if groups is None else "groups")
    if kind == "instances":
        return Resampling(n, seed=seed)
    if kind not in ("groups", "groups_then_instances"):
        raise InputError(f"resample is {kind!r}; expected 'instances', 'groups' or 'groups_then_instances'")
    if groups is None:
        raise InputError(f"resample is {kind!r} but the posteriors have no groups; give groups or resample instances")
    return Resampling(n, seed=seed, groups=groups, within=kind == "groups_then_instances")
