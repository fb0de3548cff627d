"""The main job: adapt a model to a task, keep the best checkpoint, and measure base and adapted on the test split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.decisions import Posteriors
from rango.models import Adapter, Model, add_adapter
from rango.scoring import Reader, TokenTree, as_posteriors, encode, make_reader, score
from rango.tasks import Form, Instance, Task, few_shot
from rango.training.evaluation import refuse_empty
from rango.training.loop import Trainer
from rango.training.measures import calibrated_posteriors, measure, true_posteriors
from rango.training.options import FinetuneConfig
from rango.training.progress import Screen
from rango.training.run import Run, RunWriter, open_output, versions
from rango.training.signals import SignalGuard


def finetune(
    model: Model,
    task: Task,
    *,
    out: Path | str,
    config: FinetuneConfig | None = None,
    screen: Screen | None = None,
    **overrides: Any,
) -> Run:
    """Adapt `model` to `task` with LoRA and write a run directory. The model's network is given back as it was.

    Repeating an unfinished run goes on from its last saved state, with the same result as if it had never stopped;
    a finished one is returned as it is.

    Args:
        model: the base model.
        task: with train, validation and test splits.
        out: the run directory.
        config: everything else; built from `overrides` when absent.
        screen: where progress is shown; nowhere by default.
        **overrides: keys of FinetuneConfig, for example `steps=200, lora={"rank": 4}`.

    Raises:
        InputError: bad configuration or data; nothing is written then.
        DivergenceError: the loss became infinite; the best checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    screen = screen or Screen(quiet=True)
    config = config or FinetuneConfig.build(
        {**task.options.model_dump(), "model": model.name, "task": task.name, **overrides}
    )
    out = Path(out)
    fingerprints = {"model": model.fingerprint, "task": task.fingerprint}
    there = open_output(out, config, fingerprints)
    if there is not None and there.complete:
        screen.say(f"{out} is complete with this configuration: nothing to do.")
        return there
    job = _prepare(model, task, config, screen)
    adapter = add_adapter(model, config.lora, seed=config.seed)
    try:
        record = there.record if there is not None else _record(job, adapter, fingerprints)
        job.run(adapter, RunWriter(out, record))
    finally:
        adapter.remove()
    return Run(out)


@dataclass
class _Job:
    """A run with everything encoded and checked, before anything is written."""

    model: Model
    task: Task
    config: FinetuneConfig
    form: Form
    reader: Reader
    trees: dict[str, list[TokenTree]]
    screen: Screen

    def run(self, adapter: Adapter, writer: RunWriter) -> None:
        """Base posteriors, training, adapted posteriors, metrics; each part is skipped if it is there already."""
        started = time.perf_counter()
        with SignalGuard(f"the run in {writer.path} is saved; repeat the command to go on") as guard:
            writer.begin()
            for note in (*self.model.notes, *self.reader.notes, *self.task.notes):
                self.screen.say(f"· {note}")
            with adapter.disabled():
                states = {"base": self._posteriors("base", "test", writer)}
                self._posteriors("base", "validation", writer)
            trainer = Trainer(
                reader=self.reader,
                adapter=adapter,
                config=self.config,
                form=self.form,
                train=self.trees["train"],
                validation=self.trees["validation"],
                validation_instances=self.task.validation,
                writer=writer,
                screen=self.screen,
            )
            trainer.run(guard)
            adapter.load(writer.path / "adapter" / "best")
            states["adapted"] = self._posteriors("adapted", "test", writer)
            self._calibrate(states, self._posteriors("adapted", "validation", writer), writer)
            floor = true_posteriors(self.task.test)
            if floor is not None:
                writer.write_posteriors("floor", "test", floor)
                states["floor"] = floor
            writer.write_metrics({"test": measure(states, seed=self.config.seed)})
            before = writer.record.get("seconds") or 0.0
            writer.finish(
                seconds=round(before + time.perf_counter() - started, 1),
                training={"seconds": round(trainer.progress.seconds, 1), "tokens": trainer.progress.tokens},
                best_step=trainer.progress.best_step,
                steps=trainer.progress.step,
            )

    def _calibrate(self, states: dict[str, Posteriors], validation: Posteriors, writer: RunWriter) -> None:
        """Add the state `calibrated`: the adapted posteriors after a calibrator fitted on validation."""
        calibrator, calibrated, note = calibrated_posteriors(validation, states["adapted"], form=self.form)
        if note is not None:
            self.screen.say(f"· {note}")
            writer.write_record(notes=[*writer.record.get("notes", []), note])
        if calibrator is not None:
            calibrator.write(writer.path / "calibrator.json")
            writer.write_posteriors("calibrated", "test", calibrated)
            states["calibrated"] = calibrated

    def _posteriors(self, state: str, split: str, writer: RunWriter) -> Posteriors:
        stored = writer.path / "posteriors" / f"{split}-{state}.parquet"
        if stored.is_file() and state == "base":
            return Run(writer.path).posteriors(state, split)
        self.screen.say(f"Scoring {split} ({len(self.trees[split]):,} instances), {state} model ...")
        scores = score(self.reader, self.trees[split], options=self.config, form=self.form)
        if scores.letter_mass is not None and split == "test":
            share = float(scores.letter_mass.mean())
            self.screen.say(f"  share of probability on the letters: {share:.3f}")
            writer.write_record(letter_mass={**writer.record.get("letter_mass", {}), state: round(share, 6)})
        posteriors = as_posteriors(scores.values, self.task.split(split))
        writer.write_posteriors(state, split, posteriors)
        return posteriors


def _prepare(model: Model, task: Task, config: FinetuneConfig, screen: Screen) -> _Job:
    form = config.form or task.default_form
    # In training the shots are ordinary tokens of every trunk: the adapter changes their keys, so none can be kept.
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    refuse_empty(task.train, shots=config.shots)
    reader = make_reader(model)
    splits: dict[str, Sequence[Instance]] = {
        "train": task.train,
        "validation": task.validation,
        "test": task.test,
    }
    trees = {name: encode(model, instances, task=task, form=form) for name, instances in splits.items()}
    return _Job(model, task, config, form, reader, trees, screen)


def _record(job: _Job, adapter: Adapter, fingerprints: dict[str, str]) -> dict[str, Any]:
    model = job.model
    return {
        "config": job.config.model_dump(mode="json"),
        "form": job.form,
        "model": {
            "name": model.name,
            "architecture": type(model.network).__name__,
            "parameters": model.parameter_count,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "trainable_parameters": adapter.parameter_count(),
        "adapted_modules": len(adapter.layers),
        "instances": {name: len(trees) for name, trees in job.trees.items()},
        "fingerprints": fingerprints,
        "versions": versions(),
        "notes": [*model.notes, *job.reader.notes, *job.task.notes],
    }
