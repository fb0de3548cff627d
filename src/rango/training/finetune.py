"""What happens to the runs of a bank from the first score to metrics.json."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.console import Screen, SignalGuard
from rango.decisions import Posteriors
from rango.errors import DivergenceError, InputError
from rango.models.adapter import TrainableModel, add_bank
from rango.models.full_finetuning import add_full
from rango.models.loading import Model
from rango.options import SPLITS, FinetuneConfig, Form, Split
from rango.scoring.forward import Reader
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import as_posteriors
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task, few_shot
from rango.training.bank import BankJob, OnValidation, check_bankable, run_key
from rango.training.checkpoint import load_state
from rango.training.distributed import ALONE, ProcessGroup
from rango.training.evaluate import calibrated_posteriors, check_not_empty, measure, true_posteriors
from rango.training.run_folder import Run, RunWriter, open_output, versions
from rango.training.trainer import Trainer
from rango.training.training_run import Data, TrainingRun


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
    processes: ProcessGroup = ALONE

    def run(
        self, members: Sequence[TrainingRun], state: Path, base: Mapping[str, Posteriors], guard: SignalGuard
    ) -> None:
        """Base posteriors, training, adapted posteriors, metrics; each part is skipped if it is there already."""
        started = time.perf_counter()
        before = {member.key: member.writer.record.get("seconds") or 0.0 for member in members}
        for member in members:
            member.writer.begin(most_steps=member.most_steps)
        for note in (*self.model.notes, *self.reader.notes, *self.task.notes):
            self.screen.say(f"· {note}")
        for split in ("test", "validation"):
            self._write_base(members, split, base.get(split))
        Trainer(self.reader, members, state, self.screen, self.processes).run(guard)
        self.processes.barrier()
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
        if self.processes.is_main:
            state.unlink(missing_ok=True)
        self.processes.barrier()

    def _write_base(self, members: Sequence[TrainingRun], split: Split, known: Posteriors | None) -> None:
        """Store the base model's posteriors in every run: those given, those that one has, or newly computed ones."""
        there = self.processes.broadcast([member.writer.has_posteriors("base", split) for member in members])
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

    def _measure(self, member: TrainingRun) -> None:
        """The best checkpoint's posteriors, calibrated ones, and the metrics of all states."""
        writer = member.writer
        member.conclude()
        with member.adapter.alone():
            adapted = self._score("adapted", "test", member)
            validation = self._score("adapted", "validation", member) if member.validates else None
        if not self.processes.is_main:
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

    def _score(self, state: str, split: Split, member: TrainingRun) -> Posteriors:
        """Posteriors of the network as it is now; the share of probability on the letters goes to the run's record."""
        self.screen.say(f"Scoring {split} ({len(self.trees[split]):,} instances), {state} model ...")
        scores = self.processes.score(self.reader, self.trees[split], options=member.config, form=self.form)
        if scores.letter_mass is not None and split == "test":
            share = float(scores.letter_mass.mean())
            self.screen.say(f"  share of probability on the letters: {share:.3f}")
            member.writer.write_letter_mass(state, round(share, 6))
        return as_posteriors(scores.values, self.task.split(split))


def make_members(
    job: Job, left: Sequence[tuple[BankJob, Run | None]], adapters: Sequence[TrainableModel]
) -> list[TrainingRun]:
    """The members of a bank: their run directories, begun before or new, and what they all read."""
    data = Data(job.reader, job.form, job.trees["train"], job.trees["validation"], job.task.validation, job.processes)
    members = []
    for (bank_job, run), adapter in zip(left, adapters, strict=True):
        record = run.record if run is not None else _record(job, bank_job.config, adapter)
        writer = RunWriter(bank_job.out, record, writes=job.processes.is_main)
        key = run_key(bank_job.config)
        members.append(TrainingRun(key, bank_job.config, adapter, writer, data, bank_job.on_validation))
    return members


def _record(job: Job, config: FinetuneConfig, adapter: TrainableModel) -> dict[str, Any]:
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


