"""Fine-tuning from the first score to metrics.json: of one run, or of a bank of runs over one frozen base.

    check everything → score the base → train → score the best checkpoint → calibrate on validation → metrics

What a step has stored is not computed again, so that repeating the command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from rango.console import Screen, SignalGuard
from rango.decisions import Costs, Posteriors, StatedCosts, fit_calibrator
from rango.errors import DivergenceError, InputError, Interrupted
from rango.files import remove_leftovers
from rango.keywords import FinetuneOptions
from rango.models.adapter import TrainableModel, add_bank
from rango.models.full_finetuning import add_full
from rango.models.loading import Model
from rango.options import SPLITS, FinetuneConfig, Split
from rango.output_folder import only_writer
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score_split
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task, few_shot
from rango.tasks.kept_texts import write_kept_texts
from rango.tasks.task import unlabelled
from rango.tasks.text_runs import pretraining_notes
from rango.training.bank import OnValidation, TrainingJob, check_bankable, run_key
from rango.training.checkpoint import load_state
from rango.training.distributed import ProcessGroup
from rango.training.evaluate import check_not_empty, true_posteriors
from rango.training.loggers import LoggedWriter, Logger, parse_loggers
from rango.training.measurement import measure, state_costs
from rango.training.prediction import check_costs
from rango.training.run_folder import Run, posteriors_file
from rango.training.run_writer import RunWriter, check_task, open_output, remove_state, versions
from rango.training.sharding import check_passes
from rango.training.trainer import Trainer, recomputable_layers
from rango.training.training_run import BankData, TrainingRun


def finetune(
    model: Model,
    task: Task,
    *,
    out: Path | str,
    config: FinetuneConfig | None = None,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
    on_validation: OnValidation | None = None,
    costs: Costs | StatedCosts | None = None,
    loggers: Sequence[Logger | str] = (),
    group: str | None = None,
    **overrides: Unpack[FinetuneOptions],
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
            status `pruned`: checkpoints and log are kept, nothing is measured on test. Repeating it begins it anew.
        costs: what mistakes cost, for the expected costs among the metrics; kept in run.yaml. They make no other run:
            stated later, they change the metrics of a finished one.
        loggers: what follows the run while it trains: names (tensorboard, wandb, mlflow, trackio), or objects of
            `Logger`. They make no other run, and one that fails ends none.
        group: the study that the run belongs to, for the loggers.
        **overrides: keys of FinetuneConfig, for example `steps=200, lora={"rank": 4}`.

    Raises:
        InputError: bad configuration or data; nothing is written then.
        DivergenceError: the loss became infinite; the best checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    config = config or FinetuneConfig.build(
        {**task.options.model_dump(), "model": model.name, "task": task.name, **overrides}
    )
    stated = None if costs is None else StatedCosts.of(costs)
    job = TrainingJob(Path(out), config, on_validation, stated, tuple(loggers), group)
    # A run alone keeps its state in its own folder, where nobody else looks for it.
    state = job.out / "state" / "state.safetensors"
    (run,) = finetune_bank(model, task, [job], state=state, base=base, screen=screen)
    if run.failure is not None:
        raise DivergenceError(run.failure)
    return run


def finetune_bank(
    model: Model,
    task: Task,
    jobs: Sequence[TrainingJob],
    *,
    state: Path,
    base: Mapping[str, Posteriors] | None = None,
    screen: Screen | None = None,
) -> list[Run]:
    """Train several runs in one pass over one frozen base, each with the result it would have alone.

    Runs that are complete are left as they are. A run whose loss diverges ends with status `failed` (`Run.failure`);
    the others go on. Repeating goes on from `state`, one file for the whole bank, and so ends as if never stopped.

    Args:
        model, task, base, screen: as in `finetune`.
        jobs: where each run goes and its configuration; `bankable` says in what they may differ.
        state: the file for a resume; removed when the bank is done.

    Returns:
        The runs, in the order of `jobs`.

    Raises:
        InputError: jobs that cannot be one bank, a state of another bank, bad data; nothing is written then.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    screen = screen or Screen(quiet=True)
    check_bankable(jobs)
    for job in jobs:
        parse_loggers([logger for logger in job.loggers if isinstance(logger, str)])
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    with contextlib.ExitStack() as locks:
        # Look into every folder before anything is written: a bank with one wrong folder must not begin at all.
        unfinished = []
        for job in jobs:
            run = open_output(job.out, job.config, fingerprints)
            if (run is None or not run.complete) and ProcessGroup.current().is_main:
                locks.enter_context(only_writer(job.out))
                run = open_output(job.out, job.config, fingerprints)  # its writer may have ended only now
            if job.costs is not None:
                check_costs(job.costs, task.test)
            if run is not None and run.complete:
                if ProcessGroup.current().is_main:
                    remove_state(job.out)  # the last call may have been stopped before it did so
                if job.costs is not None and ProcessGroup.current().is_main and state_costs(run, job.costs):
                    screen.say(f"{job.out} is complete: its costs are stated anew.")
                else:
                    screen.say(f"{job.out} is complete with this configuration: nothing to do.")
            else:
                unfinished.append((job, run))
        if unfinished:
            _check_base(base or {}, task)
            _train(model, task, unfinished, state, base or {}, screen)
    return [Run(job.out) for job in jobs]


