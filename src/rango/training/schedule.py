"""Which instances make which batch, and how large each step is.

Both are functions of the seed and the step alone, so a resumed run needs no saved state to go on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rango.options import Decay

_CHUNK_BATCHES = 32
"""Batches that are sorted together by length: enough to save most padding, few enough that batches stay random."""


class BatchPlan:
    """The batches of a training run: length-sorted within shuffled chunks, the batches then shuffled.

    shuffle instances → cut into chunks of 32 batches → sort each chunk by length → cut into batches → shuffle those
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.int64], *, batch: int, batch_tokens: int | None, seed: int
    ) -> None:
        """Plan batches.

        Args:
            lengths: tokens of each training instance.
            batch: instances per optimizer step.
            batch_tokens: if given, batches are cut by this many tokens (padding included) instead.
            seed: of the order.
        """
        self._lengths = np.asarray(lengths)
        self._batch = batch
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._latest: tuple[int, NDArray[np.intp], NDArray[np.intp]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch; with a token budget the others may differ by a few."""
        return self._steps(0) if self._batch_tokens else -(-len(self._lengths) // self._batch)

    def step(self, step: int) -> list[int]:
        """The numbers of the instances of optimizer step `step` (0-based)."""
        epoch = 0
        # Without a token budget every epoch has as many batches, so that no epoch before needs to be planned.
        if self._batch_tokens is None:
            epoch, step = divmod(step, self.steps_per_epoch)
        while step >= (steps := self._steps(epoch)):
            step -= steps
            epoch += 1
        return self._numbers(epoch, step)

    def epoch(self, epoch: int) -> list[list[int]]:
        """All batches of one epoch; each instance occurs once."""
        return [self._numbers(epoch, step) for step in range(self._steps(epoch))]

    def _steps(self, epoch: int) -> int:
        return len(self._planned(epoch)[1])

    def _numbers(self, epoch: int, step: int) -> list[int]:
        order, cuts = self._planned(epoch)
        first, end = cuts[step]
        return [int(number) for number in order[first:end]]

    def _planned(self, epoch: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The instances of an epoch, (N,), and where in them each batch begins and ends, (steps, 2)."""
        # Steps are asked for in order: to remember one epoch is enough.
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, *self._plan(epoch)
        return self._latest[1:]

    def _plan(self, epoch: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        size = self._batch * _CHUNK_BATCHES
        begins: list[int] = []
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            lengths = self._lengths[chunk]
            by_length = np.argsort(lengths, kind="stable")
            chunk[:] = chunk[by_length]
            if self._batch_tokens is None:
                begins += range(start, start + len(chunk), self._batch)
                continue
            begins.append(start)
            for place, length in enumerate(lengths[by_length].tolist(), start):
                # Lengths ascend: the new instance is the longest, and the whole batch is padded to its length.
                if place > begins[-1] and (place - begins[-1] + 1) * length > self._batch_tokens:
                    begins.append(place)
        cuts = np.column_stack([begins, [*begins[1:], len(order)]])  # (steps, 2)
        return order, cuts[generator.permutation(len(cuts))]


def learning_rate_factor(step: int, total: int, *, warmup: float, decay: Decay) -> float:
    """The share of the peak learning rate at optimizer step `step` (0-based) of `total`.

    Linear warm-up over the first `warmup` share of the steps, then constant, or half a cosine down to zero.

    >>> [round(learning_rate_factor(step, 10, warmup=0.2, decay="cosine"), 3) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(warmup * total)
    # The first step has a rate above 0 already: a step of size 0 would be wasted.
    if step < rising:
        return (step + 1) / rising
    if decay == "constant":
        return 1.0
    return cosine_factor(step - rising, max(1, total - rising))


def cosine_factor(done: float, total: float, *, floor: float = 0.0) -> float:
    """Half a cosine from 1, where `done` is 0, down to `floor`, where it is `total`; pre-training decays by it too.

    >>> [round(cosine_factor(done, 4, floor=0.1), 3) for done in (0, 2, 4)]
    [1.0, 0.55, 0.1]
    """
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done / total))
