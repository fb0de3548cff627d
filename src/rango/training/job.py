"""What happens to the runs of a bank from the first score to metrics.json."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.decisions import Posteriors
from rango.models import Adaptation, Model
from rango.scoring import Reader, TokenTree, as_posteriors
from rango.tasks import Form, Split, Task
from rango.training.bank import BankJob, run_key
from rango.training.loop import Trainer
from rango.training.measures import calibrated_posteriors, measure, true_posteriors
from rango.training.member import Data, Member
from rango.training.options import FinetuneConfig
from rango.training.progress import Screen
from rango.training.ranks import ALONE, Ranks
from rango.training.run import Run, RunWriter, versions
from rango.training.signals import SignalGuard


@dataclass(frozen=True)
class Job:
    """Runs with everything encoded and checked, before anything is written."""

    model: Model
    task: Task
    """With the shots in its prompts, if any."""
    task_fingerprint: str
    """Of the task as it was asked for."""
    form: Form
    reader: Reader
    trees: Mapping[Split, Sequence[TokenTree]]
    screen: Screen
    ranks: Ranks = ALONE

    def run(self, members: Sequence[Member], state: Path, base: Mapping[str, Posteriors], guard: SignalGuard) -> None:
        """Base posteriors, training, adapted posteriors, metrics; each part is skipped if it is there already."""
        started = time.perf_counter()
        before = {member.key: member.writer.record.get("seconds") or 0.0 for member in members}
        for member in members:
            member.writer.begin(most_steps=member.most_steps)
        for note in (*self.model.notes, *self.reader.notes, *self.task.notes):
            self.screen.say(f"· {note}")
        for split in ("test", "validation"):
            self._write_base(members, split, base.get(split))
        Trainer(self.reader, members, state, self.screen, self.ranks).run(guard)
        self.ranks.wait()
        share = (time.perf_counter() - started) / len(members)
        for member in members:
            started = time.perf_counter()
            if member.progress.failed is not None:
                member.writer.fail(member.progress.failed)
                continue
            if member.progress.pruned:
                seconds = before[member.key] + share
                member.writer.prune(
                    member.progress.step, seconds=round(seconds, 1), best_step=member.progress.best_step
                )
                continue
            self._measure(member)
            seconds = before[member.key] + share + time.perf_counter() - started
            member.writer.finish(
                seconds=round(seconds, 1),
                training={"seconds": round(member.progress.seconds, 1), "tokens": member.progress.tokens},
                best_step=member.progress.step if member.config.regime == "all" else member.progress.best_step,
                steps=member.progress.step,
            )
        if self.ranks.first:
            state.unlink(missing_ok=True)
        self.ranks.wait()

    def _write_base(self, members: Sequence[Member], split: Split, known: Posteriors | None) -> None:
        """Store the base model's posteriors in every run: those given, those that one has, or newly computed ones."""
        there = self.ranks.agree([member.writer.has_posteriors("base", split) for member in members])
        if all(there):
            return
        lacking = [member for member, has in zip(members, there, strict=True) if not has]
        having = [member for member, has in zip(members, there, strict=True) if has]
        first = lacking[0]
        if known is None and having:
            known = Run(having[0].writer.path).posteriors("base", split)
        elif known is None:
            with first.adapter.disabled():
                known = self._score("base", split, first)
        mass = (having or [first])[0].writer.record.get("letter_mass", {}).get("base")
        for member in lacking:
            if mass is not None:
                member.writer.write_letter_mass("base", mass)
            member.writer.write_posteriors("base", split, known)

    def _measure(self, member: Member) -> None:
        """The best checkpoint's posteriors, calibrated ones, and the metrics of all states."""
        writer = member.writer
        member.conclude()
        with member.adapter.alone():
            adapted = self._score("adapted", "test", member)
            validation = self._score("adapted", "validation", member) if member.validates else None
        if not self.ranks.first:
            return
        states = {"base": Run(writer.path).posteriors("base"), "adapted": adapted}
        writer.write_posteriors("adapted", "test", adapted)
        if validation is not None:
            writer.write_posteriors("adapted", "validation", validation)
            self._calibrate(states, validation, writer)
        else:
            self._note(f"not calibrated: regime {member.config.regime!r} trained on the validation instances", writer)
        floor = true_posteriors(self.task.test)
        if floor is not None:
            writer.write_posteriors("floor", "test", floor)
            states["floor"] = floor
        writer.write_metrics({"test": measure(states, seed=member.config.seed)})

    def _calibrate(self, states: dict[str, Posteriors], validation: Posteriors, writer: RunWriter) -> None:
        """Add the state `calibrated`: the adapted posteriors after a calibrator fitted on validation."""
        calibrator, calibrated, note = calibrated_posteriors(validation, states["adapted"], form=self.form)
        if note is not None:
            self._note(note, writer)
        if calibrator is not None:
            writer.write_calibrator(calibrator)
            writer.write_posteriors("calibrated", "test", calibrated)
            states["calibrated"] = calibrated

    def _note(self, note: str, writer: RunWriter) -> None:
        self.screen.say(f"· {note}")
        notes = writer.record.get("notes", [])
        writer.write_record(notes=notes if note in notes else [*notes, note])

    def _score(self, state: str, split: Split, member: Member) -> Posteriors:
        """Posteriors of the network as it is now; the share of probability on the letters goes to the run's record."""
        self.screen.say(f"Scoring {split} ({len(self.trees[split]):,} instances), {state} model ...")
        scores = self.ranks.score(self.reader, self.trees[split], options=member.config, form=self.form)
        if scores.letter_mass is not None and split == "test":
            share = float(scores.letter_mass.mean())
            self.screen.say(f"  share of probability on the letters: {share:.3f}")
            member.writer.write_letter_mass(state, round(share, 6))
        return as_posteriors(scores.values, self.task.split(split))


def make_members(job: Job, left: Sequence[tuple[BankJob, Run | None]], adapters: Sequence[Adaptation]) -> list[Member]:
    """The members of a bank: their run directories, begun before or new, and what they all read."""
    data = Data(job.reader, job.form, job.trees["train"], job.trees["validation"], job.task.validation, job.ranks)
    members = []
    for (bank_job, run), adapter in zip(left, adapters, strict=True):
        record = run.record if run is not None else _record(job, bank_job.config, adapter)
        writer = RunWriter(bank_job.out, record, writes=job.ranks.first)
        key = run_key(bank_job.config)
        members.append(Member(key, bank_job.config, adapter, writer, data, bank_job.on_validation))
    return members


def _record(job: Job, config: FinetuneConfig, adapter: Adaptation) -> dict[str, Any]:
    model = job.model
    return {
        "config": config.model_dump(mode="json"),
        "form": job.form,
        "model": {
            "name": model.name,
            "architecture": type(model.network).__name__,
            "parameters": model.parameter_count,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "trainable_parameters": adapter.parameter_count(),
        "adapted_modules": adapter.module_count(),
        "instances": {name: len(trees) for name, trees in job.trees.items()},
        "fingerprints": {"model": model.fingerprint, "task": job.task_fingerprint},
        "versions": versions(),
        "notes": [*model.notes, *job.reader.notes, *job.task.notes],
    }