def _train(
    model: Model,
    task: Task,
    unfinished: Sequence[tuple[TrainingJob, Run | None]],
    state: Path,
    base: Mapping[str, Posteriors],
    screen: Screen,
) -> None:
    """Encode and check everything, then take the unfinished jobs, with their runs where they were begun, to the end."""
    config, task_fingerprint = unfinished[0][0].config, task.fingerprint
    # In training the shots are ordinary tokens of every trunk: the adapter changes their keys, so none can be kept.
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    check_not_empty(task.train, shots=config.shots)
    for job, _ in unfinished:
        check_task(job.config, task)
    task = replace(task, notes=(*task.notes, *pretraining_notes(model.name, task.test, split="test")))
    if config.gradient_checkpointing and not recomputable_layers(model.network):
        raise InputError(
            f"gradient_checkpointing is on, but {model.name} ({model.network.config.model_type}) has no layers that "
            "could be computed again; leave it out"
        )
    # All splits are encoded now, so that an instance which does not fit is refused before hours of training.
    form = config.form or task.default_form
    reader = probe_reader(model)
    trees = {name: encode(model, task.split(name), task=task, form=form) for name in SPLITS}
    processes = ProcessGroup.current()
    check_passes(reader, (tree for split in trees.values() for tree in split), processes)
    data = BankData(reader, form, trees["train"], trees["validation"], task.validation, processes)
    adapters: Sequence[TrainableModel]
    if config.adaptation == "full":
        adapters = [add_full(model)]
    else:
        adapters = add_bank(model, [(job.config.lora, job.config.seed) for job, _ in unfinished])
    # Loggers are closed however the runs end.
    writers = contextlib.ExitStack()
    try:
        runs = []
        for (job, run), adapter in zip(unfinished, adapters, strict=True):
            record: dict[str, Any] = {
                "config": job.config.model_dump(mode="json"),
                "form": form,
                "model": {
                    "name": model.name,
                    "architecture": type(model.network).__name__,
                    "parameters": model.parameter_count,
                    "dtype": str(model.dtype).removeprefix("torch."),
                    "device": str(model.device),
                },
                "trainable_parameters": adapter.parameter_count(),
                "adapted_modules": adapter.module_count(),
                "instances": {name: len(split) for name, split in trees.items()},
                "fingerprints": {"model": model.fingerprint, "task": task_fingerprint},
                "versions": versions(),
                **({"table": dict(task.table)} if task.table is not None else {}),
                "notes": [*model.notes, *reader.notes, *task.notes],
            }
            # A run that was begun before keeps the record of its beginning.
            if run is not None:
                record = run.record
            if job.costs is not None:
                record["costs"] = job.costs.as_dict()
            writer = LoggedWriter(
                job.out, record, writes=processes.is_main, loggers=job.loggers, group=job.group,
                resumed=state.is_file(), say=screen.say,
            )  # fmt: skip
            writers.callback(writer.close)
            runs.append(TrainingRun(run_key(job.config), job.config, adapter, writer, data, job.on_validation))
        trained_before = _check_state(state, runs)
        processes.barrier()  # every process has looked at the folders before the main one writes
        with SignalGuard(f"the run in {unfinished[0][0].out} is saved; repeat the command to go on") as guard:
            _Bank(task, trees, data, runs, screen).run(state, base, guard, trained_before)
    finally:
        writers.close()
        for adapter in adapters:
            adapter.remove()


