"""Drawing instances again: how often each is drawn in each bootstrap replicate, a few replicates at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array, Labels
from rango.errors import InputError

Resample: TypeAlias = Literal["instances", "groups", "groups_then_instances"]

# Entries of a block of counts: 4 MB, whatever the number of replicates.
_BLOCK = 1 << 19


def class_order(labels: Labels) -> NDArray[np.intp]:
    """The instances sorted by class, each class in its own order."""
    return np.argsort(labels, kind="stable")


class Resampling:
    """Bootstrap resampling of N instances. Replicate b has a random stream of its own, made from (seed, b).

    With groups, G groups are drawn with replacement, each with all its instances; with `within`, each drawn group's
    instances are drawn with replacement in turn.

    Positions are drawn in class order, so that the sums over a class are sums over a slice. Two systems on the same
    instances share labels, hence the order, hence the instances of every replicate.
    """

    def __init__(
        self, labels: Labels, *, seed: int = 0, groups: Sequence[str] | None = None, within: bool = False
    ) -> None:
        """Sort the instances by class, and where there are groups, by group, once."""
        self.n, self.seed, self.within = len(labels), seed, within
        self.order = class_order(labels)
        self.unit_of: NDArray[np.intp] = np.arange(self.n)
        """The unit that is drawn (an instance or a group), for each instance in class order."""
        self._members: NDArray[np.intp] | None = None
        if groups is not None:
            _, index, self._sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
            self._starts = np.cumsum(self._sizes) - self._sizes
            self.unit_of = index[self.order]
            self._members = np.argsort(self.unit_of, kind="stable")

    def indices(self, replicate: int) -> NDArray[np.intp]:
        """The instances of one replicate, with repetitions."""
        return np.asarray(self.order[self._positions(replicate)], dtype=np.intp)

    def counts(self, replicates: int) -> Iterator[Array]:
        """How often each instance occurs: blocks (R, N) in class order, together `replicates` rows.

        The memory of a block is used again for the next one.
        """
        step = max(1, min(replicates, _BLOCK // self.n))
        buffer = np.empty((step, self.n))
        for start in range(0, replicates, step):
            rows = min(step, replicates - start)
            for row in range(rows):
                buffer[row] = np.bincount(self._positions(start + row), minlength=self.n)
            yield buffer[:rows]

    def _positions(self, replicate: int) -> NDArray[np.intp]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(replicate,))))
        if self._members is None:
            return rng.integers(0, self.n, size=self.n)
        drawn = rng.integers(0, len(self._sizes), size=len(self._sizes))
        sizes = self._sizes[drawn]
        if self.within:
            offsets = rng.integers(0, np.repeat(sizes, sizes))
        else:
            offsets = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.asarray(self._members[np.repeat(self._starts[drawn], sizes) + offsets], dtype=np.intp)


def resampling_of(
    labels: Labels, *, groups: Sequence[str] | None, resample: Resample | None, seed: int = 0
) -> Resampling:
    """The resampling for instances that may have groups: whole groups where there are any, unless asked otherwise.

    Raises:
        InputError: groups asked for where there are none; an unknown kind.
    """
    kind = resample or ("instances" if groups is None else "groups")
    if kind == "instances":
        return Resampling(labels, seed=seed)
    if kind not in ("groups", "groups_then_instances"):
        raise InputError(f"resample is {kind!r}; expected 'instances', 'groups' or 'groups_then_instances'")
    if groups is None:
        raise InputError(f"resample is {kind!r} but the posteriors have no groups; give groups or resample instances")
    return Resampling(labels, seed=seed, groups=groups, within=kind == "groups_then_instances")
