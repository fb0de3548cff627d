"""Several processes of one run, as `torchrun` starts them: each reads its part of a batch, and gradients are summed.

batch of 5 trees     0 1 2 3 4
process 0 of 2       0   2   4      its loss and gradients
process 1 of 2         1   3        its loss and gradients     all_reduce: both then take the same optimizer step
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from rango.console import Bar
from rango.models.loading import choose_device
from rango.options import Form, ScoringOptions
from rango.scoring.forward import Reader
from rango.scoring.scorer import Scores, score
from rango.scoring.trees import TokenTree

T = TypeVar("T")


@contextmanager
def launched(device: str, *, alone: bool = False) -> Iterator[tuple[ProcessGroup, str]]:
    """Join the processes that `torchrun` started, if it did; gives the group and the device of this process.

    With `auto` or `cuda` each process takes the GPU of its local rank (NCCL); on CPUs they talk through gloo. A process
    that fails inside the block ends at once, without waiting for the others, and torchrun then ends those.

    Args:
        device: as the user wrote it.
        alone: a process without others opens a group of its own, which offloading asks torch for.

    Raises:
        InputError: there is no such device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        if alone:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(_backend(choose_device(device)), store=store, rank=0, world_size=1)
        yield ALONE, device
        if alone:
            dist.destroy_process_group()
        return
    chosen = choose_device(device)
    if str(chosen) == "cuda":
        chosen = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(chosen)
    dist.init_process_group(_backend(chosen))
    yield ProcessGroup.current(), str(chosen)
    # Not in a `finally`: after a fault the other processes would be waited for here.
    dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    # Shares that wait in main memory are gathered there, for what needs a whole matrix (PiSSA).
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


@dataclass(frozen=True)
class ProcessGroup:
    """Which of how many processes this one is; with one process every method does what its plain counterpart does.

    Only the main process writes files. All take the same steps in the same order, so a decision that depends on files
    or on the clock is made by the main process and sent to the others by `broadcast`.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> ProcessGroup:
        """The process group that torch has open; a group of one if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every `size`-th item, so that parts of a batch sorted by length are alike."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, in one message; one that is absent counts as zeros."""
        if self.size == 1:
            return
        trained = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([grad.reshape(-1) for grad in grads])  # (trainable parameters,)
        dist.all_reduce(flat)
        for parameter, total in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
            parameter.grad = total.reshape(parameter.shape).clone()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.gather(flag))

    def broadcast(self, value: T) -> T:
        """The main process's value."""
        return self.gather(value)[0]

    def barrier(self) -> None:
        """Wait until every process has come here: what the main one has written is then there for all."""
        self.gather(None)

    def score(
        self, reader: Reader, trees: Sequence[TokenTree], *, options: ScoringOptions, form: Form, bar: Bar | None = None
    ) -> Scores:
        """`rango.scoring.scorer.score`, to which each process contributes its part; all get the scores of all trees."""
        if self.size == 1:
            return score(reader, trees, options=options, form=form, bar=bar)
        part = (self.rank, self.size)
        parts = self.gather(score(reader, trees, options=options, form=form, part=part, bar=bar))
        # Put the rows of each process back to where they were taken from.
        values = np.empty((len(trees), parts[0].values.shape[1]))  # (N, K)
        mass = np.empty(len(trees)) if form == "letter" else None  # (N,)
        for rank, scores in enumerate(parts):
            values[rank :: self.size] = scores.values
            if mass is not None:
                mass[rank :: self.size] = scores.letter_mass
        return Scores(
            values=values,
            letter_mass=mass,
            tokens=sum(scores.tokens for scores in parts),
            seconds=max(scores.seconds for scores in parts),
        )

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = ProcessGroup()
"""One process without others."""
