"""The training loop: the runs of a bank step together over one frozen base; an ordinary run is a bank of one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from rango.console import Bar, Screen, SignalGuard
from rango.errors import DivergenceError
from rango.models.adapter import Adapter
from rango.scoring.batches import join
from rango.scoring.forward import Reader
from rango.scoring.scorer import mask_seed
from rango.scoring.trees import TokenTree
from rango.training.checkpoint import load_state, save_state
from rango.training.distributed import ALONE, ProcessGroup
from rango.training.objectives import Part, count_terms
from rango.training.training_run import TrainingRun


def accumulate_gradients(
    reader: Reader,
    members: Sequence[TrainingRun],
    batches: Sequence[Sequence[TokenTree]],
    processes: ProcessGroup = ALONE,
) -> list[float]:
    """Add the gradients of each member's mean loss on its batch to its parameters; returns the losses.

    Micro-batch by micro-batch, as each member's configuration says; the result does not depend on their size. Of
    several processes each reads its part of every batch; the sums are those of the whole batch in all of them.
    """
    terms = [count_terms(trees, member.config.objective) for member, trees in zip(members, batches, strict=True)]
    totals = [torch.zeros((), device=reader.model.device) for _ in members]
    reader.model.network.train(False)
    for member in members:
        member.adapter.enable_dropout()
    chunks = [
        _chunks(processes.share(trees), member.config.micro_batch)
        for member, trees in zip(members, batches, strict=True)
    ]
    for together in zip_longest(*chunks):
        present = [number for number, trees in enumerate(together) if trees is not None]
        losses = _backward(
            reader,
            [members[number] for number in present],
            [members[number].part(together[number]) for number in present],
            [terms[number] for number in present],
        )
        for number, loss in zip(present, losses, strict=True):
            totals[number] += loss
    for member in members:
        processes.sum_gradients(member.adapter.parameters())
    return [total / count for total, count in zip(processes.sum(torch.stack(totals)).tolist(), terms, strict=True)]


def _backward(
    reader: Reader, members: Sequence[TrainingRun], parts: Sequence[Part], terms: Sequence[int]
) -> list[torch.Tensor]:
    """One pass over all members' rows; gradients of each member's loss / terms; returns the summed losses.

    The graph is cut at the states that the head reads. Each member's head and loss then go forward and backward on
    their own: the logits of one are gone before the next ones are made, and an adapted head has one adapter's rows.
    """
    with _sharing(members, parts):
        states = reader.states(join([part.batch for part in parts], pad=reader.pad()))
        leaf = states.detach().requires_grad_(states.requires_grad)
        losses = []
        pieces = torch.split(leaf, [len(part.batch.rows) for part in parts])
        for member, part, piece, count in zip(members, parts, pieces, terms, strict=True):
            with member.adapter.alone():
                loss = part.loss(piece)
                (loss / count).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if leaf.grad is not None:
            states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return losses


def _sharing(members: Sequence[TrainingRun], parts: Sequence[Part]) -> AbstractContextManager[None]:
    if len(members) == 1:
        return members[0].adapter.alone()
    adapters = [member.adapter for member in members if isinstance(member.adapter, Adapter)]
    return adapters[0].grouping.split(
        [adapter.number for adapter in adapters], [len(part.batch.tokens) for part in parts]
    )


def _chunks(trees: Sequence[TokenTree], size: int | None) -> list[Sequence[TokenTree]]:
    size = size or max(1, len(trees))
    return [trees[start : start + size] for start in range(0, len(trees), size)]


@dataclass
class Trainer:
    """Trains the members of a bank. `run` may be called on fresh or on half-finished run directories."""

    reader: Reader
    members: Sequence[TrainingRun]
    state_file: Path
    """Where the state for a resume is, of all members."""
    screen: Screen
    processes: ProcessGroup = ALONE

    def run(self, guard: SignalGuard) -> None:
        """Train every member to its end, from where the state file stands.

        A member whose loss diverges is marked as failed; the others go on.
        """
        self._resume()
        self.processes.barrier()  # before the first overwrites the state that the others read
        guard.hold()
        total = max(member.most_steps for member in self.members)
        with self.screen.bar("training", total) as bar:
            bar.advance(max(member.progress.step for member in self.members))
            self._start(bar)
            while active := [member for member in self.members if member.goes_on()]:
                records = self._step(active)
                self._record(active, records)
                bar.advance(1, self._words(active, records))
                if self.processes.any(guard.received):
                    self._save()
                    guard.stop()
        guard.release()

    def _resume(self) -> None:
        state = load_state(self.state_file) if self.state_file.is_file() else None
        for member in self.members:
            member.resume(state)
        if state is not None:
            steps = max(member.progress.step for member in self.members)
            self.screen.say(f"Going on after step {steps} of {max(member.most_steps for member in self.members)}.")

    def _save(self) -> None:
        if self.processes.is_main:
            save_state(self.state_file, self.members)

    def _start(self, bar: Bar) -> None:
        """The validation before the first step."""
        fresh = [member for member in self.members if member.progress.validated_step is None]
        for member in fresh:
            self._checkpoint(member, None)
        bar.advance(0)
        if fresh:
            self._save()

    def _record(self, active: Sequence[TrainingRun], records: Sequence[dict[str, float] | None]) -> None:
        """Log a step, validate where it is time, and save what a resume needs after that."""
        saved = False
        for member, record in zip(active, records, strict=True):
            if record is None:
                continue
            if member.at_checkpoint:
                self._checkpoint(member, record)
                saved = True
            else:
                member.writer.append_log(record)
        if saved:
            self._save()

    def _checkpoint(self, member: TrainingRun, record: dict[str, float] | None) -> None:
        try:
            member.checkpoint(record)
        except DivergenceError as error:
            member.fail(error)

    def _step(self, active: Sequence[TrainingRun]) -> list[dict[str, float] | None]:
        """One optimizer step of every active member; returns their log records, None for one that diverged."""
        started = time.perf_counter()
        batches = [member.batch() for member in active]
        # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed(mask_seed(active[0].config.seed, active[0].progress.step, self.processes.rank))
        losses = self._gradients(active, batches)
        records: list[dict[str, float] | None] = []
        for member, loss, trees in zip(active, losses, batches, strict=True):
            try:
                records.append(member.update(loss, trees))
            except DivergenceError as error:
                member.fail(error)
                records.append(None)
        share = (time.perf_counter() - started) / len(active)
        return [
            None if record is None else member.timed(record, share)
            for member, record in zip(active, records, strict=True)
        ]

    def _gradients(self, active: Sequence[TrainingRun], batches: Sequence[Sequence[TokenTree]]) -> list[float]:
        return accumulate_gradients(self.reader, active, batches, self.processes)

    def _words(self, active: Sequence[TrainingRun], records: Sequence[dict[str, float] | None]) -> str:
        """Of the first member that is still well."""
        rate = sum(member.progress.tokens for member in self.members) / max(
            sum(member.progress.seconds for member in self.members), 1e-9
        )
        for member, record in zip(active, records, strict=True):
            if record is not None:
                loss, nce = record["train_loss"], member.validation_nce
                validation = f" · val NCE {nce:.3f}" if math.isfinite(nce) else ""
                return f"loss {loss:.3f}{validation} · {rate:,.0f} tokens/s"
        return ""