@dataclass(frozen=True, eq=False)
class _Bank:
    """Runs over one base, with their instances encoded and everything checked."""

    task: Task
    """With the shots in its prompts, if any."""
    trees: Mapping[Split, Sequence[TokenTree]]
    data: BankData
    runs: Sequence[TrainingRun]
    screen: Screen

    def run(
        self, state: Path, base: Mapping[str, Posteriors], guard: SignalGuard, trained_before: Mapping[str, float]
    ) -> None:
        """Write base posteriors, train, and measure every run that came to its end.

        The time of earlier attempts counts too: what an interrupted one recorded, or, of a killed one, at least
        `trained_before`, the seconds of training in the saved state.
        """
        started = time.perf_counter()
        seconds_before = {
            run.key: max(run.writer.record.get("seconds") or 0.0, trained_before.get(run.key, 0.0)) for run in self.runs
        }
        try:
            self._run(state, base, guard, started, seconds_before)
        except Interrupted:
            share = (time.perf_counter() - started) / len(self.runs)
            for run in self.runs:
                if run.writer.record.get("status") == "running":
                    run.writer.write_record(seconds=round(seconds_before[run.key] + share, 1))
            raise

    def _run(
        self,
        state: Path,
        base: Mapping[str, Posteriors],
        guard: SignalGuard,
        started: float,
        seconds_before: Mapping[str, float],
    ) -> None:
        reader, processes = self.data.reader, self.data.processes
        for run in self.runs:
            run.writer.begin(most_steps=run.most_steps)
        for note in (*reader.model.notes, *reader.notes, *self.task.notes):
            self.screen.say(f"· {note}")
        for split in ("test", "validation"):
            self._write_base(split, base.get(split))
        Trainer(reader, self.runs, state, self.screen, processes).train(guard)
        processes.barrier()
        # Each run is charged its share of the common time and the whole time of its own measurement.
        share = (time.perf_counter() - started) / len(self.runs)
        for run in self.runs:
            started, progress = time.perf_counter(), run.progress
            if progress.failed is not None:
                run.writer.fail(progress.failed)
                continue
            if progress.pruned:
                seconds = round(seconds_before[run.key] + share, 1)
                run.writer.prune(progress.step, seconds=seconds, best_step=progress.best_step)
                continue
            self._measure(run)
            run.writer.finish(
                seconds=round(seconds_before[run.key] + share + time.perf_counter() - started, 1),
                training={"seconds": round(progress.seconds, 1), "tokens": progress.tokens},
                best_step=progress.step if run.config.regime == "all" else progress.best_step,
                steps=progress.step,
            )
        # The state goes last: after a crash before this line the complete runs are skipped and the others measured.
        if processes.is_main:
            state.unlink(missing_ok=True)
            remove_leftovers(state)
        processes.barrier()

    def _write_base(self, split: Split, known: Posteriors | None) -> None:
        """Store the base model's posteriors in every run: those given, those that one has, or newly computed ones."""
        # All processes must take the same branch below, though files that the main one wrote may reach them late.
        files = [posteriors_file(run.writer.path, "base", split) for run in self.runs]
        stored = self.data.processes.broadcast([file.is_file() for file in files])
        having = [run for run, has in zip(self.runs, stored, strict=True) if has]
        lacking = [run for run, has in zip(self.runs, stored, strict=True) if not has]
        if not lacking:
            return
        source = (having or lacking)[0]
        if known is None and having:
            known = Run(source.writer.path).posteriors("base", split)
        elif known is None:
            with source.adapter.disabled():
                known = self._score("base", split, source)
        # The share on the letters was recorded when the posteriors were computed: it goes where they go.
        mass = source.writer.record.get("letter_mass", {}).get("base")
        for run in lacking:
            if mass is not None:
                run.writer.write_letter_mass("base", mass)
            run.writer.write_posteriors("base", split, known)

    def _measure(self, run: TrainingRun) -> None:
        """Store the best checkpoint's posteriors, calibrated ones, and the metrics of all states."""
        writer = run.writer
        run.conclude()
        with run.adapter.alone():
            adapted = self._score("adapted", "test", run)
            validation = self._score("adapted", "validation", run) if run.validates else None
        # Scoring was shared between the processes; the main one has all the scores and does the rest.
        if not self.data.processes.is_main:
            return
        states = {"base": Run(writer.path).posteriors("base"), "adapted": adapted}
        writer.write_posteriors("adapted", "test", adapted)
        write_kept_texts(writer.path, self.task, "test")
        # A calibrator fitted on instances that were trained on would correct for too little.
        if validation is None:
            self._note(f"not calibrated: regime {run.config.regime!r} trained on the validation instances", writer)
        else:
            writer.write_posteriors("adapted", "validation", validation)
            calibrated = self._calibrate(adapted, validation, writer)
            if calibrated is not None:
                states["calibrated"] = calibrated
        floor = true_posteriors(self.task.test)
        if floor is not None:
            writer.write_posteriors("floor", "test", floor)
            states["floor"] = floor
        # Without labels there are posteriors to decide on, and nothing to measure.
        costs = writer.record.get("costs")
        stated = None if costs is None else StatedCosts.build(costs)
        measured = {} if unlabelled(self.task.test) else measure(states, seed=run.config.seed, costs=stated)
        writer.write_metrics({"test": measured})

    def _calibrate(self, adapted: Posteriors, validation: Posteriors, writer: RunWriter) -> Posteriors | None:
        """Store a calibrator fitted on validation and the calibrated test posteriors; None if it cannot be fitted.

        Letters are classes with a place each, so an affine calibrator may correct a preference for one of them. In the
        cloze form it may do so for classes that are the same in every instance; otherwise the order of the choices
        means nothing: one temperature.
        """
        try:
            calibrator = fit_calibrator(validation, method="affine" if self.data.form == "letter" else "auto")
        except InputError as error:
            self._note(f"calibration on validation is not possible: {error}", writer)
            return None
        if self.data.form == "cloze" and self.task.classes is not None:
            kind = "a temperature" + (" and a bias for each class" if calibrator.method == "affine" else "")
            self._note(f"calibrated by {kind}, chosen by {len(validation):,} validation instances", writer)
        if calibrator.report is not None and not calibrator.report.converged:
            self._note(f"the {calibrator.method} calibrator did not converge", writer)
        calibrated = calibrator.apply(adapted)
        writer.write_calibrator(calibrator)
        writer.write_posteriors("calibrated", "test", calibrated)
        return calibrated

    def _score(self, state: str, split: Split, run: TrainingRun) -> Posteriors:
        """Posteriors of the network as it is now; the share of probability on the letters goes to the run's record."""
        trees = self.trees[split]
        self.screen.say(f"Scoring {split} ({len(trees):,} instances), {state} model ...")
        scored = score_split(
            self.data.reader,
            self.task.split(split),
            task=self.task,
            options=run.config,
            trees=trees,
            scorer=self.data.processes.score,
            screen=self.screen,
        )
        if scored.letter_mass is not None and split == "test":
            self.screen.say(f"  share of probability on the letters: {scored.letter_mass:.3f}")
            run.writer.write_letter_mass(state, round(scored.letter_mass, 6))
        return scored.posteriors

    def _note(self, note: str, writer: RunWriter) -> None:
        self.screen.say(f"· {note}")
        writer.write_note(note)