def finetune(
    model: Model,
    task: Task,
    *,
    out: Path | str,
    config: FinetuneConfig | None = None,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
    on_validation: OnValidation | None = None,
    **overrides: Any,
) -> Run:
    """Adapt `model` to `task`, by LoRA or by full fine-tuning, and write a run directory.

    The model's network is given back as it was.

    Repeating an unfinished run goes on from its last saved state, with the same result as if it had never stopped;
    a finished one is returned as it is.

    Args:
        model: the base model.
        task: with train, validation and test splits.
        out: the run directory.
        config: everything else; built from `overrides` when absent.
        base: the base model's posteriors on `test` and `validation` where they are known; computed when absent.
        screen: where progress is shown; nowhere by default.
        on_validation: called with the step and the validation metrics; where it returns True the run ends there with
            status `pruned`: checkpoints and log are kept, nothing is measured on test. Asked for again, it begins anew.
        **overrides: keys of FinetuneConfig, for example `steps=200, lora={"rank": 4}`.

    Raises:
        InputError: bad configuration or data; nothing is written then.
        DivergenceError: the loss became infinite; the best checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    config = config or FinetuneConfig.build(
        {**task.options.model_dump(), "model": model.name, "task": task.name, **overrides}
    )
    job = BankJob(Path(out), config, on_validation)
    state = job.out / "state" / "state.safetensors"
    (run,) = finetune_bank(model, task, [job], state=state, base=base, screen=screen)
    if run.failure is not None:
        raise DivergenceError(run.failure)
    return run


def finetune_bank(
    model: Model,
    task: Task,
    jobs: Sequence[BankJob],
    *,
    state: Path,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
) -> list[Run]:
    """Train several runs in one pass over one frozen base, each with the result it would have alone.

    Runs that are complete are left as they are. A run whose loss diverges ends with status `failed` (`Run.failure`);
    the others go on. Repeating goes on from `state`, one file for the whole bank, and so ends as if never stopped.

    Args:
        model: the base model.
        task: with train, validation and test splits.
        jobs: where each run goes and its configuration; see `bankable` for what they may differ in.
        state: the file for a resume; removed when the bank is done.
        base: as in `finetune`.
        screen: where progress is shown; nowhere by default.

    Returns:
        The runs, in the order of `jobs`.

    Raises:
        InputError: jobs that cannot be one bank, a state of another bank, bad data; nothing is written then.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    screen = screen or Screen(quiet=True)
    check_bankable(jobs)
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    there = [open_output(job.out, job.config, fingerprints) for job in jobs]
    left = []
    for job, run in zip(jobs, there, strict=True):
        if run is not None and run.complete:
            screen.say(f"{job.out} is complete with this configuration: nothing to do.")
        else:
            left.append((job, run))
    if left:
        _check_base(base, task)
        _train(model, task, left, state, base or {}, screen)
    return [Run(job.out) for job in jobs]


def _train(
    model: Model,
    task: Task,
    left: Sequence[tuple[BankJob, Run | None]],
    state: Path,
    base: Mapping[str, Posteriors],
    screen: Screen,
) -> None:
    config, fingerprint = left[0][0].config, task.fingerprint
    form = config.form or task.default_form
    # In training the shots are ordinary tokens of every trunk: the adapter changes their keys, so none can be kept.
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    check_not_empty(task.train, shots=config.shots)
    for bank_job, _ in left:
        _check_selection(bank_job.config, task)
    reader = probe_reader(model)
    trees = {name: encode(model, task.split(name), task=task, form=form) for name in SPLITS}
    processes = ProcessGroup.current()
    job = Job(model, task, fingerprint, form, reader, trees, screen, processes)
    adapters: Sequence[TrainableModel]
    if config.adaptation == "full":
        adapters = [add_full(model)]
    else:
        adapters = add_bank(model, [(bank_job.config.lora, bank_job.config.seed) for bank_job, _ in left])
    try:
        members = make_members(job, left, adapters)
        _check_bank(state, members)
        processes.barrier()  # all have looked at what is there before the first writes
        advice = f"the run in {left[0][0].out} is saved; repeat the command to go on"
        with SignalGuard(advice) as guard:
            job.run(members, state, base, guard)
    finally:
        for adapter in adapters:
            adapter.remove()


def _check_selection(config: FinetuneConfig, task: Task) -> None:
    """NCE divides by the entropy of the priors: no checkpoint has one where all right answers stand in one place."""
    labels = {instance.label for instance in task.validation}
    if config.regime != "all" and config.select == "nce" and len(labels) == 1:
        count = len(task.validation)
        who = f"all {count:,} validation instances have" if count > 1 else "the one validation instance has"
        raise InputError(
            f"select is nce, but {who} label {labels.pop()}, so that NCE is undefined; give more validation instances, "
            "or select cross_entropy"
        )


def _check_bank(state: Path, members: Sequence[TrainingRun]) -> None:
    if not state.is_file():
        return
    saved = load_state(state).progress
    missing = [member.writer.path for member in members if member.key not in saved]
    if missing and len(members) == 1:
        raise InputError(
            f"{state} is the state of another run, or of another version's; delete it to begin this run anew"
        )
    if missing:
        raise InputError(
            f"{state} is the state of another bank: it lacks the run of {missing[0]}; give another state file, or the "
            "runs that it was begun with"
        )


def _check_base(base: Mapping[str, Posteriors] | None, task: Task) -> None:
    for name, posteriors in (base or {}).items():
        if name not in ("test", "validation"):
            raise InputError(f"base has posteriors for {name!r}; expected test and validation")
        ids = tuple(instance.id for instance in task.split(name))
        if posteriors.ids != ids:
            raise InputError(
                f"base posteriors on {name} are of other instances ({len(posteriors.ids)}, the first "
                f"{posteriors.ids[0]!r}) than the task's ({len(ids)}, the first {ids[0]!r}); compute them for this task"
            )
