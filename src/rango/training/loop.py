"""The training loop: the runs of a bank step together over one frozen base; an ordinary run is a bank of one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rango.scoring import Reader, TokenTree
from rango.scoring.dropout import mask_seed
from rango.training.checkpoint import load_state, save_state
from rango.training.gradients import accumulate_gradients
from rango.training.member import Member
from rango.training.objectives import DivergenceError
from rango.training.progress import Bar, Screen
from rango.training.ranks import ALONE, Ranks
from rango.training.signals import SignalGuard


@dataclass
class Trainer:
    """Trains the members of a bank. `run` may be called on fresh or on half-finished run directories."""

    reader: Reader
    members: Sequence[Member]
    state_file: Path
    """Where the state for a resume is, of all members."""
    screen: Screen
    ranks: Ranks = ALONE

    def run(self, guard: SignalGuard) -> None:
        """Train every member to its end, from where the state file stands.

        A member whose loss diverges is marked as failed; the others go on.
        """
        self._resume()
        self.ranks.wait()  # before the first overwrites the state that the others read
        guard.hold()
        total = max(member.most_steps for member in self.members)
        with self.screen.bar("training", total) as bar:
            bar.advance(max(member.progress.step for member in self.members))
            self._start(bar)
            while active := [member for member in self.members if member.goes_on()]:
                records = self._step(active)
                self._record(active, records)
                bar.advance(1, self._words(active, records))
                if self.ranks.any(guard.received):
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
        if self.ranks.first:
            save_state(self.state_file, self.members)

    def _start(self, bar: Bar) -> None:
        """The validation before the first step."""
        fresh = [member for member in self.members if member.progress.validated_step is None]
        for member in fresh:
            self._checkpoint(member, None)
        bar.advance(0)
        if fresh:
            self._save()

    def _record(self, active: Sequence[Member], records: Sequence[dict[str, float] | None]) -> None:
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

    def _checkpoint(self, member: Member, record: dict[str, float] | None) -> None:
        try:
            member.checkpoint(record)
        except DivergenceError as error:
            member.fail(error)

    def _step(self, active: Sequence[Member]) -> list[dict[str, float] | None]:
        """One optimizer step of every active member; returns their log records, None for one that diverged."""
        started = time.perf_counter()
        batches = [member.batch() for member in active]
        # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed(mask_seed(active[0].config.seed, active[0].progress.step, self.ranks.rank))
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
        return accumulate_gradients(self.reader, active, batches, self.ranks)

    def _words(self, active: Sequence[Member], records: Sequence[dict[str, float] | None]) -> str:
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