def _check_base(base: Mapping[str, Posteriors], task: Task) -> None:
    """Raise InputError for base posteriors of another split, or of other instances than the task's."""
    for name, posteriors in base.items():
        if name not in ("test", "validation"):
            raise InputError(f"base has posteriors for {name!r}; expected test and validation")
        ids = tuple(instance.id for instance in task.split(name))
        if posteriors.ids != ids:
            raise InputError(
                f"base posteriors on {name} are of other instances ({len(posteriors.ids)}, the first "
                f"{posteriors.ids[0]!r}) than the task's ({len(ids)}, the first {ids[0]!r}); compute them for this task"
            )


def _check_state(state: Path, runs: Sequence[TrainingRun]) -> dict[str, float]:
    """The seconds that each saved run has trained, by its key; empty where there is no state.

    Raises:
        InputError: the state file is damaged, or lacks one of these runs.
    """
    if not state.is_file():
        return {}
    # Keys are hashes of configurations: a state of other runs, or of a version with other options, lacks them.
    saved = load_state(state).progress
    missing = [run.writer.path for run in runs if run.key not in saved]
    if missing and len(runs) == 1:
        raise InputError(
            f"{state} is the state of another run, or of another version's; delete it to begin this run anew"
        )
    if missing:
        raise InputError(
            f"{state} is the state of another bank: it lacks the run of {missing[0]}; give another state file, or the "
            "runs that it was begun with"
        )
    return {key: float(progress["seconds"]) for key, progress in saved.items()}
