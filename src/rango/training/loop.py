"""The training loop: the runs of a bank step together over one frozen base; an ordinary run is a bank of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from rango.scoring import Reader, TokenTree, join
from rango.training.checkpoint import load_state, save_state
from rango.training.member import Member
from rango.training.objectives import DivergenceError, Part, count_terms
from rango.training.progress import Bar, Screen
from rango.training.signals import SignalGuard


@dataclass
class Trainer:
    """Trains the members of a bank. `run` may be called on fresh or on half-finished run directories."""

    reader: Reader
    members: Sequence[Member]
    state_file: Path
    """Where the state for a resume is, of all members."""
    screen: Screen

    def run(self, guard: SignalGuard) -> None:
        """Train every member to its end, from where the state file stands.

        A member whose loss diverges is marked as failed; the others go on.
        """
        self._resume()
        guard.hold()
        total = max(member.total for member in self.members)
        with self.screen.bar("training", total) as bar:
            bar.advance(max(member.progress.step for member in self.members))
            self._start(bar)
            while active := [member for member in self.members if member.trains]:
                records = self._step(active)
                self._record(active, records)
                bar.advance(1, self._words(active, records))
                if guard.received:
                    save_state(self.state_file, self.members)
                    guard.check()
        guard.release()

    def _resume(self) -> None:
        state = load_state(self.state_file) if self.state_file.is_file() else None
        for member in self.members:
            member.resume(state)
        if state is not None:
            steps = max(member.progress.step for member in self.members)
            self.screen.say(f"Going on after step {steps} of {max(member.total for member in self.members)}.")

    def _start(self, bar: Bar) -> None:
        """The validation before the first step."""
        fresh = [member for member in self.members if member.progress.validated_step is None and member.trains]
        for member in fresh:
            self._validate(member, None)
        bar.advance(0)
        if fresh:
            save_state(self.state_file, self.members)

    def _record(self, active: Sequence[Member], records: Sequence[dict[str, float] | None]) -> None:
        """Log a step, validate where it is time, and save what a resume needs after that."""
        validated = False
        for member, record in zip(active, records, strict=True):
            if record is None:
                continue
            if member.at_validation:
                self._validate(member, record)
                validated = True
            else:
                member.writer.append_log(record)
        if validated:
            save_state(self.state_file, self.members)

    def _validate(self, member: Member, record: dict[str, float] | None) -> None:
        try:
            member.validate(record)
        except DivergenceError as error:
            member.fail(error)

    def _step(self, active: Sequence[Member]) -> list[dict[str, float] | None]:
        """One optimizer step of every active member; returns their log records, None for one that diverged."""
        started = time.perf_counter()
        batches = [member.batch() for member in active]
        # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed((active[0].config.seed << 32) + active[0].progress.step)
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

    def _gradients(self, active: Sequence[Member], batches: Sequence[Sequence[TokenTree]]) -> list[float]:
        """Accumulate the gradients of each member's mean loss, micro-batch by micro-batch; returns the losses."""
        terms = [count_terms(trees, member.config.objective) for member, trees in zip(active, batches, strict=True)]
        totals = [torch.zeros((), device=self.reader.model.device) for _ in active]
        self.reader.model.network.train(False)
        for member in active:
            member.adapter.enable_dropout()
        chunks = [_chunks(trees, member.config.micro_batch) for member, trees in zip(active, batches, strict=True)]
        for round_ in zip_longest(*chunks):
            present = [number for number, trees in enumerate(round_) if trees is not None]
            members = [active[number] for number in present]
            parts = [active[number].part(round_[number]) for number in present]
            losses = self._backward(members, parts, [terms[number] for number in present])
            for number, loss in zip(present, losses, strict=True):
                totals[number] += loss
        return [float(total) / count for total, count in zip(totals, terms, strict=True)]

    def _backward(self, members: Sequence[Member], parts: Sequence[Part], terms: Sequence[int]) -> list[torch.Tensor]:
        """One pass over all members' rows; gradients of each member's loss / terms; returns the summed losses.

        The graph is cut at the states that the head reads. Each member's head and loss then go forward and backward on
        their own: the logits of one are gone before the next ones are made, and an adapted head has one adapter's rows.
        """
        with self._sharing(members, parts):
            states = self.reader.states(join([part.batch for part in parts], pad=self.reader.pad()))
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

    def _sharing(self, members: Sequence[Member], parts: Sequence[Part]) -> AbstractContextManager[None]:
        if len(members) == 1:
            return members[0].adapter.alone()
        grouping = members[0].adapter.grouping
        return grouping.split([member.adapter.number for member in members], [len(part.batch.tokens) for part in parts])

    def _words(self, active: Sequence[Member], records: Sequence[dict[str, float] | None]) -> str:
        """Of the first member that is still well."""
        rate = sum(member.progress.tokens for member in self.members) / max(
            sum(member.progress.seconds for member in self.members), 1e-9
        )
        for member, record in zip(active, records, strict=True):
            if record is not None:
                loss, nce = record["train_loss"], member.validation_nce
                return f"loss {loss:.3f} · val NCE {nce:.3f} · {rate:,.0f} tokens/s"
        return ""


def _chunks(trees: Sequence[TokenTree], size: int | None) -> list[Sequence[TokenTree]]:
    size = size or len(trees)
    return [trees[start : start + size] for start in range(0, len(trees), size)]
